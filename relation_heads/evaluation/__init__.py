"""Evaluators and how one is chosen.

The numeric modules (`class_tables`, `coco_arrays`, `duplicates`, `region_metrics`, `sparse_coco`,
`sparse_matching`) need no Detectron2; the names below do, and are imported when they are asked for.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .build import build_evaluator
    from .grouped_coco import GroupedCOCOEvaluator

__all__ = ["GroupedCOCOEvaluator", "build_evaluator"]

_WHERE = {"GroupedCOCOEvaluator": ".grouped_coco", "build_evaluator": ".build"}


def __getattr__(name: str) -> object:
    if name in _WHERE:
        return getattr(import_module(_WHERE[name], __name__), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
