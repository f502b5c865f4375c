"""Which regions an attention-like layer listened to, drawn on the image.

For a reference region (the query, blue), the regions of highest relation weight (the keys, yellow;
Hu et al. 2018, "Relation Networks for Object Detection", eq. 3). A line joins them, thicker and
more opaque the larger the weight, with the weight in percent at its end.

Shapes: H heads, N_q queries, N_k keys; boxes and images as in `canvas`. Nothing is drawn in place:
every function returns a new image.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import cv2
import numpy as np

from ..data.box_iou import box_iou
from .canvas import (
    DARK,
    Boxes,
    Color,
    Vector,
    check_length,
    checked_boxes,
    copied_image,
    draw_labels,
    outline,
    pixels,
    require,
)

Point = tuple[int, int]

QUERY_COLOR: Color = (255, 150, 40)  # blue, BGR
KEY_COLOR: Color = (0, 215, 255)  # yellow
_FAINT: Color = (170, 205, 215)  # grey yellow: of what no detection shows
LEGEND = (
    (QUERY_COLOR, "asks"),
    (KEY_COLOR, "is listened to; a thick line is a large share"),
    (_FAINT, "(name): no detection there"),
)


def merge_overlapping(boxes: Boxes, weights: Vector, iou: float = 0.5) -> list[tuple[int, float]]:
    """Joins regions that show the same object, of which a detector proposes many.

    The region of largest weight takes all free ones that overlap it, then the next free one does.

    Args:
        boxes: (N, 4).
        weights: (N,) non-negative.
        iou: intersection over union above which two regions are one object.

    Returns:
        (index of the strongest region of the object, summed weight) pairs, largest sum first.

    Raises:
        ValueError: the shapes disagree, or a box or a weight is not valid.
    """
    boxes = checked_boxes(boxes, "boxes")
    weights = _checked_weights(weights, len(boxes))
    order, objects = np.argsort(-weights, kind="stable"), []
    while len(order) > 0:
        same = box_iou(boxes[order[0]], boxes[order]) > iou
        same[0] = True  # a box without area overlaps not even itself
        objects.append((int(order[0]), float(weights[order[same]].sum())))
        order = order[~same]
    return sorted(objects, key=lambda pair: -pair[1])


def draw_relations(
    image: np.ndarray,
    query_box: Vector,
    query_label: str,
    key_boxes: Boxes,
    key_labels: Sequence[str],
    weights: Vector,
    top: int = 5,
    iou: float = 0.5,
) -> np.ndarray:
    """One query and the objects it listened to, the rest of the image dimmed.

    Keys that overlap the query are its weight on itself, printed as "self" on its label. The others
    are merged into objects, with a line to each of the `top` strongest, thickness and opacity
    relative to the first. What has no line is summed up in a corner: the numbers add up.

    Args:
        image: what to draw on (it is copied).
        query_box: (4,).
        query_label: class name of the query.
        key_boxes: (N_k, 4), all keys and not only the strongest, so that merging finds them.
        key_labels: N_k class names; an object has the name of its strongest key.
        weights: (N_k,), the query's row of the relation weights.
        top: at most so many lines.
        iou: intersection over union above which two regions are one object.

    Returns:
        An image of the same size.

    Raises:
        ValueError: the image, a box, a weight or `top` is not valid, or the lengths disagree.
    """
    canvas, keys = copied_image(image), checked_boxes(key_boxes, "key_boxes")
    query = checked_boxes([query_box], "query_box")
    weights = _checked_weights(weights, len(keys))
    check_length(key_labels, len(keys), "key_labels")
    require(top >= 1, f"top must be at least 1, got {top}.")

    is_self = box_iou(query[0], keys) > iou
    listened = np.where(is_self, 0.0, weights)
    heard = [
        Heard(keys[k], key_labels[k], weight)
        for k, weight in merge_overlapping(keys, listened, iou)
        if weight > 0
    ]
    about_self = float(weights[is_self].sum()) if is_self.any() else None
    return draw_heard(canvas, query[0], query_label, about_self, heard, top)


class Heard(NamedTuple):
    """An object that a query listened to.

    Attributes:
        box: (4,).
        label: class name.
        weight: in 0..1.
        faint: no detection shows it.
    """

    box: Vector
    label: str
    weight: float
    faint: bool = False


def draw_heard(
    image: np.ndarray,
    query_box: Vector,
    query_label: str,
    about_self: float | None,
    heard: Sequence[Heard],
    top: int = 5,
) -> np.ndarray:
    """One query and the objects it listened to: see `draw_relations`, which finds the objects.

    A line leads from border to border, behind objects that it passes, so that every object is seen
    as it is. A faint object stays dimmed in a thin box, and its name is in brackets.

    Args:
        image: what to draw on (it is copied).
        query_box: (4,).
        query_label: class name of the query.
        about_self: its weight on itself, None if it is not among what is listened to.
        heard: the largest weight first.
        top: at most so many lines.

    Returns:
        An image of the same size.

    Raises:
        ValueError: the image or a box is not valid.
    """
    canvas = copied_image(image)
    lines = heard[:top]
    boxes = checked_boxes([query_box, *(one.box for one in lines)], "boxes")
    corners = pixels(boxes, canvas)
    canvas[:] = canvas * 0.4  # dimmed, but for the boxes
    bright = corners[[True, *(not one.faint for one in lines)]]
    for x1, y1, x2, y2 in bright:
        canvas[y1:y2, x1:x2] = image[y1:y2, x1:x2]
    # Thin lines over thick ones, where they would vanish.
    for corner, one in zip(corners[1:], lines, strict=True):
        _draw_line(canvas, corners[0], corner, bright, one.weight / lines[0].weight)
    for corner, one in zip(corners[1:], lines, strict=True):
        color, width = (_FAINT, 0.5) if one.faint else (KEY_COLOR, 1)
        outline(canvas, corner, color, width)
    outline(canvas, corners[0], QUERY_COLOR, width=2)

    self_share = "" if about_self is None else f", self {_percent(about_self)}"
    texts = [f"asks: {query_label}{self_share}"]
    texts += [f"{name_of(one)} {_percent(one.weight)}" for one in lines]
    rest = sum(one.weight for one in heard[top:])
    note = f"all other regions {_percent(rest)}" if rest >= 0.005 else ""
    fills = [QUERY_COLOR] + [_FAINT if one.faint else KEY_COLOR for one in lines]
    draw_labels(canvas, corners, texts, fills, note)
    return canvas


def name_of(one: Heard) -> str:
    """In brackets if no detection shows it: "(dog)"."""
    return f"({one.label})" if one.faint else one.label


def _draw_line(
    canvas: np.ndarray, query: np.ndarray, key: np.ndarray, objects: np.ndarray, relative: float
) -> None:
    """Joins two boxes, dark-edged, with a dot at the key; relative weight in 0..1. Objects (N, 4)
    with neither end inside stay as they are."""
    start, end = _ends(query, key)
    thickness = max(1, round(relative * max(4, min(canvas.shape[:2]) / 45)))
    over = canvas.copy()
    for color, edge in ((DARK, 2), (KEY_COLOR, 0)):
        cv2.line(over, start, end, color, thickness + edge, cv2.LINE_AA)
        cv2.circle(over, end, (thickness + edge) // 2 + 3, color, -1, cv2.LINE_AA)
    for x1, y1, x2, y2 in objects:
        if not any(x1 + 1 < x < x2 - 2 and y1 + 1 < y < y2 - 2 for x, y in (start, end)):
            over[y1:y2, x1:x2] = canvas[y1:y2, x1:x2]
    opacity = 0.3 + 0.7 * relative  # the weakest line is still seen
    cv2.addWeighted(over, opacity, canvas, 1 - opacity, 0, dst=canvas)


def _ends(query: np.ndarray, key: np.ndarray) -> tuple[Point, Point]:
    """Where the way between the centres leaves the query and meets the key; the centres where the
    boxes share that way."""
    (a, b), half = ((box[:2] + box[2:]) / 2 for box in (query, key)), []
    for box in (query, key):
        sides = (box[2:] - box[:2]) / 2
        half.append(1 / max((np.abs(b - a) / sides).max(), 1e-9))  # part of the way inside
    inside = (0.0, 0.0) if sum(half) >= 1 else half
    start, end = a + (b - a) * inside[0], b - (b - a) * inside[1]
    return _point(start), _point(end)


def _point(xy: np.ndarray) -> Point:
    return int(xy[0]), int(xy[1])


def _percent(weight: float) -> str:
    return f"{weight:.0%}" if weight >= 0.01 else "<1%"


def _checked_weights(weights: Vector, count: int) -> np.ndarray:
    array = np.asarray(weights, dtype=np.float64)
    require(array.shape == (count,), f"weights must have shape ({count},), got {array.shape}.")
    good = bool(np.isfinite(array).all() and (array >= 0).all())
    require(good, "weights must be finite and not negative, as a softmax returns them.")
    return array
