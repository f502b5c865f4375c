"""Evaluators and how one is chosen."""

from .build import build_evaluator
from .grouped_coco import GroupedCOCOEvaluator

__all__ = ["GroupedCOCOEvaluator", "build_evaluator"]
