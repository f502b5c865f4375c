"""`MODEL.CONTEXT_BLOCKS.PLUGINS`: which context blocks go where, read and checked.

One plugin is a dict. Only `name` and `stages` are needed:

    name      GC (Cao et al. 2019), GloRe (Chen et al. 2019), LR (Hu et al. 2019), NL (Wang et al.
              2018), SE (Hu et al. 2018)
    stages    [res3, res4] for all their blocks, or {res3: [0, 2], res4: [0, 2, 4]}, blocks from 0
    position  after_conv2 | after_conv3 | after_add; by default where the paper puts it; for LR also
              conv2: in place of the 3 x 3 convolution of bottlenecks, as in LR-Net
    norm      GloRe, LR, NL: of the result: "" (none), BN, SyncBN, GN or LN; by default GN for
              GloRe, whose branch is cubic in its input and diverges without one, and for LR in
              place of conv2, where the pretrained layers after it want one; none for others
    others    the arguments of the layer: ratio, num_nodes, mode, ... (`relation_heads.layers`)

Several plugins at one place follow one another in the order of the list.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from difflib import get_close_matches
from functools import partial
from typing import Any

from detectron2.layers import get_norm
from torch import nn

from ..layers.blocks.global_context import GlobalContext, SqueezeExcitation
from ..layers.blocks.glore import GloRe
from ..layers.blocks.local_relation import ResidualLocalRelation
from ..layers.blocks.non_local import NonLocal
from .keys import too_large
from .lr_net import relation_conv

POSITIONS = ("after_conv2", "after_conv3", "after_add")
CONV2 = "conv2"  # the position of what takes its place
NORMS = ("", "BN", "SyncBN", "GN", "LN")
_KEY = "MODEL.CONTEXT_BLOCKS.PLUGINS"
# Layer, position of its paper (GC, SE: on the residual branch; GloRe, NL: between blocks; LR: near
# conv2, whose place it has there), norm.
_LAYERS: dict[str, tuple[type[nn.Module], str, str]] = {
    "GC": (GlobalContext, "after_conv3", ""),
    "GloRe": (GloRe, "after_add", "GN"),
    "LR": (ResidualLocalRelation, "after_conv2", ""),
    "NL": (NonLocal, "after_add", ""),
    "SE": (SqueezeExcitation, "after_conv3", ""),
}
_GLORE_EPS = 1e-4  # of the released unit's BatchNorm


@dataclass(frozen=True)
class Plugin:
    """One entry of the list.

    Args:
        name: a key of `_LAYERS`.
        stages: stage -> its blocks from 0, or None for all.
        position: of POSITIONS, or CONV2.
        norm: of NORMS.
        options: arguments of the layer.
        where: of the entry, for messages.
    """

    name: str
    stages: Mapping[str, tuple[int, ...] | None]
    position: str
    norm: str
    options: Mapping[str, Any]
    where: str

    def restricted(self, stages: Collection[str]) -> Plugin:
        """The same plugin in these of its stages alone."""
        return replace(self, stages={k: v for k, v in self.stages.items() if k in stages})

    def build(self, channels: int) -> nn.Module:
        """The layer for (n, `channels`, H, W).

        Raises:
            ValueError: an option does not fit the layer or the channels.
        """
        options = dict(self.options)
        if self.norm:
            options["norm"] = partial(_norm, self.norm, self.name)
        return self._checked(_LAYERS[self.name][0], channels=channels, **options)

    def build_conv2(self, channels: int, stride: int) -> nn.Module:
        """What takes the place of a 3 x 3 convolution (position CONV2).

        Raises:
            ValueError: an option does not fit the layer or the channels.
        """
        return self._checked(
            relation_conv, channels=channels, norm=self.norm, stride=stride, **self.options
        )

    def _checked(
        self, make: Callable[..., nn.Module], *, channels: int, **options: Any
    ) -> nn.Module:
        build = partial(make, channels=channels, **options)
        try:
            sentence = too_large(build, self.name)
            if sentence:
                raise ValueError(sentence)
            return build()
        except (OverflowError, RuntimeError, TypeError, ValueError) as error:
            raise ValueError(f"{self.where} ({self.name}, {channels} channels): {error}") from error


def _norm(norm: str, name: str, channels: int) -> nn.Module:
    module = get_norm(norm, channels)
    if name == "GloRe" and hasattr(module, "eps"):
        module.eps = _GLORE_EPS
    return module


def parse_plugins(entries: Sequence[Mapping[str, Any]]) -> list[Plugin]:
    """The plugins of a config, checked as far as they can be without a backbone.

    Args:
        entries: `MODEL.CONTEXT_BLOCKS.PLUGINS`.

    Raises:
        ValueError: names the entry, what is wrong and what is allowed.
    """
    return [_parse(entry, f"{_KEY}[{i}]") for i, entry in enumerate(entries)]


def _parse(entry: Mapping[str, Any], where: str) -> Plugin:
    if not isinstance(entry, Mapping):
        raise ValueError(
            f"{where} must be a dict such as {{name: GC, stages: [res4]}}, got {entry!r}."
        )
    name = entry.get("name")
    if name not in _LAYERS:
        raise ValueError(f"{where}: name must be one of {', '.join(_LAYERS)}, got {name!r}.")
    layer, position, norm = _LAYERS[name]
    options = _options(layer)
    allowed = ["name", "stages", "position", *options]
    for key in entry:
        if key not in allowed:
            close = get_close_matches(str(key), allowed, n=1)
            hint = f" did you mean {close[0]}?" if close else f" allowed are {', '.join(allowed)}."
            raise ValueError(f"{where}: {name} has no key {key!r};{hint}")
    position = entry.get("position", position)
    positions = (CONV2, *POSITIONS) if name == "LR" else POSITIONS
    if position not in positions:
        raise ValueError(
            f"{where}: position must be one of {', '.join(positions)}, got {position!r}."
        )
    norm = "GN" if position == CONV2 else norm
    return Plugin(
        name=name,
        stages=_stages(entry.get("stages"), where),
        position=position,
        norm=_checked_norm(entry.get("norm", norm), where),
        options={key: entry[key] for key in options if key in entry and key != "norm"},
        where=where,
    )


def _options(layer: type[nn.Module]) -> list[str]:
    """Arguments of a layer that a plugin may set."""
    return [k for k in inspect.signature(layer).parameters if k not in ("channels", "dims")]


def _stages(stages: Any, where: str) -> dict[str, tuple[int, ...] | None]:
    if isinstance(stages, Mapping):
        found = {stage: tuple(blocks) for stage, blocks in stages.items() if _indices(blocks)}
    elif isinstance(stages, Sequence) and not isinstance(stages, str):
        found = dict.fromkeys(s for s in stages if isinstance(s, str))
    else:
        found = {}
    if not found or len(found) != len(stages):
        raise ValueError(
            f"{where}: stages must be different names, such as [res3, res4], or their blocks, such "
            f"as {{res3: [0, 2]}}, got {stages!r}."
        )
    return found


def _indices(blocks: Any) -> bool:
    """Whether this is a list of one or more different block numbers."""
    return (
        isinstance(blocks, list | tuple)
        and len(blocks) > 0
        and all(type(b) is int and b >= 0 for b in blocks)
        and len(set(blocks)) == len(blocks)
    )


def _checked_norm(norm: Any, where: str) -> str:
    if norm == "FrozenBN":
        raise ValueError(
            f"{where}: norm FrozenBN has no weight to train, and a plugin starts with that weight "
            "at zero, so that it would stay without effect; use '', BN, SyncBN, GN or LN."
        )
    if norm not in NORMS:
        raise ValueError(
            f"{where}: norm must be one of {', '.join(map(repr, NORMS))}, got {norm!r}."
        )
    return norm
