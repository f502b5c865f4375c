"""Counts of a training set, buckets by them, and the table by class, all by hand."""

from __future__ import annotations

import csv

import numpy as np
import pytest

pytest.importorskip("detectron2")

from relation_heads.evaluation.class_tables import (
    BUCKETS,
    COLUMNS,
    ClassCounts,
    bucket_means,
    buckets,
    count_classes,
    write_class_table,
)
from relation_heads.evaluation.coco_arrays import ground_truth
from tests.helpers import write_json

CATEGORIES = [{"id": 9, "name": "cup"}, {"id": 2, "name": "cat"}, {"id": 5, "name": "owl"}]


def coco(pairs, **changes):
    """A data set with an annotation for every (image id, category id, iscrowd)."""
    annotations = [
        {
            "id": i + 1,
            "image_id": image,
            "category_id": category,
            "iscrowd": crowd,
            "bbox": [0, 0, 5, 5],
            "area": 25,
            "segmentation": {"size": [5, 5], "counts": "abc"},
        }
        for i, (image, category, crowd) in enumerate(pairs)
    ]
    return {
        "licenses": [{"id": 2, "name": "a licence"}],  # is no category
        "annotations": annotations,
        "images": [{"id": i} for i in (1, 2, 3)],
        "categories": CATEGORIES,
    } | changes


TRAIN = [(1, 2, 0), (1, 2, 0), (2, 2, 0), (3, 2, 1), (1, 9, 0), (2, 9, 1)]


def test_counts(tmp_path):
    counts = count_classes([write_json(tmp_path / "train.json", coco(TRAIN))])
    assert counts.names == {2: "cat", 5: "owl", 9: "cup"}
    assert counts.instances == {2: 3, 5: 0, 9: 1}
    assert counts.images == {2: 2, 5: 0, 9: 1}


def test_images_of_different_files_are_different(tmp_path):
    files = [
        write_json(tmp_path / f"{i}.json", coco(pairs))
        for i, pairs in enumerate([TRAIN, [(1, 2, 0), (1, 5, 0)]])
    ]
    counts = count_classes(files)
    assert counts.instances == {2: 4, 5: 1, 9: 1}
    assert counts.images == {2: 3, 5: 1, 9: 1}


def test_nothing_to_count(tmp_path):
    counts = count_classes([write_json(tmp_path / "train.json", coco([]))])
    assert set(counts.images.values()) == set(counts.instances.values()) == {0}
    with pytest.raises(ValueError, match="no training set"):
        count_classes([])


def test_files_that_do_not_fit(tmp_path):
    a = write_json(tmp_path / "a.json", coco(TRAIN))
    b = write_json(tmp_path / "b.json", coco(TRAIN, categories=CATEGORIES[:2]))
    with pytest.raises(ValueError, match=r"b\.json and .*a\.json have different categories"):
        count_classes([a, b])
    with pytest.raises(ValueError, match=r"c\.json is not in COCO format"):
        count_classes([write_json(tmp_path / "c.json", [])])


def test_counts_of_other_classes():
    counts = ClassCounts({2: "cat", 9: "mug"}, {2: 1, 9: 1}, {2: 1, 9: 1})
    with pytest.raises(ValueError, match=r"val\.json: category 5 is 'owl' there and None in"):
        counts.of(ground_truth(coco([]), "val.json"))
    truth = ground_truth(coco([], categories=CATEGORIES[:2]), "val.json")
    with pytest.raises(ValueError, match=r"category 9 is 'cup' there and 'mug' in the training"):
        counts.of(truth)


def test_limits_of_the_buckets():
    names = [BUCKETS[b] for b in buckets(np.array([0, 1, 10, 11, 100, 101, 10**6]))]
    assert names == ["unseen", "rare", "rare", "common", "common", "frequent", "frequent"]


def test_bucket_means():
    nan = float("nan")
    ap = np.array([50.0, 10.0, 30.0, nan, 7.0])
    means = bucket_means(ap, np.array([0, 1, 10, 3, 500]))
    assert list(means) == ["APr", "APc", "APf"]
    np.testing.assert_equal(means, {"APr": 20.0, "APc": nan, "APf": 7.0})


def read(path):
    with open(path, newline="", encoding="utf-8") as file:
        return list(csv.reader(file))


def test_table(tmp_path):
    names = [{"id": 9, "name": 'a "cup", red'}, *CATEGORIES[1:]]
    truth = ground_truth(
        coco([(1, 9, 0), (1, 9, 0), (2, 9, 0), (3, 9, 1), (3, 5, 1)], categories=names), ""
    )
    scores = np.array([[np.nan] * 3, [np.nan] * 3, [12.34567, 100.0, 0.0]])
    train = np.array([[11, 12], [0, 0], [1, 4]])
    write_class_table(str(tmp_path / "classes.csv"), truth, scores, train)
    assert read(tmp_path / "classes.csv") == [
        list(COLUMNS),
        ["2", "cat", "common", "11", "12", "0", "0", "", "", ""],
        ["5", "owl", "unseen", "0", "0", "0", "0", "", "", ""],
        ["9", 'a "cup", red', "rare", "1", "4", "2", "3", "12.3457", "100.0000", "0.0000"],
    ]
    write_class_table(str(tmp_path / "classes.csv"), truth, scores, None)
    assert read(tmp_path / "classes.csv")[3][2:7] == ["", "", "", "2", "3"]
