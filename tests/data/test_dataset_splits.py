"""Broken and unusual image files are found, and what does not fit between the splits of a set."""

from __future__ import annotations

import os
import shutil

import numpy as np
import pytest
from PIL import Image

pytest.importorskip("detectron2")

from detectron2.config import get_cfg
from detectron2.data import DatasetMapper
from detectron2.data.datasets import load_coco_json
from detectron2.data.detection_utils import SizeMismatchError

from relation_heads.data.checks.report import check_dataset
from relation_heads.data.checks.splits import Source
from tests.data.test_dataset_report import check, serious, the_finding, two_splits
from tests.helpers import HEIGHT, WIDTH


@pytest.fixture
def splits(tmp_path):
    return two_splits(tmp_path)


def test_broken_and_unusual_files(splits):
    folder = splits["train"].image_root
    whole = (folder / "000001.png").read_bytes()
    (folder / "000001.png").write_bytes(whole[: len(whole) // 2])
    (folder / "000002.png").write_text("no image")
    Image.open(folder / "000003.png").convert("L").save(folder / "000003.png")
    Image.fromarray(np.full((HEIGHT, WIDTH), 999, np.uint16)).save(folder / "000004.png")
    report = check(splits)
    finding = the_finding(report, "problem", "2 image files that cannot be read")
    assert "000001.png: image file is truncated" in finding.examples[0]
    assert "000002.png: it is in no format" in finding.examples[1]
    the_finding(report, "fact", "not RGB", "1 L")
    the_finding(report, "warning", "1 image file of more than 8 bits", "I;16")
    assert serious(check(splits, read_images=False)) == []


def save_turned(path):
    exif = Image.Exif()
    exif[274] = 6  # to be turned by 90 degrees
    path.unlink()
    picture = Image.fromarray(np.zeros((HEIGHT, WIDTH, 3), np.uint8))
    picture.save(path, format="JPEG", exif=exif)


def read_with_detectron2(coco):
    record = load_coco_json(str(coco.json_file), str(coco.image_root))[0]
    cfg = get_cfg()
    DatasetMapper(cfg, is_train=True)(record)


def test_images_that_exif_turns(splits):
    """The report says what Detectron2 does."""
    coco = splits["train"]
    save_turned(coco.image_root / "000001.png")
    report = check(splits)
    finding = the_finding(report, "problem", "before the turn by EXIF")
    assert "96 x 64 in the JSON file, 64 x 96, EXIF orientation 6" in finding.examples[0]
    with pytest.raises(SizeMismatchError):
        read_with_detectron2(coco)

    coco.dataset["images"][0].update(width=HEIGHT, height=WIDTH)
    for annotation in coco.dataset["annotations"][:3]:
        annotation.update(bbox=[1, annotation["id"], 9, 9], area=81)
    report = check(splits)
    assert not report.has_problems
    the_finding(report, "warning", "1 image file with an EXIF orientation")
    read_with_detectron2(coco)


def test_equal_files_within_a_split_and_between_splits(splits):
    train, val = splits["train"].image_root, splits["val"].image_root
    shutil.copy(train / "000001.png", train / "000003.png")
    shutil.copy(train / "000002.png", val / "000004.png")
    report = check(splits)
    within = the_finding(report, "warning", "byte for byte").examples
    assert within == (f"{train / '000001.png'} = {train / '000003.png'}",)
    between = the_finding(report, "problem", "byte for byte", "trained on")
    assert between.examples == (f"{train / '000002.png'} = {val / '000004.png'}",)
    assert between.dataset == "train, val"


def test_a_file_that_both_splits_list(splits):
    splits["train"].dataset["images"][0]["file_name"] = "./000001.png"
    val = splits["val"].dataset
    val["images"][0]["file_name"] = os.path.join("..", "..", "train", "images", "000002.png")
    report = check(splits, read_images=False)
    assert "000002.png" in the_finding(report, "problem", "1 image file listed in both").examples[0]
    the_finding(report, "fact", "1 image file in the folders that no JSON file lists")
    problems = [finding for finding in check(splits).findings if finding.level == "problem"]
    assert len(problems) == 1  # not as a copy too


def test_a_relative_folder(splits, monkeypatch):
    """As Detectron2 registers its own data sets."""
    coco = splits["train"]
    monkeypatch.chdir(coco.image_root.parent)
    report = check_dataset([Source("train", str(coco.json_file), "images")])
    assert len(report.findings) == 1
    the_finding(report, "fact", "classes by training images")


def test_image_ids_in_both_splits_do_no_harm(splits):
    splits["val"].dataset["images"].append({**splits["val"].dataset["images"][0], "id": 3})
    report = check(splits, read_images=False)
    assert the_finding(report, "fact", "1 image id in both").examples == ("3",)


def test_class_lists_that_differ(splits):
    categories = splits["val"].dataset["categories"]
    categories[0]["name"], categories[1]["name"] = "class1", "class0"
    the_finding(check(splits), "problem", "another order: class 0 is 'class0' and 'class1'")
    categories[0]["name"] = "kite"
    parts = "train alone has 'class1'", "val alone has 'kite'"
    the_finding(check(splits), "problem", "3 and 3 classes", *parts)
    categories[0]["name"], categories[1]["name"] = "class0", "class1"
    categories[2]["id"] = 9
    for annotation in splits["val"].dataset["annotations"]:
        annotation["category_id"] = 1
    the_finding(check(splits), "warning", "other category ids")


def test_classes_that_only_one_split_shows(splits):
    for coco in splits.values():
        coco.dataset["categories"].append({"id": 4, "name": "spare"})
    for annotation in splits["train"].dataset["annotations"]:
        annotation["iscrowd"] = int(annotation["category_id"] == 2)
    for annotation in splits["val"].dataset["annotations"]:
        annotation["iscrowd"] = int(annotation["category_id"] == 1)
    report = check(splits)
    only_val = the_finding(report, "warning", "1 class with objects in val and none in train")
    assert only_val.examples == ("class1 (4)",)
    only_train = the_finding(report, "fact", "1 class with objects in train and none in val")
    assert only_train.examples == ("class0 (4)",)
    assert the_finding(report, "fact", "1 class without an object").examples == ("spare",)
    for coco in splits.values():
        coco.dataset["annotations"] = coco.dataset["annotations"][2::3]
    neither = the_finding(check(splits), "fact", "3 classes without an object in either")
    assert neither.examples == ("class0", "class1", "spare")
    splits["val"].dataset["annotations"] = []
    the_finding(check(splits), "warning", "val", "no image has an object", "NaN")


def test_a_split_that_cannot_be_read_does_not_hide_the_others(splits):
    splits["val"].dataset["annotations"][0]["id"] = 0
    del splits["train"].dataset["images"]
    report = check(splits)
    the_finding(report, "problem", "train: ", "must be an object with 'images'")
    the_finding(report, "problem", "val: ", "with id 0")
    assert [split.name for split in report.splits] == ["val"]
    assert "training images" not in report.text()
