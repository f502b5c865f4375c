"""`Classified`: one classification of the regions, its rows, losses and probabilities."""

from __future__ import annotations

from dataclasses import replace

import pytest

pytest.importorskip("detectron2")

import torch
from detectron2.layers import ShapeSpec
from detectron2.modeling.box_regression import Box2BoxTransform
from detectron2.modeling.roi_heads import FastRCNNOutputLayers
from detectron2.structures import Boxes, Instances
from detectron2.utils.events import EventStorage
from torch import nn

from relation_heads.modeling.many_classes import ManyBoxesOutputLayers
from relation_heads.modeling.roi_heads import Mechanism
from relation_heads.modeling.roi_heads.seam import Classified, classify
from tests.modeling.common import NUM_CLASSES, scattered

COUNTS, CHANNELS = (9, 0, 7), 12
# Rows that are kept by hand, of each image and of all.
ROWS = [[8, 1, 3], [], [0, 6]]
FLAT = [8, 1, 3, 9, 15]


@pytest.fixture(params=["per class", "agnostic", "thousands"])
def predictor(request):
    """Detectron2's, or ours whose second prediction is x."""
    kind = ManyBoxesOutputLayers if request.param == "thousands" else FastRCNNOutputLayers
    built = kind(
        ShapeSpec(channels=CHANNELS),
        box2box_transform=Box2BoxTransform((10.0, 10.0, 5.0, 5.0)),
        num_classes=NUM_CLASSES,
        cls_agnostic_bbox_reg=request.param == "agnostic",
    )
    nn.init.normal_(built.cls_score.weight)
    nn.init.normal_(built.bbox_pred.weight)
    return built


def labelled():
    """Proposals with labels of objects, background and rows outside the loss."""
    proposals = scattered(COUNTS)
    generator = torch.Generator().manual_seed(1)
    for p in proposals:
        p.gt_classes = torch.randint(-1, NUM_CLASSES + 1, (len(p),), generator=generator)
        p.gt_boxes = Boxes(p.proposal_boxes.tensor + 1)
    return proposals


def base_of(predictor):
    return classify(torch.randn(sum(COUNTS), CHANNELS), predictor, labelled())


def picked(base, rows=ROWS, flat=FLAT):
    """Predictions and proposals of some rows, picked by hand."""
    proposals = []
    for p, chosen in zip(base.proposals, rows, strict=True):
        proposals.append(Instances(p.image_size))
        for name, value in p.get_fields().items():
            kept = (
                torch.stack([getattr(value, "tensor", value)[k] for k in chosen])
                if chosen
                else None
            )
            if kept is None:
                kept = getattr(value, "tensor", value)[:0]
            proposals[-1].set(name, Boxes(kept) if isinstance(value, Boxes) else kept)
    predictions = tuple(torch.stack([values[k] for k in flat]) for values in base.predictions)
    return predictions, proposals


def in_loss(base):
    rows = [[k for k, c in enumerate(p.gt_classes.tolist()) if c >= 0] for p in base.proposals]
    starts = (0, COUNTS[0], COUNTS[0] + COUNTS[1])
    return rows, [start + k for start, chosen in zip(starts, rows, strict=True) for k in chosen]


def as_rows(kind):
    if kind == "numbers":
        return [torch.tensor(chosen, dtype=torch.int64) for chosen in ROWS], FLAT
    masks = [torch.zeros(n, dtype=torch.bool) for n in COUNTS]
    for mask, chosen in zip(masks, ROWS, strict=True):
        mask[chosen] = True
    return masks, sorted(FLAT)


# ---- rows ----


@pytest.mark.parametrize("kind", ["numbers", "bool"])
def test_selected_rows_belong_together(predictor, kind):
    first = base_of(predictor)
    base = replace(base_of(predictor), earlier=(first,), named={"plain": torch.randn(16, 3)})
    rows, flat = as_rows(kind)
    some = base.select(rows)
    assert torch.equal(some.x, base.x[flat]) and torch.equal(some.logits, base.logits[flat])
    assert torch.equal(some.predictions[1], base.predictions[1][flat])
    assert torch.equal(some.named["plain"], base.named["plain"][flat])
    assert torch.equal(some.earlier[0].logits, first.logits[flat])
    assert torch.equal(some.regions.boxes, base.regions.boxes[flat])
    assert [len(p) for p in some.proposals] == [3, 0, 2] == list(some.regions.splits)
    labels = torch.cat([p.gt_classes for p in base.proposals])
    assert torch.equal(torch.cat([p.gt_classes for p in some.proposals]), labels[flat])


