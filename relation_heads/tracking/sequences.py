"""Folders of MOTChallenge, and what trackers make of the detections in them by motion alone.

mot15/
  TUD-Campus/
    seqinfo.ini        name, imWidth, imHeight of the sequence
    det/det.txt        detections that everybody uses
    gt/gt.txt          ground truth, of training sequences
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from configparser import ConfigParser
from configparser import Error as IniError
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from ..data.files import read_text
from ..layers.association import Association
from ..layers.association.module import START
from . import library
from .mot_files import MotRows, read_mot
from .tracker import Tracker

LEAST_IOU = 0.3  # of a match by motion alone, as in the library's SORT
# sigmoid(s) of it where the cosine is 1, before training: s = g (cosine + IoU - 1).
MOTION_THRESHOLD = 1 / (1 + math.exp(-START * LEAST_IOU))


@dataclass(frozen=True)
class MotSequence:
    """One sequence of a MOTChallenge.

    Attributes:
        folder: with `seqinfo.ini`.
        name: of the sequence.
        image_size: (H, W) in pixels.
    """

    folder: Path
    name: str
    image_size: tuple[int, int]

    def detections(self) -> MotRows:
        """Of `det/det.txt`. Errors as of `read_mot`."""
        return read_mot(self.folder / "det" / "det.txt")

    def truth(self) -> MotRows | None:
        """Of `gt/gt.txt`, None where there is none. Errors as of `read_mot`."""
        path = self.folder / "gt" / "gt.txt"
        return read_mot(path) if path.is_file() else None


def find_sequences(folders: Sequence[Path]) -> list[MotSequence]:
    """Those of folders that are sequences or have sequences in them, by name.

    Raises:
        OSError: a file cannot be read.
        ValueError: a folder has none, two have one name, or a `seqinfo.ini` is damaged.
    """
    found: dict[str, MotSequence] = {}
    for folder in folders:
        files = [*folder.glob("seqinfo.ini"), *sorted(folder.glob("*/seqinfo.ini"))]
        if not files:
            raise ValueError(f"{folder} has no sequence: no file seqinfo.ini or NAME/seqinfo.ini.")
        for path in files:
            sequence = _read(path)
            if sequence.name in found:
                both = f"{found[sequence.name].folder} and {sequence.folder}"
                raise ValueError(f"{both} are both sequences with the name {sequence.name}.")
            found[sequence.name] = sequence
    return sorted(found.values(), key=lambda sequence: sequence.name)


def _read(path: Path) -> MotSequence:
    parser = ConfigParser()
    try:
        parser.read_string(read_text(path))
        info = parser["Sequence"]
        size = int(info["imHeight"]), int(info["imWidth"])
        if min(size) < 1:
            raise ValueError(f"imHeight and imWidth must be at least 1, got {size}")
        return MotSequence(path.parent, info["name"], size)
    except (IniError, KeyError, ValueError) as error:
        raise ValueError(
            f"{path} needs [Sequence] with name, imWidth and imHeight: {error}."
        ) from None


def by_association(rows: MotRows, image_size: tuple[int, int], **settings: Any) -> MotRows:
    """Detections with identities of a `Tracker` that knows no looks: an untrained association and
    a constant feature, so that s = g IoU with the predicted boxes.

    Args:
        rows: detections.
        image_size: (H, W).
        settings: of `Tracker`.
    """
    association = Association(1, cosine_channels=1).eval()
    settings = {"threshold": MOTION_THRESHOLD, **settings}
    tracker = Tracker(association, image_size=image_size, **settings)

    def update(boxes: NDArray[np.float64], scores: NDArray[np.float64]) -> NDArray[np.int64]:
        features = torch.ones(len(boxes), 1)
        return tracker.update(torch.tensor(boxes), features, torch.tensor(scores)).numpy()

    return _followed(rows, update)


def by_library(rows: MotRows, tracker: Any) -> MotRows:
    """Detections with identities of a tracker of the library.

    Args:
        rows: detections.
        tracker: such as `library.SORTTracker()`; of one sequence.
    """

    def update(boxes: NDArray[np.float64], scores: NDArray[np.float64]) -> NDArray[np.int64]:
        numbers: dict[str, Any] = {"number": np.arange(len(boxes))}  # ByteTrack returns them in another order
        found = tracker.update(
            library.supervision.Detections(xyxy=boxes, confidence=scores, data=numbers)
        )
        ids = np.full(len(boxes), -1)
        if len(found):
            ids[found.data["number"]] = found.tracker_id
        return np.where(ids < 0, -1, ids + 1)

    return _followed(rows, update)


def _followed(
    rows: MotRows,
    update: Callable[[NDArray[np.float64], NDArray[np.float64]], NDArray[np.int64]],
) -> MotRows:
    """The rows that got an identity, by frame."""
    ids = np.full(len(rows), -1)
    frames = rows.by_frame()
    for number in frames:
        ids[number] = update(rows.boxes[number], rows.scores[number])
    order = np.concatenate([np.empty(0, dtype=np.int64), *frames])
    named = replace(rows, ids=ids)
    return named.take(order[ids[order] >= 0])


# What `tools/track.py` and the comparison know.
METHODS: dict[str, Callable[[MotRows, tuple[int, int]], MotRows]] = {
    "association": by_association,
    "sort": lambda rows, image_size: by_library(rows, library.SORTTracker()),
    "bytetrack": lambda rows, image_size: by_library(rows, library.ByteTrackTracker()),
}
