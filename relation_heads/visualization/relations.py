"""Which regions an attention-like layer listened to, drawn on the image.

For a reference region (the query, blue), the regions of highest relation weight (the keys, yellow;
Hu et al. 2018, "Relation Networks for Object Detection", eq. 3). A line joins them, thicker and
more opaque the larger the weight, with the weight in percent at its end.

Shapes: H heads, N_q queries, N_k keys. Boxes are xyxy in pixels of the image given, float or
integer; images are (height, width, 3) uint8 in BGR order. Nothing is drawn in place: every function
returns a new image. Text is readable from about 500 pixels on: `upscale` small images first.
"""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from typing import NamedTuple

import cv2
import numpy as np

from ..data.box_iou import box_iou, intersection

Color = tuple[int, int, int]
Point = tuple[int, int]
Vector = np.ndarray | Sequence[float]
Boxes = np.ndarray | Sequence[Vector]

QUERY_COLOR: Color = (255, 150, 40)  # blue, BGR
KEY_COLOR: Color = (0, 215, 255)  # yellow
_DARK, _WHITE = (20, 20, 20), (255, 255, 255)
_FAINT: Color = (170, 205, 215)  # grey yellow: of what no detection shows
LEGEND = (
    (QUERY_COLOR, "asks"),
    (KEY_COLOR, "is listened to; a thick line is a large share"),
    (_FAINT, "(name): no detection there"),
)
_FONT = cv2.FONT_HERSHEY_SIMPLEX


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
    boxes = _checked_boxes(boxes, "boxes")
    weights = _checked_weights(weights, len(boxes))
    order, objects = np.argsort(-weights, kind="stable"), []
    while len(order) > 0:
        same = box_iou(boxes[order[0]], boxes[order]) > iou
        same[0] = True  # a box without area overlaps not even itself
        objects.append((int(order[0]), float(weights[order[same]].sum())))
        order = order[~same]
    return sorted(objects, key=lambda pair: -pair[1])


