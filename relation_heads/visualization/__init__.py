"""Relations and detections drawn on images."""

from relation_heads.visualization.relations import (
    class_color,
    draw_detections,
    draw_relations,
    merge_overlapping,
    side_by_side,
    upscale,
)

__all__ = [
    "class_color",
    "draw_detections",
    "draw_relations",
    "merge_overlapping",
    "side_by_side",
    "upscale",
]
