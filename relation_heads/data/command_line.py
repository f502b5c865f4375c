"""How the programs in `datasets/` end when something does not fit."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable


def run_or_explain(run: Callable[[argparse.Namespace], None], args: argparse.Namespace) -> None:
    """`run(args)`; exit code 2 and one sentence if a file or a value does not fit."""
    try:
        run(args)
    except OSError as error:
        message = f"{error.filename}: {error.strerror}." if error.filename else str(error)
    except ValueError as error:
        message = str(error)
    else:
        return
    print(message, file=sys.stderr)
    raise SystemExit(2)
