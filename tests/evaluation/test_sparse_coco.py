"""Precision and recall are those of pycocotools' COCOeval, bit for bit."""

from __future__ import annotations

import contextlib
import io
import tracemalloc

import numpy as np
import pytest

pytest.importorskip("detectron2")

from pycocotools import mask as mask_util
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval, Params

from relation_heads.evaluation import sparse_coco, sparse_matching
from relation_heads.evaluation.coco_arrays import ground_truth
from relation_heads.evaluation.sparse_coco import (
    class_scores,
    evaluate_detections,
    object_counts,
    summarize,
)
from relation_heads.evaluation.sparse_matching import Detections

ARRAYS = ("precision", "recall")


def coco_dict(image_ids, category_ids, annotations):
    return {
        "images": [{"id": i} for i in image_ids],
        "categories": [{"id": c, "name": f"class{c}"} for c in category_ids],
        "annotations": annotations,
    }


def random_case(seed):
    """A few images and classes, most cells empty; boxes on a grid so that IoUs and areas tie."""
    rng = np.random.default_rng(seed)
    image_ids, category_ids = (
        rng.choice(50, rng.integers(1, 6), replace=False).tolist() for _ in "ic"
    )
    grid = float(rng.choice([1, 8, 30]))

    def somewhere():
        return int(rng.choice(image_ids)), int(rng.choice(category_ids))

    annotations, results = [], []
    for number in range(int(rng.integers(0, 25))):
        image, category = somewhere()
        box = (rng.integers(0, 6, 4) * grid).tolist()  # some have no area
        annotations.append(
            {
                "id": number + int(seed % 4 > 0),  # in some cases there is the id 0
                "image_id": image,
                "category_id": category,
                "bbox": box,
                "area": float(rng.choice([box[2] * box[3], 0, 500, 32**2, 96**2, 20000])),
                "iscrowd": int(rng.random() < 0.2),
                "ignore": int(rng.random() < 0.2),  # is not looked at
            }
        )
    for _ in range(int(rng.integers(1, 80))):
        image, category = somewhere()
        box = (rng.integers(0, 6, 4) * grid).tolist()
        if annotations and rng.random() < 0.6:
            found = annotations[rng.integers(len(annotations))]
            image, category = found["image_id"], found["category_id"]
            noise = rng.choice([0, 0, 0.3, 1, 3]) * rng.normal(size=4)
            box = (np.array(found["bbox"]) + noise).tolist()
        score = rng.random()
        results.append(
            {
                "image_id": image,
                "category_id": category,
                "bbox": box,
                "score": float(round(score, 1) if rng.random() < 0.7 else score),
            }
        )
    return coco_dict(image_ids, category_ids, annotations), results


SIZE = 90, 110  # height and width of the images with masks, pixels


def run_lengths(box):
    """Of an ellipse in the box."""
    y, x = np.indices(SIZE) + 0.5
    left, top, width, height = np.maximum(box, 1e-9)
    inside = ((x - left) * 2 / width - 1) ** 2 + ((y - top) * 2 / height - 1) ** 2 <= 1
    runs = mask_util.encode(np.asfortranarray(inside, dtype=np.uint8))
    return {"size": list(SIZE), "counts": runs["counts"].decode()}


def random_masks(seed):
    """`random_case` with masks in all forms; that of a detection may be far from its box."""
    dataset, results = random_case(seed)
    rng = np.random.default_rng(seed)
    for image in dataset["images"]:
        image.update(height=SIZE[0], width=SIZE[1])
    for annotation in dataset["annotations"]:
        x, y, w, h = annotation["bbox"]
        runs = run_lengths(annotation["bbox"])
        pixels = mask_util.decode(runs).T.reshape(-1)
        edges = np.flatnonzero(np.diff(pixels, prepend=0))
        counts = np.diff([0, *edges.tolist(), len(pixels)]).tolist()
        diamond = [x + w / 2, y, x + w, y + h / 2, x + w / 2, y + h, x, y + h / 2]
        forms = [runs, {"size": list(SIZE), "counts": counts}, [diamond], [diamond, [x, y] * 3]]
        annotation["segmentation"] = forms[rng.integers(len(forms))]
    for result in results:
        result["segmentation"] = run_lengths(result["bbox"])
        if rng.random() < 0.1:
            result["bbox"] = [0, 0, 5, 5]
    return dataset, results


def reference(dataset, results, max_dets=(1, 10, 100), iou_type="bbox"):
    truth = COCO()
    truth.dataset = {
        key: [dict(item) for item in items] for key, items in dataset.items()
    }  # COCOeval writes into it
    with contextlib.redirect_stdout(io.StringIO()):
        truth.createIndex()
        if results:
            masks = iou_type == "segm"  # then the area is that of the mask only without a box
            detections = truth.loadRes(
                [{k: v for k, v in r.items() if not masks or k != "bbox"} for r in results]
            )
        else:  # which `loadRes` does not take
            detections = COCO()
            detections.dataset = {**truth.dataset, "annotations": []}
            detections.createIndex()
        coco_eval = COCOeval(truth, detections, iou_type)
        coco_eval.params.maxDets = list(max_dets)
        coco_eval.evaluate()
        coco_eval.accumulate()
        coco_eval.summarize()
    return coco_eval


