"""What grows when a training diverges: sizes of tensors over the last iterations.

    growth = Growth(model)
    for i, batch in enumerate(loader):
        with growth.iteration(i):
            loss = model(batch)
            loss.backward()
    growth.first_to_grow()  # [Grown("roi_heads.box_head.relation1.0", since=96, ...), ...]

`RelationTrainer` does it always. The size of a tensor is its root mean square. Recorded are

- the maps that the backbone gives, and those that its own backbone gives: `backbone[p2]`,
  `backbone.bottom_up[res5]`,
- outside the backbone the output of every module with parameters, from single layers to whole
  mechanisms: `roi_heads.box_head.fc1`, `roi_heads.box_head`,

and the gradients of the loss in all of these. Names are those of `model.named_modules()`. A module
that gives something other than a tensor is passed over, but its layers are not.

The fused form of `ObjectRelation` multiplies with W_K and W_V past their modules, so that keys and
values are not there; queries and what comes out of the module are.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from statistics import median
from typing import Any

import torch
from detectron2.modeling import Backbone
from torch import Tensor, nn
from torch.nn.parallel import DataParallel, DistributedDataParallel

WINDOW = 50  # iterations that are looked at in the end
FACTOR = 4.0  # times its median: outside the usual range
WIDE = (torch.float32, torch.float64)
MIN_EARLIER = 2  # values that a median is taken of


@dataclass(frozen=True)
class Series:
    """The size of one tensor over the iterations in which it was there.

    Attributes:
        name: of the module whose output it is.
        is_gradient: of the loss in that output.
        values: root mean square by iteration.
    """

    name: str
    is_gradient: bool
    values: dict[int, float]

    def __str__(self) -> str:
        return f"the gradient of {self.name}" if self.is_gradient else self.name


@dataclass(frozen=True)
class Grown:
    """A tensor that left its usual range and did not come back.

    Attributes:
        series: which.
        since: first iteration from which it was outside.
        before: its usual size.
        last: its size at the end; may be inf or NaN.
    """

    series: Series
    since: int
    before: float
    last: float

    def __str__(self) -> str:
        return f"{self.series} from {self.before:.3g} to {self.last:.3g}"


@dataclass
class _Record:
    """One iteration: norms (scalars, where the tensors are) and numbers of elements."""

    iteration: int
    loss_scale: float
    parts: dict[tuple[str, bool], list[tuple[Tensor, int]]] = field(default_factory=dict)

    def add(self, name: str, is_gradient: bool, tensor: Tensor) -> None:
        if torch.is_autocast_enabled(tensor.device.type):  # it would make a copy
            with torch.autocast(tensor.device.type, enabled=False):
                self.add(name, is_gradient, tensor)
            return
        dtype = tensor.dtype if tensor.dtype in WIDE else torch.float32
        norm = torch.linalg.vector_norm(tensor.detach(), dtype=dtype)
        self.parts.setdefault((name, is_gradient), []).append((norm, tensor.numel()))

    def size(self, key: tuple[str, bool]) -> float:
        norms, numbers = zip(*self.parts[key], strict=True)
        size = math.hypot(*map(float, norms)) / math.sqrt(sum(numbers))
        return size / self.loss_scale if key[1] else size


class Growth:
    """Records sizes of what a model computes while it is trained.

    Nothing is read from the device before somebody asks. The model has hooks only while an
    iteration runs, so that it can be copied, pickled, traced and scripted as ever.

    Attributes:
        parts: the modules that are recorded, by name.
    """

    def __init__(self, model: nn.Module, keep: int = WINDOW) -> None:
        """
        Args:
            model: also in `DistributedDataParallel`; every process records its own share.
            keep: how many iterations are kept.
        """
        if keep < 1:
            raise ValueError(f"keep must be at least 1, got {keep}.")
        self.parts = dict(_parts(model))
        self._records: deque[_Record] = deque(maxlen=keep)

    @contextmanager
    def iteration(self, number: int, *, loss_scale: float = 1.0) -> Iterator[None]:
        """Records one iteration, its forward and its backward pass.

        Args:
            number: of the iteration.
            loss_scale: what the loss is multiplied by before `backward`, as under AMP; gradients
                are divided by it.
        """
        self._records.append(_Record(number, loss_scale))
        hooks = [m.register_forward_hook(partial(self._seen, n)) for n, m in self.parts.items()]
        try:
            yield
        finally:
            for hook in hooks:
                hook.remove()

    def _seen(self, name: str, module: nn.Module, args: Any, output: Any) -> None:
        """A forward hook."""
        if isinstance(module, Backbone):
            maps = output if isinstance(output, dict) else {}
            for key, value in maps.items():
                self.add(f"{name}[{key}]", value)
            return
        if isinstance(output, (tuple, list)) and output and _own_parameters(module):
            output = output[0]  # as nn.GRU and nn.MultiheadAttention have it
        self.add(name, output)

    def add(self, name: str, tensor: Any) -> None:
        """Records a tensor of the running iteration, and its gradient when there is one.

        A name that comes several times in an iteration has the root mean square of all. What is not
        a tensor of numbers is passed over, as is everything under `torch.no_grad` (evaluation) and
        in a trace.
        """
        if not torch.is_grad_enabled() or torch.jit.is_tracing() or torch.compiler.is_compiling():
            return
        if not isinstance(tensor, Tensor) or not tensor.is_floating_point() or not tensor.numel():
            return
        record = self._records[-1]
        record.add(name, False, tensor)
        if tensor.grad_fn is not None:  # a hook of a parameter would stay
            tensor.register_hook(partial(record.add, name, True))

    @property
    def iterations(self) -> list[int]:
        """The recorded ones."""
        return [record.iteration for record in self._records]

    def series(self) -> list[Series]:
        """All tensors, in the order in which they are computed; reads them from the device."""
        keys = dict.fromkeys(key for record in self._records for key in record.parts)
        return [
            Series(*key, {r.iteration: r.size(key) for r in self._records if key in r.parts})
            for key in keys
        ]

    def first_to_grow(self) -> list[Grown]:
        """See `first_to_grow`; looks at the last 50 iterations, however many are kept."""
        return first_to_grow(self.series(), self.iterations[-WINDOW:])


def first_to_grow(series: Iterable[Series], iterations: Sequence[int]) -> list[Grown]:
    """The tensors that left their usual range and stayed outside until the end, in this order.

    The usual size is the median over the earlier half of the iterations; outside is more than 4
    times that, or not finite. Of tensors that left together, the one that is computed first stands
    first. A tensor that was there in fewer than 2 of the earlier iterations, or was mostly 0 there,
    has no usual size.

    Args:
        series: in the order in which they are computed.
        iterations: which are looked at.
    """
    earlier, all_of_them = set(iterations[: len(iterations) // 2]), set(iterations)
    grown = []
    for one in series:
        usual = [v for i, v in one.values.items() if i in earlier and math.isfinite(v)]
        before = median(usual) if len(usual) >= MIN_EARLIER else 0.0
        since, last = None, math.nan
        for i, value in one.values.items():
            if i not in all_of_them:
                continue
            last = value
            if math.isfinite(value) and value <= FACTOR * before:
                since = None
            elif since is None:
                since = i
        if before > 0 and since is not None:
            grown.append(Grown(one, since, before, last))
    return sorted(grown, key=lambda g: g.since)


def _parts(model: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """The modules that are recorded, with their names."""
    if isinstance(model, (DataParallel, DistributedDataParallel)):
        model = model.module
    inside: set[nn.Module] = set()  # of backbones
    for name, module in model.named_modules():
        is_backbone = isinstance(module, Backbone)
        if is_backbone:
            inside.update(module.modules())
        has_parameters = next(module.parameters(), None) is not None
        if name and has_parameters and (is_backbone or module not in inside):
            yield name, module


def _own_parameters(module: nn.Module) -> bool:
    return next(module.parameters(recurse=False), None) is not None
