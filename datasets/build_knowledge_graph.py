#!/usr/bin/env python
"""Makes, merges and shows knowledge graphs: what is known about the classes of a data set.

TOOL=datasets/build_knowledge_graph.py
$TOOL names --coco train.json --output names.json
$TOOL wordnet --classes synsets.txt --dict /usr/share/wordnet --output is_a.npz
$TOOL relationships relationships.json --classes synsets.txt --output vg.npz
$TOOL cooccurrence --coco train.json --output together.npz
$TOOL import new_COCO_graph_r.pkl --coco train.json --output coco.npz
$TOOL merge is_a.npz vg.npz --output graph.npz
$TOOL show graph.npz

A .json file is for reading and editing by hand, an .npz file is small; heads read both. `import`
takes the files of Reasoning-RCNN and HKRM, whose classes must be in the order of `--classes`.
"""

from __future__ import annotations

import argparse
import dataclasses
import importlib.util
import json
import sys
from collections.abc import Callable
from datetime import date
from pathlib import Path
from typing import Any

if importlib.util.find_spec("relation_heads") is None:  # a checkout that is not installed
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from relation_heads.data import class_graphs
from relation_heads.data.command_line import run_or_explain
from relation_heads.data.wordnet import graph_from_wordnet
from relation_heads.layers.knowledge_graph import KnowledgeGraph, check_suffix


def named(path: Path, function: Callable[[Any], Any], value: Any) -> Any:
    """`function(value)`; the sentence of a ValueError begins with the path."""
    try:
        return function(value)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None


def read_json(path: Path) -> Any:
    """The content of a JSON file; ValueError if it is none."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path} is not a JSON file: {error}.") from None


def read_classes(args: argparse.Namespace) -> list[str]:
    """The names of `--classes`, one per line, or of `--coco`, in the order of the category ids."""
    if args.coco is not None:
        return named(args.coco, class_graphs.coco_class_names, read_json(args.coco))
    lines = args.classes.read_text(encoding="utf-8").splitlines()
    return [line.strip() for line in lines if line.strip()]


def build(args: argparse.Namespace) -> KnowledgeGraph:
    """The graph that the command line asks for.

    Raises:
        OSError, ValueError: an input cannot be read or does not fit.
    """
    if args.command == "merge":
        graphs = [KnowledgeGraph.load(path) for path in args.graphs]
        for path, graph in zip(args.graphs, graphs, strict=True):
            named(path, graph.reordered, graphs[0].classes)
        return class_graphs.merge(graphs)
    if args.command == "cooccurrence":
        return named(args.coco, class_graphs.graph_from_cooccurrence, read_json(args.coco))
    names = read_classes(args)
    if args.command == "names":
        return class_graphs.graph_from_names(names)
    if args.command == "wordnet":
        return graph_from_wordnet(names, args.dict, args.hops)
    if args.command == "relationships":
        return class_graphs.graph_from_relationships(args.json, names, args.num_predicates)
    return class_graphs.import_pickle(args.pickle, names)


def run(args: argparse.Namespace) -> None:
    """Makes and writes, or only shows, a graph, and prints what is in it."""
    if args.command == "show":
        graph = KnowledgeGraph.load(args.graph)
        print(graph.describe(), json.dumps(graph.meta), args.graph, sep="\n")
        return
    check_suffix(args.output)  # before minutes of work
    graph = build(args)
    if not graph.relations:
        raise ValueError(f"No edge was found between the {len(graph.classes)} classes.")
    if args.command != "merge":
        dataset = args.coco or args.classes
        meta = {"dataset": dataset.name, "date": date.today().isoformat(), "normalised": False}
        graph = dataclasses.replace(graph, meta={**graph.meta, **meta})
    graph.save(args.output)
    print(graph.describe(), json.dumps(graph.meta), args.output, sep="\n")


def parse_args(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
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
    sub = command("merge", "several files into one", classes=False)
    sub.add_argument("graphs", type=Path, nargs="+")
    commands.add_parser("show", help="what is in a file").add_argument("graph", type=Path)
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> None:
    """Command line; exit code 2 and one sentence if something does not fit."""
    run_or_explain(run, parse_args(argv))


if __name__ == "__main__":
    main()
