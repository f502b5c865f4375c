"""Relations and detections drawn on images, spatial kernels drawn as maps."""

from relation_heads.visualization.canvas import (
    class_color,
    draw_detections,
    side_by_side,
    upscale,
)
from relation_heads.visualization.kernels import draw_kernels
from relation_heads.visualization.relations import draw_relations, merge_overlapping

__all__ = [
    "class_color",
    "draw_detections",
    "draw_kernels",
    "draw_relations",
    "merge_overlapping",
    "side_by_side",
    "upscale",
]