def arrays_of(dataset, results, max_dets=(1, 10, 100), iou_type="bbox"):
    truth = ground_truth(dataset, "test.json", masks=iou_type == "segm")
    table = np.array(
        [
            (truth.image_ids.index(r["image_id"]), truth.category_ids.index(r["category_id"]))
            for r in results
        ],
        dtype=np.int64,
    ).reshape(-1, 2)
    boxes = np.array([r["bbox"] for r in results], dtype=np.float64).reshape(-1, 4)
    scores = np.array([r["score"] for r in results], dtype=np.float64)
    masks = np.array([r.get("segmentation") for r in results], dtype=object)
    detections = Detections(table[:, 0], table[:, 1], boxes, scores, masks)
    sizes = len(truth.image_ids), len(truth.category_ids)
    return evaluate_detections(truth.objects, detections, *sizes, max_dets, iou_type)


def assert_equal(dataset, results, max_dets=(1, 10, 100), iou_type="bbox"):
    expected = reference(dataset, results, max_dets, iou_type)
    arrays = arrays_of(dataset, results, max_dets, iou_type)
    for key in ARRAYS:
        assert np.array_equal(expected.eval[key], getattr(arrays, key)), key
    if max_dets[-1] == 100:
        assert np.array_equal(expected.stats, summarize(arrays))
    return arrays


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("max_dets", [(1, 10, 100), (1, 2, 3), (1, 10, 300)])
def test_random_cases(max_dets):
    some = 0
    for seed in range(50):
        arrays = assert_equal(*random_case(seed), max_dets)
        some += bool((arrays.precision > 0).any())
    assert some > 35  # the cases are about something


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("max_dets", [(1, 10, 100), (1, 2, 3)])
def test_random_masks(max_dets):
    some = other = 0
    for seed in range(40):
        case = random_masks(seed)
        arrays = assert_equal(*case, max_dets, "segm")
        some += bool((arrays.precision > 0).any())
        other += not np.array_equal(arrays.precision, arrays_of(*case, max_dets).precision)
    assert some > 25 and other > 25  # the cases are about something, and not about boxes


def test_memory_of_masks_does_not_grow_with_pairs():
    """300 images and 1,500 classes are 450,000 pairs, of which a mask each would be gigabytes."""
    image_ids, category_ids, mask = range(300), range(1500), run_lengths([10, 10, 30, 30])
    annotations = [
        {
            **{"id": i + 1, "image_id": i, "category_id": 5 * i, "bbox": [10, 10, 30, 30]},
            **{"area": 700, "iscrowd": 0, "segmentation": mask},
        }
        for i in image_ids
    ]
    dataset = coco_dict(image_ids, category_ids, annotations)
    for image in dataset["images"]:
        image.update(height=SIZE[0], width=SIZE[1])
    results = [
        {
            **{"image_id": i, "category_id": k, "bbox": [10, 10, 30, 30]},
            **{"score": 0.5, "segmentation": mask},
        }
        for i in image_ids
        for k in (5 * i, 7, 8)
    ]
    tracemalloc.start()
    arrays = arrays_of(dataset, results, iou_type="segm")
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    np.testing.assert_allclose(class_scores(arrays)[::5], 1, rtol=1e-12)
    assert peak < 3 * arrays.precision.nbytes


def test_missing_masks():
    dataset, results = random_masks(1)
    results[2].pop("segmentation")
    with pytest.raises(ValueError, match="Detection 2 has no mask"):
        arrays_of(dataset, results, iou_type="segm")


def test_in_blocks(monkeypatch):
    monkeypatch.setattr(sparse_matching, "_BLOCK", 3)
    for seed in range(20):
        assert_equal(*random_case(seed))


def one_class(boxes, results, **changes):
    """A data set of one image and class, and results [(box, score), ...] on it."""
    annotations = [
        {
            "id": i + 1,
            "image_id": 1,
            "category_id": 1,
            "bbox": box,
            "area": box[2] * box[3],
            "iscrowd": 0,
            **{key: values[i] for key, values in changes.items()},
        }
        for i, box in enumerate(boxes)
    ]
    detections = [
        {"image_id": 1, "category_id": 1, "bbox": box, "score": score} for box, score in results
    ]
    return coco_dict([1], [1], annotations), detections


A, B, FAR = [0, 0, 10, 10], [0, 2, 10, 10], [50, 50, 10, 10]
BETWEEN = [0, 1, 10, 10]  # has the same IoU with A and B