def class_color(name: str) -> Color:
    """BGR colour of a class: a function of its name alone, so the same in every picture."""
    code = zlib.crc32(name.encode())
    hsv = (code % 180, (255, 190, 140)[code // 180 % 3], (255, 205)[code // 540 % 2])
    b, g, r = cv2.cvtColor(np.array([[hsv]], dtype=np.uint8), cv2.COLOR_HSV2BGR)[0, 0]
    return int(b), int(g), int(r)


def upscale(image: np.ndarray, boxes: Boxes, min_side: int) -> tuple[np.ndarray, np.ndarray]:
    """Enlarges a small image by cubic interpolation, and its boxes with it.

    Args:
        image: what to enlarge until its shorter side is `min_side`; never made smaller.
        boxes: (N, 4).
        min_side: pixels.

    Returns:
        The image and the (N, 4) float64 boxes in its pixels.

    Raises:
        ValueError: the image, a box or `min_side` is not valid.
    """
    image, boxes = _copied_image(image), _checked_boxes(boxes, "boxes")
    _require(min_side >= 1, f"min_side must be at least 1 pixel, got {min_side}.")
    height, width = image.shape[:2]
    image = _resized(image, max(1.0, min_side / min(height, width)))
    return image, boxes * np.array([image.shape[1] / width, image.shape[0] / height] * 2)


def draw_detections(
    image: np.ndarray, boxes: Boxes, labels: Sequence[str], scores: Vector | None = None
) -> np.ndarray:
    """Boxes with their class names, every class in its own colour (`class_color`).

    The first box is drawn on top, its label has the first choice of place: pass the best one first.

    Args:
        image: what to draw on (it is copied).
        boxes: (N, 4).
        labels: N class names.
        scores: (N,), printed behind the names.

    Returns:
        An image of the same size.

    Raises:
        ValueError: the image or a box is not valid, or the lengths disagree.
    """
    canvas, boxes = _copied_image(image), _checked_boxes(boxes, "boxes")
    _check_length(labels, len(boxes), "labels")
    texts = list(labels)
    if scores is not None:
        _check_length(scores, len(boxes), "scores")
        texts = [f"{name} {score:.2f}" for name, score in zip(labels, scores, strict=True)]
    corners, colors = _pixels(boxes, canvas), [class_color(name) for name in labels]
    for i in reversed(range(len(corners))):
        _outline(canvas, corners[i], colors[i])
    _draw_labels(canvas, corners, texts, colors)
    return canvas


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
    canvas, keys = _copied_image(image), _checked_boxes(key_boxes, "key_boxes")
    query = _checked_boxes([query_box], "query_box")
    weights = _checked_weights(weights, len(keys))
    _check_length(key_labels, len(keys), "key_labels")
    _require(top >= 1, f"top must be at least 1, got {top}.")

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
    canvas = _copied_image(image)
    lines = heard[:top]
    boxes = _checked_boxes([query_box, *(one.box for one in lines)], "boxes")
    corners = _pixels(boxes, canvas)
    canvas[:] = canvas * 0.4  # dimmed, but for the boxes
    bright = corners[[True, *(not one.faint for one in lines)]]
    for x1, y1, x2, y2 in bright:
        canvas[y1:y2, x1:x2] = image[y1:y2, x1:x2]
    # Thin lines over thick ones, where they would vanish.
    for corner, one in zip(corners[1:], lines, strict=True):
        _draw_line(canvas, corners[0], corner, bright, one.weight / lines[0].weight)
    for corner, one in zip(corners[1:], lines, strict=True):
        color, width = (_FAINT, 0.5) if one.faint else (KEY_COLOR, 1)
        _outline(canvas, corner, color, width)
    _outline(canvas, corners[0], QUERY_COLOR, width=2)

    self_share = "" if about_self is None else f", self {_percent(about_self)}"
    texts = [f"asks: {query_label}{self_share}"]
    texts += [f"{name_of(one)} {_percent(one.weight)}" for one in lines]
    rest = sum(one.weight for one in heard[top:])
    note = f"all other regions {_percent(rest)}" if rest >= 0.005 else ""
    fills = [QUERY_COLOR] + [_FAINT if one.faint else KEY_COLOR for one in lines]
    _draw_labels(canvas, corners, texts, fills, note)
    return canvas


def name_of(one: Heard) -> str:
    """In brackets if no detection shows it: "(dog)"."""
    return f"({one.label})" if one.faint else one.label


def side_by_side(
    images: Sequence[np.ndarray],
    captions: Sequence[str],
    legend: Sequence[tuple[Color, str]] = (),
) -> np.ndarray:
    """Panels of one height in a row on white, each under its caption, over one legend.

    Args:
        images: at least one; all are scaled to the height of the highest.
        captions: one line of text per image.
        legend: colours and what they mean.

    Returns:
        One image.

    Raises:
        ValueError: there is no image, one is not valid, or the lengths disagree.
    """
    _require(len(images) > 0, "side_by_side needs at least one image, got none.")
    _check_length(captions, len(images), "captions")
    panels = [_copied_image(image) for image in images]
    height = max(len(panel) for panel in panels)
    gap, strip = max(4, height // 60), max(16, height // 14)
    sheet: list[np.ndarray] = [np.full((strip + height + gap, gap, 3), 255, dtype=np.uint8)]
    for panel, caption in zip(panels, captions, strict=True):
        panel = _resized(panel, height / len(panel))
        text = _text_patch(caption, strip * 0.45, _WHITE, (strip, panel.shape[1]))
        top, left = (strip - len(text)) // 2, (panel.shape[1] - text.shape[1]) // 2
        column = cv2.copyMakeBorder(panel, strip, gap, 0, gap, cv2.BORDER_CONSTANT, value=_WHITE)
        column[top : top + len(text), left : left + text.shape[1]] = text
        sheet.append(column)
    whole = np.concatenate(sheet, axis=1)
    if legend:
        whole = np.concatenate([whole, _legend(legend, strip, whole.shape[1])])
    return whole


def _legend(entries: Sequence[tuple[Color, str]], height: int, width: int) -> np.ndarray:
    """Squares of colour with words, in the middle of a strip (height, width, 3)."""
    parts = [np.full((height, height // 2, 3), 255, dtype=np.uint8)]
    for color, text in entries:
        square = np.full((height, height, 3), 255, dtype=np.uint8)
        side = (height // 4, height - height // 4)
        _outline(square, np.array([side[0], side[0], side[1], side[1]]), _DARK)
        square[side[0] : side[1], side[0] : side[1]] = color
        words = _text_patch(text, height * 0.36, _WHITE, (height, width))
        top = (height - len(words)) // 2
        column = np.full((height, words.shape[1] + height // 2, 3), 255, dtype=np.uint8)
        column[top : top + len(words), : words.shape[1]] = words
        parts += [square, column]
    row = np.concatenate(parts, axis=1)
    row = _resized(row, min(1.0, width / row.shape[1]))
    strip = np.full((height, width, 3), 255, dtype=np.uint8)
    left = (width - row.shape[1]) // 2
    strip[: len(row), left : left + row.shape[1]] = row
    return strip


def _draw_line(
    canvas: np.ndarray, query: np.ndarray, key: np.ndarray, objects: np.ndarray, relative: float
) -> None:
    """Joins two boxes, dark-edged, with a dot at the key; relative weight in 0..1. Objects (N, 4)
    with neither end inside stay as they are."""
    start, end = _ends(query, key)
    thickness = max(1, round(relative * max(4, min(canvas.shape[:2]) / 45)))
    over = canvas.copy()
    for color, edge in ((_DARK, 2), (KEY_COLOR, 0)):
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


def _outline(canvas: np.ndarray, corners: np.ndarray, color: Color, width: float = 1) -> None:
    x1, y1, x2, y2 = corners.tolist()
    thickness = max(1, round(width * max(1, round(min(canvas.shape[:2]) / 300))))
    cv2.rectangle(canvas, (x1, y1), (x2 - 1, y2 - 1), _DARK, thickness + 2)
    cv2.rectangle(canvas, (x1, y1), (x2 - 1, y2 - 1), color, thickness)


def _draw_labels(
    canvas: np.ndarray, corners: np.ndarray, texts: list[str], colors: list[Color], note: str = ""
) -> None:
    """Writes every text at its box, where it hides least of other texts and boxes."""
    height, width = canvas.shape[:2]
    size = float(np.clip(min(height, width) / 46, 8, 24))
    jobs = list(zip(texts, colors, corners, strict=True))
    jobs += [(note, _DARK, np.array([0, 0, width, height]))] if note else []
    used = np.zeros((0, 4))
    for text, color, (x1, y1, x2, y2) in jobs:
        patch = _text_patch(text, size, color, (height, width))
        h, w = patch.shape[:2]
        spots = [(x1, y1 - h), (x2 - w, y1 - h), (x1, y2), (x2 - w, y2), (x2, y1), (x1 - w, y1)]
        spots += [(x2, y2 - h), (x1 - w, y2 - h), (x1, y2 - h), (x1, y1)]  # the last two inside
        xy = np.clip(spots, 0, [width - w, height - h])  # moved into the picture
        places = np.concatenate([xy, xy + np.array([w, h])], axis=1)
        hidden = [4 * intersection(p, used).sum() + intersection(p, corners).sum() for p in places]
        best = places[np.argmin(hidden)]
        used = np.concatenate([used, [best]])
        canvas[best[1] : best[3], best[0] : best[2]] = patch


def _text_patch(text: str, size: float, fill: Color, space: tuple[int, int]) -> np.ndarray:
    """A filled box with a line of text, capitals `size` pixels high or less to fit the space."""
    (_, capital), below = cv2.getTextSize("Agjy", _FONT, 1.0, 1)
    scale, pad = size / capital, max(2, round(size / 3))
    thickness = 1 if size < 20 else 2
    width = cv2.getTextSize(text, _FONT, scale, thickness)[0][0]
    patch = np.full((round(size + below * scale) + 2 * pad, width + 2 * pad, 3), fill, np.uint8)
    ink = _DARK if np.dot(fill, (0.114, 0.587, 0.299)) > 120 else _WHITE  # brightness of BGR
    cv2.putText(patch, text, (pad, pad + round(size)), _FONT, scale, ink, thickness, cv2.LINE_AA)
    return _resized(patch, min(1.0, space[0] / patch.shape[0], space[1] / patch.shape[1]))


def _resized(image: np.ndarray, factor: float) -> np.ndarray:
    height, width = (max(1, round(side * factor)) for side in image.shape[:2])
    method = cv2.INTER_CUBIC if factor > 1 else cv2.INTER_AREA
    return image if factor == 1 else cv2.resize(image, (width, height), interpolation=method)


def _pixels(boxes: np.ndarray, image: np.ndarray) -> np.ndarray:
    """(N, 4) -> (N, 4) int, moved into the image; x2 and y2 exclusive, at least one pixel."""
    limit = np.array([image.shape[1], image.shape[0]])
    low = np.clip(np.round(boxes[:, :2]), 0, limit - 1)
    return np.hstack([low, np.clip(np.round(boxes[:, 2:]), low + 1, limit)]).astype(np.int64)


def _percent(weight: float) -> str:
    return f"{weight:.0%}" if weight >= 0.01 else "<1%"


def _copied_image(image: np.ndarray) -> np.ndarray:
    image = np.asarray(image)
    good = image.ndim == 3 and image.shape[2] == 3 and image.dtype == np.uint8 and image.size > 0
    _require(good, f"An image must be (height, width, 3) uint8, got {image.shape} {image.dtype}.")
    return image.copy(order="C")


def _checked_boxes(boxes: Boxes, name: str) -> np.ndarray:
    array = np.asarray(boxes, dtype=np.float64)
    array = array if array.shape != (0,) else array.reshape(0, 4)
    good = array.ndim == 2 and array.shape[1] == 4
    _require(good, f"{name} must be xyxy of shape (N, 4), got shape {array.shape}.")
    good = bool(np.isfinite(array).all() and (array[:, :2] <= array[:, 2:]).all())
    _require(good, f"{name} must be finite xyxy with x1 <= x2 and y1 <= y2.")
    return array


def _checked_weights(weights: Vector, count: int) -> np.ndarray:
    array = np.asarray(weights, dtype=np.float64)
    _require(array.shape == (count,), f"weights must have shape ({count},), got {array.shape}.")
    good = bool(np.isfinite(array).all() and (array >= 0).all())
    _require(good, "weights must be finite and not negative, as a softmax returns them.")
    return array


def _check_length(values: Sequence[object] | np.ndarray, count: int, name: str) -> None:
    _require(len(values) == count, f"{name} must have {count} entries, got {len(values)}.")


def _require(condition: bool, sentence: str) -> None:
    if not condition:
        raise ValueError(sentence)
