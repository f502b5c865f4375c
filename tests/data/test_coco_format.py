"""The traps of the COCO format are found and named; folders in that format can be registered."""

from __future__ import annotations

import contextlib
import io
import json
import math
import os
import re
import uuid

import pytest

pytest.importorskip("detectron2")

import numpy as np
import torch
from detectron2.data import DatasetCatalog, MetadataCatalog
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from relation_heads.data import coco_format
from relation_heads.data.checks.format import coco_findings
from relation_heads.data.coco_format import (
    register_coco_folder,
    register_from_env,
)
from tests.helpers import tiny_coco, unregister, write_json


def coco_problems(dataset):
    """The sentences of what is more than a fact."""
    return [str(finding) for finding in coco_findings(dataset) if finding.level != "fact"]


@pytest.fixture
def coco(tmp_path):
    return tiny_coco(tmp_path / "set", category_ids=(1, 4, 9))


@pytest.fixture
def name():
    name = f"folder_{uuid.uuid4().hex}"
    yield name
    unregister(name)


def test_a_good_data_set_has_no_problems(coco):
    assert coco_problems(coco.dataset) == []
    assert coco_problems({**coco.dataset, "annotations": []}) == []
    unlabelled = {k: v for k, v in coco.dataset.items() if k != "annotations"}
    assert coco_problems(unlabelled) == []


def first(key, **changes):
    """A change of the first two items of a list."""

    def change(dataset):
        for item in dataset[key][:2]:
            item.update(changes)

    return change


def without(key, field):
    def change(dataset):
        del dataset[key][2][field]

    return change


@pytest.mark.parametrize(
    ("change", "parts"),
    [
        (lambda d: d["annotations"][0].update(id=0), ("1 annotation with id 0", "not matched")),
        (lambda d: d["annotations"][0].update(id=2), ("1 annotation id given twice", "id 2")),
        (without("annotations", "area"), ("1 annotation without 'area'", "id 3", "KeyError")),
        (without("annotations", "iscrowd"), ("1 annotation without 'iscrowd'", "id 3")),
        (without("annotations", "id"), ("1 annotation without 'id'",)),
        (first("annotations", category_id=77), ("2 annotations with a category_id", "id 1", "77")),
        (first("annotations", image_id=88), ("2 annotations with an image_id", "88", "left out")),
        (without("annotations", "bbox"), ("1 annotation without a 'bbox' of four", "id 3")),
        (first("annotations", bbox=[]), ("2 annotations without a 'bbox' of four", "id 1")),
        (first("annotations", bbox=[1, 2, 3, float("nan")]), ("2 annotations without a 'bbox'",)),
        (first("annotations", bbox=[1, 2, 0, 5]), ("2 annotations with a box of width", "id 1")),
        (first("categories", name="cat"), ("2 categories are called 'cat'",)),
        (lambda d: d.update(categories=[]), ("There are no categories",)),
        (first("categories", id=4), ("Two categories have the id 4",)),
        (without("categories", "name"), ("Every category must have 'id' and 'name'",)),
        (lambda d: d.pop("images"), ("not in COCO format", "'images' and 'categories'")),
        (lambda d: d.update(annotations={}), ("'annotations' must be a list",)),
        (without("images", "width"), ("1 image without 'width'", "id 3")),
        (without("images", "height"), ("1 image without 'height'", "id 3")),
        (first("images", height=0), ("2 images with a height that is not > 0", "id 1")),
        (lambda d: d["images"][0].update(id=2), ("1 image id given twice", "id 2")),
    ],
)
def test_every_trap_is_named_with_its_count_and_the_first_id(coco, change, parts):
    change(coco.dataset)
    problems = [p for p in coco_problems(coco.dataset) if all(part in p for part in parts)]
    assert len(problems) == 1, coco_problems(coco.dataset)
    assert problems[0].endswith(".")


