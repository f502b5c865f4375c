"""No region is ever dropped, and each can be found again."""

from __future__ import annotations

import pytest

pytest.importorskip("detectron2")

import numpy as np
import torch
from detectron2.data import DatasetCatalog
from detectron2.data import transforms as T

from relation_heads.data.region_mapper import RegionClassificationMapper, clip_boxes, region_ids
from tests.helpers import HEIGHT, WIDTH, registered, tiny_cfg, tiny_coco, write_json

# xywh of the annotations of the first image: ordinary, one pixel, a line, partly outside, outside.
BOXES = [
    [10, 8, 20, 30],
    [40, 20, 1, 1],
    [50.25, 10, 0.125, 12],
    [-10, 50, 30, 40],
    [200, -70, 5, 5],
    [30, 30, 0, 0],
]


@pytest.fixture
def coco(tmp_path):
    """Classes 0, 1, 2, 0, 1, 2 of `BOXES` in the first image; its region 2 is a crowd."""
    coco = tiny_coco(tmp_path / "data", category_ids=(2, 5, 7))
    others = [a for a in coco.dataset["annotations"] if a["image_id"] != 1]
    first = [
        {
            "id": 100 + i,
            "image_id": 1,
            "category_id": (2, 5, 7)[i % 3],
            "bbox": box,
            "area": 1,
            "iscrowd": int(i == 2),
        }
        for i, box in enumerate(BOXES)
    ]
    coco.dataset["annotations"] = first + others
    write_json(coco.json_file, coco.dataset)
    return coco


def build(is_train=True, augmentations=(), mirror=None, **kwargs):
    return RegionClassificationMapper(
        is_train,
        augmentations=list(augmentations),
        image_format="BGR",
        mirror=mirror or {},
        **kwargs,
    )


def first_record(coco):
    with registered(coco) as name:
        return DatasetCatalog.get(name)[0]


