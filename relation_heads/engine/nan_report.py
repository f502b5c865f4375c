"""What can be said about a training that diverged, from what is in memory when it stops.

Detectron2 stops with `FloatingPointError`, either in the RPN (boxes that are not finite) or after
the backward pass (a loss that is not finite). While all is well, nothing but the sizes of
`growth.Growth` is computed for this report; then those, parameters, gradients, the losses logged
last and the batch are looked at. docs/divergence.md says how to read it.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import chain
from typing import Any

import torch
from torch import Tensor, nn

from ..layers import ObjectRelation
from ..layers.arguments import first_few
from ..modeling.roi_heads.end import End
from ..modeling.roi_heads.second_look import SecondLook
from .growth import WINDOW, Growth

GREW_SHOWN = 3
REMEDIES = (
    "Usual remedies: a lower SOLVER.BASE_LR or more SOLVER.WARMUP_ITERS; "
    "SOLVER.CLIP_GRADIENTS.ENABLED True; pretrained MODEL.WEIGHTS, or without them "
    "MODEL.RESNETS.NORM other than FrozenBN; a look at the boxes of these images. "
    "More in docs/divergence.md."
)


class RememberBatch:
    """Iterates over a loader and keeps a reference to the batch that it gave last."""

    def __init__(self, loader: Iterable[Any]) -> None:
        self.loader = loader
        self.batch: Sequence[Mapping[str, Any]] = ()

    def __iter__(self) -> Iterator[Any]:
        for batch in self.loader:
            self.batch = batch
            yield batch

    def __getattr__(self, name: str) -> Any:
        """`dataset`, `batch_sampler` and so on are those of the loader."""
        if name == "loader":  # not set yet, while unpickling
            raise AttributeError(name)
        return getattr(self.loader, name)


def divergence_report(
    error: FloatingPointError,
    model: nn.Module,
    *,
    iteration: int,
    lr: float,
    losses: Mapping[str, tuple[float, int]],
    batch: Sequence[Mapping[str, Any]],
    growth: Growth | None = None,
) -> str:
    """One paragraph about a training that diverged.

    Args:
        error: as raised by Detectron2.
        model: after the failed step.
        iteration: of the failed step, from 0.
        lr: learning rate of the failed step.
        losses: name -> (value, iteration) as last logged.
        batch: the images of the failed step, Detectron2's dicts.
        growth: of the last iterations, the failed step included; None if nobody recorded.
    """
    sentences = [
        f"Training diverged at iteration {iteration} with learning rate {lr:g}: {_plain(error)}",
        *([_grew(growth)] if growth else []),
        _losses(losses),
        _weights(model),
        _gradients(model),
        f"Images of the batch: {', '.join(map(_image_name, batch)) or 'unknown'}.",
        *_published_forms(model),
        REMEDIES,
    ]
    return " ".join(sentences)


def _plain(error: FloatingPointError) -> str:
    text = " ".join(str(error).split())
    return text if text.endswith((".", "!", "?")) else text + "."


def _grew(growth: Growth) -> str:
    """What left its usual range, in order."""
    iterations, grown = growth.iterations[-WINDOW:], growth.first_to_grow()
    if len(iterations) < 4:
        return "Too few iterations were recorded to say what grew first."
    if not grown:
        return f"Nothing that was recorded grew from iteration {iterations[0]} on."
    first, *others = grown
    if first.since >= iterations[-1] - 1:
        return (
            f"Nothing grew before iteration {first.since}; there it jumped: {first}. Then the "
            "images of one batch are more suspect than the model."
        )
    then = "".join(f", then {g} (from {g.since} on)" for g in others[: GREW_SHOWN - 1])
    more = len(grown) - GREW_SHOWN
    then += f", and {more} more" if more > 0 else ""
    return f"First to grow: {first} (from iteration {first.since} on){then}."


def _published_forms(model: nn.Module) -> list[str]:
    """The forms in this model that are known to diverge, and the keys that replace them."""
    modules = list(model.modules())
    cures = []
    if any(isinstance(m, ObjectRelation) and not m.norm for m in modules):
        cures.append('MODEL.RELATION.NORM max_rms instead of ""')
    cures += [
        f"MODEL.{m.key}.MEAN_GRADIENT True instead of False"
        for m in modules
        if isinstance(m, SecondLook) and all(m.loss_weights) and m.num_classifications == 1
    ]
    if any(isinstance(m, End) and m.network and m.end_to_end for m in modules):
        cures.append("MODEL.DUPLICATE_REMOVAL.END_TO_END False instead of True")
    if not cures:
        return []
    return [f"Try first: {' and '.join(cures)}, a published form that is known to diverge."]


def _losses(losses: Mapping[str, tuple[float, int]]) -> str:
    if not losses:
        return "No loss was logged before."
    iteration = max(i for _, i in losses.values())
    values = ", ".join(f"{name} {value:.4g}" for name, (value, _) in losses.items())
    return f"Losses logged last, at iteration {iteration}: {values}."


def _weights(model: nn.Module) -> str:
    tensors = chain(model.named_parameters(), model.named_buffers())
    return _non_finite(tensors, "parameter or buffer", "All parameters and buffers are finite.")


def _gradients(model: nn.Module) -> str:
    """About the last backward pass, that of the step before if the forward pass failed."""
    gradients = [(name, p.grad) for name, p in model.named_parameters() if p.grad is not None]
    if not gradients:
        return "There was no backward pass yet."
    norm = math.hypot(*(float(g.float().norm()) for _, g in gradients))
    found = _non_finite(gradients, "gradient", "All gradients are finite.")
    return f"{found} The norm of the gradients of the last backward pass is {norm:.4g}."


def _non_finite(tensors: Iterable[tuple[str, Tensor]], what: str, otherwise: str) -> str:
    bad = [name for name, tensor in tensors if not bool(torch.isfinite(tensor).all())]
    if not bad:
        return otherwise
    return f"First {what} that is not finite: {first_few(bad, 1)}."


def _image_name(record: Mapping[str, Any]) -> str:
    return str(record.get("file_name", record.get("image_id", "unnamed")))
