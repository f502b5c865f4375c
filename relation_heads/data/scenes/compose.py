"""Composition of Relational Scenes: which objects stand where (numpy only).

No object's own position or size reveals its class: it is drawn from its partner's, whose range is
wide enough that both answers are equally likely at every value of the object. Nor do neighbours
reveal it: objects of opposite classes keep as far apart as object and partner. Boxes are xyxy in
whole pixels, their right and bottom edges exclusive.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

import numpy as np

from ..box_iou import box_iou

Box = tuple[int, int, int, int]

_SIDES = ("left_of_pole", "right_of_pole")
_SIZES = ("smaller_than_castle", "larger_than_castle")
_PLAIN = ("disc", "triangle", "cross", "ring")
_BORDER, _MARGIN = 2, 3  # px to the image edge, px between the boxes of different objects
_SIDE = (16, 28)  # px, objects of all groups but size and crowd
_DIRECTION_OFFSET = (16, 36)  # px between the centre columns of object and pole
_DIRECTION_DRAWS = (2, 3)  # candidates per scene; about half stay in the band
_DIRECTION_EDGE = 12  # px, closest centre column of a pole to the image edge
_SIZE_SIDE = (14, 36)  # px, objects of the size group
_SIZE_RATIO = (1.3, 1.5)  # larger side / smaller side
_SIZE_DRAWS = (3, 4)
_CROWD_SIDE = (28, 44)  # px
_PLACE_TRIES, _LAYOUT_TRIES = 60, 30


def _gap(a: Box, b: Box) -> int:
    """Chebyshev distance between the edges of two boxes; negative when they overlap."""
    return max(a[0] - b[2], b[0] - a[2], a[1] - b[3], b[1] - a[3])


class _Layout:
    """The objects placed so far in a scene under construction."""

    def __init__(self, rng: np.random.Generator, size: int, min_gap: float) -> None:
        self.rng, self.size, self.min_gap = rng, size, min_gap
        self.names: list[str] = []
        self.boxes: list[Box] = []

    def side(self, bounds: tuple[float, float] = _SIDE) -> tuple[float, float]:
        """Width and height of an object: +-10 % aspect."""
        side = self.rng.uniform(*bounds)
        return side, side * self.rng.uniform(0.9, 1.1)

    def box(self, width: float, height: float, x: float, y: float) -> Box:
        """The whole-pixel box nearest to a centre and a size."""
        w, h = round(width), round(height)
        x0, y0 = round(x - w / 2), round(y - h / 2)
        return x0, y0, x0 + w, y0 + h

    def is_free(self, box: Box, others: list[Box] | None = None) -> bool:
        inside = min(box[:2]) >= _BORDER and max(box[2:]) <= self.size - _BORDER
        others = self.boxes if others is None else others
        return inside and all(_gap(box, other) >= _MARGIN for other in others)

    def add(self, name: str, box: Box) -> None:
        self.names.append(name)
        self.boxes.append(box)

    def place(
        self,
        name: str,
        width: float,
        height: float,
        *,
        x: float | None = None,
        away_from: Sequence[str] = (),
    ) -> bool:
        """Places an object at random (at centre column `x` if given) and says whether it fitted.

        It keeps `min_gap` to the objects of the classes `away_from`.
        """
        placed = zip(self.names, self.boxes, strict=True)
        avoided = [box for other, box in placed if other in away_from]
        for _ in range(_PLACE_TRIES):
            centre_x = self.rng.uniform(0, self.size) if x is None else x
            box = self.box(width, height, centre_x, self.rng.uniform(0, self.size))
            if self.is_free(box) and all(_gap(box, a) >= self.min_gap for a in avoided):
                self.add(name, box)
                return True
        return False

    def place_all(self, steps: Sequence[Callable[[], bool]]) -> bool:
        """Repeats all steps from an empty scene until all fit.

        Leaving out what does not fit would favour the arrangements, and so the classes, that take
        less room.
        """
        for _ in range(_LAYOUT_TRIES):
            self.names.clear()
            self.boxes.clear()
            if all(step() for step in steps):
                return True
        return False

    def place_plain(self) -> bool:
        return self.place(_PLAIN[self.rng.integers(len(_PLAIN))], *self.side())


# ---- motifs: each places the objects of one group and says whether enough of them found room ----


def _place_around_first(layout: _Layout, name: str) -> bool:
    """Two to four objects of one class, away from the object that is in the scene already."""
    partner = layout.names[:1]
    wanted = layout.rng.integers(2, 5)
    placed = sum(layout.place(name, *layout.side(), away_from=partner) for _ in range(wanted))
    return placed >= 2


def _plain(layout: _Layout) -> bool:
    return all([layout.place_plain() for _ in range(layout.rng.integers(3, 6))])


def _co_occurrence(layout: _Layout) -> bool:
    partner = ("sun", "moon", "heart", "leaf")[layout.rng.integers(4)]
    layout.place(partner, *layout.side())
    return _place_around_first(layout, f"square_with_{partner}")


def _rare(layout: _Layout, flag_probability: float) -> bool:
    if layout.rng.random() < flag_probability:
        layout.place("flag", *layout.side())
        return _place_around_first(layout, "hexagon_with_flag")
    layout.place_plain()  # in the flag's place, so that both kinds of scene are arranged alike
    return _place_around_first(layout, "hexagon")


def _direction(layout: _Layout) -> bool:
    """The pole's column ranges over the objects' band plus the largest offset on both sides.

    Offsets that leave the band are dropped, not drawn again: then every (pole, object) pair of
    columns is equally likely, and at each object column both sides are. Objects of different
    sides keep the gap too: near each other they would tell which of them is the left one.
    """
    rng, offset = layout.rng, _DIRECTION_OFFSET[1]
    low, high = _DIRECTION_EDGE + offset, layout.size - _DIRECTION_EDGE - offset
    if low >= high:
        return False
    pole_x = rng.uniform(low - offset, high + offset)
    steps = [partial(layout.place, "pole", rng.uniform(7, 10), rng.uniform(20, 30), x=pole_x)]
    for _ in range(rng.integers(*_DIRECTION_DRAWS, endpoint=True)):
        side = rng.integers(2)
        x = pole_x + (2 * side - 1) * rng.uniform(*_DIRECTION_OFFSET)
        if low <= x <= high:
            away_from = ("pole", _SIDES[1 - side])
            steps.append(
                partial(layout.place, _SIDES[side], *layout.side(), x=x, away_from=away_from)
            )
    return len(steps) > 1 and layout.place_all(steps)


def _size(layout: _Layout) -> bool:
    """As `_direction`, in log side length instead of position; all boxes are square."""
    rng, ratio_range = layout.rng, np.log(_SIZE_RATIO)
    low, high = np.log(_SIZE_SIDE)
    log_castle = rng.uniform(low - ratio_range[1], high + ratio_range[1])
    steps = [partial(layout.place, "castle", np.exp(log_castle), np.exp(log_castle))]
    for _ in range(rng.integers(*_SIZE_DRAWS, endpoint=True)):
        larger = rng.integers(2)
        log_side = log_castle + (2 * larger - 1) * rng.uniform(*ratio_range)
        if low <= log_side <= high:
            side, away_from = np.exp(log_side), ("castle", _SIZES[1 - larger])
            steps.append(partial(layout.place, _SIZES[larger], side, side, away_from=away_from))
    return len(steps) > 1 and layout.place_all(steps)


def _crowd(layout: _Layout, iou_range: tuple[float, float]) -> bool:
    return all([_cluster(layout, iou_range) for _ in range(layout.rng.integers(1, 3))])


def _cluster(layout: _Layout, iou_range: tuple[float, float]) -> bool:
    """Two or three ovals, each overlapping the one before with an IoU in the range."""
    rng, others = layout.rng, list(layout.boxes)
    width, height = rng.uniform(*_CROWD_SIDE, 2)
    if not layout.place("oval", width, height):
        return False
    cluster = layout.boxes[-1:]
    wanted = rng.integers(2, 4)
    for _ in range(_PLACE_TRIES):
        if len(cluster) == wanted:
            break
        x0, y0, x1, y1 = cluster[-1]
        angle, distance = rng.uniform(0, 2 * np.pi), rng.uniform(0, 0.5 * _CROWD_SIDE[1])
        x, y = (x0 + x1) / 2 + distance * np.cos(angle), (y0 + y1) / 2 + distance * np.sin(angle)
        scale = rng.uniform(0.9, 1.1, 2)
        box = layout.box(width * scale[0], height * scale[1], x, y)
        ious = box_iou(np.array(box), np.array(cluster))
        in_range = iou_range[0] <= ious[-1] and ious.max() <= iou_range[1]
        if in_range and layout.is_free(box, others):
            cluster.append(box)
            layout.add("oval", box)
    return len(cluster) == wanted


def compose_layout(
    rng: np.random.Generator,
    group: str,
    size: int,
    min_gap: float,
    flag_probability: float,
    crowd_iou: tuple[float, float],
) -> tuple[list[str], list[Box]] | None:
    """Tries once to compose a scene; the arguments are those of `compose_scene`.

    Returns:
        Class names and boxes of the N objects, or None where the objects found no room.
    """
    motifs: dict[str, Callable[[_Layout], bool]] = {
        "plain": _plain,
        "co-occurrence": _co_occurrence,
        "direction": _direction,
        "size": _size,
        "crowd": partial(_crowd, iou_range=crowd_iou),
        "rare": partial(_rare, flag_probability=flag_probability),
    }
    layout = _Layout(rng, size, min_gap)
    if not motifs[group](layout):
        return None
    for _ in range(rng.integers(1, 4)):
        layout.place_plain()
    return layout.names, layout.boxes
