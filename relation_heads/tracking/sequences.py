"""Folders of MOTChallenge, and what a tracker makes of the detections in them by motion alone.

mot15/
  TUD-Campus/
    seqinfo.ini        name, imWidth, imHeight of the sequence
    det/det.txt        detections that everybody uses
    gt/gt.txt          ground truth, of training sequences
"""

from __future__ import annotations

from collections.abc import Sequence
from configparser import ConfigParser
from configparser import Error as IniError
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch

from ..data.files import read_text
from .methods import Online
from .mot_files import MotRows, read_mot


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


def follow(rows: MotRows, tracker: Online) -> MotRows:
    """Detections with identities, frame by frame; those without one are left out.

    Args:
        rows: detections of one sequence.
        tracker: which has seen nothing yet. All features are equal, so that it knows motion alone.
    """
    ids = np.full(len(rows), -1)
    frames = rows.by_frame()
    for number in frames:
        boxes, scores = torch.from_numpy(rows.boxes[number]), torch.from_numpy(rows.scores[number])
        ids[number] = tracker.update(boxes, torch.ones(len(boxes), 1), scores).numpy()
    order = np.concatenate([np.empty(0, dtype=np.int64), *frames])
    return replace(rows, ids=ids).take(order[ids[order] >= 0])
