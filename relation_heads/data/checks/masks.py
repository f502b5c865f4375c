"""What is wrong or odd in the masks of a data set in COCO format.

A mask is a list of polygons [x1, y1, x2, y2, ...], or run lengths {size, counts}: the lengths of
background, object, background, ... down the columns, as a list or as COCO's text.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from itertools import chain
from typing import Any

import numpy as np

from .annotations import SLACK, Table, image_sizes, row_label
from .findings import Finding, found

_BOX_SLACK = 2.0  # pixels between the edges of a mask and those of its box
# What can be remarkable about a mask: level, what, advice.
_KINDS = {
    "bad": (
        "problem",
        "that is neither a list of polygons nor run lengths {{'size', 'counts'}}",
        "loading or training fails: correct them, or remove 'segmentation'",
    ),
    "size": (
        "problem",
        "in run lengths of another size than [height, width] of the image",
        "they cover other pixels than meant, or training fails",
    ),
    "broken": (
        "problem",
        "in run lengths that do not add up to height * width, or are no text of COCO",
        "training fails, or they cover other pixels than meant: make them again",
    ),
    "empty": (
        "warning",
        "without a polygon of three points or more",
        "training leaves them out, the evaluation does not: correct them, or remove 'segmentation'",
    ),
    "nothing": (
        "warning",
        "in run lengths without a pixel",
        "nothing can be learned from them, and nothing detected: correct them",
    ),
    "some": (
        "warning",
        "of which a polygon has an odd number of coordinates or less than three points",
        "Detectron2 leaves such a polygon out and trains on the others",
    ),
    "outside": (
        "warning",
        "that has points more than 1 pixel outside the image",
        "they are cut off",
    ),
    "rle": (
        "fact",
        "in run lengths",
        "models with masks need INPUT.MASK_FORMAT bitmask for them",
    ),
}
_Extent = tuple[float, float, float, float]  # x1, y1, x2, y2


def mask_findings(dataset: Mapping[str, Any], table: Table) -> Iterator[Finding]:
    """What is wrong or odd in masks.

    Args:
        dataset: the content of the JSON file, without `type_findings`.
        table: its annotations.
    """
    masked = np.flatnonzero(table.masked)
    if not len(masked):
        return
    annotations, sizes = dataset["annotations"], image_sizes(dataset["images"])
    label = row_label(dataset, table)
    rows: dict[str | None, list[int]] = {}
    extents = np.full((len(table.at), 4), math.nan)
    for row in masked.tolist():
        mask = annotations[table.at[row]]["segmentation"]
        kind, extent = inspect_mask(mask, *sizes[table.image[row]].tolist())
        if extent:
            extents[row] = extent
        if not (kind == "rle" and table.crowd[row]):  # crowds are not trained on
            rows.setdefault(kind, []).append(row)
    for kind, (level, what, advice) in _KINDS.items():
        what = f"annotation{{s}} with a mask {what}"
        yield from found(level, rows.get(kind, []), what, advice, label)
    yield from found(
        "warning",
        np.flatnonzero(~table.masked & ~table.crowd),
        "annotation{s} without 'segmentation', while others have one",
        "models with masks cannot be trained on these images",
        label,
    )
    corners = np.hstack([table.boxes[:, :2], table.boxes[:, :2] + table.boxes[:, 2:]])
    apart = np.abs(extents - corners).max(axis=1)  # NaN is not above
    yield from found(
        "warning",
        np.flatnonzero((apart > _BOX_SLACK) & (table.boxes[:, 2:] > 0).all(axis=1)),
        f"annotation{{s}} whose box is not that of its mask, by more than {_BOX_SLACK:g} pixels",
        "boxes and masks are trained and evaluated as two objects: correct one of them",
        lambda row: f"{label(row)}, by {apart[row]:.4g}",
    )


def inspect_mask(mask: Any, width: float, height: float) -> tuple[str | None, _Extent | None]:
    """A key of `_KINDS`, or None if all is well, and where the mask is in its image.

    Args:
        mask: of an annotation.
        width: of the image, in pixels; NaN if it is not known.
        height: likewise.
    """
    if isinstance(mask, Mapping):
        return _inspect_runs(mask, width, height)
    if not isinstance(mask, list) or not all(isinstance(polygon, list) for polygon in mask):
        return "bad", None
    polygons = [polygon for polygon in mask if len(polygon) % 2 == 0 and len(polygon) >= 6]
    if not polygons:
        return "empty", None
    values = [*chain.from_iterable(polygons)]
    if not set(map(type, values)) <= {int, float} or not all(map(math.isfinite, values)):
        return "bad", None
    x, y = ([v for polygon in polygons for v in polygon[axis::2]] for axis in (0, 1))
    extent = min(x), min(y), max(x), max(y)
    if len(polygons) < len(mask):
        return "some", None
    if min(extent) < -SLACK or extent[2] > width + SLACK or extent[3] > height + SLACK:
        return "outside", None
    return None, extent


def _inspect_runs(
    mask: Mapping[str, Any], width: float, height: float
) -> tuple[str, _Extent | None]:
    if not {"size", "counts"} <= mask.keys():
        return "bad", None
    if mask["size"] != [height, width]:
        return "size", None
    runs = run_lengths(mask["counts"])
    if runs is None or (runs < 0).any() or runs.sum() != height * width:
        return "broken", None
    extent = run_extent(runs, int(height))
    return ("rle", extent) if extent else ("nothing", None)


def run_lengths(counts: Any) -> np.ndarray | None:
    """(R,) int64 run lengths of a list or of COCO's text; None if they are neither.

    The text has 6 bits per character, of which 5 are of a number, the lower ones first, and one
    says that it goes on. From the fourth on a number is the difference to the one before the last.
    """
    if isinstance(counts, list):
        if not all(type(count) is int and abs(count) < 1 << 53 for count in counts):
            return None
        return np.array(counts, np.int64)
    if not isinstance(counts, str) or not counts.isascii():
        return None
    codes = np.frombuffer(counts.encode("ascii"), np.uint8).astype(np.int64) - 48
    if not len(codes):
        return codes
    ends = np.flatnonzero(codes & 32 == 0)
    if codes.min() < 0 or codes.max() > 63 or codes[-1] & 32:
        return None
    starts = np.concatenate([[0], ends[:-1] + 1])
    lengths = ends - starts + 1
    if lengths.max() > 7:  # above 32 bits
        return None
    shifts = 5 * (np.arange(len(codes)) - np.repeat(starts, lengths))
    runs = np.add.reduceat((codes & 31) << shifts, starts)
    runs[codes[ends] & 16 > 0] -= 1 << 5 * lengths[codes[ends] & 16 > 0]
    runs[1::2] = runs[1::2].cumsum()
    runs[2::2] = runs[2::2].cumsum()
    return runs


def run_extent(runs: np.ndarray, height: int) -> _Extent | None:
    """Where the object is, in pixels; x2 and y2 are behind its last column and row.

    Args:
        runs: (R,) lengths, none negative.
        height: of the mask.
    """
    ends = runs.cumsum()
    full = runs[1::2] > 0
    first, last = (ends - runs)[1::2][full], ends[1::2][full] - 1
    if not len(first):
        return None
    left, right = int(first[0]) // height, int(last[-1]) // height + 1
    if (first // height != last // height).any():  # on from the last row to the first one
        return left, 0, right, height
    return left, int((first % height).min()), right, int((last % height).max()) + 1
