"""A training that diverges says when, at which rate, in which parameter and on which images."""

from __future__ import annotations

import math

import pytest

pytest.importorskip("detectron2")

import torch
from torch import nn

from relation_heads.engine import RelationTrainer
from relation_heads.engine.nan_report import REMEDIES, RememberBatch, divergence_report
from tests.helpers import registered, tiny_cfg, tiny_coco

BATCH = [{"file_name": "a.png"}, {"image_id": 7}]


def report(model, error="Loss became infinite", losses=None, batch=BATCH):
    return divergence_report(
        FloatingPointError(error), model, iteration=12, lr=0.02, losses=losses or {}, batch=batch
    )


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
    assert text.count(".png") == cfg.SOLVER.IMS_PER_BATCH
    assert str(tmp_path / "images") in text
    assert text.endswith(REMEDIES)
    assert isinstance(caught.value.__cause__, FloatingPointError)
