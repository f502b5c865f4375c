"""Training a part of a model, the rest of which stays as it is."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from fnmatch import fnmatchcase

from detectron2.layers import FrozenBatchNorm2d
from torch import nn
from torch.nn import BatchNorm2d, SyncBatchNorm

from ..config.problems import did_you_mean


def train_only(model: nn.Module, patterns: Sequence[str]) -> None:
    """Leaves all of a model as it is but the parameters that a pattern matches.

    No other parameter gets a gradient, and a batch normalisation whose parameters are all frozen
    keeps its statistics (one without parameters goes on); names in the `state_dict` stay. What the
    model froze itself stays frozen. Call it before the optimizer is built; weights may be loaded
    before or after.

    Args:
        model: any model; changed in place.
        patterns: `MODEL.TRAIN_ONLY`, of `fnmatch` for names of parameters, for example
            "roi_heads.box_head.*"; [] changes nothing.

    Raises:
        ValueError: a pattern matches no parameter; names what is close.
    """
    if not patterns:
        return
    # A parameter that two modules share has two names, and trains by either.
    named = dict(model.named_parameters(remove_duplicate=False))
    for pattern in patterns:
        if not any(fnmatchcase(name, pattern) for name in named):
            raise ValueError(
                f"MODEL.TRAIN_ONLY {pattern!r} matches no parameter of the model"
                f"{did_you_mean(pattern, _possible(named))}"
            )
    trained = {id(p) for n, p in named.items() if any(fnmatchcase(n, x) for x in patterns)}
    for parameter in named.values():
        if id(parameter) not in trained:
            parameter.requires_grad_(False)
    for module in list(model.modules()):
        for name, child in list(module.named_children()):
            frozen = [not p.requires_grad for p in child.parameters(recurse=False)]
            if isinstance(child, BatchNorm2d | SyncBatchNorm) and frozen and all(frozen):
                setattr(module, name, FrozenBatchNorm2d.convert_frozen_batchnorm(child))


def _possible(names: Iterable[str]) -> list[str]:
    """Names of parameters, and patterns for all of a module."""
    parts = (name.split(".") for name in names)
    wholes = (".".join([*p[:k], "*"]) for p in parts for k in range(1, len(p)))
    return list(dict.fromkeys([*wholes, *names]))
