"""Everything that can be wrong or odd in keypoints is found."""

from __future__ import annotations

import copy

import pytest

from relation_heads.data.checks.format import coco_findings

NAMES = ["nose", "eye", "tail"]


def dataset():
    keypoints = [[10, 10, 2, 12, 14, 1, 0, 0, 0], [40, 20, 2, 45, 25, 2, 48, 28, 2]]
    return {
        "images": [{"id": 7, "file_name": "a.jpg", "width": 60, "height": 40}],
        "categories": [
            {"id": 1, "name": "cat", "keypoints": list(NAMES), "skeleton": [[1, 2], [2, 3]]}
        ],
        "annotations": [
            {
                "id": k + 1,
                "image_id": 7,
                "category_id": 1,
                "bbox": [8 + 30 * k, 8, 20, 25],
                "area": 500,
                "iscrowd": 0,
                "keypoints": of_one,
                "num_keypoints": 2 + k,
            }
            for k, of_one in enumerate(keypoints)
        ],
    }


def of_first(**changes):
    return lambda data: data["annotations"][0].update(changes)


def of_category(**changes):
    return lambda data: data["categories"][0].update(changes)


def point(k, value):
    return lambda data: data["annotations"][0]["keypoints"].__setitem__(k, value)


def drop(key, owner="annotations"):
    return lambda data: data[owner][0].pop(key)


def second_category(*names):
    other = {"id": 2, "name": "dog", "keypoints": list(names)}
    return lambda data: data["categories"].append(other)


def test_good_keypoints_have_no_finding():
    assert coco_findings(dataset()) == []
    without = dataset()
    del without["categories"][0]["keypoints"]
    assert coco_findings(without) == []


@pytest.mark.parametrize(
    "change, level, parts",
    [
        (
            of_first(keypoints=[1, 2, 2] * 4),
            "problem",
            ["1 annotation whose", "12 numbers inst", "9"],
        ),
        (of_first(keypoints=[1, 2, 2, 3]), "problem", ["1 annotation whose", "4 numbers instead"]),
        (of_first(keypoints="all"), "problem", ["1 annotation whose", "no numbers instead of 9"]),
        (point(3, float("inf")), "problem", ["three finite numbers", "annotation 1 of image 7"]),
        (point(3, "12"), "problem", ["three finite numbers"]),
        (point(3, True), "problem", ["three finite numbers"]),
        (drop("keypoints"), "warning", ["1 annotation without 'keypoints'", "annotation 1 of"]),
        (point(5, 3), "warning", ["1 keypoint with a visibility", "keypoint 2 [12, 14, 3]"]),
        (point(3, 61.5), "warning", ["1 labelled keypoint more", "keypoint 2 [61.5, 14, 1]"]),
        (point(4, 41.5), "warning", ["1 labelled keypoint more", "[12, 41.5, 1]"]),
        (point(0, -1.5), "warning", ["1 labelled keypoint more", "keypoint 1 [-1.5, 10, 2]"]),
        (point(6, 99), "fact", ["1 keypoint of visibility 0 with", "keypoint 3 [99, 0, 0]"]),
        (of_first(num_keypoints=1), "warning", ["'num_keypoints'", "1 instead of 2"]),
        (of_first(num_keypoints=0), "problem", ["'num_keypoints'", "0 instead of 2", "leaves out"]),
        (of_first(num_keypoints=None), "problem", ["'num_keypoints'", "None instead of 2"]),
        (drop("num_keypoints"), "problem", ["1 annotation with 'keypoints' and without"]),
        (of_category(keypoints=["a", "a", "b"]), "warning", ["1 class whose 'keypoints'", "'cat'"]),
        (of_category(keypoints="abc"), "warning", ["1 class whose 'keypoints' are not a list"]),
        (of_category(skeleton=[[0, 1]]), "warning", ["1 class whose 'skeleton'", "'cat'"]),
        (of_category(skeleton=[[1, 4]]), "warning", ["1 class whose 'skeleton'"]),
        (of_category(skeleton=[1, 2]), "warning", ["1 class whose 'skeleton'"]),
        (second_category("nose"), "problem", ["2 classes that differ", "'cat' 3", "'dog' 1"]),
    ],
)
def test_every_oddity_is_found(change, level, parts):
    data = copy.deepcopy(dataset())
    change(data)
    (finding,) = coco_findings(data)
    assert finding.level == level
    text = f"{finding.what} {' '.join(finding.examples)} {finding.advice}"
    assert all(part in text for part in parts), text


def test_points_on_the_edge_and_within_a_pixel_are_inside():
    data = dataset()
    data["annotations"][0]["keypoints"] = [-1, 41, 2, 61, -1, 2, 0, 0, 0]
    assert coco_findings(data) == []


def test_without_names_the_usual_number_counts():
    data = dataset()
    del data["categories"][0]["keypoints"]
    data["annotations"].append({**data["annotations"][0], "id": 3, "bbox": [1, 1, 25, 20]})
    data["annotations"][0]["keypoints"] = [1, 2, 2]
    (finding,) = coco_findings(data)
    assert finding.examples == ("annotation 1 of image 7: 3 numbers instead of 9",)
