"""Losses of iterative reasoning: later predictions count for what earlier ones got wrong.

Source: Chen, Li, Fei-Fei, Gupta, "Iterative Visual Reasoning Beyond Convolutions", CVPR 2018, eq.
6; released code endernewton/iter-reason (MIT).

    w_r = max(1 - p_{i-1}(y_r), beta) / sum_r' max(1 - p_{i-1}(y_r'), beta);  L_i = sum_r w_r CE_r
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from ..arguments import require, within
from .rollout import ReasonedLogits


@torch.no_grad()
def example_weights(previous: Tensor, labels: Tensor, beta: float = 0.5) -> Tensor:
    """w of eq. 6: (R,), summing to 1; beta = 1 is the mean.

    Args:
        previous: (R, K) logits of the prediction before.
        labels: (R,) in [0, K).
        beta: floor in [0, 1].

    Raises:
        ArgumentError: another beta.
    """
    require(within("beta", beta, "[0, 1]"))
    right = previous.float().softmax(dim=1).gather(1, labels[:, None])[:, 0]  # (R,)
    weights = (1 - right).clamp(min=beta)
    return weights / weights.sum().clamp(min=torch.finfo(weights.dtype).tiny)


def reweighted_loss(
    predictions: Sequence[Tensor], plain: Tensor, labels: Tensor, beta: float = 0.5
) -> Tensor:
    """The mean of L_i over the iterations of one path, a scalar; 0 without regions.

    Args:
        predictions: I logits (R, K), in order.
        plain: (R, K) logits of the plain classifier, the prediction before the first.
        labels: (R,) in [0, K).
        beta: see `example_weights`.
    """
    losses = []
    for before, logits in zip([plain, *predictions[:-1]], predictions, strict=True):
        errors = F.cross_entropy(logits.float(), labels, reduction="none")  # (R,)
        losses.append((example_weights(before, labels, beta) * errors).sum())
    return torch.stack(losses).mean()


def reasoning_losses(
    out: ReasonedLogits, labels: Tensor, *, beta: float, weights: Sequence[float]
) -> dict[str, Tensor]:
    """`loss_cls_local`, `loss_cls_global`, `loss_cls_final` over the rows that are in the loss.

    Args:
        out: of N regions.
        labels: (N,) in [0, K), -1 outside the loss.
        beta: see `example_weights`.
        weights: of the three losses.
    """
    keep = labels >= 0
    labels, plain, losses = labels[keep], out.plain[keep], {}
    for name, path, weight in zip(
        ("local", "global"), (out.memory, out.graph), weights[:2], strict=True
    ):
        if path:
            loss = reweighted_loss([f[keep] for f in path], plain, labels, beta)
            losses[f"loss_cls_{name}"] = loss * weight
    final = F.cross_entropy(out.final[keep], labels, reduction="sum") / max(len(labels), 1)
    return {**losses, "loss_cls_final": final * weights[2]}
