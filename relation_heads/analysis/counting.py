"""Multiply-adds and memory of modules, counted while they run.

Multiply-adds are those of convolutions and products of matrices, one for each multiplication (what
papers print as FLOPs is nearly always this number). They are seen where PyTorch dispatches its
operations, so it does not matter whether a module, a function or an einsum asked for them; it is
what runs that is counted, and a layer that reorders a product may need less than the published
order of it.

Memory is what autograd keeps for the backward pass: the distinct storages of all saved tensors that
are alive at the end of the forward pass, without parameters and buffers. A tensor that a custom
function hides in its context by another way than `save_for_backward` is not seen.

`Shapes` runs a module on tensors that have a shape and no memory.
"""

from __future__ import annotations

import math
import weakref
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.func import functional_call
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_map_only

# Products of matrices: the argument that is their left factor.
LEFT_FACTORS = {"mm": 0, "bmm": 0, "mv": 0, "dot": 0, "addmm": 1, "baddbmm": 1, "addmv": 1}
# What is not calculated on request.
SKIPPED = {*LEFT_FACTORS, "convolution", "roi_align"}


class Count(NamedTuple):
    """A number, split into what happens in some watched modules and elsewhere."""

    elsewhere: int
    watched: int


class Shapes:
    """A module on tensors without memory, in a mode in which all new tensors are such."""

    def __init__(self, module: nn.Module, mode: FakeTensorMode) -> None:
        """
        Args:
            module: on any device, also "meta"; it stays as it is.
            mode: of all modules that pass tensors to one another.
        """
        self.module = module
        with mode:
            self.state = {
                name: _like(tensor)
                for name, tensor in [*module.named_parameters(), *module.named_buffers()]
            }

    def __call__(self, *args: Any) -> Any:
        """`module(*args)`."""
        return functional_call(self.module, self.state, args)


def _like(tensor: Tensor) -> Tensor:
    """A new parameter or buffer of this shape, on a CPU."""
    new = torch.empty(tensor.shape, dtype=tensor.dtype)
    is_parameter = isinstance(tensor, nn.Parameter)
    return nn.Parameter(new, tensor.requires_grad) if is_parameter else new


class _Watch:
    """Whether one of some modules is running now."""

    def __init__(self, modules: Iterable[nn.Module]) -> None:
        self.modules = list(modules)
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
        self.depth += step

    @property
    def running(self) -> bool:
        return self.depth > 0


def products_of(name: str, args: tuple[Any, ...], out: Any) -> int | None:
    """Multiply-adds of an operation, or None if it is no product.

    Args:
        name: in PyTorch, for example "addmm" or "convolution".
        args: of its call.
        out: its result.
    """
    if name in LEFT_FACTORS:
        return out.numel() * args[LEFT_FACTORS[name]].shape[-1]
    if name == "convolution":  # x, weight, bias, stride, padding, dilation, transposed, ...
        per_place = math.prod(args[1].shape[1:])
        return (args[0] if args[6] else out).numel() * per_place
    if name == "deform_conv2d":
        return out.numel() * math.prod(args[1].shape[1:])
    if name.startswith("_scaled_dot_product"):  # q, k, v: q k^T and its product with v
        return args[1].shape[-2] * (args[0].numel() + out[0].numel())
    return None


class _Products(TorchDispatchMode):
    """Counts products; without `compute` their results, and ROIAlign's, are zeros."""

    def __init__(self, watch: _Watch, compute: bool) -> None:
        super().__init__()
        self.watch, self.compute = watch, compute
        self.counts = [0, 0]

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        name = func._schema.name.split("::")[-1]
        if name in SKIPPED and "out" not in kwargs and not self.compute:
            out = _zeros(func, args, kwargs)
        else:
            out = func(*args, **kwargs)
        products = products_of(name.rstrip("_"), args, out)
        self.counts[self.watch.running] += products or 0
        return out


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
    with _Watch(watched) as watch, _Products(watch, compute) as products:
        result = run()
    return result, Count(*products.counts)


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
        _Products(watch, compute),
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
