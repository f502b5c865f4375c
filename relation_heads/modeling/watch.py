"""What a model looked at, on request.

    with watch() as seen:
        outputs = model(inputs)
    seen.listened[-1].weights[0]              # (heads, R, R): who listened to whom in image 0
    seen.features(0, outputs[0]["instances"]) # (D', D): x of the regions behind the detections

    with watch(model) as seen:
        model(inputs)
    seen.gathered[0].maps                     # (n, N, h, w): which places a GloRe unit's nodes take

While `watch()` is open, heads write into the innermost `Seen`, in training too, and detections
have a field `region`: the row of the region that each of them came from. Outside it nothing is
computed or kept. A mechanism of your own writes with `watched()`.

Shapes: N regions of all B images, R of one, D channels, C classes.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from detectron2.structures import Instances
from torch import Tensor, nn

from ..layers import GloRe, Regions

if TYPE_CHECKING:
    from .roi_heads.seam import Classified


@dataclass(frozen=True, eq=False)
class Listened:
    """How much regions listened to one another in one module.

    Attributes:
        module: which; `model.named_modules()` knows its name.
        regions: whose boxes they are.
        weights: of each image (heads, R, R), by the listening region (row); rows sum to 1.
    """

    module: nn.Module
    regions: Regions
    weights: list[Tensor]


@dataclass(frozen=True, eq=False)
class Gathered:
    """Which places the nodes of one GloRe unit gathered.

    Attributes:
        module: the unit; `model.named_modules()` knows its name.
        maps: B (n, N, *places), of both signs, by node.
    """

    module: nn.Module
    maps: Tensor


@dataclass
class Seen:
    """What one call of a model looked at.

    Attributes:
        listened: one entry for every call of a relation module or an SGRN graph, in their order.
        attention: of iterative reasoning, weights (N,) by the name of a prediction; their sum is 1.
        class_attention: of Reasoning-RCNN, how much each image asks each class, (B, C + 1); rows
            sum to 1.
        last: the classification that became the detections.
        gathered: one entry for every call of a GloRe unit of the model that `watch` was given.
    """

    listened: list[Listened] = field(default_factory=list)
    attention: dict[str, Tensor] = field(default_factory=dict)
    class_attention: Tensor | None = None
    last: Classified | None = None
    gathered: list[Gathered] = field(default_factory=list)

    def features(self, image: int, detections: Instances) -> Tensor:
        """x (D', D) of the regions that detections of one image came from."""
        assert self.last is not None, "The heads have not been called."
        return self.last.regions.split(self.last.x)[image][detections.region.to(self.last.x.device)]


_SEEN: ContextVar[Seen | None] = ContextVar("seen", default=None)


@contextmanager
def watch(model: nn.Module | None = None) -> Iterator[Seen]:
    """A `Seen` that ROI heads fill while it is open.

    Args:
        model: whose GloRe units fill it too. Their maps B are computed a second time.
    """
    seen = Seen()

    def gather(unit: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        assert isinstance(unit, GloRe)
        seen.gathered.append(Gathered(unit, unit.projection(inputs[0])))

    hooks = [unit.register_forward_pre_hook(gather) for unit in units(model)]
    token = _SEEN.set(seen)
    try:
        yield seen
    finally:
        _SEEN.reset(token)
        for hook in hooks:
            hook.remove()


def units(model: nn.Module | None) -> list[GloRe]:
    """The GloRe units of a model."""
    return [m for m in model.modules() if isinstance(m, GloRe)] if model is not None else []


def watched() -> Seen | None:
    """What to write into, None where nobody watches."""
    return _SEEN.get()
