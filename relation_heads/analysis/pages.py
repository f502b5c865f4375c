"""Pages that are made from the code and from results.

In docs/ what stands between marks (`marks`): tables of keys, from the comments in
`config/defaults.py`, and tables of results, from the JSON files beside the pages. configs/README.md
and MODEL_ZOO.md are made wholly.
"""

from __future__ import annotations

import inspect
import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from operator import attrgetter
from pathlib import Path
from statistics import mode
from typing import Any

from ..config import get_cfg
from ..config.defaults import NODES
from ..config.files import all_configs, merge_file
from ..config.schema import described
from ..zoo import entries
from . import (
    co_occurrence,
    evaluators,
    export_files,
    growth_table,
    insertions,
    mot,
    mutation,
    put_right,
    reliability,
    scaling,
    tracker_speed,
    trainings,
    trainings_files,
)
from . import stable_lr_files as stable_lr
from .given_boxes import results as given_boxes
from .given_boxes.table import tables
from .marks import marked, put_between_marks
from .publish import page
from .stable_lr import table

ROOT = Path(__file__).resolve().parents[2]
NESTED = re.compile(r"class ([A-Z]+)\(Keys\):")
CONFIGS = """# Configs

Made from the files by `tools/write_docs.py`. `relation-heads train --config-file NAME` takes these
names, and Detectron2's own. Parts of configs: `blocks/`, `data/`, `heads/` (a mechanism with its
settings), `schedules/`. [docs/training.md](../docs/training.md#configs) says what each one is for,
and which one is its stock twin.
"""


# The key by which a JSON file of results is known -> its table.
TABLES: dict[str, Callable[[Any], str]] = {
    "cells": export_files.table_of,
    "objects": put_right.table,
    "insertions": insertions.table,
    "co_occurrence": co_occurrence.table,
    "cases": evaluators.table,
    "audit": reliability.matrix,
    "memory_mib": reliability.soak,
    "gradients": scaling.table,
    "mot": mot.table,
    "mutants": mutation.table,
    "steps": tracker_speed.table,
    "experiments": lambda content: table_of_experiments(content["experiments"]),
}


def pages() -> dict[Path, str]:
    """Path -> what it should hold."""
    docs = {}
    for path in (ROOT / "docs").glob("*.md"):
        text = path.read_text(encoding="utf-8")
        for name in marked(text):
            text = put_between_marks(text, name, part(name))
        docs[path] = text
    return {
        **docs,
        ROOT / "configs" / "README.md": list_of_configs(),
        ROOT / "MODEL_ZOO.md": page(entries()),
    }


def part(name: str) -> str:
    """What stands between two marks: "keys of MODEL.SGRN", or a file or folder of results.

    Raises:
        ValueError: the name is of neither.
    """
    kind, _, node = name.rpartition(".")
    if kind == "keys of MODEL":
        return table_of_keys(node)
    folder = ROOT / name
    if name.endswith(".json"):
        content = json.loads(folder.read_text(encoding="utf-8"))
        for key, table_of in TABLES.items():
            if key in content:
                return table_of(content)
    if name.startswith("docs/given_boxes/"):
        return tables([asdict(result) for result in given_boxes.read_all(folder)])
    if name == "docs/growth":
        return growth_table.table(folder)
    if name.startswith("docs/trainings/"):
        return trainings.table(trainings_files.read_all(folder))
    if name.startswith("docs/stable_lr/"):
        outcomes = stable_lr.read_all(folder)
        return table(outcomes, mode(outcome.lr for outcome in outcomes))
    raise ValueError(f"Nothing is known of the mark {name!r}.")


def table_of_experiments(experiments: Sequence[Mapping[str, Any]]) -> str:
    """One row for each head, form and rate, one cell for each seed: the loss, or the divergence."""
    seeds = sorted({e["seed"] for e in experiments})
    rows: dict[tuple[str, str, str], dict[int, str]] = {}
    for e in experiments:
        diverged = e["diverged_at"]
        cell = f"{e['loss']:.2f}" if diverged is None else f"diverged at {diverged}"
        rows.setdefault((e["head"], e["what"], f"{e['lr']:g}"), {})[e["seed"]] = cell
    titles = ["head", "form", "learning rate", *(f"seed {seed}" for seed in seeds)]
    lines = ["| " + " | ".join(titles) + " |", "|:--|:--|" + "--:|" * (1 + len(seeds))]
    lines += [
        "| " + " | ".join([*names, *(cells.get(seed, "") for seed in seeds)]) + " |"
        for names, cells in rows.items()
    ]
    return "\n".join(lines)


def table_of_keys(name: str) -> str:
    """Of one node, from its types and comments: keys that one comment stands above share a row."""
    node = NODES[name]
    types, defaults = node.types(), node.defaults()
    rows: list[tuple[list[str], str]] = []
    comment: list[str] = []
    inside = ""
    for line in inspect.getsource(node).splitlines()[1:]:
        line = line.strip()
        if nested := NESTED.match(line):
            inside = f"{nested[1]}."
        key = inside + line.partition(":")[0]
        if line.startswith("#"):
            comment.append(line[1:].strip())
        elif key in types and comment:
            rows.append(([key], " ".join(comment)))
            comment = []
        elif key in types:
            rows[-1][0].append(key)
    lines = ["| key | default | allowed | |", "|:--|:--|:--|:--|"]
    for keys, meaning in rows:
        names = ", ".join(f"`{key}`" for key in keys)
        values = ", ".join(f"`{attrgetter(key)(defaults)}`" for key in keys).replace("``", '`""`')
        allowed = "; ".join(dict.fromkeys(described(types[key]) for key in keys))
        lines.append(f"| {names} | {values} | {allowed} | {meaning.replace('|', '')} |")
    return "\n".join(lines)


def list_of_configs() -> str:
    """One table per folder: what a config trains, on what, and how long."""
    folders: dict[str, list[str]] = {}
    for name, about in all_configs():
        cfg = get_cfg()
        merge_file(cfg, name)
        heads = cfg.MODEL.ROI_HEADS.NAME
        if cfg.MODEL.META_ARCHITECTURE == "SemanticSegmentor":
            heads = cfg.MODEL.SEM_SEG_HEAD.NAME
        if cfg.MODEL.META_ARCHITECTURE == "ImageClassifier":
            heads = cfg.MODEL.META_ARCHITECTURE
        folder, _, file = name.partition("/")
        cells = [f"`{file}`", heads, ", ".join(cfg.DATASETS.TRAIN), str(cfg.SOLVER.MAX_ITER), about]
        folders.setdefault(folder, []).append("| " + " | ".join(cells) + " |")
    parts = [CONFIGS]
    for folder, rows in folders.items():
        parts += [
            f"\n## {folder}\n",
            "| name | heads | trained on | iterations | |", "|:--|:--|:--|--:|:--|", *rows,
        ]  # fmt: skip
    return "\n".join(parts) + "\n"


def write_pages() -> list[Path]:
    """Writes those that are not as they should be; returns them."""
    changed = []
    for path, text in pages().items():
        if not path.is_file() or path.read_text(encoding="utf-8") != text:
            path.write_text(text, encoding="utf-8")
            changed.append(path)
    return changed
