"""Cases of Detectron2's own tests of ROI heads and R-CNNs (tests/modeling/test_roi_heads.py and
test_model_e2e.py), written anew for every head of ours that is registered, beside Detectron2's own
of that form.
"""

from __future__ import annotations

import copy
import itertools
import pickle
from collections.abc import Callable
from typing import Any

import pytest

pytest.importorskip("detectron2")

import torch
from detectron2.export.torchscript_patch import (
    freeze_training_mode,
    patch_builtin_len,
    patch_instances,
)
from detectron2.layers import ShapeSpec
from detectron2.modeling.proposal_generator import build_proposal_generator
from detectron2.modeling.roi_heads import build_roi_heads
from detectron2.structures import BitMasks, Boxes, ImageList, Instances, Keypoints
from detectron2.utils.events import EventStorage
from torch import Tensor, nn

from tests.modeling.common import (
    KEYPOINT,
    MASK,
    SHAPES,
    assert_same_detections,
    batch,
    build,
    build_heads,
    config,
    head_detections,
    head_losses,
    maps,
    scattered,
    without_threshold,
)
from tests.modeling.matrix_cells import (
    ENDS,
    FORMS,
    MECHANISMS,
    Cell,
    opts,
    stock_opts,
)

OFF = {
    "none": (),
    "relation": ("MODEL.RELATION.NUM_RELATIONS", [0, 0]),
    "SGRN": ("MODEL.SGRN.GRAPH_DIMS", []),
    "Reasoning-RCNN": ("MODEL.REASONING_RCNN.CHANNELS", 0),
    "reasoning": ("MODEL.REASONING.MODULES", []),
    "relation + SGRN": ("MODEL.RELATION.NUM_RELATIONS", [0, 0], "MODEL.SGRN.GRAPH_DIMS", []),
}
HIGH, WIDE = (64, 96), (96, 160)  # sizes of images


def cell(mechanism: str, form: str, end: str = "NMS") -> Cell:
    return Cell(mechanism, form, "box", "agnostic", end, "stock")


# The forms of Reasoning-RCNN are those of SGRN, see `second_look`: one of them is enough here.
PAIRS = [
    (mechanism, form)
    for mechanism, form in itertools.product(MECHANISMS, FORMS)
    if mechanism != "Reasoning-RCNN" or form == "FPN"
]
heads = pytest.mark.parametrize(("mechanism", "form"), PAIRS, ids=map(" ".join, PAIRS))
ends = pytest.mark.parametrize("end", ENDS)


def stock(form: str) -> tuple[Any, ...]:
    return (*stock_opts(form, "box"), "MODEL.ROI_BOX_HEAD.CLS_AGNOSTIC_BBOX_REG", True)


def branches(form: str) -> tuple[Any, ...]:
    """Every branch that a form has."""
    return MASK if form == "C4" else (*MASK, *KEYPOINT)


# ---- RPN and ROI heads on noise: losses ----


