"""Text files of MOTChallenge: ground truth, detections and results of a tracker.

    1,3,794.2,47.5,71.2,174.8,0.9,-1,-1,-1
    frame, identity, left, top, width, height, confidence, and three numbers that are not read

Frames count from 1. Pixels count from 1 in these files and from 0 in this package, so that 1 is
taken from left and top when a file is read and added when it is written: a box of the file that
begins at 1, 1 begins at the corner of the image. In ground truth a confidence of 0 marks an object
that does not count.

Source: Leal-Taixé et al., "MOTChallenge 2015", arXiv 1504.01942, section 4.2. Files of MOT16 and
later hold a class in the eighth column, which is not read either.
"""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ..data.files import read_text, replacing

DIGITS = 6  # after the point, of what is written: less than float64 has, more than a box needs
COLUMNS = ("frame", "identity", "left", "top", "width", "height", "confidence")


@dataclass(frozen=True, eq=False)
class MotRows:
    """Boxes of one sequence, in any order.

    Attributes:
        frames: (R,) int64, from 1.
        ids: (R,) int64 identities, from 0; -1 for detections, which have none.
        boxes: (R, 4) float64 x1, y1, x2, y2 in pixels from 0.
        scores: (R,) float64.
    """

    frames: NDArray[np.int64]
    ids: NDArray[np.int64]
    boxes: NDArray[np.float64]
    scores: NDArray[np.float64]

    def __post_init__(self) -> None:
        rows = len(self.frames)
        wanted = {
            "frames": ((rows,), np.int64),
            "ids": ((rows,), np.int64),
            "boxes": ((rows, 4), np.float64),
            "scores": ((rows,), np.float64),
        }
        for name, (shape, dtype) in wanted.items():
            array = getattr(self, name)
            if array.shape != shape or array.dtype != dtype:
                raise ValueError(
                    f"MotRows.{name} must be {np.dtype(dtype)} of shape {shape}, "
                    f"got {array.dtype} of shape {array.shape}."
                )

    def __len__(self) -> int:
        return len(self.frames)

    @classmethod
    def together(cls, parts: Sequence[MotRows]) -> MotRows:
        """The rows of all parts, of which there may be none."""
        none = np.empty(0, dtype=np.int64)
        parts = [cls(none, none, np.empty((0, 4)), np.empty(0)), *parts]
        return cls(
            frames=np.concatenate([part.frames for part in parts]),
            ids=np.concatenate([part.ids for part in parts]),
            boxes=np.concatenate([part.boxes for part in parts]),
            scores=np.concatenate([part.scores for part in parts]),
        )

    @property
    def last(self) -> int:
        """The last frame with a row, 0 without rows."""
        return int(self.frames.max(initial=0))

    def by_frame(self, last: int | None = None) -> list[NDArray[np.int64]]:
        """Indices of the rows of frames 1, 2, ... to `last` (by default that of these rows), each
        (N,) in the order of the rows."""
        last = self.last if last is None else last
        order = np.argsort(self.frames, kind="stable")
        ends = np.searchsorted(self.frames[order], np.arange(1, last + 1), side="right")
        return np.split(order, ends)[:last]

    def take(self, rows: NDArray[np.int64] | NDArray[np.bool_]) -> MotRows:
        """The rows of these indices (M,), in that order, or of a mask (R,)."""
        return MotRows(self.frames[rows], self.ids[rows], self.boxes[rows], self.scores[rows])


def read_mot(path: str | os.PathLike[str]) -> MotRows:
    """The boxes of a MOT text file, in its order. A file without lines has none.

    Raises:
        OSError: it cannot be read.
        ValueError: it is not UTF-8; a line has fewer than seven numbers, a frame below 1, an
            identity below -1, a box without a size, or an identity that its frame has already;
            names file, line and value.
    """
    rows: list[list[float]] = []
    lines: dict[tuple[float, float], int] = {}  # frame and identity -> line
    for number, line in enumerate(read_text(Path(path)).splitlines(), start=1):
        if not line.strip():
            continue
        try:
            row = _numbers(line)
            if row[1] >= 0:
                first = lines.setdefault((row[0], row[1]), number)
                if first != number:
                    raise ValueError(
                        f"frame {row[0]:.0f} has identity {row[1]:.0f} already, in line {first}"
                    )
        except ValueError as error:
            raise ValueError(f"{path}, line {number}: {error}.") from None
        rows.append(row)
    table = np.array(rows, dtype=np.float64).reshape(-1, len(COLUMNS))
    start = table[:, 2:4] - 1
    return MotRows(
        frames=table[:, 0].astype(np.int64),
        ids=table[:, 1].astype(np.int64),
        boxes=np.concatenate([start, start + table[:, 4:6]], axis=1),
        scores=table[:, 6],
    )


def _numbers(line: str) -> list[float]:
    """The first seven columns of a line."""
    words = line.split(",")[: len(COLUMNS)]
    if len(words) < len(COLUMNS):
        raise ValueError(f"must have {', '.join(COLUMNS)}, got {line.strip()!r}")
    row = []
    for name, word in zip(COLUMNS, words, strict=True):
        try:
            value = float(word)
        except ValueError:
            value = math.nan
        if not math.isfinite(value):
            raise ValueError(f"{name} must be a number, got {word.strip()!r}")
        row.append(value)
    allowed = {
        "frame": (row[0] >= 1 and row[0].is_integer(), "a whole number from 1"),
        "identity": (row[1] >= -1 and row[1].is_integer(), "a whole number from -1"),
        "width": (row[4] > 0, "above 0"),
        "height": (row[5] > 0, "above 0"),
    }
    for name, (right, what) in allowed.items():
        if not right:
            raise ValueError(f"{name} must be {what}, got {words[COLUMNS.index(name)].strip()!r}")
    return row


def write_mot(rows: MotRows, path: str | os.PathLike[str]) -> None:
    """Writes boxes as a MOT text file, in their order, to a millionth of a pixel; makes its folder.

    Raises:
        OSError: it cannot be written.
        ValueError: a box has no size, or is not finite; names its frame.
    """
    start, size = rows.boxes[:, :2] + 1, rows.boxes[:, 2:] - rows.boxes[:, :2]
    numbers = np.concatenate([start, size, rows.scores[:, None]], axis=1).round(DIGITS)
    bad = ~(np.isfinite(numbers).all(axis=1) & (numbers[:, 2:4] > 0).all(axis=1))
    if bad.any():
        row = bad.argmax()
        raise ValueError(
            f"{path}: boxes must have a size and be finite, got {rows.boxes[row].tolist()} with "
            f"score {rows.scores[row]} in frame {rows.frames[row]}."
        )
    with replacing(Path(path)) as file:
        for frame, identity, row in zip(rows.frames, rows.ids, numbers.tolist(), strict=True):
            file.write(f"{frame},{identity},{','.join(f'{x:.12g}' for x in row)},-1,-1,-1\n")
