#!/usr/bin/env python
"""Write the pages that are made from the code and from results: tables, configs, the zoo.

    tools/write_docs.py

A test holds that they are as this program writes them.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    """The command line."""
    from relation_heads.command_line import new_parser

    parser = new_parser(__doc__)
    return parser.parse_args(argv)


def run(args: argparse.Namespace) -> None:
    """Writes them."""
    from relation_heads.analysis.pages import write_pages

    for path in write_pages():
        print(f"{path} written.")


def main(argv: list[str] | None = None) -> None:
    """Command line; exit code 2 and one sentence if something does not fit."""
    args = parse_args(argv)
    from relation_heads.command_line import run_or_explain

    run_or_explain(run, args)


if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # works without installation
    main()
