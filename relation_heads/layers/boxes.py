"""Overlap of boxes, the one definition of this package.

Boxes are x1, y1, x2, y2, of any one unit. `torchvision.ops.box_iou` is NaN where two boxes have no
area, compares all pairs only, and does not know the "+1" widths of older code.
"""

from __future__ import annotations

import torch
from torch import Tensor


def box_iou(boxes: Tensor, others: Tensor, border: float = 0.0) -> Tensor:
    """Intersection over union, in the dtype of the boxes; 0 where both are without area.

    The leading dimensions are broadcast: `box_iou(a[:, None], b)` is (A, B), of all pairs, and
    `box_iou(a, b)` is (A,), of each box with the one in its row.

    Args:
        boxes: (..., 4); one whose x2 < x1 or y2 < y1 is empty.
        others: (..., 4).
        border: is added to every width and height: 1 for the widths x2 - x1 + 1 of older code.
    """
    x1, y1, x2, y2 = boxes.unbind(-1)
    u1, v1, u2, v2 = others.unbind(-1)
    width = (torch.minimum(x2, u2) - torch.maximum(x1, u1) + border).clamp(min=0)
    height = (torch.minimum(y2, v2) - torch.maximum(y1, v1) + border).clamp(min=0)
    shared = width * height
    area = (x2 - x1 + border).clamp(min=0) * (y2 - y1 + border).clamp(min=0)
    other_area = (u2 - u1 + border).clamp(min=0) * (v2 - v1 + border).clamp(min=0)
    union = area + other_area - shared
    return (shared / union).masked_fill(union <= 0, 0.0)
