"""COCO files as arrays: nothing is lost on the way, and bad files are one sentence."""

from __future__ import annotations

import json
import logging

import numpy as np
import pytest

pytest.importorskip("detectron2")

from pycocotools import mask as mask_util

from relation_heads.evaluation import coco_arrays
from relation_heads.evaluation.coco_arrays import ground_truth, read_results, write_results
from tests.helpers import write_json


def dataset(**changes):
    """Image ids 17, 3 and 5 are indices 2, 0 and 1, category ids 20 and 4 are 1 and 0."""
    annotation = {
        "id": 1,
        "image_id": 17,
        "category_id": 4,
        "bbox": [1, 2, 3, 4.5],
        "area": 13,
        "iscrowd": 0,
    }
    annotations = [annotation, annotation | {"id": 2, "image_id": 3, "iscrowd": 1} | changes]
    return {
        "images": [{"id": 17}, {"id": 3}, {"id": 5}],
        "categories": [{"id": 20, "name": "cup"}, {"id": 4, "name": "cat"}],
        "annotations": annotations,
    }


def detection(**changes):
    return {"image_id": 17, "category_id": 20, "bbox": [1, 2, 3, 4], "score": 0.1} | changes


@pytest.fixture
def truth():
    return ground_truth(dataset(), "val.json")


def test_ground_truth(truth):
    assert truth.image_ids == [3, 5, 17]
    assert (truth.category_ids, truth.names) == ([4, 20], ["cat", "cup"])
    objects = truth.objects
    assert objects.images.tolist() == [2, 0]
    assert objects.classes.tolist() == [0, 0]
    assert objects.boxes.tolist() == [[1, 2, 3, 4.5]] * 2
    assert objects.areas.tolist() == [13, 13]
    assert objects.crowds.tolist() == [False, True]
    assert objects.zero_ids.tolist() == [False, False]


def test_ground_truth_without_objects():
    empty = dataset() | {"annotations": []}
    assert ground_truth(empty, "").objects.boxes.shape == (0, 4)
    del empty["annotations"]
    assert ground_truth(empty, "").objects is None


def test_an_annotation_with_id_0_is_told(caplog):
    objects = ground_truth(dataset(id=0), "val.json").objects
    assert objects.zero_ids.tolist() == [False, True]
    assert "val.json: the annotation with id 0 cannot be found" in caplog.text


@pytest.mark.parametrize("changes", [{"image_id": 4}, {"category_id": 5}])
def test_annotations_of_nothing_do_not_count(changes, caplog):
    assert len(ground_truth(dataset(**changes), "val.json").objects.areas) == 1
    assert "val.json: 1 of 2 annotations have an image_id or a category_id" in caplog.text


@pytest.mark.parametrize("key", ["image_id", "category_id", "bbox", "area", "iscrowd"])
def test_annotations_without_a_key(key):
    bad = dataset()
    del bad["annotations"][1][key]
    with pytest.raises(ValueError, match=f"val.json: the annotation with id 2 has no '{key}'"):
        ground_truth(bad, "val.json")


@pytest.mark.parametrize(
    "changes",
    [
        {"area": None},
        {"area": float("nan")},
        {"bbox": [1, 2, 3]},
        {"bbox": [1, 2, 3, float("inf")]},
    ],
)
def test_annotations_with_bad_numbers(changes):
    with pytest.raises(ValueError, match=r"val\.json: the annotation with id 2 must have a bbox"):
        ground_truth(dataset(**changes), "val.json")


def test_annotations_with_the_same_id():
    with pytest.raises(ValueError, match=r"val\.json: two annotations have the id 1"):
        ground_truth(dataset(id=1), "val.json")


def test_results_file_and_back(truth, tmp_path, monkeypatch):
    monkeypatch.setattr(coco_arrays, "_PIECE", 2)
    results = [
        detection(),
        detection(image_id=3, category_id=4, bbox=[0.1, -1.5, 1e-8, 3e5], score=1 / 3),
        detection(image_id=5, score=0.0),
    ]
    for number in range(4):  # a piece less, just one, and more than one
        path = write_json(tmp_path / "results.json", results[:number])
        detections = read_results(path, truth)
        assert len(detections.scores) == number
        with open(tmp_path / "again.json", "w") as file:
            write_results(file, detections, truth)
        expected = [r | {"bbox": list(map(float, r["bbox"]))} for r in results[:number]]
        assert (tmp_path / "again.json").read_text() == json.dumps(expected)
    assert detections.images.tolist() == [2, 0, 1]
    assert detections.classes.tolist() == [1, 0, 1]


