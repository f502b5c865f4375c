#!/usr/bin/env python
"""Follow objects: detections of MOT sequences, or of a model in videos and folders of images.

    tools/track.py mot15 --output output/tracks --tracker sort
    tools/track.py clip.mp4 photos/ --model output/model_final.pth --output output/tracks

Without --model the inputs are MOT sequences (seqinfo.ini, det/det.txt), or folders of them, which
are tracked by motion alone; where they have gt/gt.txt, IDF1, HOTA, MOTA and identity switches are
printed. With --model each video is tracked, and each folder, whose images are one video; the model
has a head of this package, whose box features are what objects look like. OUTPUT/NAME.txt is the
result in MOT's format, OUTPUT/NAME.jpg a row of frames with identities.

--tracker association is ours before training: the cosine of looks and the overlap with the box that
is expected. sort and bytetrack are those of `trackers`, and do not look.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    """The command line."""
    from relation_heads.command_line import new_parser
    from relation_heads.commands.model import (
        CHECKPOINT_OR_CONFIG,
        at_least_1,
        share,
        take_overrides,
    )

    parser = new_parser(__doc__)
    add = parser.add_argument
    add("inputs", nargs="+", metavar="INPUT")
    add("--output", type=Path, default=Path("output/tracks"), metavar="FOLDER",
        help="(%(default)s)")  # fmt: skip
    add("--tracker", default="association", choices=("association", "sort", "bytetrack"))
    add("--model", help=CHECKPOINT_OR_CONFIG)
    add("--class", dest="class_name", metavar="NAME", help="follow only these")
    add("--min-score", type=share, default=0.25, metavar="SCORE",
        help="of detections of the model, 0 to 1 (%(default)s)")  # fmt: skip
    add("--pictures", type=at_least_1, default=4, metavar="FRAMES", help="in a row (%(default)s)")
    add("--device", help="cpu, cuda, cuda:1, ... (the config's; cpu where there is no GPU)")
    try:
        words, opts = take_overrides(sys.argv[1:] if argv is None else argv)
    except ValueError as error:
        parser.error(str(error))
    return parser.parse_args(words, argparse.Namespace(opts=opts))


def run(args: argparse.Namespace) -> None:
    """Writes the files."""
    from relation_heads.tracking.track_files import track_files

    track_files(args)


def main(argv: list[str] | None = None) -> None:
    """Command line; exit code 2 and one sentence if something does not fit."""
    args = parse_args(argv)
    from relation_heads.command_line import run_or_explain

    run_or_explain(run, args)


if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # works without installation
    main()
