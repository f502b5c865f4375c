"""A training that diverges says when, at which rate, in which parameter and on which images."""

from __future__ import annotations

import math

import pytest

pytest.importorskip("detectron2")

import torch
from torch import nn

from relation_heads.engine import RelationTrainer
from relation_heads.engine.growth import Growth
from relation_heads.engine.nan_report import REMEDIES, RememberBatch, divergence_report
from relation_heads.layers import ObjectRelation
from relation_heads.layers.duplicates.network import DuplicateRemoval
from relation_heads.modeling.roi_heads.end import End
from relation_heads.modeling.roi_heads.reasoning_rcnn import ReasoningRCNNMechanism
from relation_heads.modeling.roi_heads.sgrn import SGRNMechanism
from tests.helpers import registered, tiny_cfg, tiny_coco

BATCH = [{"file_name": "a.png"}, {"image_id": 7}]


def report(model, error="Loss became infinite", losses=None, batch=BATCH, growth=None):
    return divergence_report(
        FloatingPointError(error),
        model,
        iteration=12,
        lr=0.02,
        losses=losses or {},
        batch=batch,
        growth=growth,
    )


def growth_of(model, factors):
    """A recording of one iteration for every factor, by which the input is multiplied."""
    growth = Growth(model)
    for i, factor in enumerate(factors, 101):
        with growth.iteration(i):
            model(factor * torch.tensor([[1.0, 2.0], [3.0, 5.0]])).sum()
    return growth


@pytest.fixture
def model():
    model = nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3))
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    return model


def test_the_paragraph(model):
    model[0].weight.grad[:] = 2.0  # six of them
    model[0].bias.grad[0] = 1.0
    text = report(model, losses={"loss_cls": (1.5, 11), "loss_box_reg": (0.25, 11)})
    assert text == (
        "Training diverged at iteration 12 with learning rate 0.02: Loss became infinite. "
        "Losses logged last, at iteration 11: loss_cls 1.5, loss_box_reg 0.25. "
        "All parameters and buffers are finite. All gradients are finite. "
        "The norm of the gradients of the last backward pass is 5. "
        f"Images of the batch: a.png, 7. {REMEDIES}"
    )


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_the_first_tensors_that_are_not_finite(model, value):
    model[0].bias.data[1] = value
    model[1].running_var[0] = value
    model[1].weight.grad[2] = value
    text = report(model)
    assert "First parameter or buffer that is not finite: 0.bias and 1 more." in text
    assert "First gradient that is not finite: 1.weight." in text


def test_a_buffer_alone(model):
    model[1].running_mean[0] = math.nan
    assert "parameter or buffer that is not finite: 1.running_mean." in report(model)


def test_the_first_iteration(model):
    model.zero_grad(set_to_none=True)
    text = report(model, batch=())
    assert "No loss was logged before. " in text
    assert "There was no backward pass yet. " in text
    assert "Images of the batch: unknown." in text


@pytest.fixture
def linear():
    """Three layers that add up to ever more."""
    model = nn.ModuleDict({name: nn.Linear(2, 2, bias=False) for name in "abc"})
    for layer in model.values():
        nn.init.ones_(layer.weight)
    model.forward = lambda x: model["c"](model["b"](model["a"](x)))
    return model


def test_what_grew_first_follows_the_error(linear):
    text = report(linear, growth=growth_of(linear, [1, 1, 1, 1, 1, 5, 6, 7, 8, 9]))
    assert text.startswith(
        "Training diverged at iteration 12 with learning rate 0.02: Loss became infinite. "
        "First to grow: a from 6.04 to 54.4 (from iteration 106 on), then b from 12.1 to 109 "
        "(from 106 on), then c from 24.2 to 217 (from 106 on). No loss was logged before. "
    )


