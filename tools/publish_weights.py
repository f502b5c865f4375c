#!/usr/bin/env python
"""Put a trained detector into the zoo: a small file with everything inside, evaluated as it is.

    tools/publish_weights.py output/model_final.pth --name scenes-relation-signed \\
        --what "Relation modules with signed geometry on Relational Scenes." \\
        --data "Relational Scenes, seed 0: drawn, no photographs." --licence Apache-2.0 \\
        --not-for "photographs."

The weights go to half precision, without the optimizer, with the config and the names of the
classes inside (of a checkpoint without a config, --config-file says it). Then this very file is
evaluated on DATASETS.TEST, and relation_heads/zoo/zoo.json is written; tools/write_docs.py makes
MODEL_ZOO.md from it. Config overrides may follow, as KEY VALUE.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

TEXTS = ("what", "data", "licence", "not-for")


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    """The command line."""
    from relation_heads.command_line import new_parser

    parser = new_parser(__doc__)
    add = parser.add_argument
    add("checkpoint", nargs="?", metavar="CHECKPOINT", help="a .pth file")
    add("--config-file", default="", metavar="FILE", help="of a checkpoint without a config")
    add("--name", help="by which it is loaded")
    for text in TEXTS:
        add(f"--{text}", metavar="SENTENCE", help="of the model card")
    from relation_heads.commands.model import take_overrides

    words, opts = take_overrides(sys.argv[1:] if argv is None else argv)
    args = parser.parse_args(words)
    args.opts = opts
    missing = [f"--{t}" for t in ("name", *TEXTS) if not getattr(args, t.replace("-", "_"))]
    if missing or not args.checkpoint:
        parser.error(f"give {', '.join(['CHECKPOINT'] * (not args.checkpoint) + missing)}")
    return args


def run(args: argparse.Namespace) -> None:
    """Publishes."""
    from relation_heads.analysis.publish import publish

    publish(args)


def main(argv: list[str] | None = None) -> None:
    """Command line; exit code 2 and one sentence if something does not fit."""
    args = parse_args(argv)
    from relation_heads.command_line import run_or_explain

    run_or_explain(run, args)


if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # works without installation
    main()
