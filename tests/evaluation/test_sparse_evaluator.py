"""The evaluator of many classes has the numbers of Detectron2's COCOEvaluator, and less output."""

from __future__ import annotations

import csv
import json
import logging
import math
import uuid

import numpy as np
import pytest

pytest.importorskip("detectron2")

import torch
import torch.distributed as dist
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data.datasets import load_coco_json
from detectron2.evaluation import COCOEvaluator
from detectron2.structures import Boxes, Instances
from detectron2.utils import comm

from relation_heads.evaluation.class_tables import ClassCounts
from relation_heads.evaluation.sparse_evaluator import (
    SparseCOCOEvaluator,
    evaluate_results_file,
    training_counts,
)
from tests.helpers import HEIGHT, WIDTH, registered, tiny_coco, unregister, write_json

IDS = (11, 3, 5, 12, 7)  # in no order; 12 images have three objects each of the first four
RESULTS = "coco_instances_results.json"
METRICS = ("AP", "AP50", "AP75", "APs", "APm", "APl")


def square(x, y, w, h):
    return [[x, y, x + w, y, x + w, y + h, x, y + h]]


def make_data(folder):
    coco = tiny_coco(folder, num_classes=5, num_images=12, category_ids=IDS, crowd=True)
    for k, annotation in enumerate(coco.dataset["annotations"]):
        annotation["category_id"] = IDS[k % 4]
        box = [(1, 3, 7)[k % 3] * length for length in annotation["bbox"]]  # of all sizes
        annotation.update(bbox=box, area=box[2] * box[3], segmentation=square(*box))
    write_json(coco.json_file, coco.dataset)
    return coco


@pytest.fixture
def coco(tmp_path):
    return make_data(tmp_path / "data")


def predictions(coco, image_id, number=40):
    """Boxes near and far, with scores that are often equal."""
    rng = np.random.default_rng(image_id)
    annotations = [a for a in coco.dataset["annotations"] if a["image_id"] == image_id]
    order = sorted(IDS)
    boxes, classes = [], []
    for k in range(number):
        annotation = annotations[k % len(annotations)]
        x, y, w, h = annotation["bbox"]
        x, y, w, h = np.array([x, y, w, h]) + rng.normal(size=4) * rng.choice([0, 0.05, 0.2]) * w
        boxes.append([x, y, x + w, y + h])
        right = order.index(annotation["category_id"])
        classes.append(right if rng.random() < 0.7 else rng.integers(5))
    found = instances(boxes, classes, rng.random(number).round(1))
    y, x = torch.arange(HEIGHT)[:, None], torch.arange(WIDTH)
    left, top, right, bottom = found.pred_boxes.tensor[..., None, None].unbind(1)
    found.pred_masks = (left <= x) & (x < right) & (top <= y) & (y < bottom) & (x % 7 > 0)
    return found


def instances(boxes, classes, scores):
    return Instances(
        (HEIGHT, WIDTH),
        pred_boxes=Boxes(torch.tensor(np.array(boxes), dtype=torch.float32).reshape(-1, 4)),
        pred_classes=torch.tensor(np.array(classes), dtype=torch.int64),
        scores=torch.tensor(np.array(scores), dtype=torch.float32),
    )


def run(evaluator, coco, image_ids=range(12, 0, -1), **kwargs):
    evaluator.reset()
    for i in image_ids:
        evaluator.process([{"image_id": i}], [{"instances": predictions(coco, i, **kwargs)}])
    return evaluator.evaluate()


@pytest.mark.parametrize("max_dets", [100, 12])
@pytest.mark.parametrize("fast", [True, False])
def test_the_numbers_of_detectron2(coco, tmp_path, max_dets, fast):
    with registered(coco) as name:
        DatasetCatalog.get(name)
        limit = None if max_dets == 100 else max_dets
        stock = COCOEvaluator(
            name, output_dir=str(tmp_path / "a"), max_dets_per_image=limit, use_fast_impl=fast
        )
        expected = run(stock, coco)["bbox"]
        sparse = SparseCOCOEvaluator(name, tmp_path / "b", max_dets_per_image=max_dets)
        results = run(sparse, coco)
        assert list(results) == ["bbox"]
        results = results["bbox"]
        compare(results, expected, fast)
        assert all(0 < results[metric] < 100 for metric in METRICS)
        ars = ["AR1", "AR10", f"AR{max_dets}", "ARs", "ARm", "ARl"]
        assert list(results) == [*METRICS, *ars, "classes_evaluated"]
        assert 0 < results["AR1"] < results["AR10"] <= results[f"AR{max_dets}"] < 100
        assert results["classes_evaluated"] == 4

        with open(tmp_path / "b" / f"{name}_bbox_per_class.csv", newline="") as file:
            rows = {row["name"]: row for row in csv.DictReader(file)}
        assert list(rows) == coco.class_names
        for row in rows.values():
            ap = expected[f"AP-{row['name']}"]
            assert float(row["AP"] or "nan") == pytest.approx(ap, abs=5.1e-5, nan_ok=True)
        assert [rows[f"class{k}"]["test_instances"] for k in range(5)] == ["8", "9", "9", "9", "0"]