def test_the_others_that_grew_are_counted(linear):
    linear["d"] = nn.Linear(2, 2)
    linear["d"].forward = lambda x: x
    forward = linear.forward
    linear.forward = lambda x: linear["d"](forward(x))
    text = report(linear, growth=growth_of(linear, [1, 1, 1, 1, 1, 5, 6, 7, 8, 9]))
    assert "then c from 24.2 to 217 (from 106 on), and 1 more. " in text


@pytest.mark.parametrize("values", [[1, 1, 1, 1, 1, 50], [1, 1, 1, 1, 60, 50]])
def test_a_jump_is_called_one(linear, values):
    text = report(linear, growth=growth_of(linear, values))
    start = 100 + next(i for i, v in enumerate(values, 1) if v > 4)
    assert f"Nothing grew before iteration {start}; there it jumped: a from 6.04 to 302. " in text
    assert "First to grow" not in text


def test_nothing_grew(linear):
    text = report(linear, growth=growth_of(linear, [1, 1, 1, 1]))
    assert "Nothing that was recorded grew from iteration 101 on. " in text
    text = report(linear, growth=growth_of(linear, [1, 1, 1]))
    assert "Too few iterations were recorded to say what grew first. " in text


RELATION = 'MODEL.RELATION.NORM max_rms instead of ""'
SECOND = "MODEL.{}.MEAN_GRADIENT True instead of False"
KNOWN = "a published form that is known to diverge."


@pytest.mark.parametrize("second_look", [SGRNMechanism, ReasoningRCNNMechanism])
@pytest.mark.parametrize(
    ("norm", "mean_gradient", "weights", "first"),
    [
        ("max_rms", True, (1, 1), None),
        ("", True, (1, 1), f"Try first: {RELATION}, {KNOWN}"),
        ("max_rms", False, (1, 1), f"Try first: {SECOND}, {KNOWN}"),
        ("", False, (1, 1), f"Try first: {RELATION} and {SECOND}, {KNOWN}"),
        ("max_rms", False, (0, 1), None),  # one loss has no sum
        ("max_rms", True, (0, 1), None),
    ],
)
def test_a_published_form_is_the_first_to_be_changed(
    second_look, norm, mean_gradient, weights, first
):
    mechanism = second_look(
        predictor=nn.Identity(), mean_gradient=mean_gradient, loss_weights=weights
    )
    text = report(nn.ModuleList([ObjectRelation(16, norm=norm), mechanism, End()]))
    if first is None:
        assert "Try first" not in text
    else:
        assert text.endswith(f"{first.format(second_look.key)} {REMEDIES}")


@pytest.mark.parametrize(("learn", "end_to_end"), [(True, True), (True, False), (False, True)])
def test_learned_removal_that_trains_the_detector_is_a_published_form(learn, end_to_end):
    end = End(network=DuplicateRemoval(16) if learn else None, end_to_end=end_to_end)
    named = "MODEL.DUPLICATE_REMOVAL.END_TO_END False instead of True" in report(end)
    assert named == (learn and end_to_end)


def test_the_batch_is_remembered_while_it_is_used():
    loader = RememberBatch([["a"], ["b"]])
    assert loader.batch == ()
    for batch in loader:
        assert loader.batch is batch
    assert loader.append  # anything else is the loader's


def test_diverging_training_ends_with_the_report(tmp_path):
    with registered(tiny_coco(tmp_path)) as name:
        cfg = tiny_cfg([name], [], 3, tmp_path / "out")
        cfg.merge_from_list(["SOLVER.BASE_LR", 1e9, "SOLVER.MAX_ITER", 50])
        trainer = RelationTrainer(cfg)
        with pytest.raises(FloatingPointError) as caught:
            trainer.train()
    text = str(caught.value)
    assert f"Training diverged at iteration {trainer.iter} with learning rate " in text
    assert "Losses logged last" in text and "total_loss" in text
    assert "grew" in text  # too few iterations, or a jump
    assert text.count(".png") == cfg.SOLVER.IMS_PER_BATCH
    assert str(tmp_path / "images") in text
    assert text.endswith(REMEDIES)
    assert isinstance(caught.value.__cause__, FloatingPointError)
