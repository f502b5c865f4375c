"""Arguments of layers under the keys of a config."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from functools import reduce

from detectron2.config import CfgNode
from torch import nn

from ..config.problems import Problem
from ..layers.arguments import ArgumentError
from .without_memory import without_memory

MOST_PARAMETERS = 2**31  # 8 GiB of float32


def too_large(build: Callable[[], nn.Module], what: str) -> str | None:
    """A sentence about a layer that needs too much memory; it is built without any."""
    with without_memory():
        size = sum(p.numel() for p in build().parameters())
    if size <= MOST_PARAMETERS:
        return None
    return (
        f"{what} makes a layer of {size:,} parameters; the largest that is built has "
        f"{MOST_PARAMETERS:,}."
    )


def key_problems(
    build: Callable[[], nn.Module], node: str, keys: Mapping[str, str] | None = None
) -> Iterator[Problem]:
    """What a layer says of the arguments that it would be built with.

    Args:
        build: builds the layer.
        node: of the config, such as "MODEL.SGRN"; argument `num_kernels` is its key NUM_KERNELS.
        keys: whole keys of arguments that come from elsewhere.
    """
    try:
        sentence = too_large(build, node)
        if sentence:
            yield Problem(sentence)
    except ArgumentError as error:
        for wrong in error.wrong:
            key = (keys or {}).get(wrong.argument, f"{node}.{wrong.argument.upper()}")
            yield Problem(str(wrong.named(key)))


DIVERGED_AT = 0.01  # SOLVER.BASE_LR of batches of 4 images, docs/divergence.md


def may_diverge(cfg: CfgNode, key: str, cure: str) -> Iterator[Problem]:
    """A warning about a published form at a learning rate at which it is known to diverge.

    Args:
        cfg: the config.
        key: of the form, such as "MODEL.RELATION.NORM".
        cure: the value that is stable.
    """
    lr = cfg.SOLVER.BASE_LR
    if lr >= DIVERGED_AT and not cfg.SOLVER.CLIP_GRADIENTS.ENABLED:
        value = reduce(getattr, key.split("."), cfg)
        yield Problem(
            f"{key} {value!r} is the published form, which has diverged at learning rates of "
            f"{DIVERGED_AT} and above, and SOLVER.BASE_LR is {lr:g}: set {key} {cure}, or a lower "
            "SOLVER.BASE_LR.",
            fatal=False,
        )
