"""Every mechanism switched off, in every form of ROI heads, is Detectron2's head bit for bit."""

from __future__ import annotations

import pytest

pytest.importorskip("detectron2")

import torch
from detectron2.modeling.roi_heads import CascadeROIHeads, Res5ROIHeads, StandardROIHeads

from relation_heads.modeling.roi_heads import Mechanism
from tests.modeling.common import (
    C4,
    CASCADE,
    KEYPOINT,
    MASK,
    build_heads,
    gradients,
    head_detections,
    head_losses,
    maps,
    scattered,
)

FORMS = {
    "FPN": ((), "", StandardROIHeads),
    "C4": (C4, "Res5", Res5ROIHeads),
    "Cascade": (CASCADE, "Cascade", CascadeROIHeads),
}
OFF = {
    "DuplicateRemovalROIHeads": (),
    "RelationROIHeads": ("MODEL.RELATION.NUM_RELATIONS", [0, 0]),
    "SGRNROIHeads": ("MODEL.SGRN.GRAPH_DIMS", []),
    "ReasoningRCNNROIHeads": ("MODEL.REASONING_RCNN.CHANNELS", 0),
    "ReasoningROIHeads": ("MODEL.REASONING.MODULES", []),
}
BRANCHES = {"box": (), "mask": MASK, "keypoint": KEYPOINT}  # C4 has no keypoints


@pytest.mark.parametrize("name", OFF)
@pytest.mark.parametrize(
    ("form", "branch"),
    [(f, b) for f in FORMS for b in BRANCHES if (f, b) != ("C4", "keypoint")],
)
def test_off_is_the_stock_head_bit_for_bit(form, branch, name):
    stock_keys, prefix, stock_class = FORMS[form]
    keys = (*stock_keys, *BRANCHES[branch])
    stock = build_heads(*keys)
    ours = build_heads(*keys, "MODEL.ROI_HEADS.NAME", prefix + name, *OFF[name])
    assert type(stock) is stock_class and type(ours).__name__ == prefix + name
    assert type(ours.mechanism) is Mechanism
    expected = dict(stock.named_parameters())
    assert list(expected) == [n for n, _ in ours.named_parameters()]
    assert all(torch.equal(p, expected[n]) for n, p in ours.named_parameters())

    expected, actual = (head_losses(heads, scattered((40, 50))) for heads in (stock, ours))
    assert list(actual) == list(expected)
    for key, value in expected.items():
        assert torch.equal(actual[key], value), key

    steps = []
    for heads in (stock, ours):
        features = maps(2, requires_grad=True)
        found = gradients(heads, proposals=scattered((40, 50)), features=features)
        found.update({name: value.grad for name, value in features.items()})
        steps.append(found)
    for key, value in steps[0].items():
        assert (value is None) == (steps[1][key] is None), key
        assert value is None or torch.equal(value, steps[1][key]), key

    for a, b in zip(head_detections(ours), head_detections(stock), strict=True):
        assert a.get_fields().keys() == b.get_fields().keys() and len(a) == len(b) > 0
        assert torch.equal(a.pred_boxes.tensor, b.pred_boxes.tensor)
        for key in a.get_fields().keys() - {"pred_boxes"}:
            assert torch.equal(a.get(key), b.get(key)), key
