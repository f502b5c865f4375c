"""Knowledge graphs made from files, written to files, and shown."""

from __future__ import annotations

import argparse
import dataclasses
import json
from collections.abc import Callable
from datetime import date
from pathlib import Path
from typing import Any

from ...layers.reasoning.knowledge_graph import KnowledgeGraph, check_suffix
from ..files import read_json, read_text
from . import sources as class_graphs
from .wordnet import graph_from_wordnet


def named(path: Path, function: Callable[[Any], Any], value: Any) -> Any:
    """`function(value)`; the sentence of a ValueError begins with the path."""
    try:
        return function(value)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None


def read_classes(args: argparse.Namespace) -> list[str]:
    """The names of `--classes`, one per line, or of `--coco`, in the order of the category ids."""
    if args.coco is not None:
        return named(args.coco, class_graphs.coco_class_names, read_json(args.coco))
    lines = read_text(args.classes).splitlines()
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
    if args.command == "scenes":
        return named(args.json, class_graphs.graph_from_scenes, read_json(args.json))
    if args.command == "shuffle":
        return class_graphs.shuffled(KnowledgeGraph.load(args.graph), args.seed)
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


def make_graph(args: argparse.Namespace) -> None:
    """Makes and writes, or only shows, a graph, and prints what is in it."""
    if args.command == "show":
        graph = KnowledgeGraph.load(args.graph)
        print(graph.describe(), json.dumps(graph.meta), args.graph, sep="\n")
        return
    check_suffix(args.output)  # before minutes of work
    graph = build(args)
    if not graph.relations:
        raise ValueError(f"No edge was found between the {len(graph.classes)} classes.")
    if "coco" in args:
        dataset = args.coco or args.classes
        meta = {"dataset": dataset.name, "date": date.today().isoformat(), "normalised": False}
        graph = dataclasses.replace(graph, meta={**graph.meta, **meta})
    graph.save(args.output)
    print(graph.describe(), json.dumps(graph.meta), args.output, sep="\n")
