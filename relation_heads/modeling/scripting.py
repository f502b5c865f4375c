"""`torch.jit.script` of ROI heads: it follows Detectron2's own, but no mechanism.

Where nothing is switched on, the heads of this package script as the stock ones, which they equal.
Otherwise the error is one sentence. `torch.jit.trace` works for all heads and ends.
"""

from __future__ import annotations

import copy
from collections.abc import Collection
from inspect import get_annotations

from torch import nn


def as_stock(module: nn.Module, what_is_on: Collection[str], parts: Collection[str]) -> nn.Module:
    """A shallow copy of the class of Detectron2 that a module derives from.

    Args:
        module: heads or box heads of this package.
        what_is_on: names of what a script cannot follow.
        parts: names of the parts that the stock class does not have.

    Raises:
        NotImplementedError: something is on.
    """
    if what_is_on:
        raise NotImplementedError(
            f"torch.jit.script cannot follow {', '.join(what_is_on)}: use torch.jit.trace with "
            "detectron2.export.TracingAdapter, which holds for other sizes and numbers of regions."
        )
    stock = copy.copy(module)
    stock._modules = {n: m for n, m in module._modules.items() if n not in parts}
    base = next(c for c in type(module).__mro__ if c.__module__.startswith("detectron2"))
    # `freeze_training_mode`, under which Detectron2 scripts, marks the classes of a model.
    marks = {**get_annotations(base), **get_annotations(type(module))}
    stock.__class__ = type(base.__name__, (base,), {"__annotations__": marks})
    return stock
