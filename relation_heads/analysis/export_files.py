"""The table of exports as a file, with what is needed to repeat it."""

from __future__ import annotations

import argparse
import json
import logging
import shlex
import sys
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from .exports import DETECTORS, Cell, table, try_exports
from .provenance import provenance


def try_and_write(args: argparse.Namespace) -> None:
    """What `tools/try_exports.py` does with its arguments.

    Raises:
        ValueError: a detector is not one of the table.
    """
    names = args.detectors or list(DETECTORS)
    unknown = [name for name in names if name not in DETECTORS]
    if unknown:
        raise ValueError(f"--detectors: {unknown[0]!r} is none of {', '.join(DETECTORS)}.")
    logging.disable(logging.WARNING)  # of every model and every exporter
    content: dict[str, Any] = provenance(0, "tools/try_exports.py")
    some = ["--detectors", *args.detectors] if args.detectors else []
    content["command"] = shlex.join(["tools/try_exports.py", *some])  # --output is of one machine
    args.output.parent.mkdir(parents=True, exist_ok=True)
    cells: list[Cell] = []
    for cell in try_exports(names):
        cells.append(cell)
        print(f"{cell.detector}, {cell.part}, {cell.way}: {cell.result} {cell.reason}",
              file=sys.stderr)  # fmt: skip
        content["cells"] = [asdict(c) for c in cells]
        args.output.write_text(json.dumps(content, indent=1) + "\n")  # a long run may be stopped
    print(f"{table(cells)}\n\nWritten to {args.output}.")


def table_of(record: Mapping[str, Any]) -> str:
    """The table of such a file, and where it was made."""
    cells = [Cell(**cell) for cell in record["cells"]]
    made = f"commit {record['commit']}, torch {record['versions']['torch']}"
    return f"{table(cells)}\n\nMade by `{record['command']}`, {made}."
