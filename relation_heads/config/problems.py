"""What is wrong or odd in a config, as values: collected first, then said together."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from dataclasses import dataclass
from difflib import get_close_matches


@dataclass(frozen=True)
class Problem:
    """One sentence that names the key, its value and what is allowed.

    Attributes:
        message: ends with a full stop or a question mark.
        fatal: nothing can work like that; else it is only odd.
    """

    message: str
    fatal: bool = True


def log_and_raise(problems: Iterable[Problem], title: str, logger: logging.Logger) -> None:
    """Logs what is odd as warnings, and raises for what is fatal.

    Args:
        problems: the same one twice is said once.
        title: first line of the error.
        logger: of the warnings.

    Raises:
        ValueError: the title and one line for every fatal problem.
    """
    found = list(dict.fromkeys(problems))
    for problem in found:
        if not problem.fatal:
            logger.warning(problem.message)
    lines = [f"- {problem.message}" for problem in found if problem.fatal]
    if lines:
        raise ValueError("\n".join([title, *lines]))


def raise_fatal(problems: Iterable[Problem]) -> None:
    """Raises one ValueError with a line for every fatal problem, if there is one."""
    lines = dict.fromkeys(p.message for p in problems if p.fatal)  # each once
    if lines:
        raise ValueError("\n".join(lines))


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """`; did you mean a, b?`, or a full stop where nothing is close."""
    matches = get_close_matches(name, list(known), n=3, cutoff=0.6)
    return f"; did you mean {', '.join(matches)}?" if matches else "."
