"""List the configs, or those whose names have all of some words.

    relation-heads configs
    relation-heads configs cascade sgrn

The names are what `relation-heads train --config-file` takes.
"""

from __future__ import annotations

import argparse


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Those of `relation-heads configs`."""
    parser.add_argument("words", nargs="*", metavar="WORD", help="parts of the name")
    parser.add_argument("--detectron2", action="store_true", help="Detectron2's own as well")


def run(args: argparse.Namespace) -> int:
    """Prints the names, each with the first line of its comment; 1 if there are none."""
    from ..config.files import all_configs

    found = 0
    for name, about in all_configs(with_detectron2=args.detectron2):
        if all(word.lower() in name.lower() for word in args.words):
            found += 1
            print(f"{name}  # {about}" if about else name)
    if not found:
        print(f"No config has {' and '.join(args.words)} in its name.")
    return 0 if found else 1
