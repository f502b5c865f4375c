"""Values that no key of ours can have, whatever it means: None, and sizes that no machine holds.

yacs lets None stand for a value of any type, and has no bounds.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

from detectron2.config import CfgNode

from .defaults import NODES, node
from .problems import Problem

LARGEST = {int: 2**16, float: 1e6}
KINDS = {bool: "True or False", int: "a whole number", float: "a number", str: "a text",
         list: "a list", tuple: "a list"}  # fmt: skip


def value_problems(cfg: CfgNode) -> Iterator[Problem]:
    """What is wrong with single values of the nodes of this package."""
    for name, defaults in NODES.items():
        yield from _of_node(node(cfg, name), defaults(), f"MODEL.{name}")


def _of_node(values: CfgNode, defaults: CfgNode, key: str) -> Iterator[Problem]:
    for name, default in defaults.items():
        value, full = values.get(name), f"{key}.{name}"
        if isinstance(default, CfgNode):
            yield from _of_node(value, default, full)
        elif value is None and default is not None:
            yield Problem(f"{full} must be {KINDS[type(default)]}, got None.")
        else:
            yield from _of_numbers(value, full)


def _of_numbers(value: Any, key: str) -> Iterator[Problem]:
    if isinstance(value, list | tuple):
        for item in value:
            yield from _of_numbers(item, key)
    limit = LARGEST.get(type(value))
    if limit and not (math.isfinite(value) and abs(value) <= limit):
        yield Problem(f"{key} must be at most {limit:,}, got {value}.")
