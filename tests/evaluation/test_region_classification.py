"""Every region of the ground truth is counted once, whatever the model returns."""

from __future__ import annotations

import csv
import json

import pytest

pytest.importorskip("detectron2")

import numpy as np
import torch
import torch.distributed as dist
from detectron2.data import DatasetCatalog, build_detection_test_loader
from detectron2.evaluation import inference_on_dataset
from detectron2.structures import Instances
from detectron2.utils import comm

from relation_heads.data.region_mapper import RegionClassificationMapper, region_ids
from relation_heads.evaluation import region_classification
from relation_heads.evaluation.region_classification import (
    RegionClassificationEvaluator,
    select_predictions,
)
from tests.helpers import HEIGHT, WIDTH, registered, tiny_cfg, tiny_coco

NUM_CLASSES = 3  # four images with regions 0, 1, 2 of classes 0, 1, 2


@pytest.fixture
def name(tmp_path):
    with registered(tiny_coco(tmp_path / "data")) as name:
        yield name


def probabilities(classes, confidence=0.8):
    """(R, K) rows that predict `classes`."""
    rest = (1 - confidence) / (NUM_CLASSES - 1)
    rows = torch.full((len(classes), NUM_CLASSES), rest)
    rows[range(len(classes)), classes] = confidence
    return rows


def output(classes, ids, **intermediate):
    """What a model returns that predicts `classes` for the regions `ids` of an image."""
    instances = Instances((HEIGHT, WIDTH))
    instances.region_ids = torch.tensor(ids, dtype=torch.int64)
    instances.class_probs = probabilities(classes)
    for name, predicted in intermediate.items():
        instances.set(f"class_probs_{name}", probabilities(predicted))
    return {"instances": instances}


def evaluate(name, folder, outputs, **kwargs):
    """Results for `outputs`: image id -> output."""
    evaluator = RegionClassificationEvaluator(name, folder, **kwargs)
    evaluator.reset()
    for image_id, out in outputs.items():
        evaluator.process([{"image_id": image_id}], [out])
    return evaluator.evaluate()


def right(*image_ids):
    return {i: output([0, 1, 2], [0, 1, 2]) for i in image_ids}


def test_order_of_images_and_regions_does_not_matter(name, tmp_path):
    outputs = right(4, 2, 1) | {3: output([2, 0, 0], [2, 0, 1])}  # region 1 of image 3 is wrong
    results = evaluate(name, tmp_path, outputs)
    assert list(results) == ["region_cls"]
    results = results["region_cls"]
    assert results["AC-instance"] == pytest.approx(100 * 11 / 12)
    assert results["SC-instance"] == pytest.approx((11 * 80 + 10) / 12)
    assert (results["num_regions"], results["num_classes_evaluated"]) == (12, 3)
    assert results["num_missing"] == 0


