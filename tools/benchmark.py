#!/usr/bin/env python
"""Time, peak memory and error of our operators beside other ways to compute the same.

    tools/benchmark.py --list
    tools/benchmark.py "non-local" GloRe --rounds 5
    tools/benchmark.py --targets --json output/benchmark.json
    tools/benchmark.py --whole COCO-Detection/faster_rcnn_R_50_FPN_1x.yaml \\
        COCO-Detection/faster_rcnn_R_50_FPN_relation_1x.yaml --batch 2

A name selects every case that contains it, in upper or lower case; without names all run, which
takes forty minutes. Each case has a process of its own, in which its variants take turns, quick
ones for more rounds. Time on the CPU is the time of that process on one thread, so that other
programs disturb it little; on CUDA, and with more threads, it is wall time. Variants in brackets
are shown for information: targets do not compare with them. With --whole a name is a config, or
"CONFIG KEY VALUE": whole detectors train and infer on images of 800 x 1216 pixels, and ratios are
to the first of them.
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
    parser.add_argument(
        "names", nargs="*", metavar="NAME", help="parts of names of cases, or configs"
    )
    parser.add_argument("--list", action="store_true", help="only print the names")
    parser.add_argument(
        "--rounds", type=at_least_1, default=5, help="at least; one to warm up more"
    )
    parser.add_argument("--no-time", action="store_true", help="only memory and errors")
    parser.add_argument("--targets", action="store_true", help="fail if a target is missed")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--threads", type=at_least_1, default=1, help="of torch on the CPU")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write every number there")
    parser.add_argument("--whole", action="store_true", help="whole detectors of configs")
    parser.add_argument("--batch", type=at_least_1, default=1, help="images, with --whole")
    parser.add_argument("--opts", nargs=argparse.REMAINDER, default=[], metavar="KEY VALUE",
        help="config overrides of all detectors, with --whole; comes last")  # fmt: skip
    args = parser.parse_args(argv)
    if args.whole and (args.list or args.targets):
        parser.error("--whole has neither --list nor --targets")
    if not args.whole and (args.opts or args.batch != 1):
        parser.error("--batch and --opts belong to --whole")
    if args.json is not None and not args.json.absolute().parent.is_dir():
        parser.error(f"--json {args.json}: there is no folder {args.json.absolute().parent}.")
    return args


def run(args: argparse.Namespace) -> None:
    """Measures and prints; ends with 1 if a target is missed."""
    if args.whole:
        from benchmarks.whole import measure_and_print as measure_whole

        measure_whole(args)
        return
    from benchmarks.command import measure_and_print

    if measure_and_print(args):
        sys.exit(1)


def main(argv: list[str] | None = None) -> None:
    """Command line; exit code 2 and one sentence if something does not fit."""
    args = parse_args(argv)
    from relation_heads.command_line import run_or_explain

    run_or_explain(run, args)


if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # works without installation
    main()
