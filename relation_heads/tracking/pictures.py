"""Frames of a video in a row, with the identity of every object in a colour of its own, and who an
object listened to."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ..layers import Regions
from ..layers.association import Association
from ..visualization.canvas import draw_detections, side_by_side, upscale
from ..visualization.relations import Heard, draw_heard

MIN_SIDE = 320  # pixels of a frame in a row of them


@dataclass(frozen=True, eq=False)
class Shown:
    """One frame with N objects.

    Attributes:
        frame: its number, from 1.
        image: (H, W, 3) uint8 BGR.
        boxes: (N, 4) x1 y1 x2 y2 in pixels.
        ids: (N,) identities.
    """

    frame: int
    image: np.ndarray
    boxes: np.ndarray
    ids: np.ndarray


def strip(frames: Sequence[Shown]) -> np.ndarray:
    """At least one frame, in a row: (H', W', 3) uint8 BGR."""
    panels = []
    for one in frames:
        image, boxes = upscale(one.image, one.boxes, MIN_SIDE)
        panels.append(draw_detections(image, boxes, [str(k) for k in one.ids.tolist()]))
    return side_by_side(panels, [f"frame {one.frame}" for one in frames])


@torch.no_grad()
def listened(
    association: Association, boxes: Tensor, features: Tensor, image_size: tuple[int, int]
) -> Tensor:
    """w: how much each detection of a frame (row) listened to each other one, (N, N), the mean over
    the heads; rows sum to 1.

    Args:
        association: with a relation of the objects in a frame.
        boxes: (N, 4) pixels.
        features: (N, D) phi_a.
        image_size: (H, W).

    Raises:
        ValueError: its objects do not see one another.
    """
    if association.spatial is None:
        raise ValueError("This association has no spatial relation: nobody listens to anybody.")
    regions = Regions(boxes, (len(boxes),), (image_size,))
    return association.spatial.weights(features, regions)[0].mean(dim=0)


def draw_listened(shown: Shown, weights: np.ndarray, identity: int, top: int = 5) -> np.ndarray:
    """Lines from one object to those that it listened to: (H', W', 3) uint8 BGR.

    Args:
        shown: the frame.
        weights: (N, N) of its objects, see `listened`.
        identity: whose lines.
        top: at most so many.

    Raises:
        ValueError: the frame has no such identity.
    """
    if identity not in shown.ids:
        raise ValueError(f"Frame {shown.frame} has the identities {shown.ids.tolist()}, "
                         f"not {identity}.")  # fmt: skip
    image, boxes = upscale(shown.image, shown.boxes, MIN_SIDE)
    row = int(np.flatnonzero(shown.ids == identity)[0])
    others = [n for n in np.argsort(-weights[row], kind="stable") if n != row]
    heard = [Heard(boxes[n], str(shown.ids[n]), float(weights[row, n])) for n in others]
    return draw_heard(image, boxes[row], str(identity), float(weights[row, row]), heard, top)
