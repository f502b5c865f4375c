#!/usr/bin/env python
"""Our association by motion alone, SORT and ByteTrack, on the detections of MOT sequences.

    tools/compare_trackers.py mot15 --json docs/tracking/mot15.json

Folders are sequences, or have sequences in them, with seqinfo.ini, det/det.txt and gt/gt.txt. SORT
and ByteTrack are those of `trackers`, with its settings; ours has those of SORT. The scores are the
library's, and the file says whether its own evaluation of files gives the same ones.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    """The command line."""
    from relation_heads.command_line import new_parser

    parser = new_parser(__doc__)
    add = parser.add_argument
    add("folders", nargs="+", type=Path, metavar="FOLDER")
    add("--json", type=Path, metavar="FILE", help="also write every number there")
    add("--output", type=Path, metavar="FOLDER", help="also write the tracks, as MOT files")
    return parser.parse_args(argv)


def run(args: argparse.Namespace) -> None:
    """Tracks, scores and prints the tables."""
    from benchmarks.trackers import compare_trackers

    compare_trackers(args)


def main(argv: list[str] | None = None) -> None:
    """Command line; exit code 2 and one sentence if something does not fit."""
    args = parse_args(argv)
    from relation_heads.command_line import run_or_explain

    run_or_explain(run, args)


if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # works without installation
    main()