def test_losses_of_selected_rows_are_the_predictors_of_rows_picked_by_hand(predictor):
    base = base_of(predictor)
    rows, _ = as_rows("numbers")
    predictions, proposals = picked(base)
    for p in (*proposals, *base.proposals):  # all in the loss
        p.gt_classes = p.gt_classes.clamp(min=0)
    with EventStorage():
        expected = predictor.losses(predictions, proposals)
        actual = base.select(rows).losses()
    assert actual.keys() == expected.keys() == {"loss_cls", "loss_box_reg"}
    assert all(torch.equal(actual[name], value) for name, value in expected.items())


def test_losses_leave_out_what_is_labelled_minus_one(predictor):
    base = base_of(predictor)
    rows, flat = in_loss(base)
    assert 0 < len(flat) < sum(COUNTS)
    with EventStorage():
        expected, actual = predictor.losses(*picked(base, rows, flat)), base.losses()
    assert all(torch.equal(actual[name], value) for name, value in expected.items())


def test_losses_of_a_named_stage(predictor):
    base = base_of(predictor)
    with EventStorage() as storage:
        plain, named = base.losses(), replace(base, name="twice").losses()
        assert "twice/fast_rcnn/cls_accuracy" in storage.latest()
    assert {f"{name}_twice" for name in plain} == named.keys()
    assert all(torch.equal(named[f"{name}_twice"], value) for name, value in plain.items())


# ---- boxes and scores ----


def test_logits_alone_are_exchanged(predictor):
    base, logits = base_of(predictor), torch.randn(16, NUM_CLASSES + 1)
    other = base.with_logits(logits)
    assert other.logits is logits and other.x is base.x
    for a, b in zip(other.boxes(), base.boxes(), strict=True):
        assert torch.equal(a, b)
    torch.testing.assert_close(torch.cat(other.probabilities()), logits.softmax(dim=1))


def test_probabilities_are_the_mean_over_stages(predictor):
    stages = [base_of(predictor) for _ in range(3)]
    last = replace(stages[2], earlier=tuple(stages[:2]))
    expected = sum(stage.logits.softmax(dim=1) for stage in stages) / 3
    assert [len(p) for p in last.probabilities()] == list(COUNTS)
    torch.testing.assert_close(torch.cat(last.probabilities()), expected)
    torch.testing.assert_close(last.log_scores(), expected[:, :-1].log())


@pytest.mark.parametrize("sigmoid", [False, True])
def test_log_scores_are_logarithms_of_probabilities(predictor, sigmoid):
    predictor.use_sigmoid_ce = sigmoid
    base = base_of(predictor)
    scores = base.logits[:, :-1].sigmoid() if sigmoid else base.logits.softmax(dim=1)[:, :-1]
    torch.testing.assert_close(base.log_scores(), scores.log())
    extreme = base.with_logits(torch.full_like(base.logits, -300.0))
    extreme.logits[:, -1] = 300.0
    assert extreme.log_scores().isfinite().all()
    assert replace(extreme, earlier=(extreme,)).log_scores().isfinite().all()


def test_proposals_move_to_the_boxes_of_their_labels(predictor):
    base = base_of(predictor)
    old = torch.cat([p.proposal_boxes.tensor for p in base.proposals])
    weight = predictor.bbox_pred.weight.unflatten(0, (-1, 4))
    deltas = base.x @ weight.flatten(0, 1).T + predictor.bbox_pred.bias
    labels = torch.cat([p.gt_classes for p in base.proposals]).clamp(0, NUM_CLASSES - 1)
    own = deltas.unflatten(1, (-1, 4))[range(16), labels if len(weight) > 1 else 0]
    expected = predictor.box2box_transform.apply_deltas(own, old)
    base.move_proposals()
    moved = torch.cat([p.proposal_boxes.tensor for p in base.proposals])
    torch.testing.assert_close(moved, expected.detach(), rtol=1e-5, atol=1e-4)
    assert not moved.requires_grad


# ---- the mechanism that adds nothing ----


def test_a_plain_mechanism_hands_on_what_it_gets(predictor):
    base, mechanism = base_of(predictor), Mechanism()
    assert not list(mechanism.parameters())
    with EventStorage():
        last, losses = mechanism(base, {}, None, None)
        expected = base.losses()
    assert last is base
    assert all(torch.equal(losses[name], value) for name, value in expected.items())
    assert mechanism.eval()(base, {}, None) == (base, {})
    assert isinstance(base, Classified)
