"""The command `relation-heads`; `python -m relation_heads` is the same.

Every verb is a module of this package: its docstring explains it, and it has `add_arguments` and
`run`. Only `run` imports more than the standard library, so that `--help` comes at
once.
"""

from __future__ import annotations

import argparse
import sys
from importlib import import_module

from ..command_line import add_debug, run_or_explain
from .model import take_overrides

# In the order in which a user meets them.
VERBS = ("predict", "explain", "view", "train", "evaluate", "export", "configs", "doctor")
# In these config overrides may stand anywhere.
WITH_A_MODEL = ("predict", "explain", "view", "evaluate", "export")


def build_parser() -> argparse.ArgumentParser:
    """The command line of all verbs."""
    parser = argparse.ArgumentParser(
        prog="relation-heads",
        description="Object detectors that reason over their regions.",
        epilog="`relation-heads VERB --help` explains a verb, with examples.",
    )
    verbs = parser.add_subparsers(title="verbs", metavar="VERB", required=True, dest="verb")
    for name in VERBS:
        verb = import_module(f".{name}", __name__)
        title = (verb.__doc__ or "").partition("\n")[0]
        one = verbs.add_parser(
            name,
            help=title[0].lower() + title[1:].rstrip("."),
            description=verb.__doc__,
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        add_debug(one)
        verb.add_arguments(one)
        one.set_defaults(program=f"relation-heads {name}")
    return parser


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    """The command line of the verb that it begins with."""
    words, opts, parser = list(sys.argv[1:] if argv is None else argv), None, build_parser()
    if words and words[0] in WITH_A_MODEL:
        try:
            words, opts = take_overrides(words)
        except ValueError as error:
            parser.error(str(error))
    args = parser.parse_args(words)
    if opts is not None:
        args.opts = opts
    return args


def main(argv: list[str] | None = None) -> None:
    """Command line; exit code 2 and one sentence if something does not fit."""
    args = parse_args(argv)
    run = import_module(f".{args.verb}", __name__).run
    code = run_or_explain(run, args, args.program)
    sys.exit(code if isinstance(code, int) else 0)
