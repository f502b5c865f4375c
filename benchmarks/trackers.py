"""Trackers by motion alone on the detections of MOT sequences, in the library's metrics."""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

from relation_heads.analysis.mot import NAMES, table
from relation_heads.analysis.provenance import provenance
from relation_heads.data.files import write_whole
from relation_heads.tracking.methods import METHODS
from relation_heads.tracking.metrics import COMBINED, Scores, evaluate
from relation_heads.tracking.mot_files import MotRows, write_mot
from relation_heads.tracking.sequences import MotSequence, find_sequences, follow


def compare_trackers(args: argparse.Namespace) -> None:
    """See `tools/compare_trackers.py`.

    Raises:
        OSError, ValueError: a folder has no sequence, or a file is damaged or not there.
    """
    sequences = find_sequences(args.folders)
    truth = {sequence.name: known_truth(sequence) for sequence in sequences}
    detections = {sequence.name: sequence.detections() for sequence in sequences}
    results = {}
    for method, tracker in METHODS.items():
        start = time.process_time()
        tracks = {s.name: follow(detections[s.name], tracker(1, s.image_size)) for s in sequences}
        seconds = time.process_time() - start
        scores = evaluate(truth, tracks)
        results[NAMES[method]] = {
            "seconds": round(seconds, 2),
            "frames": sum(rows.last for rows in detections.values()),
            "equals_the_librarys_files": by_files(truth, tracks) == scores,
            "scores": scores,
        }
        if args.output:
            for name, rows in tracks.items():
                write_mot(rows, args.output / method / f"{name}.txt")
    result = {**provenance(0, "tools/compare_trackers.py"), "mot": results}
    result["versions"]["trackers"] = version("trackers")
    print(table(result))
    if args.json:
        write_whole(args.json, json.dumps(result, indent=1) + "\n")


def known_truth(sequence: MotSequence) -> MotRows:
    """Its ground truth.

    Raises:
        ValueError: there is none.
    """
    truth = sequence.truth()
    if truth is None:
        raise ValueError(f"{sequence.folder} has no ground truth: no file gt/gt.txt.")
    return truth


def by_files(truth: Mapping[str, MotRows], tracks: Mapping[str, MotRows]) -> dict[str, Scores]:
    """The library's own evaluation of files, of the first seven columns, see `metrics`."""
    from trackers.eval import evaluate_mot_sequences

    families = ["Identity", "HOTA", "CLEAR"]
    with tempfile.TemporaryDirectory() as folder:
        for kind, sequences in (("truth", truth), ("found", tracks)):
            for name, rows in sequences.items():
                path = Path(folder, kind, f"{name}.txt")
                write_mot(rows, path)
                lines = path.read_text().splitlines()
                path.write_text("".join(f"{','.join(x.split(',')[:7])}\n" for x in lines))
        found = evaluate_mot_sequences(Path(folder, "truth"), Path(folder, "found"), None, families)
    numbers: dict[str, Scores] = {}
    wanted = evaluate(truth, tracks)[COMBINED].keys()
    for name, result in {**found.sequences, COMBINED: found.aggregate}.items():
        every: dict[str, Any] = {}
        for family in families:
            every |= getattr(result, family).to_dict()
        numbers[name] = {name: float(every[name]) for name in wanted}
    return numbers
