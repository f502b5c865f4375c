import math

import pytest
import torch
import torch.nn.functional as F

from relation_heads.layers.arguments import ArgumentError
from relation_heads.layers.reasoning.losses import (
    example_weights,
    reasoning_losses,
    reweighted_loss,
)
from relation_heads.layers.reasoning.rollout import ReasonedLogits

LOGITS = torch.tensor([[2.0, 0.0, 0.0], [0.0, 0.0, 0.0], [0.0, 3.0, 0.0]])
LABELS = torch.tensor([0, 1, 2])


@pytest.mark.parametrize("beta", [0.0, 0.5, 1.0])
def test_weights_equal_the_formula(beta):
    right = []
    for row, label in zip(LOGITS.tolist(), LABELS.tolist(), strict=True):
        right.append(math.exp(row[label]) / sum(math.exp(s) for s in row))
    floored = [max(1 - p, beta) for p in right]
    expected = torch.tensor([w / sum(floored) for w in floored])
    torch.testing.assert_close(example_weights(LOGITS, LABELS, beta), expected)


def test_beta_1_is_the_mean():
    predictions = [torch.randn(3, 3), torch.randn(3, 3)]
    expected = sum(F.cross_entropy(p, LABELS) for p in predictions) / 2
    torch.testing.assert_close(reweighted_loss(predictions, LOGITS, LABELS, 1.0), expected)


def test_every_prediction_is_weighted_by_the_one_before():
    predictions = [torch.randn(3, 3) for _ in range(3)]
    expected = 0.0
    for before, logits in zip([LOGITS, *predictions], predictions, strict=False):
        errors = F.cross_entropy(logits, LABELS, reduction="none")
        expected += (example_weights(before, LABELS) * errors).sum() / 3
    torch.testing.assert_close(reweighted_loss(predictions, LOGITS, LABELS), expected)


def test_weights_have_no_gradient_and_predictions_have():
    plain = LOGITS.clone().requires_grad_()
    first, second = (torch.randn(3, 3, requires_grad=True) for _ in range(2))
    reweighted_loss([first, second], plain, LABELS).backward()
    assert plain.grad is None and second.grad.any()
    errors = F.cross_entropy(first, LABELS, reduction="none")
    (expected,) = torch.autograd.grad(
        (example_weights(plain, LABELS) * errors).sum() / 2, first
    )  # nothing through the weights of the second
    torch.testing.assert_close(first.grad, expected)


def test_no_regions():
    empty = torch.zeros(0, 3, requires_grad=True)
    loss = reweighted_loss([empty], torch.zeros(0, 3), torch.zeros(0, dtype=torch.long))
    loss.backward()
    assert loss == 0


def test_half_precision_is_computed_in_float32():
    loss = reweighted_loss([LOGITS.half()], LOGITS.half(), LABELS)
    assert loss.dtype == torch.float32


@pytest.mark.parametrize("beta", [-0.1, 1.1, math.nan, None])
def test_wrong_beta(beta):
    with pytest.raises(ArgumentError) as caught:
        reweighted_loss([LOGITS], LOGITS, LABELS, beta)
    assert [w.argument for w in caught.value.wrong] == ["beta"]


def test_the_final_loss_is_the_mean_of_the_labelled_rows():
    final, labels = torch.randn(7, 4), torch.tensor([2, -1, 0, -1, -1, 3, -1])
    plain = torch.randn(7, 4)
    out = ReasonedLogits(plain=plain, memory=[], graph=[], final=final, attention=plain)
    loss = reasoning_losses(out, labels, beta=0.5, weights=(1.0, 1.0, 1.0))["loss_cls_final"]
    expected = -sum(float(final[r].log_softmax(0)[labels[r]]) for r in (0, 2, 5)) / 3
    assert loss.item() == pytest.approx(expected, rel=1e-5)
