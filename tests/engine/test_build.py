"""Crops of semantic segmentation: of the size that was asked for, with their own labels."""

import pytest

pytest.importorskip("detectron2")

import numpy as np
import torch
from detectron2.config import get_cfg as get_detectron2_cfg
from detectron2.data import DatasetCatalog

from relation_heads import get_cfg
from relation_heads.engine.build import build_mapper
from tests.helpers import COLOURS, registered_labels, tiny_cfg, tiny_coco
from tests.modeling.common import SEM_SEG

CROP = ("INPUT.CROP.ENABLED", True, "INPUT.CROP.TYPE", "absolute", "INPUT.CROP.SIZE", [40, 56])


@pytest.fixture
def name(tmp_path):
    with registered_labels(tiny_coco(tmp_path)) as name:
        yield name


def crops(cfg, name, number=20):
    mapper = build_mapper(cfg, is_train=True)
    records = DatasetCatalog.get(name)
    return [mapper(records[k % len(records)]) for k in range(number)]


def test_crops_come_after_the_resize(name, tmp_path):
    opts = (*SEM_SEG, *CROP, "INPUT.MIN_SIZE_TRAIN", (64, 96, 128))
    opts += ("INPUT.MIN_SIZE_TRAIN_SAMPLING", "choice")
    for crop in crops(tiny_cfg([name], [name], 3, tmp_path, opts, base=get_cfg()), name):
        assert crop["image"].shape == (3, 40, 56) and crop["sem_seg"].shape == (40, 56)
        assert crop["sem_seg"].dtype == torch.int64


@pytest.mark.parametrize("flip", ["none", "horizontal"])
def test_labels_follow_their_pixels(name, tmp_path, flip):
    opts = (*SEM_SEG, *CROP, "INPUT.RANDOM_FLIP", flip, "INPUT.FORMAT", "RGB")
    found, tops = set(), set()
    for crop in crops(tiny_cfg([name], [name], 3, tmp_path, opts, base=get_cfg()), name):
        image, labels = crop["image"].numpy(), crop["sem_seg"].numpy()
        for k in range(3):
            is_k = (image == np.array(COLOURS[k])[:, None, None]).all(0)
            assert np.array_equal(labels == k, is_k & (labels != 255))
            found.add(k) if is_k.any() else None
        tops.add(int((labels == 255).all(1).sum()))
    assert found == {0, 1, 2}
    assert len(tops) > 1  # not always the same crop


def test_no_class_fills_more_of_a_crop_than_it_may(name, tmp_path):
    opts = (*SEM_SEG, *CROP, "INPUT.CROP.SIZE", [16, 16])

    def share_of_ground(area):
        cfg = tiny_cfg([name], [name], 3, tmp_path, opts, base=get_cfg())
        cfg.INPUT.CROP.SINGLE_CATEGORY_MAX_AREA = area
        labels = torch.stack([c["sem_seg"] for c in crops(cfg, name, 60)])
        return (labels == 3).flatten(1).float().mean(1)

    assert (share_of_ground(1.0) == 1).sum() > 5
    assert (share_of_ground(0.75) == 1).sum() <= 1  # ten tries


def test_without_crops_images_are_resized_and_flipped(name, tmp_path):
    cfg = tiny_cfg([name], [name], 3, tmp_path, SEM_SEG, base=get_cfg())
    assert {tuple(c["image"].shape) for c in crops(cfg, name, 4)} == {(3, 64, 96)}


def test_a_config_of_detectron2_will_do(name, tmp_path):
    cfg = get_detectron2_cfg()
    cfg.merge_from_list(["MODEL.META_ARCHITECTURE", "SemanticSegmentor", *CROP])
    cfg.merge_from_list(["INPUT.MIN_SIZE_TRAIN", (64,)])
    assert crops(cfg, name, 1)[0]["image"].shape == (3, 40, 56)


def test_only_training_for_semantic_segmentation_is_changed(name, tmp_path):
    cfg = tiny_cfg([name], [name], 3, tmp_path, (*SEM_SEG, *CROP), base=get_cfg())
    assert build_mapper(cfg, is_train=False) is None
    cfg.MODEL.META_ARCHITECTURE = "GeneralizedRCNN"
    assert build_mapper(cfg, is_train=True) is None
