"""Classes swap with their mirror images exactly when the image is mirrored."""

from __future__ import annotations

import pytest

pytest.importorskip("detectron2")

from detectron2.data import DatasetCatalog, DatasetMapper
from detectron2.data import transforms as T

from relation_heads.data.mapper import FlipAwareMapper, is_mirrored, mirror_classes
from relation_heads.engine.build import build_mapper
from tests.helpers import WIDTH, registered, tiny_cfg, tiny_coco

PAIRS = (("class0", "class1"),)


@pytest.fixture
def coco(tmp_path):
    return tiny_coco(tmp_path, category_ids=(1, 4, 9))


@pytest.mark.parametrize(
    ("transforms", "expected"),
    [
        ([], False),
        ([T.NoOpTransform()], False),
        ([T.HFlipTransform(WIDTH)], True),
        ([T.VFlipTransform(64)], False),
        ([T.CropTransform(5, 10, 20, 20)], False),
        ([T.HFlipTransform(WIDTH), T.HFlipTransform(WIDTH)], False),
        ([T.ResizeTransform(64, 96, 32, 48), T.TransformList([T.HFlipTransform(48)])], True),
        ([T.CropTransform(10, 10, 20, 20), T.HFlipTransform(20)], True),
        ([T.RotationTransform(64, 96, 180)], True),
    ],
)
def test_is_mirrored(transforms, expected):
    assert is_mirrored(T.TransformList(transforms)) is expected


@pytest.mark.parametrize("probability", [0.0, 1.0])
def test_flipped_images_swap_the_classes_of_a_pair_alone(coco, probability):
    augmentations = [T.ResizeShortestEdge(32), T.RandomFlip(prob=probability)]
    stock = DatasetMapper(is_train=True, augmentations=augmentations, image_format="BGR")
    ours = FlipAwareMapper(
        is_train=True, augmentations=augmentations, image_format="BGR", mirror={0: 1, 1: 0}
    )
    with registered(coco) as name:
        record = DatasetCatalog.get(name)[0]  # classes 0, 1, 2
    expected, got = stock(record)["instances"], ours(record)["instances"]
    assert expected.gt_classes.tolist() == [0, 1, 2]
    assert got.gt_classes.tolist() == ([1, 0, 2] if probability else [0, 1, 2])
    assert (got.gt_boxes.tensor == expected.gt_boxes.tensor).all()
    assert [a["category_id"] for a in record["annotations"]] == [0, 1, 2]  # left as it was


def test_classes_follow_the_pixels_through_the_config(coco, tmp_path):
    """Over random flips: classes are swapped if and only if the picture is the mirror image."""
    with registered(coco, hflip_pairs=PAIRS) as name:
        cfg = tiny_cfg([name], [], 3, tmp_path, ["INPUT.RANDOM_FLIP", "horizontal"])
        mapper = build_mapper(cfg, is_train=True)
        record = DatasetCatalog.get(name)[0]
    plain = DatasetMapper(is_train=True, augmentations=[], image_format="BGR")(record)["image"]
    seen = set()
    for _ in range(12):
        data = mapper(record)
        mirrored = bool((data["image"] == plain.flip(2)).all())
        assert mirrored or bool((data["image"] == plain).all())
        assert data["instances"].gt_classes.tolist() == ([1, 0, 2] if mirrored else [0, 1, 2])
        seen.add(mirrored)
    assert seen == {True, False}


def test_stock_mapper_where_nothing_has_a_side(coco, tmp_path):
    with registered(coco) as plain, registered(coco, hflip_pairs=PAIRS) as sided:
        assert build_mapper(tiny_cfg([plain], [], 3, tmp_path), is_train=True) is None
        assert build_mapper(tiny_cfg([], [sided], 3, tmp_path), is_train=True) is None
        mapper = build_mapper(tiny_cfg([plain, sided], [], 3, tmp_path), is_train=True)
    assert isinstance(mapper, FlipAwareMapper)
    assert mapper.mirror == {0: 1, 1: 0}


def test_data_sets_with_other_classes_are_refused(coco, tmp_path):
    other = tiny_coco(tmp_path / "other", num_classes=4)
    with registered(coco, hflip_pairs=PAIRS) as a, registered(other) as b:
        with pytest.raises(ValueError, match=f"{a}, {b} cannot be trained on together"):
            mirror_classes([a, b])


@pytest.mark.parametrize(
    ("pairs", "match"),
    [
        ((("class0", "moon"),), "'class0', 'moon' are not both classes"),
        ((("class0", "class1"), ("class1", "class2")), "'class1' or 'class2' has two partners"),
    ],
)
def test_bad_pairs_are_named(coco, pairs, match):
    with registered(coco, hflip_pairs=pairs) as name, pytest.raises(ValueError, match=match):
        mirror_classes([name])
