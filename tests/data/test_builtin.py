"""The data sets of this package are registered, with what evaluators and mappers need to know."""

from __future__ import annotations

import re

import pytest

pytest.importorskip("detectron2")

from detectron2.data import DatasetCatalog, MetadataCatalog

from relation_heads.data.builtin import CONVERTED, register_builtin
from relation_heads.data.coco_format import ENV_VARIABLE
from relation_heads.data.scenes.scenes import CLASS_GROUPS, CLASSES, HFLIP_PAIRS
from tests.helpers import tiny_coco, unregister, write_json

NAMES = (
    "relational_scenes_train",
    "relational_scenes_val",
    "relational_scenes_crowded_train",
    "relational_scenes_crowded_val",
)
PHOTOS = [
    "photos_voc_animals_train", "photos_voc_animals_val",
    "photos_camvid_train", "photos_camvid_val", "photos_camvid_test",
    "photos_vg500_train", "photos_vg500_val",
]  # fmt: skip
IMAGE_CLASSES = ["imagenet_train", "imagenet_val", "cub200_train", "cub200_test"]
ALL = (*NAMES, *PHOTOS, *CONVERTED, *IMAGE_CLASSES)


@pytest.fixture
def root(tmp_path, monkeypatch):
    """Registers the data sets below `tmp_path`; afterwards as they were."""
    unregister(*ALL)
    monkeypatch.setenv("DETECTRON2_DATASETS", str(tmp_path))
    register_builtin()
    yield tmp_path
    unregister(*ALL)
    monkeypatch.undo()
    register_builtin()


@pytest.mark.parametrize("name", NAMES)
def test_metadata_is_there_without_the_files(root, name):
    metadata = MetadataCatalog.get(name)
    assert metadata.thing_classes == list(CLASSES)
    assert metadata.class_groups == CLASS_GROUPS
    assert set(metadata.class_groups) == set(CLASSES)
    assert metadata.hflip_pairs == HFLIP_PAIRS
    assert metadata.evaluator_type == "coco"
    scenes, split = name.rsplit("_", 1)
    assert metadata.json_file == str(root / scenes / "annotations" / f"{split}.json")
    assert metadata.image_root == str(root / scenes / split)


@pytest.mark.parametrize("name", IMAGE_CLASSES)
def test_classes_of_images_are_known_when_the_folders_are_there(root, name):
    metadata = MetadataCatalog.get(name)
    assert metadata.evaluator_type == "image_classes" and not metadata.get("thing_classes")
    with pytest.raises(FileNotFoundError, match=re.escape(metadata.image_root)):
        DatasetCatalog.get(name)
    for synset in ("n02", "n01"):
        for split in ("train", "val"):
            (root / "imagenet" / split / synset).mkdir(parents=True)
    (root / "CUB_200_2011").mkdir()
    (root / "CUB_200_2011" / "classes.txt").write_text("1 001.Albatross\n2 002.Wren\n")
    unregister(name)
    register_builtin()
    expected = ["n01", "n02"] if name.startswith("imagenet") else ["001.Albatross", "002.Wren"]
    assert MetadataCatalog.get(name).thing_classes == expected


def test_missing_files_come_with_the_command_that_makes_them(root):
    with pytest.raises(FileNotFoundError, match=r"python datasets/make_relational_scenes\.py"):
        DatasetCatalog.get("relational_scenes_val")
    with pytest.raises(FileNotFoundError, match=r"make_relational_scenes\.py --crowded`"):
        DatasetCatalog.get("relational_scenes_crowded_val")


def test_loads_from_the_folder(root):
    coco = tiny_coco(root / "relational_scenes", num_classes=len(CLASSES))
    coco.dataset["categories"] = [{"id": k, "name": c} for k, c in enumerate(CLASSES, 1)]
    (root / "relational_scenes" / "annotations").mkdir()
    write_json(root / "relational_scenes" / "annotations" / "train.json", coco.dataset)
    records = DatasetCatalog.get("relational_scenes_train")
    assert [a["category_id"] for r in records for a in r["annotations"]] == list(range(12))
    assert records[0]["file_name"] == str(root / "relational_scenes" / "train" / "000001.png")