@pytest.mark.parametrize("is_train", [True, False])
@pytest.mark.parametrize("keep_crowd", [True, False])
@pytest.mark.parametrize("size", [32, 64, 200])
def test_nothing_is_dropped(coco, is_train, keep_crowd, size):
    record = first_record(coco)
    resize = T.ResizeShortestEdge(size, 1000)
    data = build(is_train, [resize], keep_crowd=keep_crowd)(record)
    ids = [0, 1, 2, 3, 4, 5] if keep_crowd else [0, 1, 3, 4, 5]
    proposals = data["proposals"]
    assert proposals.region_ids.tolist() == region_ids(record, keep_crowd=keep_crowd) == ids
    assert proposals.image_size == tuple(data["image"].shape[1:]) == (size, size * WIDTH // HEIGHT)
    assert proposals.objectness_logits.tolist() == [0.0] * len(ids)
    boxes = proposals.proposal_boxes.tensor
    assert boxes.dtype == torch.float32 and boxes.shape == (len(ids), 4)
    assert (boxes[:, 2:] - boxes[:, :2] >= 1 - 1e-4).all()
    assert (boxes >= 0).all() and (boxes[:, [0, 2]] <= size * 1.5).all()
    assert (boxes[:, [1, 3]] <= size).all()
    scale = size / HEIGHT
    assert boxes[0].tolist() == pytest.approx([10 * scale, 8 * scale, 30 * scale, 38 * scale])
    partly_outside = boxes[ids.index(3)]
    assert partly_outside.tolist() == pytest.approx([0, 50 * scale, 20 * scale, 64 * scale])


@pytest.mark.parametrize("is_train", [True, False])
def test_fields(coco, is_train):
    record = first_record(coco)
    data = build(is_train)(record)
    assert len(record["annotations"]) == len(BOXES) and "image" not in record  # left as it was
    assert "annotations" not in data and data["image_id"] == 1
    assert data["proposals"].has("gt_classes") == is_train == ("instances" in data)
    if is_train:
        instances, proposals = data["instances"], data["proposals"]
        assert instances.gt_classes.tolist() == proposals.gt_classes.tolist() == [0, 1, 0, 1, 2]
        assert instances.region_ids.tolist() == proposals.region_ids.tolist()
        assert torch.equal(instances.gt_boxes.tensor, proposals.proposal_boxes.tensor)


def test_clip_boxes():
    boxes = np.array(
        [
            [1.3, 2.7, 9.1, 3.7],  # stays as it is
            [4.25, 5, 4.75, 9],  # grows around its centre
            [9.9, 3, 10, 5],  # grows away from the border
            [-8, -9, -2, -3],
            [30, 40, 50, 60],
            [-5, -5, 50, 60],
            [3, 7, 2, 8],  # width -1
        ]
    )
    expected = [
        [1.3, 2.7, 9.1, 3.7],
        [4, 5, 5, 9],
        [9, 3, 10, 5],
        [0, 0, 1, 1],
        [9, 19, 10, 20],
        [0, 0, 10, 20],
        [2, 7, 3, 8],
    ]
    result = clip_boxes(boxes, height=20, width=10)
    np.testing.assert_allclose(result, expected, atol=1e-12)
    assert result[0].tolist() == expected[0]
    assert clip_boxes(np.zeros((0, 4)), 20, 10).shape == (0, 4)


@pytest.mark.parametrize("flip", [T.HFlipTransform(WIDTH), T.VFlipTransform(HEIGHT)])
def test_a_mirrored_image_swaps_the_classes_of_a_pair_alone(coco, flip):
    record = first_record(coco)
    mapper = build(augmentations=[flip], mirror={0: 1, 1: 0}, keep_crowd=True)
    plain, data = build(keep_crowd=True)(record), mapper(record)
    mirrored = isinstance(flip, T.HFlipTransform)
    assert plain["instances"].gt_classes.tolist() == [0, 1, 2, 0, 1, 2]
    swapped = [1, 0, 2, 1, 0, 2] if mirrored else [0, 1, 2, 0, 1, 2]
    assert data["instances"].gt_classes.tolist() == swapped
    assert data["proposals"].gt_classes.tolist() == swapped
    assert data["proposals"].region_ids.tolist() == [0, 1, 2, 3, 4, 5]
    # Boxes that had to grow are mirror images of each other too.
    expected = flip.apply_box(plain["proposals"].proposal_boxes.tensor.numpy())
    np.testing.assert_allclose(data["proposals"].proposal_boxes.tensor, expected, atol=1e-4)


def test_from_config_and_the_same_regions_in_training_and_testing(coco, tmp_path):
    pairs = (("class0", "class1"),)
    with registered(coco, hflip_pairs=pairs) as name:
        cfg = tiny_cfg([name], [name], 3, tmp_path, ["INPUT.RANDOM_FLIP", "horizontal"])
        train = RegionClassificationMapper(cfg, is_train=True)
        test = RegionClassificationMapper(cfg, is_train=False)
        records = DatasetCatalog.get(name)
        cfg.INPUT.CROP.ENABLED = True
        with pytest.raises(ValueError, match=r"INPUT\.CROP\.ENABLED must be False"):
            RegionClassificationMapper(cfg, is_train=True)
    assert train.mirror == {0: 1, 1: 0}
    classes = set()
    for record in records:
        for _ in range(8):
            data = train(record)
            expected = test(record)["proposals"].region_ids.tolist()
            assert data["proposals"].region_ids.tolist() == expected == region_ids(record)
            if record["image_id"] == 1:
                classes.add(tuple(data["instances"].gt_classes.tolist()))
    assert classes == {(0, 1, 0, 1, 2), (1, 0, 1, 0, 2)}  # the flip of the config happened


def test_an_image_without_regions(tmp_path):
    with registered(tiny_coco(tmp_path, empty_image=True)) as name:
        record = DatasetCatalog.get(name)[-1]
    for is_train in (True, False):
        data = build(is_train, [T.RandomFlip(prob=1.0)])(record)
        assert len(data["proposals"]) == 0
        assert data["proposals"].proposal_boxes.tensor.shape == (0, 4)
    del record["annotations"]
    assert len(build(False)(record)["proposals"]) == 0


def test_a_box_that_is_not_finite_is_named(coco):
    record = first_record(coco)
    record["annotations"][3]["bbox"] = [0, 0, float("nan"), 4]
    with pytest.raises(ValueError, match=r"Region 3 of image 1 has the box .*nan"):
        build()(record)
