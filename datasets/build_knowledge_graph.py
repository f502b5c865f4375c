#!/usr/bin/env python
"""Makes, merges and shows knowledge graphs: what is known about the classes of a data set.

TOOL=datasets/build_knowledge_graph.py
$TOOL names --coco train.json --output names.json
$TOOL wordnet --classes synsets.txt --dict /usr/share/wordnet --output is_a.npz
$TOOL relationships relationships.json --classes synsets.txt --output vg.npz
$TOOL cooccurrence --coco train.json --output together.npz
$TOOL import new_COCO_graph_r.pkl --coco train.json --output coco.npz
$TOOL scenes relational_scenes/class_graph.json --output scenes.json
$TOOL shuffle scenes.json --output wrong.json
$TOOL merge is_a.npz vg.npz --output graph.npz
$TOOL show graph.npz

A .json file is for reading and editing by hand, an .npz file is small; heads read both. `import`
takes the files of Reasoning-RCNN and HKRM, whose classes must be in the order of `--classes`.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path


def run(args: argparse.Namespace) -> None:
    """Makes and writes, or only shows, a graph, and prints what is in it."""
    from relation_heads.data.graphs.files import make_graph

    make_graph(args)


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    from relation_heads.command_line import new_parser

    parser = new_parser(__doc__)
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")

    def command(name: str, help: str, *, classes: bool = True) -> argparse.ArgumentParser:
        sub = commands.add_parser(name, help=help)
        sub.add_argument("--output", type=Path, required=True, help="FILE.npz or FILE.json")
        if classes:
            source = sub.add_mutually_exclusive_group(required=True)
            source.add_argument("--classes", type=Path, help="text file, one class name per line")
            source.add_argument("--coco", type=Path, help="COCO-format JSON with the classes")
        return sub

    command("names", "plurals, left and right, kinds, by the names alone")
    sub = command("wordnet", "is-a between classes called lemma.n.NN")
    sub.add_argument("--dict", type=Path, required=True, help="folder of index.noun and data.noun")
    sub.add_argument("--hops", type=int, default=2, help="most steps up (%(default)s)")
    sub = command("relationships", "predicates of Visual Genome")
    sub.add_argument("json", type=Path, help="relationships.json")
    sub.add_argument(
        "--num-predicates", type=int, default=10, help="the most frequent ones (%(default)s)"
    )
    sub = command("cooccurrence", "which classes share images", classes=False)
    sub.add_argument("--coco", type=Path, required=True, help="training set in COCO format")
    sub = command("import", "a pickle of Reasoning-RCNN or HKRM")
    sub.add_argument("pickle", type=Path)
    sub = command("scenes", "what Relational Scenes are made by", classes=False)
    sub.add_argument("json", type=Path, help="class_graph.json beside the scenes")
    sub = command("shuffle", "the same edges between other classes, a control", classes=False)
    sub.add_argument("graph", type=Path)
    sub.add_argument("--seed", type=int, default=0, help="(%(default)s)")
    sub = command("merge", "several files into one", classes=False)
    sub.add_argument("graphs", type=Path, nargs="+")
    commands.add_parser("show", help="what is in a file").add_argument("graph", type=Path)
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> None:
    """Command line; exit code 2 and one sentence if something does not fit."""
    args = parse_args(argv)
    from relation_heads.command_line import run_or_explain

    run_or_explain(run, args)


if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # works without installation
    main()