def test_registering_again_changes_nothing(root, monkeypatch):
    before = MetadataCatalog.get(NAMES[0]).as_dict()
    monkeypatch.setenv("DETECTRON2_DATASETS", "elsewhere")
    register_builtin()
    assert MetadataCatalog.get(NAMES[0]).as_dict() == before


def test_data_sets_of_the_environment_are_registered(root, monkeypatch):
    coco = tiny_coco(root / "set")
    monkeypatch.setenv(ENV_VARIABLE, f"builtin_test={coco.json_file},{coco.image_root}")
    try:
        register_builtin()
        assert len(DatasetCatalog.get("builtin_test")) == 4
    finally:
        unregister("builtin_test")


# ---- Visual Genome and ADE20K ----


def test_names_of_vg3000_are_known_without_files(root):
    metadata = MetadataCatalog.get("vg3000_val")
    assert len(metadata.thing_classes) == 3000
    assert metadata.evaluator_type == "coco"
    folder = root / "visual_genome"
    assert metadata.json_file == str(folder / "annotations" / "vg3000_val.json")
    assert metadata.image_root == str(folder)
    with pytest.raises(FileNotFoundError, match=r"python datasets/prepare_vg\.py"):
        DatasetCatalog.get("vg3000_val")


def test_names_that_a_converter_wrote_are_known_at_once(root):
    assert "thing_classes" not in MetadataCatalog.get("ade_regions_mtest").as_dict()
    unregister(*ALL)
    (root / "ade20k").mkdir()
    (root / "ade20k" / "ade_reasoning_classes.txt").write_text("wall\nleft_arm\n")
    register_builtin()
    assert MetadataCatalog.get("ade_regions_mtest").thing_classes == ["wall", "left_arm"]
    json_file = str(root / "ade20k" / "annotations" / "ade_reasoning_mtest.json")
    assert MetadataCatalog.get("ade_regions_mtest").json_file == json_file
    with pytest.raises(FileNotFoundError, match=r"python datasets/prepare_ade\.py"):
        DatasetCatalog.get("ade_regions_mtest")


# ---- photographs ----


def test_photographs_are_known_without_files(root):
    for name in PHOTOS:
        metadata = MetadataCatalog.get(name)
        file, kind = name.removeprefix("photos_"), name.split("_")[1]
        assert metadata.json_file == str(root / "photos" / "annotations" / f"{file}.json")
        assert metadata.image_root == str(root / "photos" / kind)
        # The names of VG-500 are counted when it is made.
        classes = {"voc": 20, "camvid": 11, "vg500": 0}[kind]
        assert len(metadata.get("thing_classes", [])) == classes
        with pytest.raises(FileNotFoundError, match=r"python datasets/prepare_photos\.py"):
            DatasetCatalog.get(name)
    voc = MetadataCatalog.get("photos_voc_animals_val")
    assert voc.thing_classes[:2] + voc.thing_classes[-1:] == ["aeroplane", "bicycle", "tvmonitor"]
    assert voc.class_groups.keys() == set(voc.thing_classes)
    assert (voc.class_groups["sheep"], voc.class_groups["sofa"]) == ("animal", "indoor")


def test_names_of_vg500_are_known_once_it_is_made(root):
    unregister(*ALL)
    (root / "photos").mkdir()
    (root / "photos" / "vg500_classes.txt").write_text("man\nwhite-flower petal\n")
    register_builtin()
    for split in ("train", "val"):
        metadata = MetadataCatalog.get(f"photos_vg500_{split}")
        assert metadata.thing_classes == ["man", "white-flower petal"]
