"""`MODEL.REGION_FEATURES`: learned region features in every form of head and every branch."""

from __future__ import annotations

import copy

import pytest

pytest.importorskip("detectron2")

import torch
from detectron2.modeling.poolers import ROIPooler
from detectron2.structures import Boxes

from relation_heads.layers import LearnedRegionFeatures
from relation_heads.modeling.region_pooler import LearnedRegionPooler
from tests.modeling.common import (
    C4,
    KEYPOINT,
    MASK,
    REASONING,
    REGIONS,
    RELATION,
    SGRN,
    SMALL_REGIONS,
    assert_batch_equals_image_by_image,
    assert_same_detections,
    build,
    build_heads,
    head_detections,
    head_losses,
    losses,
    maps,
    scattered,
    without_threshold,
)

KEY = "MODEL.REGION_FEATURES"
ALL = (f"{KEY}.BRANCHES", ["box", "mask", "keypoint"], *SMALL_REGIONS)
PLAIN = ("MODEL.ROI_HEADS.NAME", "DuplicateRemovalROIHeads")
C4_PLAIN = (*C4, "MODEL.ROI_HEADS.NAME", "Res5DuplicateRemovalROIHeads")
CASCADE = ("MODEL.ROI_HEADS.NAME", "CascadeDuplicateRemovalROIHeads",
           "MODEL.ROI_BOX_HEAD.CLS_AGNOSTIC_BBOX_REG", True)  # fmt: skip
HEADS = {
    "plain": PLAIN,
    "C4": C4_PLAIN,
    "Cascade": CASCADE,
    "relation": RELATION,
    "SGRN": SGRN,
    "reasoning": REASONING,
}
heads = pytest.mark.parametrize("keys", HEADS.values(), ids=HEADS)


def pooler(levels, **options):
    torch.manual_seed(0)
    layer = LearnedRegionFeatures(32, bins=2, embed_dim=8, dim=4, **options)
    scales = [1 / 2**level for level in levels]
    return LearnedRegionPooler(layer, ROIPooler((2, 2), scales, 0, "ROIAlignV2"))


def test_a_box_is_pooled_from_its_level():
    pools, features = pooler((2, 3, 4, 5)), maps()
    near, far = [10.0, 10.0, 30.0, 34.0], [0.0, 0.0, 90.0, 60.0]
    pools.canonical = 32, 3  # a box of 32 pixels is of level 3
    boxes = [Boxes(torch.tensor([far, near])), Boxes(torch.tensor([near]))]
    found = pools(list(features.values())[:4], boxes)
    # The root of the area is 73 pixels, log2(73 / 32) = 1.2 levels above, and 22, 0.5 below.
    expected = [
        pools.layer(features[f"p{k}"], torch.tensor([box]) / 2**k, torch.tensor([image]))
        for image, box, k in ((0, far, 4), (0, near, 2), (1, near, 2))
    ]
    torch.testing.assert_close(found, torch.cat(expected), rtol=0, atol=1e-6)


def test_one_level_and_no_boxes():
    pools, p4 = pooler((4,)), maps()["p4"]
    boxes = [Boxes(torch.tensor([[3.0, 4.0, 50.0, 40.0]])), Boxes(torch.zeros(0, 4))]
    expected = pools.layer(p4, boxes[0].tensor / 16, torch.tensor([0]))
    torch.testing.assert_close(pools([p4], boxes), expected, rtol=0, atol=0)
    assert pools([p4], [Boxes(torch.zeros(0, 4))] * 2).shape == (0, 32, 2, 2)


@heads
def test_a_step_trains_every_parameter_of_it(keys):
    model = build_heads(*keys, *REGIONS)
    sum(head_losses(model).values()).backward()
    name = "pooler" if "res5" in dict(model.named_children()) else "box_pooler"
    new = [(n, p) for n, p in model.named_parameters() if n.startswith(f"{name}.layer.")]
    assert len(new) == 4
    for n, parameter in new:
        assert parameter.grad.isfinite().all() and parameter.grad.any(), n


def test_masks_and_keypoints():
    model = build(*PLAIN, *MASK, *KEYPOINT, *ALL, settle=False)
    shapes = {n: m.output_size for n, m in model.roi_heads.named_children()
              if isinstance(m, LearnedRegionPooler)}  # fmt: skip
    assert shapes == {"box_pooler": (7, 7), "mask_pooler": (14, 14), "keypoint_pooler": (14, 14)}
    sum(losses(model).values()).backward()
    for name in shapes:
        assert getattr(model.roi_heads, name).layer.bin.weight.grad.any(), name
    alone = build(
        *PLAIN, *MASK, f"{KEY}.BRANCHES", ["mask"], *SMALL_REGIONS, settle=False
    ).roi_heads
    assert isinstance(alone.box_pooler, ROIPooler)
    assert isinstance(alone.mask_pooler, LearnedRegionPooler)


@heads
def test_without_branches_it_is_the_head_that_it_was(keys):
    ours, same = build_heads(*keys, *SMALL_REGIONS), build_heads(*keys)
    assert list(ours.state_dict()) == list(same.state_dict())
    assert head_losses(ours) == head_losses(same)


@heads
def test_copies_find_the_same_and_images_do_not_see_one_another(keys):
    model = build_heads(*keys, *REGIONS)
    without_threshold(model.eval())
    expected = head_detections(model)
    assert_same_detections(head_detections(copy.deepcopy(model)), expected, rtol=0, atol=0)
    assert_batch_equals_image_by_image(model, scattered(), maps())


@pytest.mark.parametrize("keys", [PLAIN, C4_PLAIN, CASCADE, RELATION], ids=list(HEADS)[:4])
def test_the_padding_of_a_batch_is_never_seen(keys):
    model = build_heads(*keys, *REGIONS, f"{KEY}.AROUND", 20)
    without_threshold(model.eval())
    found = []
    for value in (1e3, -5.0):  # of maps of 64 x 160 pixels, beyond images of 64 x 96
        padded = {
            name: torch.cat([x, torch.full_like(x, value)[..., : x.shape[3] * 2 // 3]], dim=3)
            for name, x in maps().items()
        }
        found.append(head_detections(model, None, padded))
    assert_same_detections(*found, rtol=0, atol=0)


@pytest.mark.parametrize(
    ("keys", "said"),
    [
        ((*PLAIN, *ALL), r'BRANCHES has "mask", and MODEL\.MASK_ON is False'),
        ((*PLAIN, *MASK, *ALL), r'BRANCHES has "keypoint", and MODEL\.KEYPOINT_ON is False'),
        ((*C4_PLAIN, *MASK, f"{KEY}.BRANCHES", ["mask"]), r'"mask", and in a C4 model'),
        ((*PLAIN, *REGIONS, f"{KEY}.EMBED_DIM", 7), rf"{KEY}\.EMBED_DIM must be .* 2, got 7"),
    ],
)
def test_what_does_not_fit_is_said(keys, said):
    with pytest.raises(ValueError, match=said):
        build_heads(*keys)


def test_it_cannot_be_scripted():
    with pytest.raises(NotImplementedError, match="learned region features"):
        torch.jit.script(build_heads(*PLAIN, *REGIONS))