def test_annotation_id_0_lowers_the_ap_of_perfect_detections(coco):
    """The reason for the most surprising sentence."""

    def ap_of_perfect_detections():
        with contextlib.redirect_stdout(io.StringIO()):
            truth = COCO()
            truth.dataset = json.loads(json.dumps(coco.dataset))
            truth.createIndex()
            detections = [{**a, "score": 0.9} for a in coco.dataset["annotations"]]
            evaluation = COCOeval(truth, truth.loadRes(detections), "bbox")
            evaluation.evaluate()
            evaluation.accumulate()
            evaluation.summarize()
        return evaluation.stats[0]

    assert ap_of_perfect_detections() == pytest.approx(1.0)
    for annotation in coco.dataset["annotations"]:
        annotation["id"] -= 1
    assert ap_of_perfect_detections() < 0.95


def test_a_registered_folder_has_class_names_at_once_and_loads(coco, name):
    register_coco_folder(name, str(coco.json_file), str(coco.image_root))
    assert MetadataCatalog.get(name).thing_classes == ["class0", "class1", "class2"]
    assert MetadataCatalog.get(name).evaluator_type == "coco"
    records = DatasetCatalog.get(name)  # sets the class names again
    assert len(records) == 4
    assert os.path.isfile(records[0]["file_name"])
    assert [a["category_id"] for a in records[0]["annotations"]] == [0, 1, 2]  # ids 1, 4, 9
    mapping = MetadataCatalog.get(name).thing_dataset_id_to_contiguous_id
    assert mapping == {1: 0, 4: 1, 9: 2}


PERSON = {"keypoints": ["nose", "left_eye", "right_eye", "left"], "skeleton": [[1, 2], [3, 1]]}


def test_keypoints_of_a_folder_can_be_trained_and_drawn(coco, name):
    from detectron2.data.detection_utils import create_keypoint_hflip_indices
    from detectron2.structures import Instances
    from detectron2.utils.visualizer import Visualizer

    coco.dataset["categories"][1].update(PERSON)
    write_json(coco.json_file, coco.dataset)
    register_coco_folder(name, str(coco.json_file), str(coco.image_root))
    metadata = MetadataCatalog.get(name)
    assert metadata.keypoint_names == PERSON["keypoints"]
    assert create_keypoint_hflip_indices([name]) == [0, 2, 1, 3]
    points = torch.tensor([[[10.0, 10.0, 2.0], [30.0, 10.0, 2.0], [10, 30, 2], [30, 30, 2]]])
    visualizer = Visualizer(np.zeros((64, 96, 3), np.uint8), metadata)
    drawn = visualizer.draw_instance_predictions(Instances((64, 96), pred_keypoints=points))
    red, green, blue = drawn.get_image()[10, 20].tolist()  # on the line from nose to left_eye
    assert red > green > blue
    assert DatasetCatalog.get(name)  # Detectron2 sets no other metadata


def test_without_keypoints_or_with_two_kinds_there_is_no_metadata(coco):
    assert coco_format.keypoint_metadata(coco.dataset) == {}
    coco.dataset["categories"][0].update(PERSON)
    coco.dataset["categories"][1].update(keypoints=["tail"])
    assert coco_format.keypoint_metadata(coco.dataset) == {}
    coco.dataset["categories"][1].update(keypoints="tail")
    coco.dataset["categories"][0].update(keypoints="tail")
    assert coco_format.keypoint_metadata(coco.dataset) == {}
    for category in coco.dataset["categories"][:2]:
        category.update(PERSON, skeleton=[[1, 9]])
    assert coco_format.keypoint_metadata(coco.dataset)["keypoint_connection_rules"] == []
    assert coco_format.keypoint_metadata(coco.dataset)["keypoint_flip_map"] == [
        ("left_eye", "right_eye")
    ]


def test_the_order_of_the_categories_in_the_file_does_not_matter(coco, name):
    coco.dataset["categories"].reverse()
    write_json(coco.json_file, coco.dataset)
    register_coco_folder(name, str(coco.json_file), str(coco.image_root))
    assert MetadataCatalog.get(name).thing_classes == ["class0", "class1", "class2"]
    DatasetCatalog.get(name)


def test_registering_twice_changes_nothing_but_other_files_are_refused(coco, name, tmp_path):
    paths = str(coco.json_file), str(coco.image_root)
    register_coco_folder(name, *paths)
    register_coco_folder(name, *paths)
    other = tiny_coco(tmp_path / "other")
    with pytest.raises(ValueError, match="registered already") as caught:
        register_coco_folder(name, str(other.json_file), str(other.image_root))
    assert str(coco.json_file) in str(caught.value)
    assert str(other.json_file) in str(caught.value)


