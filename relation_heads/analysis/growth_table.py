"""The table of recordings of `growth`: what diverged, and what grew first.

Recordings lie in folders by model: `FPN/relation.json`. A training that reached its end has its
last loss, one that diverged its iteration and the first tensors that left their usual range.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from statistics import mean
from typing import Any

from .stable_lr import LAST

NAMED = 2  # tensors that a row names


def table(folder: Path) -> str:
    """Markdown: a row for every recording, then what they were made with."""
    lines = [
        f"| model | head | diverged at | first to grow | mean loss of the last {LAST} |",
        "|:--|:--|--:|:--|--:|",
    ]
    machines = set()
    for path in sorted(folder.glob("*/*.json")):
        recording = json.loads(path.read_text(encoding="utf-8"))
        machines.add(f"{recording['machine']}, commit {recording['commit']}")
        lines.append(f"| {path.parent.name} | {path.stem} | {row(recording)} |")
    return "\n".join([*lines, "", *(f"- {machine}" for machine in sorted(machines))])


def row(recording: Mapping[str, Any]) -> str:
    """The last three cells."""
    iterations = recording["iterations"]
    if recording["diverged"]:
        grown = "; ".join(recording["first_to_grow"][:NAMED])
        return f"{iterations[-1]} | {grown or 'nothing before that iteration'} |"
    losses = recording["losses"]["total_loss"][-LAST:]
    return f"none in {len(iterations)} |  | {mean(losses):.2f}"
