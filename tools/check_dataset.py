#!/usr/bin/env python
"""Is a data set in COCO format in order? A report on ids, boxes, files, duplicates and classes.

    tools/check_dataset.py relational_scenes_train relational_scenes_val
    tools/check_dataset.py --dataset birds_train birds/train.json birds/images \\
        --dataset birds_val birds/val.json birds/images

Several data sets are splits of one: the training split first. Problems make training or evaluation
fail or wrong, warnings are odd, facts are good to know; `relation_heads/data/checks/` has the
rules. The exit code is 1 if there is a problem, 2 if the arguments do not fit, else 0.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path


def run(args: argparse.Namespace) -> None:
    """Checks, prints the report and writes it; exit code 1 if there is a problem."""
    from relation_heads.data.checks.report import check_dataset, registered_source, source_of_files

    given = {name: (json_file, images) for name, json_file, images in args.dataset}
    sources = [
        source_of_files(name, *given[name]) if name in given else registered_source(name)
        for name in args.names
    ]
    report = check_dataset(sources, read_images=args.read_images, workers=args.workers)
    print(report.text())
    if args.json:
        text = json.dumps(report.as_dict(), indent=1, ensure_ascii=False)
        args.json.write_text(text + "\n", encoding="utf-8")
    if report.has_problems:
        raise SystemExit(1)


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    from relation_heads.command_line import new_parser
    from relation_heads.commands.model import at_least_1

    parser = new_parser(__doc__)
    add = parser.add_argument
    add("names", nargs="*", metavar="NAME",
        help="data sets, the training split first (default: all of --dataset)")  # fmt: skip
    add("--dataset", nargs=3, action="append", default=[], metavar=("NAME", "JSON", "IMAGES"),
        help="a data set that is not registered; repeatable. Relative paths are also looked up "
        "under $DETECTRON2_DATASETS")  # fmt: skip
    add("--no-images", dest="read_images", action="store_false",
        help="see that the image files are there, but do not read them")  # fmt: skip
    add("--workers", type=at_least_1, default=8, help="threads that read images (%(default)s)")
    add("--json", type=Path, metavar="FILE", help="write the report there as well")
    args = parser.parse_args(argv)
    given = [name for name, _, _ in args.dataset]
    args.names = args.names or given
    if not args.names:
        parser.error("give the name of a data set, or --dataset NAME JSON IMAGES")
    if len(set(args.names)) < len(args.names) or len(set(given)) < len(given):
        parser.error("every data set must have a name of its own")
    if not set(given) <= set(args.names):
        parser.error("where names are given, those of --dataset must be among them")
    if args.json and not args.json.parent.is_dir():
        parser.error(f"--json {args.json}: there is no folder {args.json.parent}")
    return args


def main(argv: list[str] | None = None) -> None:
    """Command line; exit code 2 and one sentence if something does not fit."""
    args = parse_args(argv)
    from relation_heads.command_line import run_or_explain

    run_or_explain(run, args)


if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # works without installation
    main()