def test_files_left_in_the_output_folder(name, tmp_path):
    outputs = right(1, 2, 3) | {4: output([0, 1, 1], [0, 1, 2])}
    results = evaluate(name, tmp_path / "out", outputs)
    stem = f"{name}_region_cls"
    files = {path.name for path in (tmp_path / "out").iterdir()}
    assert files == {f"{stem}_per_class.csv"}
    with open(tmp_path / "out" / f"{stem}_per_class.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["class"] for row in rows] == ["class0", "class1", "class2"]
    assert [(row["count"], float(row["AC"])) for row in rows] == [("4", 100), ("4", 100), ("4", 75)]
    mean = np.mean([float(row["AP"]) for row in rows])
    assert mean == pytest.approx(results["region_cls"]["AP-class"], abs=1e-4)


def test_a_class_without_a_region_has_empty_cells(tmp_path):
    coco = tiny_coco(tmp_path / "data", num_classes=4, num_images=1)
    with registered(coco) as name:
        instances = Instances((HEIGHT, WIDTH), region_ids=torch.arange(3))
        instances.class_probs = torch.eye(4)[:3]
        results = evaluate(name, tmp_path, {1: {"instances": instances}})
    assert results["region_cls"]["AP-class"] == 100
    assert results["region_cls"]["num_classes_evaluated"] == 3
    text = (tmp_path / f"{name}_region_cls_per_class.csv").read_text()
    assert text.splitlines()[-1] == "class3,0,,,"


def test_missing_regions_are_wrong(name, tmp_path, caplog):
    # Region 0 is of class 0, which is what the arg-max of an empty row would say.
    outputs = right(1, 2) | {3: output([1, 2], [1, 2])}
    results = evaluate(name, tmp_path, outputs)["region_cls"]
    assert results["num_missing"] == 4 and results["num_regions"] == 12
    for metric in ("AC-instance", "AC-class", "AP-instance", "AP-class", "AP-instance-pred"):
        assert results[metric] == pytest.approx(100 * 8 / 12), metric
    assert "4 of 12 regions" in caplog.text and "region 0 of image 3" in caplog.text


def test_nothing_predicted_at_all(name, tmp_path):
    results = evaluate(name, tmp_path, {})["region_cls"]
    assert results["num_missing"] == 12
    assert results["AC-instance"] == results["AP-class"] == 0


@pytest.mark.parametrize(
    ("outputs", "match"),
    [
        ({1: output([0, 1], [1, 1])}, "Region 1 of image 1 of tiny_.* was classified twice"),
        ({1: output([0], [3])}, "region 3 of image 1, which tiny_.* does not have"),
        ({9: output([0], [0])}, "region 0 of image 9, which tiny_.* does not have"),
        ({1: {"instances": Instances((1, 1))}}, "Image 1: .* but they have nothing"),
        (
            {1: output([0], [0], plain=[0]), 2: output([0], [0])},
            "Image 2 has predictions for region_cls, the images before for region_cls, region_cls_",
        ),
    ],
)
def test_bad_predictions_are_named(name, tmp_path, outputs, match):
    with pytest.raises(ValueError, match=match):
        evaluate(name, tmp_path, outputs)


@pytest.mark.parametrize(
    ("rows", "match"),
    [
        (torch.full((3, 4), 0.25), r"Image 1: region_cls .* \(3, 4\), .* without background"),
        (torch.full((3, 3), torch.nan), "Image 1: region_cls has a NaN"),
    ],
)
def test_bad_probabilities_are_named(name, tmp_path, rows, match):
    out = output([0, 1, 2], [0, 1, 2])
    out["instances"].class_probs = rows
    with pytest.raises(ValueError, match=match):
        evaluate(name, tmp_path, {1: out})


def test_images_with_one_id_are_refused(name, monkeypatch, tmp_path):
    records = DatasetCatalog.get(name)
    monkeypatch.setattr(DatasetCatalog, "get", lambda _: records + records[:1])
    with pytest.raises(ValueError, match=r"Two images of .* have the id 1"):
        RegionClassificationEvaluator(name, tmp_path)


def test_crowds_are_regions_on_request_alone(tmp_path):
    with registered(tiny_coco(tmp_path / "data", crowd=True)) as name:
        record = DatasetCatalog.get(name)[0]
        assert region_ids(record) == [1, 2]
        assert region_ids(record, keep_crowd=True) == [0, 1, 2]
        without = {1: output([1, 2], [1, 2])} | right(2, 3, 4)
        results = evaluate(name, tmp_path, without)["region_cls"]
        assert (results["num_regions"], results["num_missing"]) == (11, 0)
        results = evaluate(name, tmp_path, without, keep_crowd=True)["region_cls"]
        assert (results["num_regions"], results["num_missing"]) == (12, 1)


def with_iterations(image_id):
    """Accuracies: plain 1/3, local1 0, local10 2/3, global2 0, final 1."""
    return output(
        [0, 1, 2],
        [0, 1, 2],
        plain=[0, 0, 0],
        local1=[1, 2, 0],
        local10=[0, 1, 1],
        local9=[1, 2, 0],
        global2=[2, 0, 1],
        final=[0, 1, 2],
    )


def test_intermediate_predictions(name, tmp_path):
    results = evaluate(name, tmp_path, {i: with_iterations(i) for i in (1, 2, 3, 4)})
    accuracy = {key: metrics["AC-instance"] for key, metrics in results.items()}
    assert accuracy == pytest.approx(
        {
            "region_cls": 100,
            "region_cls_plain": 100 / 3,
            "region_cls_local": 200 / 3,
            "region_cls_global": 0,
        }
    )


def test_no_intermediate_predictions():
    final = torch.zeros(1, 2)
    assert list(select_predictions(final, {"final": final, "locality": final})) == ["region_cls"]


def test_many_files_give_the_same_results(name, tmp_path, monkeypatch):
    outputs = {i: with_iterations(i) for i in (3, 1, 4)}
    expected = evaluate(name, tmp_path, outputs)
    monkeypatch.setattr(region_classification, "SHARD_BYTES", 0)
    evaluator = RegionClassificationEvaluator(name, tmp_path)
    for _ in range(2):  # the second round forgets the first
        evaluator.reset()
        for image_id, out in outputs.items():
            evaluator.process([{"image_id": image_id}], [out])
    assert len(evaluator._shards) == 3
    assert evaluator.evaluate() == expected
    assert all(path.is_file() or path.name == "data" for path in tmp_path.iterdir())


def test_a_region_of_two_processes_is_refused(name, tmp_path, monkeypatch):
    a, b = (RegionClassificationEvaluator(name, tmp_path) for _ in range(2))
    for evaluator, image_ids in ((a, (1, 2)), (b, (2, 3))):
        evaluator.reset()
        for image_id, out in right(*image_ids).items():
            evaluator.process([{"image_id": image_id}], [out])
    b._write_shard()
    monkeypatch.setattr(comm, "gather", lambda shards: [shards, b._shards])
    with pytest.raises(ValueError, match=r"Region 0 of image 2 of .* was classified twice"):
        a.evaluate()


def one_of_two(rank, folder):
    """Process 0 has images 1 and 3, process 1 has image 2."""
    torch.set_num_threads(1)
    store = f"file://{folder / 'store'}"
    dist.init_process_group("gloo", init_method=store, rank=rank, world_size=2)
    comm.create_local_process_group(2)
    region_classification.SHARD_BYTES = 0
    with registered(tiny_coco(folder / f"rank{rank}")) as name:
        outputs = {i: with_iterations(i) for i in ((1, 3), (2,))[rank]}
        results = evaluate(name, folder / "out", outputs)
    if rank == 0:
        (folder / "results.json").write_text(json.dumps(results))
    else:
        assert results is None
    dist.destroy_process_group()


def test_two_processes(name, tmp_path):
    method = "spawn" if torch.cuda.is_available() else "fork"  # see engine/test_two_processes.py
    torch.multiprocessing.start_processes(
        one_of_two, args=(tmp_path,), nprocs=2, start_method=method
    )
    results = json.loads((tmp_path / "results.json").read_text())
    assert results["region_cls"]["num_missing"] == 3
    expected = evaluate(name, tmp_path, {i: with_iterations(i) for i in (1, 2, 3)})
    assert results == expected
    assert {path.suffix for path in (tmp_path / "out").iterdir()} == {".csv"}


class Oracle:
    """A model that looks the classes of its proposals up."""

    def __init__(self, name):
        self.annotations = {r["image_id"]: r["annotations"] for r in DatasetCatalog.get(name)}

    def __call__(self, inputs):
        outputs = []
        for data in inputs:
            ids = data["proposals"].region_ids.tolist()
            classes = [self.annotations[data["image_id"]][i]["category_id"] for i in ids]
            outputs.append(output(classes, ids))
        return outputs


def test_with_the_mapper_in_a_test_loader(tmp_path):
    coco = tiny_coco(tmp_path / "data", empty_image=True, crowd=True)
    with registered(coco) as name:
        cfg = tiny_cfg([name], [name], NUM_CLASSES, tmp_path)
        mapper = RegionClassificationMapper(cfg, is_train=False)
        loader = build_detection_test_loader(cfg, name, mapper=mapper)
        evaluator = RegionClassificationEvaluator(name, tmp_path)
        results = inference_on_dataset(Oracle(name), loader, evaluator)["region_cls"]
    assert results["AP-class"] == results["AC-instance"] == 100
    assert (results["num_regions"], results["num_missing"]) == (8, 0)
