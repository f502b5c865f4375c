#!/usr/bin/env python
"""How many frames a second the tracker takes, and whether its memory grows in a long video.

    tools/time_tracker.py --json docs/tracking/speed.json

30 objects in 100 frames, box features of D channels, tracklets of 10 frames, an association with a
relation of the objects in a frame (16 heads), on one CPU thread. An association step is the
relation and the scores of 30 tracklets and 30 detections; a frame of the tracker is that, births,
deaths and the assignment. Time is that of the process. The memory is that of a video of random
detections with the smallest D (Linux alone).
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    """The command line."""
    from relation_heads.command_line import new_parser
    from relation_heads.commands.model import at_least_1

    parser = new_parser(__doc__)
    add = parser.add_argument
    add("--dims", type=at_least_1, nargs="+", default=[256, 1024], help="D (%(default)s)")
    add("--rounds", type=at_least_1, default=5, help="and one to warm up (%(default)s)")
    add("--frames", type=at_least_1, default=10_000, help="of the long video (%(default)s)")
    add("--json", type=Path, metavar="FILE", help="also write every number there")
    return parser.parse_args(argv)


def run(args: argparse.Namespace) -> None:
    """Measures and prints the tables."""
    from benchmarks.tracker_speed import time_tracker

    time_tracker(args)


def main(argv: list[str] | None = None) -> None:
    """Command line; exit code 2 and one sentence if something does not fit."""
    args = parse_args(argv)
    from relation_heads.command_line import run_or_explain

    run_or_explain(run, args)


if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # works without installation
    main()
