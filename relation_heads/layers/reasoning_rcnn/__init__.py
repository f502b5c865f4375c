"""Reasoning-RCNN (Xu et al., CVPR 2019)."""

from .adaptive_reasoning import AdaptiveReasoning, semantic_pool
from .image_query import ImageQuery

__all__ = ["AdaptiveReasoning", "ImageQuery", "semantic_pool"]