def compare(results, expected, fast):
    for metric in METRICS:
        if fast:  # sums in another order
            assert results[metric] == pytest.approx(expected[metric], rel=1e-12)
        else:
            assert results[metric] == expected[metric]


@pytest.mark.filterwarnings("ignore:__array__:DeprecationWarning")  # in Detectron2
@pytest.mark.parametrize("fast", [True, False])
def test_masks(coco, tmp_path, fast):
    with registered(coco) as name:
        DatasetCatalog.get(name)
        stock = COCOEvaluator(name, output_dir=str(tmp_path / "a"), use_fast_impl=fast)
        expected = run(stock, coco)
        results = run(SparseCOCOEvaluator(name, tmp_path / "b", masks=True), coco)
        assert list(results) == ["bbox", "segm"]
        for task in results:
            compare(results[task], expected[task], fast)
            assert results[task]["classes_evaluated"] == 4
        # Masks end at the border of these small images, so that none but small ones are found.
        assert all(0 < results["segm"][metric] < 100 for metric in ("AP", "AP50", "AP75", "APs"))
        assert results["segm"]["AP"] != results["bbox"]["AP"]
        file = tmp_path / "b" / RESULTS
        assert (tmp_path / "a" / RESULTS).read_bytes() == file.read_bytes()
        assert evaluate_results_file(name, file, masks=True) == results
        with open(tmp_path / "b" / f"{name}_segm_per_class.csv", newline="") as table:
            for row in csv.DictReader(table):
                ap = expected["segm"][f"AP-{row['name']}"]
                assert float(row["AP"] or "nan") == pytest.approx(ap, abs=5.1e-5, nan_ok=True)


def test_masks_that_do_not_fit(coco):
    good = predictions(coco, 1)
    other, none = (predictions(coco, 1) for _ in range(2))
    other.pred_masks = other.pred_masks.transpose(1, 2)
    none.remove("pred_masks")
    with registered(coco) as name:
        evaluator = SparseCOCOEvaluator(name, masks=True)
        evaluator.reset()
        evaluator.process([{"image_id": 1}], [{"instances": good}])
        for found, message in (
            (other, "Image 1 is 96 x 64 pixels in .* but has a mask of 64 x 96"),
            (none, "Image 1: the output of the model has no pred_masks"),
        ):
            with pytest.raises(ValueError, match=message):
                evaluator.process([{"image_id": 1}], [{"instances": found}])
    del coco.dataset["annotations"][4]["segmentation"]
    write_json(coco.json_file, coco.dataset)
    with registered(coco) as name:
        SparseCOCOEvaluator(name)
        with pytest.raises(ValueError, match="annotation with id 5 has no 'segmentation'"):
            SparseCOCOEvaluator(name, masks=True)


def test_evaluated_again(coco, tmp_path):
    with registered(coco) as name:
        results = run(SparseCOCOEvaluator(name, tmp_path, max_dets_per_image=20), coco)
        file = tmp_path / RESULTS
        assert evaluate_results_file(name, file, max_dets_per_image=20) == results
        again = evaluate_results_file(
            str(coco.json_file), file, tmp_path / "again", max_dets_per_image=20
        )
        assert again == results
        tables = tmp_path / f"{name}_bbox_per_class.csv", tmp_path / "again"
        assert tables[0].read_text() == (tables[1] / "annotations_bbox_per_class.csv").read_text()
        assert evaluate_results_file(name, file) != results
    with pytest.raises(FileNotFoundError, match=f"neither a data set nor a file called '{name}'"):
        evaluate_results_file(name, file)


