"""`MEAN_GRADIENT` of SGRN and of Reasoning-RCNN: box features, and the maps that an image asks by,
get the mean of the gradients of both predictors, and everything behind them its whole gradient."""

from __future__ import annotations

import pytest

pytest.importorskip("detectron2")

import torch

from tests.modeling.common import (
    C4_REASONING_RCNN,
    C4_SGRN,
    CASCADE_SGRN,
    KEYPOINT,
    MASK,
    NO_GRAPH,
    REASONING_RCNN,
    REFINE,
    RELATION,
    SGRN,
    assert_same_detections,
    build_heads,
    head_detections,
    head_losses,
    maps,
)

SUM = ("MODEL.SGRN.MEAN_GRADIENT", False, "MODEL.REASONING_RCNN.MEAN_GRADIENT", False)
OWN_HEAD = ("MODEL.SGRN.SHARE_FC", False)
NONE = "map "  # the maps alone
WITH_RELATION = (*RELATION, *SGRN, "MODEL.ROI_BOX_HEAD.NAME", "RelationBoxHead")
# name -> (keys, beginning of the names of the parameters that make the shared features)
FORMS = {
    "FPN": (SGRN, "box_head."),
    "FPN, two stages": ((*SGRN, *REFINE), "box_head."),
    "FPN, two stages, no graph": ((*SGRN, *REFINE, *NO_GRAPH), "box_head."),
    "FPN, masks": ((*SGRN, *MASK, *KEYPOINT), "box_head."),
    "FPN, relation modules": (WITH_RELATION, "box_head."),
    "C4": (C4_SGRN, "res5."),
    "C4, two stages": ((*C4_SGRN, *REFINE), "res5."),
    "C4, masks": ((*C4_SGRN, *MASK), "res5."),
    "FPN, two box heads": ((*SGRN, *REFINE, *OWN_HEAD), NONE),
    "Reasoning-RCNN": (REASONING_RCNN, "box_head."),
    "Reasoning-RCNN, C4": (C4_REASONING_RCNN, "res5."),
    "Cascade": (CASCADE_SGRN, "box_head.2."),
    "Cascade, two box heads": ((*CASCADE_SGRN, *REFINE, *OWN_HEAD), NONE),
    "Cascade, two stages": ((*CASCADE_SGRN, *REFINE), "box_head.2."),
}
forms = pytest.mark.parametrize(("keys", "shared"), FORMS.values(), ids=FORMS)


def grads(keys, *wanted):
    """Gradients of all parameters and maps by the losses whose names pass `wanted`, all by default;
    0 for none."""
    heads, features = build_heads(*keys), maps(requires_grad=True)
    losses = head_losses(heads, features=features)
    chosen = [value for name, value in losses.items() if all(test(name) for test in wanted)]
    inputs = {**dict(heads.named_parameters()), **{f"map {k}": v for k, v in features.items()}}
    found = torch.autograd.grad(sum(chosen), list(inputs.values()), allow_unused=True)
    return {
        name: torch.zeros_like(x) if g is None else g
        for (name, x), g in zip(inputs.items(), found, strict=True)
    }


def is_second(name):
    return name.endswith(("_sgrn", "_reasoning_rcnn"))


def is_base(name):
    return name in ("loss_cls", "loss_box_reg", "loss_cls_stage2", "loss_box_reg_stage2")


def is_other(name):
    """Of masks, keypoints and the earlier stages of a cascade."""
    return not is_second(name) and not is_base(name)


def assert_close(actual, expected, name):
    rounding = 1e-8  # of gradients that are 0 in theory: of the bias of keys
    assert (actual - expected).norm() <= 1e-5 * expected.norm() + rounding, name


@forms
def test_features_get_the_mean_and_what_is_behind_them_the_whole(keys, shared):
    base, second = (grads((*keys, *SUM), test) for test in (is_base, is_second))
    has_others = any(map(is_other, head_losses(build_heads(*keys))))
    others = grads((*keys, *SUM), is_other) if has_others else None
    summed, mean = grads((*keys, *SUM)), grads(keys)
    told = 0
    for name, actual in mean.items():
        both = base[name] + second[name]
        rest = others[name] if others else torch.zeros_like(both)
        is_shared = name.startswith((shared, "map "))
        assert_close(actual, (both / 2 if is_shared else both) + rest, name)
        assert_close(summed[name], both + rest, name)
        told += is_shared and bool(base[name].any()) and bool(second[name].any())
    assert told >= (1 if shared == NONE else 4)


@forms
def test_the_second_predictor_alone_trains_features_by_half_its_gradient(keys, shared):
    whole, mean = grads((*keys, *SUM), is_second), grads(keys, is_second)
    for name in whole:
        assert_close(
            mean[name] * (2 if name.startswith((shared, "map ")) else 1), whole[name], name
        )


@pytest.mark.parametrize("weights", [[0.0, 1.0], [1.0, 0.0]], ids=str)
@forms
def test_one_classification_trains_features_whole(keys, shared, weights):
    nodes = ("MODEL.SGRN", "MODEL.REASONING_RCNN")
    keys = (*keys, *(x for node in nodes for x in (f"{node}.LOSS_WEIGHTS", weights)))
    mean, summed = grads(keys), grads((*keys, *SUM))
    assert any(g.any() for name, g in mean.items() if name.startswith(shared))
    for name, expected in summed.items():
        assert torch.equal(mean[name], expected), name


def test_weights_count_before_the_mean():
    """Their ratio stays what it is."""
    keys = (*SGRN, "MODEL.SGRN.LOSS_WEIGHTS", [2.0, 0.5])
    name = "box_head.fc1.weight"
    base, second = (grads((*SGRN, *SUM), test)[name] for test in (is_base, is_second))
    assert_close(grads(keys)[name], (2.0 * base + 0.5 * second) / 2, name)


@forms
def test_losses_and_detections_are_the_same(keys, shared):
    ours, published = build_heads(*keys), build_heads(*keys, *SUM)
    expected = head_losses(published)
    for name, value in head_losses(ours).items():
        assert torch.equal(value, expected[name]), name
    assert_same_detections(head_detections(ours), head_detections(published), rtol=0, atol=0)