@pytest.mark.parametrize(
    ("case", "ap50"),
    [
        (one_class([A], [(A, 0.5)]), 1),
        (one_class([A], [(A, 0.5), (FAR, 0.6)]), 0.5),
        (one_class([A], [(A, 0.5), (A, 0.4)]), 1),
        (one_class([A, FAR], [(A, 0.5)]), 51 / 101),
        # Of two equal IoUs the last object is taken, so that A remains for the second detection.
        (one_class([A, B], [(BETWEEN, 0.9), (A, 0.5)]), 1),
        # A crowd is found any number of times and never counts, an object that counts comes first.
        (one_class([A, FAR], [(A, 0.9), (A, 0.8), (FAR, 0.7)], iscrowd=[1, 0]), 1),
        (one_class([[0, 0, 30, 30], A], [(A, 0.9), (A, 0.8)], iscrowd=[1, 0]), 1),
        (one_class([A], [(A, 0.5)], id=[0]), 0),  # COCO's "not matched"
        (one_class([[0, 0, 0, 10]], [([0, 0, 0, 10], 0.5)]), 0),
        (one_class([A], []), 0),
        (one_class([], [(A, 0.5)]), -1),
        (one_class([A], [(A, 0.5)], iscrowd=[1]), -1),
        # Exactly at the threshold: 75 of 100 square pixels.
        (one_class([[0, 0, 10, 10]], [([0, 0, 10, 7.5], 0.5)]), 1),
    ],
)
def test_by_hand(case, ap50):
    arrays = assert_equal(*case)
    assert summarize(arrays)[1] == pytest.approx(ap50)


def test_equal_scores_keep_the_order_of_the_results():
    right_first = one_class([A], [(A, 0.5), (FAR, 0.5)])
    wrong_first = one_class([A], [(FAR, 0.5), (A, 0.5)])
    assert summarize(assert_equal(*right_first))[1] == pytest.approx(1)
    assert summarize(assert_equal(*wrong_first))[1] == pytest.approx(0.5)


def test_more_objects_and_detections_than_the_limit():
    rng = np.random.default_rng(0)
    boxes = np.column_stack([rng.integers(0, 40, (60, 2)), rng.integers(5, 40, (60, 2))]).tolist()
    found = (np.array(boxes * 3) + rng.normal(size=(180, 4))).tolist()
    results = [(box, float(score)) for box, score in zip(found, rng.random(180), strict=True)]
    arrays = assert_equal(*one_class(boxes, results))
    assert 0 < arrays.recall[0, 0, 0, 0] < arrays.recall[0, 0, 0, 1] < arrays.recall[0, 0, 0, 2]


def test_parameters_are_those_of_coco():
    params = Params("bbox")
    assert np.array_equal(sparse_coco.IOU_THRESHOLDS, params.iouThrs)
    assert np.array_equal(sparse_coco.RECALLS, params.recThrs)
    assert np.array_equal(sparse_coco.AREA_RANGES, params.areaRng)
    assert list(sparse_coco.MAX_DETS) == params.maxDets


def test_class_scores_are_means_over_the_arrays():
    dataset, results = random_case(1)
    dataset["categories"].append({"id": 100, "name": "no object"})
    arrays = arrays_of(dataset, results)
    scores = class_scores(arrays)
    counts = object_counts(ground_truth(dataset, "").objects, len(dataset["categories"]))[:, 0]
    assert (counts > 0).any() and (counts == 0).any()
    for k, row in enumerate(scores):
        if counts[k] == 0:
            assert np.isnan(row).all()
        else:
            precision, recall = arrays.precision[:, :, k, 0, 2], arrays.recall[:, k, 0, 2]
            expected = precision.mean(), precision[0].mean(), recall.mean()
            np.testing.assert_allclose(row, expected, rtol=1e-12)
    np.testing.assert_allclose(np.nanmean(scores[:, 0]), summarize(arrays)[0], rtol=1e-12)


@pytest.mark.parametrize("max_dets", [(), (0, 10, 100), (1, 10, 10), (1, 10, 5)])
def test_bad_limits(max_dets):
    with pytest.raises(ValueError, match="must be positive and increase"):
        arrays_of(*random_case(1), max_dets)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"images": np.array([0, 1])}, r"image of detection 1 is 1, but must be in 0\.\.0"),
        ({"classes": np.array([-1, 0])}, r"class of detection 0 is -1, but must be in 0\.\.0"),
        ({"scores": np.array([0.5, np.nan])}, r"number of detection 1 is not finite"),
        ({"boxes": np.array([A, [0, 0, 1, np.inf]])}, r"number of detection 1 is not finite"),
    ],
)
def test_bad_detections(changes, message):
    zeros = np.zeros(2, dtype=np.int64)
    good = Detections(zeros, zeros, np.array([A, B], dtype=np.float64), np.array([0.5, 0.4]), zeros)
    truth = ground_truth(one_class([A], [])[0], "")
    with pytest.raises(ValueError, match=message):
        evaluate_detections(truth.objects, good._replace(**changes), 1, 1)
