"""Counts of modules that take no memory."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from ...modeling.without_memory import without_memory
from ..counting import multiply_adds

IMAGE = (1, 3, 224, 224)  # of ImageNet


def parameters(make: Callable[[], nn.Module], statistics: bool = False) -> int:
    """Of a new module; with the running statistics of batch norms or without."""
    with without_memory():
        module = make()
    buffers = [b for b in module.buffers() if b.is_floating_point()] if statistics else []
    return sum(t.numel() for t in [*module.parameters(), *buffers])


def products(make: Callable[[], nn.Module], shape: tuple[int, ...] = IMAGE) -> int:
    """Multiply-adds of a new module at test time on one tensor of this shape."""
    with without_memory():
        module, x = make().eval(), torch.empty(shape)
    with torch.no_grad():
        return multiply_adds(lambda: module(x))[1].elsewhere


class Elementwise(TorchDispatchMode):
    """Counts what the counter of mmdetection v1 (`mmdet/utils/flops_counter.py`) adds to products:
    2 operations for every element that a batch norm normalises, 1 for every element that a ReLU
    gives, that a pooling takes, and to which a convolution adds its bias."""

    def __init__(self) -> None:
        super().__init__()
        self.total = 0

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        out = func(*args, **(kwargs or {}))
        name = func._schema.name.split("::")[-1]
        if "batch_norm" in name:
            self.total += 2 * args[0].numel()
        elif name in ("relu", "relu_"):
            self.total += out.numel()
        elif name in ("max_pool2d_with_indices", "_adaptive_avg_pool2d", "mean"):
            self.total += args[0].numel()
        elif name == "convolution" and isinstance(args[2], Tensor):
            self.total += out.numel()
        return out


def products_and_elementwise(
    parts: list[tuple[nn.Module, Callable[[Any], Any]]], shape: tuple[int, ...]
) -> tuple[int, int]:
    """Multiply-adds, and elementwise operations (`Elementwise`), of parts of a model in a row.

    Args:
        parts: a part on the device "meta", and what it takes: a function of what the part before it
            gives. The first part's is called with the image.
        shape: of the image.
    """

    def run() -> None:
        value: Any = torch.empty(shape, device="meta")
        for part, arguments in parts:
            value = part.eval()(arguments(value))

    with torch.no_grad(), Elementwise() as elementwise:
        _, count = multiply_adds(run)
    return count.elsewhere, elementwise.total


def linear(inputs: int, outputs: int) -> int:
    """Parameters of a fully connected layer, with its bias."""
    return math.prod((inputs + 1, outputs))
