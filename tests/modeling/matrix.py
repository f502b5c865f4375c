"""Every combination of mechanism, form, task, boxes, end and backbone works, or is refused.

    python -m tests.modeling.matrix                              # a pairwise part, printed
    python -m tests.modeling.matrix --all --write docs/matrix.md # all cells, as a table

`matrix_cells.py` has the axes and what a cell must do.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import itertools
import json
import logging
import platform
import shlex
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

import torch

from tests.modeling.matrix_cells import (
    BACKBONES,
    BOXES,
    CELLS,
    ENDS,
    FORMS,
    MECHANISMS,
    ROOT,
    SEED,
    TASKS,
    Cell,
    Outcome,
    noise_coco,
    run,
    sample,
)

# A cell is not run again while these are as they were.
CODE = ("relation_heads", "tests/modeling")

GOOD = ("works", "refused")


def failed(outcome: Outcome) -> bool:
    """Whether a cell does not what it must."""
    return outcome.kind not in GOOD


def table(record: dict[str, Any]) -> str:
    """The page of a record of `main`, in Markdown: counts of working cells by mechanism and form
    (rows), task and boxes (columns); what does not work below, each sentence once."""
    cells = {Cell(*name.split(", ")): Outcome(*o) for name, o in record["cells"].items()}
    texts = list(dict.fromkeys(f"{o.kind}: {o.text}" for o in cells.values() if o.kind != "works"))
    columns = list(itertools.product(TASKS, BOXES))
    lines = [
        "| mechanism | form | " + " | ".join(f"{t}, {b}" for t, b in columns) + " |",
        "|:--|:--|" + ":--|" * len(columns),
    ]
    for mechanism, form in itertools.product(MECHANISMS, FORMS):
        row = [mechanism, form]
        for task, boxes in columns:
            group = [o for c, o in cells.items() if c[:4] == (mechanism, form, task, boxes)]
            counts = Counter(f"{o.kind}: {o.text}" for o in group if o.kind != "works")
            works = sum(o.kind == "works" for o in group)
            parts = [f"{works} of {len(group)}"] if works else []
            parts += [f"{n} × [{texts.index(text) + 1}]" for text, n in counts.items()]
            row.append(", ".join(parts))
        lines.append("| " + " | ".join(row) + " |")
    kinds = ", ".join(f"{n} {k}" for k, n in Counter(o.kind for o in cells.values()).items())
    notes = [f"{k}. {text}" for k, text in enumerate(texts, 1)]
    return "\n".join(
        [
            _HEAD.format(levels=_levels(), kinds=kinds, **record),
            *lines,
            *(["", *notes] if notes else []),
            "",
        ]
    )


_HEAD = """# What combines with what

A command wrote this page; do not edit it. A cell is a tiny model with one level of each axis:

{levels}

A cell works if its model builds and keeps all parameter names of Detectron2's model; if all losses
of a training step are finite and all parameters get a gradient; if a new model, resumed from its
checkpoint, has the same detections and the same next losses; and if COCO's measures accept what it
finds. A cell is refused if the check of the config says so in one sentence, before anything is
built. The table counts the cells (end × backbone) that work; [1] is a sentence under the table.
"+ mask" and "+ keypoint" are boxes with that branch.

{kinds}. Commit {commit}, seed {seed}, {seconds:.0f} s, {machine}.

    {command}
"""


def _levels() -> str:
    axes = (MECHANISMS, FORMS, TASKS, BOXES, ENDS, BACKBONES)
    return "\n".join(
        f"- {name}: {'; '.join(axis)}" for name, axis in zip(Cell._fields, axes, strict=True)
    )


def _git(*args: str) -> str:
    return subprocess.run(["git", "-C", ROOT, *args], capture_output=True, text=True).stdout.strip()


def _run_safely(cell: Cell, dataset: str) -> Outcome:
    try:
        return run(cell, dataset)
    except Exception as error:
        text = " ".join(str(error).split())
        return Outcome("fails", f"{type(error).__name__}: {text[:300]}")


def _changed() -> bool:
    return bool(_git("status", "--porcelain", *CODE))


def _start(seed: int) -> dict[str, Any]:
    """A record without cells."""
    return {
        "commit": _git("rev-parse", "--short", "HEAD") + (" with changes" if _changed() else ""),
        "code": [_git("rev-parse", f"HEAD:{path}") for path in CODE],
        "seed": seed,
        "machine": f"{platform.machine()}, torch {torch.__version__}, one thread",
        "command": f"python -m tests.modeling.matrix {shlex.join(sys.argv[1:])}",
        "seconds": 0.0,
        "cells": {},
    }


def main() -> None:
    """Runs the cells; exit status 1 if one fails."""
    parser = argparse.ArgumentParser(prog="python -m tests.modeling.matrix")
    parser.add_argument("--all", action="store_true", help="all cells, not a pairwise part")
    parser.add_argument("--seed", type=int, default=SEED, help="of the pairwise part")
    table_help = "the table; FILE.json beside it has the cells, and a second call runs the others"
    parser.add_argument("--write", type=Path, metavar="FILE.md", help=table_help)
    args = parser.parse_args()
    torch.set_num_threads(1)
    logging.disable(logging.WARNING)
    record = _start(args.seed)
    file = args.write and args.write.with_suffix(".json")
    if file and file.exists():
        old = json.loads(file.read_text())
        same = all(old[k] == record[k] for k in ("code", "seed", "command"))
        record = old if same and not _changed() else record
    with tempfile.TemporaryDirectory() as folder, noise_coco(Path(folder)) as dataset:
        for cell in CELLS if args.all else sample(args.seed):
            if str(cell) in record["cells"]:
                continue
            start = time.perf_counter()
            with contextlib.redirect_stdout(io.StringIO()):  # pycocotools prints
                outcome = _run_safely(cell, dataset)
            record["cells"][str(cell)] = outcome
            record["seconds"] += time.perf_counter() - start
            print(f"{cell}: {': '.join(filter(None, outcome))}", flush=True)
            if file:
                file.write_text(as_json(record))
    if args.write:
        args.write.write_text(table(record))
    outcomes = [Outcome(*o) for o in record["cells"].values()]
    print(Counter(o.kind for o in outcomes))
    sys.exit(any(failed(o) for o in outcomes))


def as_json(record: dict[str, Any]) -> str:
    """One line per cell."""
    cells = ",\n".join(f"  {json.dumps(k)}: {json.dumps(o)}" for k, o in record["cells"].items())
    rest = json.dumps({k: v for k, v in record.items() if k != "cells"}, indent=1)
    return f'{rest[:-2]},\n "cells": {{\n{cells}\n }}\n}}\n'


if __name__ == "__main__":
    main()
