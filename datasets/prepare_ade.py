#!/usr/bin/env python
"""ADE20K, full release, as boxes of objects and parts in COCO format.

TOOL="python datasets/prepare_ade.py --ade-root DIR --output DIR"
$TOOL --labels reasoning --published
$TOOL --labels sgrn --published

Reads the releases of 2016 and 2021. Label sets (blanks in names are written as `_`):

- reasoning: raw names with at least 5 instances. With --published these are the 1,484 classes of
  "Iterative Visual Reasoning Beyond Convolutions", whose authors published names and counts, and
  val is also written as their halves, mval and mtest; else the instances are counted in the
  training images at hand.
- sgrn: names merged as the loader of "Hybrid Knowledge Routed Modules" does (courts, pants,
  plurals), kept if Visual Genome (VG3000) has them too and they have at least 5 instances. The list
  of 445 classes of the papers is not published: this one follows their description and differs.

Writes under --output, with the same bytes each time:

  annotations/ade_LABELS_SPLIT.json  train, val and each of --val-lists; categories from 1, most
                                     frequent first and then by name; `file_name` from --ade-root
  ade_LABELS_classes.txt             a class per line in that order
  ade_LABELS_report.json             what was counted and what was left out, by reason; if nothing
                                     can be written, it says why and what was found
  ade_read.jsonl                     the regions of every image: a run that was stopped goes on
                                     where it was, and the other label set reads no image again

An image with a damaged file is left out; the report counts and names them.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path


def run(args: argparse.Namespace) -> None:
    """Reads the release, writes all files and says what is in them."""
    from relation_heads.data.ade20k_files import prepare

    prepare(args)


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    from relation_heads.command_line import new_parser
    from relation_heads.commands.model import at_least_1

    parser = new_parser(__doc__)
    add = parser.add_argument
    add("--ade-root", type=Path, required=True, help="folder of the unpacked release")
    add("--output", type=Path, required=True, help="folder to write")
    add("--labels", choices=("reasoning", "sgrn"), required=True, help="label set")
    add("--published", action="store_true",
        help="the published names and counts; for reasoning mval and mtest, too")  # fmt: skip
    add("--names", type=Path, help="raw names, one per line, of --counts")
    add("--counts", type=Path, help="instances, one number per line (default: counted)")
    add("--vocabulary", type=Path, help="names or synsets, for sgrn (default: those of VG3000)")
    add("--min-count", type=at_least_1, default=5, help="fewest instances of a class (%(default)s)")
    add("--val-lists", type=Path, nargs="+", default=[], metavar="LIST.txt",
        help="a further split of val each, named as the file")  # fmt: skip
    add("--amodal", action="store_true", help="boxes with occluded pixels (release of 2021)")
    add("--workers", type=at_least_1, default=4, help="threads that read images (%(default)s)")
    args = parser.parse_args(argv)
    if (args.names is None) != (args.counts is None):
        parser.error("--names and --counts belong together")
    if args.labels != "sgrn" and args.vocabulary:
        parser.error("--vocabulary is for --labels sgrn")
    if args.published and (args.names or args.val_lists):
        parser.error("--published stands for --names, --counts and --val-lists")
    stems = ["train", "val", *(path.stem for path in args.val_lists)]
    if len(set(stems)) < len(stems):
        parser.error("--val-lists must be called differently, and neither train nor val")
    return args


def main(argv: list[str] | None = None) -> None:
    """Command line; exit code 2 and one sentence if something does not fit."""
    args = parse_args(argv)
    from relation_heads.command_line import run_or_explain

    run_or_explain(run, args)


if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # works without installation
    main()
