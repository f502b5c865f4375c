#!/usr/bin/env python
"""Writes the synthetic benchmark Relational Scenes, or a labelled picture of it.

    python datasets/make_relational_scenes.py
    python datasets/make_relational_scenes.py --crowded
    python datasets/make_relational_scenes.py --preview relational_scenes.png

Needs numpy, OpenCV and tqdm only. A data set that is complete already is left as it is.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from pathlib import Path


def default_output(crowded: bool) -> Path:
    root = Path(os.environ.get("DETECTRON2_DATASETS", "datasets")).expanduser()
    return root / ("relational_scenes_crowded" if crowded else "relational_scenes")


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    from relation_heads.command_line import new_parser
    from relation_heads.commands.model import at_least_0

    parser = new_parser(__doc__)
    parser.add_argument(
        "--output",
        type=Path,
        default=None,
        help="folder to write (default: $DETECTRON2_DATASETS/relational_scenes, or "
        "datasets/relational_scenes; ..._crowded for the crowded scenes)",
    )
    parser.add_argument(
        "--crowded",
        action="store_true",
        help="scenes of the groups plain and crowd only, whose neighbours overlap by 0.55 to 0.85",
    )
    parser.add_argument(
        "--num-train", type=at_least_0, default=2000, help="training images (%(default)s)"
    )
    parser.add_argument(
        "--num-val", type=at_least_0, default=300, help="validation images (%(default)s)"
    )
    parser.add_argument(
        "--seed", type=at_least_0, default=0, help="seed of everything (%(default)s)"
    )
    parser.add_argument(
        "--preview", type=Path, metavar="FILE.png", help="write a labelled picture of it instead"
    )
    args = parser.parse_args(argv)
    return args


def run(args: argparse.Namespace) -> None:
    """Writes the data set or the picture."""
    if args.preview is not None:
        import cv2

        from relation_heads.data.scenes.preview import contact_sheet

        args.preview.expanduser().parent.mkdir(parents=True, exist_ok=True)
        if not cv2.imwrite(str(args.preview.expanduser()), contact_sheet(args.seed)):
            raise ValueError(f"cannot write {args.preview}")
        print(f"wrote {args.preview}")
        return

    from tqdm import tqdm

    from relation_heads.data.scenes.scenes import CROWDED, write_dataset

    output = default_output(args.crowded) if args.output is None else args.output.expanduser()
    start = time.perf_counter()
    with tqdm(total=args.num_train + args.num_val, unit="image", disable=None) as bar:
        written = write_dataset(
            output,
            num_train=args.num_train,
            num_val=args.num_val,
            seed=args.seed,
            progress=bar.update,
            **(CROWDED if args.crowded else {}),
        )
    seconds = time.perf_counter() - start
    print(f"wrote {output} in {seconds:.0f} s" if written else f"{output} is complete already")


def main(argv: list[str] | None = None) -> None:
    """Command line; exit code 2 and one sentence if something does not fit."""
    args = parse_args(argv)
    from relation_heads.command_line import run_or_explain

    run_or_explain(run, args)


if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # works without installation
    main()