def test_masks_are_read_if_asked_for(tmp_path):
    square = {"size": [3, 4], "counts": [3, 2, 1, 2, 4]}
    polygon = [[1, 0, 3, 0, 3, 2, 1, 2]]
    data = dataset(segmentation=square)
    data["images"] = [{"id": i, "width": 4, "height": 3} for i in (17, 3, 5)]
    with pytest.raises(ValueError, match=r"val\.json: the annotation with id 1 has no 'segmentat"):
        ground_truth(data, "val.json", masks=True)
    data["annotations"][0]["segmentation"] = polygon
    assert ground_truth(data, "val.json").objects.masks.tolist() == [None, None]
    truth = ground_truth(data, "val.json", masks=True)
    for mask in truth.objects.masks:
        assert mask_util.decode(mask).tolist() == [[0, 1, 1, 0], [0, 1, 1, 0], [0, 0, 0, 0]]

    mask = {"size": [3, 4], "counts": mask_util.encode(np.ones((3, 4), "u1", order="F"))["counts"]}
    mask["counts"] = mask["counts"].decode()
    results = [detection(segmentation=mask, bbox=[1.0, 2.0, 3.0, 4.0])]
    path = write_json(tmp_path / "results.json", results)
    assert read_results(path, truth).masks.tolist() == [None]
    detections = read_results(path, truth, masks=True)
    assert detections.masks.tolist() == [mask]
    with open(tmp_path / "again.json", "w") as file:
        write_results(file, detections, truth)
    assert (tmp_path / "again.json").read_text() == path.read_text()


@pytest.mark.parametrize(
    "segmentation",
    [
        *(5, "abc", None, [], [[]], [[1, 2]], [[1, 2, 3, 4]], [[1, 2, 3, 4, "x", 6]]),
        {"size": [4, 3], "counts": [12]},
        {"size": [3, 4], "counts": [13]},
        {"size": [3, 4], "counts": "abc"},
        {"size": [3, 4], "counts": "o01"},  # too short: pycocotools' `iou` would not end
        {"size": [3, 4]},
    ],
)
def test_broken_masks(segmentation, tmp_path):
    data = dataset(segmentation=segmentation)
    data["annotations"][0]["segmentation"] = {"size": [3, 4], "counts": [12]}
    data["images"] = [{"id": i, "width": 4, "height": 3} for i in (17, 3, 5)]
    with pytest.raises(ValueError, match=r"val\.json: the annotation with id 2 .* of 4 x 3 pixels"):
        ground_truth(data, "val.json", masks=True)
    path = write_json(tmp_path / "results.json", [detection(segmentation=segmentation)])
    truth = ground_truth(data, "val.json")
    with pytest.raises(ValueError, match=r"detection 1 must have .*'size': \[3, 4\]"):
        read_results(path, truth, masks=True)


def test_masks_need_the_size_of_their_image():
    data = dataset(segmentation=[[1, 0, 3, 0, 3, 2]])
    data["annotations"][0]["segmentation"] = [[1, 0, 3, 0, 3, 2]]
    with pytest.raises(ValueError, match=r"annotation with id 1 .* of nan x nan pixels"):
        ground_truth(data, "val.json", masks=True)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ([detection(), {"image_id": 17}], "detection 2 has no 'category_id'"),
        ([detection(score=None)], "detection 1 must have a bbox of four finite numbers and a fin"),
        ([detection(score=float("nan"))], r"but has \[1, 2, 3, 4\] and nan"),
        ([detection(bbox=[])], r"but has \[\] and 0.1"),
        ([{"score": 1}], "must be a list of detections with image_id, category_id, bbox, score"),
        ({"a": 1}, "must be a list of detections"),
        (dataset(), "detection 1 has no 'score'"),  # the annotations by mistake
        (
            [detection(), *(detection(image_id=i) for i in (8, 8, "x", 9, 10))],
            "5 of 6 detections have an unknown image_id, which val.json does not list, among the "
            "first 8, 'x', 9",
        ),
        ([detection(category_id=1)], "1 of 1 detections have an unknown category_id"),
    ],
)
def test_bad_results(truth, tmp_path, content, message):
    path = write_json(tmp_path / "results.json", content)
    with pytest.raises(ValueError, match=message) as error:
        read_results(path, truth)
    assert str(path) in str(error.value)


@pytest.mark.parametrize("content", [b'[{"image_id": 17', b"\xff\xfe", b""])
def test_damaged_results(truth, tmp_path, content):
    (tmp_path / "results.json").write_bytes(content)
    with pytest.raises(ValueError, match=r"results.json is not a JSON file"):
        read_results(tmp_path / "results.json", truth)


def test_no_warning_about_good_files(truth, tmp_path, caplog):
    with caplog.at_level(logging.WARNING):
        ground_truth(dataset(), "val.json")
        read_results(write_json(tmp_path / "results.json", [detection()]), truth)
    assert not caplog.records
