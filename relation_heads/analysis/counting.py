"""Multiply-adds and memory of modules, counted while they run.

Multiply-adds are those of convolutions, products of matrices and weighted sums (`addcmul`), one for
each multiplication (what papers print as FLOPs is nearly always this number). PyTorch's
`FlopCounterMode` counts them where operations are dispatched, two FLOPs each, so it does not matter
whether a module, a function or an einsum asked for them; it is what runs that is counted, and a
layer that reorders a product may need less than the published order of it. `FORMULAS` adds what
PyTorch has no formula for.

Memory is what autograd keeps for the backward pass: the distinct storages of all saved tensors that
are alive at the end of the forward pass, without parameters and buffers. A tensor that a custom
function hides in its context by another way than `save_for_backward` is not seen.

Everything runs on the device "meta" too, where tensors have a shape and no memory.
"""

from __future__ import annotations

import math
import weakref
from collections.abc import Callable, Iterable
from contextlib import nullcontext
from typing import Any, NamedTuple

import torch
import torchvision  # noqa: F401  # registers its operations
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_map_only
from torch.utils.flop_counter import FlopCounterMode

Shape = tuple[int, ...]


def _product(*shapes: Any, out_shape: Shape, **_: Any) -> int:
    """Of two factors, the last arguments."""
    return 2 * math.prod(out_shape) * shapes[-2][-1]


def _deform_conv2d(x: Shape, weight: Shape, *_: Any, out_shape: Shape, **__: Any) -> int:
    return 2 * math.prod(out_shape) * math.prod(weight[1:])


def _addcmul(*_: Any, out_shape: Shape, **__: Any) -> int:
    return 2 * math.prod(out_shape)


# FLOPs by the shapes of the arguments.
FORMULAS: dict[Any, Callable[..., int]] = {
    **{
        getattr(torch.ops.aten, name): _product
        for name in ("dot", "mv", "addmv", "addmv_", "addmm_", "baddbmm_")
    },
    torch.ops.torchvision.deform_conv2d: _deform_conv2d,
    torch.ops.aten.addcmul: _addcmul,
    torch.ops.aten.addcmul_: _addcmul,
}
# What is not calculated on request.
SKIPPED = {"mm", "bmm", "mv", "dot", "addmm", "baddbmm", "addmv", "convolution", "roi_align"}


class Count(NamedTuple):
    """A number, split into what happens in some watched modules and elsewhere."""

    elsewhere: int
    watched: int


class _Watch:
    """Whether one of some modules is running now."""

    def __init__(
        self, modules: Iterable[nn.Module], changed: Callable[[bool], Any] = lambda running: None
    ) -> None:
        """
        Args:
            modules: what is watched.
            changed: is told when the first of them starts (True) and the last one ends (False).
        """
        self.modules, self.changed = list(modules), changed
        self.depth = 0

    def __enter__(self) -> _Watch:
        self.handles = [
            handle
            for module in self.modules
            for handle in (
                module.register_forward_pre_hook(lambda *_: self._move(1)),
                module.register_forward_hook(lambda *_: self._move(-1)),
            )
        ]
        return self

    def __exit__(self, *_: object) -> None:
        for handle in self.handles:
            handle.remove()

    def _move(self, step: int) -> None:
        was_running = self.running
        self.depth += step
        if self.running != was_running:
            self.changed(self.running)

    @property
    def running(self) -> bool:
        return self.depth > 0


class _Skip(TorchDispatchMode):
    """The results of products, and of ROIAlign, are zeros."""

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        if func._schema.name.split("::")[-1] in SKIPPED and "out" not in kwargs:
            return _zeros(func, args, kwargs)
        return func(*args, **kwargs)


def _zeros(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Tensor:
    """Zeros like `func(*args, **kwargs)`."""
    device = next(a.device for a in args if isinstance(a, Tensor))
    args, kwargs = tree_map_only(Tensor, lambda t: t.to("meta"), (args, kwargs))
    return torch.zeros_like(func(*args, **kwargs), device=device)


def multiply_adds(
    run: Callable[[], Any], watched: Iterable[nn.Module] = (), compute: bool = True
) -> tuple[Any, Count]:
    """The result of `run()` and the multiply-adds of it.

    Args:
        run: any code.
        watched: modules whose part of them is counted apart, with all that they call.
        compute: without, convolutions, products of matrices and ROIAlign return zeros at once.
    """
    counter = FlopCounterMode(display=False, custom_mapping=FORMULAS)
    inside = 0  # FLOPs

    def changed(running: bool) -> None:
        nonlocal inside
        inside += (-1 if running else 1) * counter.get_total_flops()

    # The counter, entered later, sees an operation before `_Skip` does.
    with nullcontext() if compute else _Skip(), counter, _Watch(watched, changed):
        result = run()
    return result, Count((counter.get_total_flops() - inside) // 2, inside // 2)


class _Saved:
    """A tensor in the graph of autograd, alive as long as the graph."""

    def __init__(self, tensor: Tensor, watched: bool) -> None:
        self.tensor = tensor.detach()  # with its graph, the graph would hold itself
        self.watched = watched


def kept_bytes(
    run: Callable[[], Any],
    watched: Iterable[nn.Module] = (),
    own: Iterable[Tensor] = (),
    compute: bool = True,
) -> tuple[Any, Count]:
    """The result of `run()`, a forward pass, and the bytes that it keeps for the backward pass.

    Args:
        run: returns everything that will be differentiated.
        watched: modules whose part of them is counted apart: what they are the first to save.
        own: tensors that do not count: parameters and buffers.
        compute: see `multiply_adds`.
    """
    saved: list[weakref.ref[_Saved]] = []

    def pack(tensor: Tensor) -> _Saved:
        entry = _Saved(tensor, watch.running)
        saved.append(weakref.ref(entry))
        return entry

    with (
        _Watch(watched) as watch,
        torch.autograd.graph.saved_tensors_hooks(pack, lambda entry: entry.tensor),
        nullcontext() if compute else _Skip(),
    ):
        result = run()
    seen = {t.untyped_storage()._cdata for t in own}
    counts = [0, 0]
    for entry in filter(None, (reference() for reference in saved)):
        storage = entry.tensor.untyped_storage()
        if storage._cdata not in seen:
            seen.add(storage._cdata)
            counts[entry.watched] += storage.nbytes()
    return result, Count(*counts)
