"""IDF1, HOTA, MOTA and identity switches, as `trackers` computes them.

Its evaluation of files takes the eighth column for a class, and only class 1 counts: it would find
no object in MOT15, nor in what `write_mot` writes. Here its functions get the arrays. On files
without that column both give the same numbers.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from . import library
from .mot_files import MotRows, read_mot

COMBINED = "COMBINED"  # all sequences, as one
Scores = dict[str, float]  # IDF1, HOTA and MOTA of at most 1; IDSW, the identity switches; ...
REPORTED = {
    "identity": ("IDF1", "IDP", "IDR"),
    "hota": ("HOTA", "DetA", "AssA"),
    "clear": ("MOTA", "IDSW", "Frag", "MT", "ML", "CLR_FP", "CLR_FN"),
}


def evaluate(truth: Mapping[str, MotRows], found: Mapping[str, MotRows]) -> dict[str, Scores]:
    """Scores of each sequence, and of all together under `COMBINED`.

    Args:
        truth: ground truth of each sequence; rows with score 0 do not count.
        found: the tracker's boxes of the same sequences; rows with identity -1 do not count.

    Returns:
        numbers by the library's names, see `REPORTED`.

    Raises:
        ValueError: there is no sequence, or they are not the same.
    """
    if not truth:
        raise ValueError("There is no sequence to score.")
    if truth.keys() != found.keys():
        only = sorted(truth.keys() ^ found.keys())
        raise ValueError(f"Truth and result must have the same sequences, only one has {only}.")
    single = {name: _compute(truth[name], found[name]) for name in sorted(truth)}
    together = {
        "identity": library.aggregate_identity_metrics,
        "hota": library.aggregate_hota_metrics,
        "clear": library.aggregate_clear_metrics,
    }
    families = {
        family: aggregate([one[family] for one in single.values()])
        for family, aggregate in together.items()
    }
    return {name: _reported(one) for name, one in {**single, COMBINED: families}.items()}


def evaluate_folders(
    truth: str | os.PathLike[str], found: str | os.PathLike[str]
) -> dict[str, Scores]:
    """As `evaluate`, of files.

    Args:
        truth: a folder with NAME/gt/gt.txt for each sequence.
        found: a folder with NAME.txt for each of them.

    Raises:
        OSError: a file cannot be read.
        ValueError: `truth` has no sequence, or a file is damaged.
    """
    files = {path.parent.parent.name: path for path in sorted(Path(truth).glob("*/gt/gt.txt"))}
    if not files:
        raise ValueError(f"{truth} has no sequence: no file of the form NAME/gt/gt.txt.")
    return evaluate(
        {name: read_mot(path) for name, path in files.items()},
        {name: read_mot(Path(found, f"{name}.txt")) for name in files},
    )


def _compute(truth: MotRows, found: MotRows) -> dict[str, dict[str, Any]]:
    """What the library says of one sequence, by family."""
    truth, found = truth.take(truth.scores != 0), found.take(found.ids >= 0)
    last = max(truth.last, found.last)
    pairs = list(zip(truth.by_frame(last), found.by_frame(last), strict=True))
    truth_ids, found_ids = _from_0(truth.ids), _from_0(found.ids)
    arguments = (
        [truth_ids[t] for t, _ in pairs],
        [found_ids[f] for _, f in pairs],
        [library.box_iou(truth.boxes[t], found.boxes[f]) for t, f in pairs],
    )
    return {
        "identity": library.compute_identity_metrics(*arguments),
        "hota": library.compute_hota_metrics(*arguments),
        "clear": library.compute_clear_metrics(*arguments),
    }


def _from_0(ids: NDArray[np.int64]) -> NDArray[np.int64]:
    """The same identities as numbers without gaps: the library takes them for indices."""
    return np.unique(ids, return_inverse=True)[1].reshape(-1)


def _reported(families: Mapping[str, Mapping[str, Any]]) -> Scores:
    return {name: float(families[f][name]) for f, names in REPORTED.items() for name in names}
