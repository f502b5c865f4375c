"""What is wrong with a config, as a value: a sentence, and whether a run can start all the same."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True)
class Problem:
    """One problem.

    Attributes:
        message: one sentence with the key, its value and what is allowed.
        fatal: False for what is only odd.
    """

    message: str
    fatal: bool = True


def raise_fatal(problems: Iterable[Problem]) -> None:
    """Raises one ValueError with a line for every fatal problem, if there is one."""
    lines = dict.fromkeys(p.message for p in problems if p.fatal)  # each once
    if lines:
        raise ValueError("\n".join(lines))