def test_results_by_frequency(coco, tmp_path):
    names = dict(zip(sorted(IDS), coco.class_names, strict=True))
    images = dict(zip(sorted(IDS), (5, 10, 0, 300, 11), strict=True))
    counts = ClassCounts(names, images, {i: 2 * n for i, n in images.items()})
    with registered(coco) as name:
        results = run(SparseCOCOEvaluator(name, tmp_path, counts=counts), coco)["bbox"]
        with open(tmp_path / f"{name}_bbox_per_class.csv", newline="") as file:
            rows = {int(row["category_id"]): row for row in csv.DictReader(file)}
        assert [rows[i]["bucket"] for i in sorted(IDS)] == [
            *("rare", "rare", "unseen", "frequent", "common"),
        ]
        assert rows[12]["train_images"] == "11" and rows[12]["train_instances"] == "22"
        ap = {i: float(row["AP"] or "nan") for i, row in rows.items()}
        assert math.isnan(ap[7])  # without a test instance, so that `unseen` has nothing to show
        assert results["APr"] == pytest.approx((ap[3] + ap[5]) / 2, abs=1e-4)
        assert results["APc"] == pytest.approx(ap[12], abs=1e-4)
        assert results["APf"] == pytest.approx(ap[11], abs=1e-4)

        other = ClassCounts(names | {3: "another"}, images, images)
        with pytest.raises(ValueError, match="are of other classes"):
            SparseCOCOEvaluator(name, tmp_path, counts=other)


def test_training_counts(coco, monkeypatch):
    with registered(coco) as name:
        counts = training_counts([name])
        assert counts.instances == {11: 8, 3: 9, 5: 9, 12: 9, 7: 0}
        assert training_counts([name]) is counts  # read once
        monkeypatch.setattr(comm, "is_main_process", lambda: False)
        assert training_counts([name]) is None


def test_training_counts_that_are_not_there(coco, caplog):
    assert training_counts([]) is None
    with registered(coco) as name, caplog.at_level(logging.INFO):
        other = f"other_{uuid.uuid4().hex}"
        metadata = MetadataCatalog.get(other)
        assert training_counts([name, other]) is None
        metadata.json_file = "no/such/file.json"
        assert training_counts([name, other]) is None
        assert f"no annotation files of ['{name}', '{other}']" in caplog.text
        MetadataCatalog.remove(other)


def test_little_is_logged(coco, tmp_path, caplog):
    with registered(coco) as name, caplog.at_level(logging.INFO):
        run(SparseCOCOEvaluator(name, tmp_path), coco)
    text = "\n".join(r.message for r in caplog.records if r.name.startswith("relation_heads"))
    assert len(text.splitlines()) < 10
    assert "AP50" in text and f"{name}_bbox_per_class.csv" in text and "class1" not in text


def test_no_detections(coco, tmp_path, caplog):
    with registered(coco) as name:
        results = run(SparseCOCOEvaluator(name, tmp_path), coco, number=0)["bbox"]
    assert results.pop("classes_evaluated") == 4
    assert all(math.isnan(value) for value in results.values())
    assert "SCORE_THRESH_TEST" in caplog.text
    assert json.loads((tmp_path / RESULTS).read_text()) == []


def test_images_without_a_prediction(coco, caplog):
    with registered(coco) as name:
        evaluator = SparseCOCOEvaluator(name)
        everything = run(evaluator, coco)["bbox"]
        assert "no prediction" not in caplog.text
        part = run(evaluator, coco, range(1, 11))["bbox"]
        assert part["AR100"] < everything["AR100"]
        assert f"2 of 12 images of {name} have no prediction, the first is 11" in caplog.text
        with pytest.raises(ValueError, match=f"Image 2 of {name} was predicted twice"):
            run(evaluator, coco, (1, 2, 3, 2))


def test_data_sets_without_annotations(coco, tmp_path):
    dataset = {k: v for k, v in coco.dataset.items() if k != "annotations"}
    coco_without = tiny_coco(tmp_path / "test", num_images=12)
    write_json(coco_without.json_file, dataset)
    with registered(coco_without) as name:
        assert run(SparseCOCOEvaluator(name, tmp_path), coco) == {}
    assert len(json.loads((tmp_path / RESULTS).read_text())) == 12 * 40