def features(sizes: tuple[tuple[int, int], ...], value: float | None = None) -> dict[str, Tensor]:
    """Maps of a batch of images, noise from one seed or one value everywhere."""
    generator = torch.Generator().manual_seed(6)
    height, width = (max(s[k] for s in sizes) for k in (0, 1))
    found = {}
    for name, shape in {**SHAPES, "p6": ShapeSpec(channels=32, stride=64)}.items():
        size = (len(sizes), shape.channels, -(-height // shape.stride), -(-width // shape.stride))
        noise = torch.randn(size, generator=generator)
        found[name] = noise if value is None else torch.full(size, value)
    return found


def targets(*counts: int) -> list[Instances]:
    """That many objects in images of `HIGH`; none leaves empty fields."""
    found = []
    for count, x in zip(counts, batch((HIGH,) * len(counts), max(counts)), strict=True):
        objects = x["instances"][:count]
        if not count:
            objects = Instances(HIGH)
            objects.gt_boxes = Boxes(torch.zeros(0, 4))
            objects.gt_classes = torch.zeros(0, dtype=torch.long)
            objects.gt_masks = BitMasks(torch.zeros(0, *HIGH).bool())
            objects.gt_keypoints = Keypoints(torch.zeros(0, 3, 3))
        found.append(objects)
    return found


def losses_of_noise(keys: tuple[Any, ...], *counts: int) -> tuple[dict[str, Tensor], nn.Module]:
    """The losses of an RPN and ROI heads of seed 121, and both modules after a backward pass."""
    cfg, sizes = config(*keys), (HIGH,) * len(counts)
    shapes = {**SHAPES, "p6": ShapeSpec(channels=32, stride=64)}
    torch.manual_seed(121)
    rpn = build_proposal_generator(cfg, shapes)
    both = nn.ModuleList([rpn, build_roi_heads(cfg, shapes)])
    images, noise = ImageList(torch.zeros(len(counts), 3, *HIGH), list(sizes)), features(sizes)
    torch.manual_seed(2)
    with EventStorage():
        proposals, losses = rpn(images, noise, targets(*counts))
        losses.update(both[1](images, noise, proposals, targets(*counts))[1])
    sum(losses.values()).backward()
    return losses, both


@heads
def test_losses_of_a_seed_are_those_of_the_stock_head(mechanism, form):
    expected, theirs = losses_of_noise((*stock(form), *branches(form)), 2, 3)
    keys = (*opts(cell(mechanism, form)), *branches(form))
    off, ours = losses_of_noise((*keys, *OFF[mechanism]), 2, 3)
    assert off.keys() == expected.keys()
    for name, value in expected.items():
        assert torch.equal(off[name], value), name
    gradients = dict(ours.named_parameters())
    for name, parameter in theirs.named_parameters():
        assert torch.equal(gradients[name].grad, parameter.grad), name
    on, _ = losses_of_noise(keys, 2, 3)
    assert expected.keys() <= on.keys() and all(value.isfinite() for value in on.values())
    for name in ("loss_rpn_cls", "loss_rpn_loc"):
        assert torch.equal(on[name], expected[name]), name


@heads
@pytest.mark.parametrize("counts", [(0, 0), (0, 3)], ids=["empty", "half empty"])
def test_images_without_objects(mechanism, form, counts):
    keys = (*opts(cell(mechanism, form, "learned")), *branches(form))
    losses, both = losses_of_noise(keys, *counts)
    assert all(value.isfinite() for value in losses.values())
    boxes = [value for name, value in losses.items() if name.startswith("loss_box_reg")]
    assert boxes and any(bool(value > 0) for value in boxes) == any(counts)
    for name, parameter in both.named_parameters():
        assert parameter.grad is not None and parameter.grad.isfinite().all(), name


# ---- features that are not finite ----


def outcome(call: Callable[[], Any]) -> Any:
    """What a call gives, or that it says that something is not finite."""
    try:
        return call()
    except (AssertionError, FloatingPointError):  # `Boxes.clip` asserts it
        return "refused"


@heads
@ends
@pytest.mark.parametrize("value", [float("inf"), float("nan")])
def test_features_that_are_not_finite_give_what_stock_gives(mechanism, form, end, value):
    def found(*keys: Any) -> Any:
        proposal = Instances(HIGH)
        proposal.proposal_boxes = Boxes(torch.tensor([[10.0, 10.0, 20.0, 20.0]]))
        proposal.objectness_logits = torch.ones(1)
        model = build_heads(*keys)
        return outcome(lambda: len(head_detections(model, [proposal], features([HIGH], value))[0]))

    # Detectron2's Cascade asserts between its stages; ours finds nothing there either.
    assert found(*stock(form)) == ("refused" if form == "Cascade" else 0)
    assert found(*opts(cell(mechanism, form, end))) == 0


@heads
@pytest.mark.parametrize("end", ["NMS", "learned"])
def test_training_on_features_that_are_not_finite_is_not_silent(mechanism, form, end, request):
    def finite(*keys: Any) -> Any:
        heads, noise = build_heads(*keys), features([HIGH] * 2, float("nan"))
        found = outcome(lambda: head_losses(heads, features=noise))
        return found != "refused" and all(value.isfinite() for value in found.values())

    assert not finite(*stock(form))
    assert not finite(*opts(cell(mechanism, form, end)))


# ---- proposals: none, given ----


@heads
@ends
def test_an_image_without_proposals_beside_another(mechanism, form, end):
    model = build_heads(*opts(cell(mechanism, form, end)), *MASK)
    assert [len(d) for d in head_detections(model, scattered((0, 0)))] == [0, 0]
    noise = maps(2)
    both = head_detections(model, scattered((0, 20)), noise)
    alone = head_detections(model, scattered((20,)), {k: v[1:] for k, v in noise.items()})
    assert len(both[0]) == 0 and both[0].get_fields().keys() == both[1].get_fields().keys()
    assert_same_detections(both[1:], alone, rtol=0, atol=1e-5)


@heads
@pytest.mark.parametrize("counts", [(0, 0), (0, 20)])
def test_training_without_proposals(mechanism, form, counts):
    append = ("MODEL.ROI_HEADS.PROPOSAL_APPEND_GT", False)
    model = build_heads(*opts(cell(mechanism, form, "learned")), *branches(form), *append)
    losses = head_losses(model, scattered(counts))
    assert all(value.isfinite() for value in losses.values())
    sum(losses.values()).backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None and parameter.grad.isfinite().all(), name


@heads
def test_proposals_that_are_given_instead_of_an_rpn(mechanism, form):
    given = ("MODEL.PROPOSAL_GENERATOR.NAME", "PrecomputedProposals")
    model = build(*opts(cell(mechanism, form)), *given, settle=False)
    inputs = batch((HIGH, HIGH))
    for x, proposals in zip(inputs, scattered(), strict=True):
        x["proposals"] = proposals
    with EventStorage():
        losses = model(inputs)
    assert not any("rpn" in name for name in losses)
    assert all(value.isfinite() for value in losses.values())
    for module in model.modules():  # an untrained ResNet overflows with its own statistics
        if isinstance(module, nn.BatchNorm2d):
            module.track_running_stats, module.running_mean, module.running_var = False, None, None
    without_threshold(model.eval())
    with torch.no_grad():
        assert all(len(out["instances"]) > 0 for out in model(inputs))


# ---- exported, copied, in mixed precision ----


class OfBoxes(nn.Module):
    """ROI heads as a function of boxes (N, 4) and maps."""

    def __init__(self, heads: nn.Module, names: list[str]) -> None:
        super().__init__()
        self.heads, self.names = heads, names

    def forward(self, boxes: Tensor, *values: Tensor) -> tuple[Tensor, ...]:
        found = dict(zip(self.names, values, strict=True))
        proposal = Instances((found["p2"].shape[2] * 4, found["p2"].shape[3] * 4))
        proposal.proposal_boxes = Boxes(boxes)
        result = self.heads(None, found, [proposal])[0][0]
        return result.pred_boxes.tensor, result.scores, result.pred_classes, result.pred_masks


@heads  # other ends: `test_export`
@pytest.mark.filterwarnings("ignore")
def test_a_trace_holds_for_other_boxes_and_sizes(mechanism, form):
    model = build_heads(*opts(cell(mechanism, form)), *MASK, "TEST.DETECTIONS_PER_IMAGE", 15)
    without_threshold(model.eval())

    def inputs(size: tuple[int, int], count: int) -> tuple[Tensor, ...]:
        boxes = scattered((count,))[0].proposal_boxes.tensor
        return boxes, *features([size]).values()

    wrapped = OfBoxes(model, list(features([HIGH])))
    with torch.no_grad(), patch_builtin_len():
        traced = torch.jit.trace(wrapped, inputs(HIGH, 20), check_trace=False)
        for size, count in ((WIDE, 31), (WIDE, 1), (HIGH, 200)):
            expected, actual = wrapped(*inputs(size, count)), traced(*inputs(size, count))
            assert len(expected[0]) > 0
            for ours, theirs in zip(actual, expected, strict=True):
                assert ours.shape == theirs.shape, (size, count)
                torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-4)


@heads
@pytest.mark.parametrize("pickled", [False, True], ids=["deepcopy", "pickle"])
def test_copies_find_the_same(mechanism, form, pickled, request):
    model = build_heads(*opts(cell(mechanism, form, "learned")))
    other = pickle.loads(pickle.dumps(model)) if pickled else copy.deepcopy(model)
    assert_same_detections(head_detections(other), head_detections(model), rtol=0, atol=0)


@heads
@ends
def test_mixed_precision_gives_the_types_that_stock_gives(mechanism, form, end):
    def types(*keys: Any) -> dict[str, torch.dtype]:
        model = build_heads(*keys)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            found = head_detections(model)[0]
        assert len(found) > 0
        fields = found.get_fields().items()
        return {name: getattr(value, "tensor", value).dtype for name, value in fields}

    expected, actual = types(*stock(form)), types(*opts(cell(mechanism, form, end)))
    assert actual.pop("scores") in (torch.float32, expected.pop("scores"))
    assert actual == expected


@pytest.mark.parametrize("mechanism", [m for m, form in PAIRS if form == "FPN"])
@pytest.mark.filterwarnings("ignore")
def test_a_head_that_is_off_scripts_as_the_stock_head(mechanism, request):
    model = build_heads(*stock("FPN"), *MASK)
    expected = head_detections(model, scattered((20,)), maps(1))
    ours = build_heads(*opts(cell(mechanism, "FPN")), *OFF[mechanism], *MASK)
    assert_same_detections([scripted(ours)], expected, rtol=0, atol=0)


def scripted(model: nn.Module) -> Instances:
    """What scripted ROI heads find."""
    without_threshold(model.eval())
    names = ("objectness_logits", "pred_classes", "scores", "pred_masks", "pred_keypoints",
             "pred_keypoint_heatmaps")  # fmt: skip
    fields = dict.fromkeys(names, Tensor) | dict.fromkeys(("proposal_boxes", "pred_boxes"), Boxes)
    images = ImageList(torch.zeros(1, 3, *HIGH), [HIGH])
    with freeze_training_mode(model), patch_instances(fields) as new, torch.no_grad():
        proposals = [new.from_instances(p) for p in scattered((20,))]
        found = torch.jit.script(model)(images, maps(1), proposals)[0][0]
        result = Instances(HIGH, pred_boxes=Boxes(found.pred_boxes.tensor), scores=found.scores)
        result.pred_classes, result.pred_masks = found.pred_classes, found.pred_masks
    return result
