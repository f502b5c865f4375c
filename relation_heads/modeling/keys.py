"""Arguments of layers under the keys of a config."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping

import torch

from ..config.problems import Problem
from ..layers.arguments import ArgumentError, Wrong


def key_problems(
    build: Callable[[], object], node: str, keys: Mapping[str, str] | None = None
) -> Iterator[Problem]:
    """What a layer says of the arguments that it would be built with.

    Args:
        build: builds the layer; without memory, on the meta device.
        node: of the config, such as "MODEL.SGRN"; argument `num_kernels` is its key NUM_KERNELS.
        keys: whole keys of arguments that come from elsewhere.
    """
    try:
        with torch.device("meta"):
            build()
    except ArgumentError as error:
        for wrong in error.wrong:
            key = (keys or {}).get(wrong.argument, f"{node}.{wrong.argument.upper()}")
            yield Problem(str(wrong.named(key)))


def problems_of(node: str, *checks: Wrong | None) -> Iterator[Problem]:
    """Checks of `layers.arguments` whose arguments are keys of a node of the config."""
    for wrong in checks:
        if wrong:
            yield Problem(str(wrong.named(f"{node}.{wrong.argument}")))