def test_data_sets_without_a_json_file(coco, tmp_path):
    name = f"records_{uuid.uuid4().hex}"
    with registered(coco) as original:
        records = load_coco_json(str(coco.json_file), str(coco.image_root))
        expected = run(SparseCOCOEvaluator(original), coco)["bbox"]
    for record in records:
        for annotation in record["annotations"]:
            annotation["category_id"] = sorted(IDS).index(annotation["category_id"])
    DatasetCatalog.register(name, lambda: records)
    MetadataCatalog.get(name).thing_classes = coco.class_names
    try:
        with pytest.raises(ValueError, match=f"{name} has no json_file .* needs an output_dir"):
            SparseCOCOEvaluator(name)
        results = run(SparseCOCOEvaluator(name, tmp_path), coco)["bbox"]
        assert results == expected
        assert not hasattr(MetadataCatalog.get(name), "json_file")
    finally:
        unregister(name)


def test_classes_in_another_order(coco, tmp_path):
    mapping = {category_id: k for k, category_id in enumerate(IDS)}
    with registered(coco) as name:
        metadata = MetadataCatalog.get(name)
        expected = run(SparseCOCOEvaluator(name), coco)
        metadata.thing_dataset_id_to_contiguous_id = mapping
        evaluator = SparseCOCOEvaluator(name, tmp_path)
        evaluator.reset()
        for i in range(12, 0, -1):
            predicted = predictions(coco, i)
            ids = [sorted(IDS)[k] for k in predicted.pred_classes.tolist()]
            predicted.pred_classes = torch.tensor([mapping[c] for c in ids])
            evaluator.process([{"image_id": i}], [{"instances": predicted}])
        assert evaluator.evaluate() == expected


@pytest.mark.parametrize(
    ("mapping", "message"),
    [
        ({11: 0, 99: 1}, r"must map category ids of .*annotations\.json to 0\.\.1, but .* list 99"),
        ({11: 0, 3: 2}, r"must map category ids of .*annotations\.json to 0\.\.1\."),
    ],
)
def test_bad_mapping(coco, mapping, message):
    with registered(coco) as name:
        MetadataCatalog.get(name).thing_dataset_id_to_contiguous_id = mapping
        with pytest.raises(ValueError, match=message):
            SparseCOCOEvaluator(name).reset()


@pytest.mark.parametrize(
    ("image_id", "output", "message"),
    [
        (13, {"instances": None}, r"Image 13 is not in .*annotations\.json"),
        (1, {"proposals": None}, "Image 1: the output of the model has no instances"),
        (1, ([[0, 0, 1, 1]], [5], [0.5]), r"Image 1 has a detection of class 5, but .* 0\.\.4"),
        (1, ([[0, 0, 1, 1]], [-1], [0.5]), "Image 1 has a detection of class -1"),
        (1, ([[0, 0, 1, math.inf]], [0], [0.5]), "Image 1 has a detection that is not finite"),
        (1, ([[0, 0, 1, 1]], [0], [math.nan]), "Image 1 has a detection that is not finite"),
    ],
)
def test_bad_predictions(coco, image_id, output, message):
    if isinstance(output, tuple):
        output = {"instances": instances(*output)}
    with registered(coco) as name:
        evaluator = SparseCOCOEvaluator(name)
        evaluator.reset()
        with pytest.raises(ValueError, match=message):
            evaluator.process([{"image_id": image_id}], [output])
        with pytest.raises(ValueError, match="max_dets_per_image must be more than 10, not 10"):
            SparseCOCOEvaluator(name, max_dets_per_image=10)


def one_of_two(rank, folder):
    """Process 0 has images 1-5, process 1 has 6-12."""
    torch.set_num_threads(1)
    store = f"file://{folder / 'store'}"
    dist.init_process_group("gloo", init_method=store, rank=rank, world_size=2)
    comm.create_local_process_group(2)
    coco = make_data(folder / f"rank{rank}")
    with registered(coco) as name:
        image_ids = (range(1, 6), range(6, 13))[rank]
        results = run(SparseCOCOEvaluator(name, folder / "out"), coco, image_ids)
    if rank == 0:
        (folder / "results.json").write_text(json.dumps(results))
    else:
        assert results == {}
    dist.destroy_process_group()


def test_two_processes(coco, tmp_path):
    method = "spawn" if torch.cuda.is_available() else "fork"  # see engine/test_two_processes.py
    torch.multiprocessing.start_processes(
        one_of_two, args=(tmp_path,), nprocs=2, start_method=method
    )
    with registered(coco) as name:
        expected = run(SparseCOCOEvaluator(name), coco, range(1, 13))
    assert json.loads((tmp_path / "results.json").read_text()) == expected
