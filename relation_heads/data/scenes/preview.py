"""A labelled picture of Relational Scenes."""

from __future__ import annotations

import cv2
import numpy as np

from .scenes import CLASSES, MIX, Scene, compose_scenes, render

_SCENES_PER_GROUP = 4
_ZOOM = 3
_FONT, _FONT_SCALE = cv2.FONT_HERSHEY_SIMPLEX, 0.42


def _write_label(image: np.ndarray, text: str, x: int, y: int, scale: float = _FONT_SCALE) -> None:
    """White text on black with its lower left corner at (x, y), moved into the image."""
    (width, height), base = cv2.getTextSize(text, _FONT, scale, 1)
    x = max(0, min(x, image.shape[1] - width))
    y = max(height + base, min(y, image.shape[0]))
    cv2.rectangle(image, (x, y - height - base), (x + width, y), (0, 0, 0), -1)
    cv2.putText(image, text, (x, y - base + 1), _FONT, scale, (255, 255, 255), 1, cv2.LINE_AA)


def labelled(scene: Scene) -> np.ndarray:
    """The scene enlarged, with its boxes and class names; ``(H, W, 3)`` uint8 BGR."""
    image = cv2.resize(render(scene), None, fx=_ZOOM, fy=_ZOOM, interpolation=cv2.INTER_NEAREST)
    boxes = (scene.boxes * _ZOOM).astype(int).tolist()
    for x0, y0, x1, y1 in boxes:
        cv2.rectangle(image, (x0, y0), (x1 - 1, y1 - 1), (255, 255, 255), 1)
    shown: list[tuple[int, int, int]] = []
    for (x, _, _, y), label in zip(boxes, scene.classes.tolist(), strict=True):
        # The labels of overlapping ovals would cover each other; one is enough.
        if not any(k == label and abs(x - a) < 60 and abs(y - b) < 30 for k, a, b in shown):
            _write_label(image, CLASSES[label], x, y + 14)
            shown.append((label, x, y))
    return image


def contact_sheet(seed: int) -> np.ndarray:
    """One row per group; half of the scenes of group `rare` have the flag."""
    rows = []
    for group in MIX:
        scenes = compose_scenes(_SCENES_PER_GROUP, seed, mix={group: 1}, flag_probability=0.5)
        row = np.hstack([cv2.copyMakeBorder(labelled(s), 2, 2, 2, 2, 0) for s in scenes])
        _write_label(row, group, 6, 26, scale=0.8)
        rows.append(row)
    return np.vstack(rows)
