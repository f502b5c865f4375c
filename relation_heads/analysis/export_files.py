"""The table of exports as a file, with what is needed to repeat it."""

from __future__ import annotations

import argparse
import json
import logging
import sys
from dataclasses import asdict

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
    content, cells = provenance(0, "tools/try_exports.py"), []
    for cell in try_exports(names):
        cells.append(cell)
        print(f"{cell.detector}, {cell.part}, {cell.way}: {cell.result} {cell.reason}",
              file=sys.stderr)  # fmt: skip
    print(table(cells))
    args.output.parent.mkdir(parents=True, exist_ok=True)
    content["cells"] = [asdict(cell) for cell in cells]
    args.output.write_text(json.dumps(content, indent=1) + "\n")
    print(f"\nWritten to {args.output}.")


def table_of(content: str) -> str:
    """The table of such a file, and where it was made."""
    record = json.loads(content)
    made = f"{record['command']}, commit {record['commit']}, torch {record['versions']['torch']}"
    return f"{table([Cell(**cell) for cell in record['cells']])}\n\nMade by `{made}`."