@pytest.mark.parametrize("where", ["cwd", "root", "home"])
def test_where_paths_are_looked_up(coco, name, where, tmp_path, monkeypatch):
    """Where the program runs, then under DETECTRON2_DATASETS; `~` is the home."""
    (tmp_path / "empty").mkdir()
    monkeypatch.chdir(tmp_path if where == "cwd" else tmp_path / "empty")
    monkeypatch.setenv("HOME", str(tmp_path))
    if where == "root":
        monkeypatch.setenv("DETECTRON2_DATASETS", "~")
    prefix = "~/" if where == "home" else ""
    register_coco_folder(name, f"{prefix}set/annotations.json", f"{prefix}set/images")
    assert MetadataCatalog.get(name).json_file == str(coco.json_file)
    monkeypatch.chdir("/")
    assert len(DatasetCatalog.get(name)) == 4


@pytest.mark.parametrize(
    ("content", "match"),
    [
        (None, "There is no file .*missing.json"),
        ("{", "is not a JSON file"),
        ("[]", "not in COCO format"),
        ('{"images": []}', "'images' and 'categories'"),
        ('{"images": [], "categories": []}', "no categories"),
        ("[" * 100_000, "nested too deep"),
        ('{"images": [], "categories": [{"id": null, "name": "a"}]}', "'id' in 'categories'"),
        ('{"images": [], "categories": [{"id": NaN, "name": "a"}]}', "not finite"),
        ('{"images": [], "categories": [{"id": 1e30, "name": "a"}]}', "64 bits"),
        ('{"images": [], "categories": [{"id": 1, "name": []}]}', "'name' in 'categories'"),
    ],
)
def test_a_bad_file_is_one_sentence(coco, name, tmp_path, content, match):
    path = tmp_path / "missing.json"
    if content is not None:
        path.write_text(content)
    with pytest.raises((FileNotFoundError, ValueError), match=match) as caught:
        register_coco_folder(name, str(path), str(coco.image_root))
    assert str(path) in str(caught.value)
    assert name not in DatasetCatalog


@pytest.mark.parametrize(
    ("key", "value", "named"),
    [
        ("image_id", [1], "'image_id' in 'annotations'"),
        ("category_id", 99, "category_id 99"),
        ("bbox", [1, 2, 3], "bbox"),
        ("bbox", [1, 1, math.inf, 5], "bbox"),
    ],
)
def test_what_cannot_be_loaded_is_named_with_its_file(coco, name, tmp_path, key, value, named):
    dataset = json.loads(coco.json_file.read_text())
    dataset["annotations"][0][key] = value
    path = tmp_path / "odd.json"
    path.write_text(json.dumps(dataset))
    register_coco_folder(name, str(path), str(coco.image_root))
    with pytest.raises(ValueError, match=re.escape(named)) as caught:
        DatasetCatalog.get(name)
    assert str(path) in str(caught.value)


def test_a_missing_image_folder_is_named(coco, name):
    with pytest.raises(FileNotFoundError, match=r"no folder .*/nowhere"):
        register_coco_folder(name, str(coco.json_file), "nowhere")


def test_data_sets_from_the_environment(coco, name, monkeypatch):
    entry = f"{name} = {coco.json_file}, {coco.image_root}"
    monkeypatch.setenv(coco_format.ENV_VARIABLE, f"{entry};{entry} ; ")
    assert register_from_env() == [name, name]
    assert len(DatasetCatalog.get(name)) == 4
    monkeypatch.delenv(coco_format.ENV_VARIABLE)
    assert register_from_env() == []


@pytest.mark.parametrize(
    "entry", ["birds", "birds=a.json", "=a.json,b", "birds=a.json,b,c", "birds=nowhere.json,b"]
)
def test_a_bad_entry_in_the_environment_is_named_and_passed_over(
    entry, coco, name, monkeypatch, caplog
):
    good = f"{name}={coco.json_file},{coco.image_root}"
    monkeypatch.setenv(coco_format.ENV_VARIABLE, f"{entry};{good}")
    assert register_from_env() == [name]
    (said,) = [r.getMessage() for r in caplog.records]
    assert "RELATION_HEADS_DATASETS" in said and repr(entry) in said
