"""Say what is installed, what is registered, which data sets are found, and what is wrong."""

from __future__ import annotations

import argparse


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """There are none."""


def run(args: argparse.Namespace) -> int:
    """Prints it; 1 if there is a problem."""
    from ..doctor import main

    return main()
