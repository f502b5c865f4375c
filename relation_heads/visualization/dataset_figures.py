"""A data set in four pictures: classes, boxes per image, sizes, and which classes come together."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from ..data.statistics import Statistics

_NAMED = 30  # classes beyond this number have no room for their names
_SIZE_LIMITS = (32, 96)  # pixels, between small, medium and large objects of COCO


def dataset_figures(sets: Sequence[tuple[str, Statistics]]) -> Figure:
    """A row of four pictures for each data set, with its name."""
    figure = Figure(figsize=(22, 5.5 * len(sets)), layout="constrained")
    for (name, numbers), row in zip(
        sets, figure.subplots(len(sets), 4, squeeze=False), strict=True
    ):
        _classes(row[0], name, numbers)
        _boxes_per_image(row[1], numbers)
        _sizes(row[2], numbers)
        _together(row[3], numbers)
    return figure


def _classes(axes: Axes, name: str, numbers: Statistics) -> None:
    counts = numbers.class_boxes
    axes.set_title(f"{name}: {len(counts)} classes, {counts.sum()} boxes")
    axes.set_ylabel("boxes")
    places = np.arange(1, len(counts) + 1)
    if len(counts) <= _NAMED:
        axes.bar(places, counts)
        axes.set_xticks(places, numbers.names, rotation=90)
    else:  # a class without a box has no place on this scale
        axes.loglog(places[counts > 0], counts[counts > 0])
        axes.set_xlabel(f"rank of the class ({(counts == 0).sum()} have no box)")


def _boxes_per_image(axes: Axes, numbers: Statistics) -> None:
    counts = numbers.image_boxes
    mean = counts.mean() if len(counts) else 0.0
    axes.set_title(f"{len(counts)} images, {mean:.1f} boxes an image")
    axes.set_xlabel("boxes of an image")
    axes.set_ylabel("images")
    axes.hist(counts, bins=np.arange(min(counts.max(initial=0), 100) + 2) - 0.5)


def _sizes(axes: Axes, numbers: Statistics) -> None:
    sides = numbers.sides[numbers.sides > 0]
    shares = ""
    if len(sides):
        small, large = (sides < _SIZE_LIMITS[0]).mean(), (sides > _SIZE_LIMITS[1]).mean()
        shares = f": {small:.0%} small, {large:.0%} large"
    axes.set_title(f"sizes of boxes{shares}")
    axes.set_xlabel("square root of the area, pixels")
    axes.set_ylabel("boxes")
    axes.set_xscale("log")
    axes.hist(sides, bins=np.geomspace(1, max(sides.max(initial=2), 1000), 50))
    for limit in _SIZE_LIMITS:
        axes.axvline(limit, color="black", linestyle=":")


def _together(axes: Axes, numbers: Statistics) -> None:
    shown = len(numbers.together)
    axes.set_title("of the images with the row, how many have the column")
    picture = axes.imshow(numbers.together, vmin=0, vmax=1, cmap="viridis")
    names = numbers.names[:shown]
    axes.set_xticks(range(shown), names, rotation=90)
    axes.set_yticks(range(shown), names)
    axes.figure.colorbar(picture, ax=axes)
