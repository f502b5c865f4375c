"""Boxes with labels on an image, and pictures in a row.

Boxes are xyxy in pixels of the image given, float or integer; images are (height, width, 3) uint8
in BGR order. The functions that return an image draw nothing in place. Text is readable from about
500 pixels on: `upscale` small images first.
"""

from __future__ import annotations

import zlib
from collections.abc import Sequence

import cv2
import numpy as np

from ..data.box_iou import intersection

Color = tuple[int, int, int]
Vector = np.ndarray | Sequence[float]
Boxes = np.ndarray | Sequence[Vector]

DARK, _WHITE = (20, 20, 20), (255, 255, 255)
_FONT = cv2.FONT_HERSHEY_SIMPLEX


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
    image, boxes = copied_image(image), checked_boxes(boxes, "boxes")
    require(min_side >= 1, f"min_side must be at least 1 pixel, got {min_side}.")
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
    canvas, boxes = copied_image(image), checked_boxes(boxes, "boxes")
    check_length(labels, len(boxes), "labels")
    texts = list(labels)
    if scores is not None:
        check_length(scores, len(boxes), "scores")
        texts = [f"{name} {score:.2f}" for name, score in zip(labels, scores, strict=True)]
    corners, colors = pixels(boxes, canvas), [class_color(name) for name in labels]
    for i in reversed(range(len(corners))):
        outline(canvas, corners[i], colors[i])
    draw_labels(canvas, corners, texts, colors)
    return canvas


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
    require(len(images) > 0, "side_by_side needs at least one image, got none.")
    check_length(captions, len(images), "captions")
    panels = [copied_image(image) for image in images]
    height = max(len(panel) for panel in panels)
    gap, strip = max(4, height // 60), max(16, height // 14)
    sheet: list[np.ndarray] = [np.full((strip + height + gap, gap, 3), 255, dtype=np.uint8)]
    for panel, caption in zip(panels, captions, strict=True):
        panel = _resized(panel, height / len(panel))
        text = text_patch(caption, strip * 0.45, _WHITE, (strip, panel.shape[1]))
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
        outline(square, np.array([side[0], side[0], side[1], side[1]]), DARK)
        square[side[0] : side[1], side[0] : side[1]] = color
        words = text_patch(text, height * 0.36, _WHITE, (height, width))
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


def outline(canvas: np.ndarray, corners: np.ndarray, color: Color, width: float = 1) -> None:
    """A box (4,), thicker in a larger image, with a dark edge; drawn in place."""
    x1, y1, x2, y2 = corners.tolist()
    thickness = max(1, round(width * max(1, round(min(canvas.shape[:2]) / 300))))
    cv2.rectangle(canvas, (x1, y1), (x2 - 1, y2 - 1), DARK, thickness + 2)
    cv2.rectangle(canvas, (x1, y1), (x2 - 1, y2 - 1), color, thickness)


def draw_labels(
    canvas: np.ndarray, corners: np.ndarray, texts: list[str], colors: list[Color], note: str = ""
) -> None:
    """Writes every text at its box, where it hides least of other texts and boxes; in place.
    A note has the whole image as its box."""
    height, width = canvas.shape[:2]
    size = float(np.clip(min(height, width) / 46, 8, 24))
    jobs = list(zip(texts, colors, corners, strict=True))
    jobs += [(note, DARK, np.array([0, 0, width, height]))] if note else []
    used = np.zeros((0, 4))
    for text, color, (x1, y1, x2, y2) in jobs:
        patch = text_patch(text, size, color, (height, width))
        h, w = patch.shape[:2]
        spots = [(x1, y1 - h), (x2 - w, y1 - h), (x1, y2), (x2 - w, y2), (x2, y1), (x1 - w, y1)]
        spots += [(x2, y2 - h), (x1 - w, y2 - h), (x1, y2 - h), (x1, y1)]  # the last two inside
        xy = np.clip(spots, 0, [width - w, height - h])  # moved into the picture
        places = np.concatenate([xy, xy + np.array([w, h])], axis=1)
        hidden = [4 * intersection(p, used).sum() + intersection(p, corners).sum() for p in places]
        best = places[np.argmin(hidden)]
        used = np.concatenate([used, [best]])
        canvas[best[1] : best[3], best[0] : best[2]] = patch


def text_patch(text: str, size: float, fill: Color, space: tuple[int, int]) -> np.ndarray:
    """A filled box with a line of text, capitals `size` pixels high or less to fit the space."""
    (_, capital), below = cv2.getTextSize("Agjy", _FONT, 1.0, 1)
    scale, pad = size / capital, max(2, round(size / 3))
    thickness = 1 if size < 20 else 2
    width = cv2.getTextSize(text, _FONT, scale, thickness)[0][0]
    patch = np.full((round(size + below * scale) + 2 * pad, width + 2 * pad, 3), fill, np.uint8)
    ink = DARK if np.dot(fill, (0.114, 0.587, 0.299)) > 120 else _WHITE  # brightness of BGR
    cv2.putText(patch, text, (pad, pad + round(size)), _FONT, scale, ink, thickness, cv2.LINE_AA)
    return _resized(patch, min(1.0, space[0] / patch.shape[0], space[1] / patch.shape[1]))


def _resized(image: np.ndarray, factor: float) -> np.ndarray:
    height, width = (max(1, round(side * factor)) for side in image.shape[:2])
    method = cv2.INTER_CUBIC if factor > 1 else cv2.INTER_AREA
    return image if factor == 1 else cv2.resize(image, (width, height), interpolation=method)


def pixels(boxes: np.ndarray, image: np.ndarray) -> np.ndarray:
    """(N, 4) -> (N, 4) int, moved into the image; x2 and y2 exclusive, at least one pixel."""
    limit = np.array([image.shape[1], image.shape[0]])
    low = np.clip(np.round(boxes[:, :2]), 0, limit - 1)
    return np.hstack([low, np.clip(np.round(boxes[:, 2:]), low + 1, limit)]).astype(np.int64)


def copied_image(image: np.ndarray) -> np.ndarray:
    """The image, in memory of its own. Raises ValueError if it is none."""
    image = np.asarray(image)
    good = image.ndim == 3 and image.shape[2] == 3 and image.dtype == np.uint8 and image.size > 0
    require(good, f"An image must be (height, width, 3) uint8, got {image.shape} {image.dtype}.")
    return image.copy(order="C")


def checked_boxes(boxes: Boxes, name: str) -> np.ndarray:
    """(N, 4) float64. Raises ValueError, with the name of the argument, if they are no boxes."""
    array = np.asarray(boxes, dtype=np.float64)
    array = array if array.shape != (0,) else array.reshape(0, 4)
    good = array.ndim == 2 and array.shape[1] == 4
    require(good, f"{name} must be xyxy of shape (N, 4), got shape {array.shape}.")
    good = bool(np.isfinite(array).all() and (array[:, :2] <= array[:, 2:]).all())
    require(good, f"{name} must be finite xyxy with x1 <= x2 and y1 <= y2.")
    return array


def check_length(values: Sequence[object] | np.ndarray, count: int, name: str) -> None:
    """Raises ValueError, with the name of the argument, for another length."""
    require(len(values) == count, f"{name} must have {count} entries, got {len(values)}.")


def require(condition: bool, sentence: str) -> None:
    """Raises ValueError with the sentence."""
    if not condition:
        raise ValueError(sentence)
