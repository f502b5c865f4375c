"""What a check finds, and the report that a person reads."""

from __future__ import annotations

import textwrap
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

# From severe to harmless.
LEVELS = {
    "problem": "training or evaluation fails or is wrong",
    "warning": "odd: worth a look",
    "fact": "good to know",
}
_EXAMPLES, _WIDTH = 3, 100


@dataclass(frozen=True)
class Finding:
    """One kind of thing that was found in a data set."""

    level: str  # a key of LEVELS
    what: str  # with the number of offenders
    examples: tuple[str, ...] = ()  # the first offenders
    advice: str = ""  # what it does, or what to do
    dataset: str = ""  # its name, or the names of several

    def __str__(self) -> str:
        """One sentence, with the first offender."""
        example = f", e.g. {self.examples[0]}" if self.examples else ""
        advice = f": {self.advice}" if self.advice else ""
        return f"{self.what}{example}{advice}".removesuffix(".") + "."


def found(
    level: str,
    offenders: Sequence[Any] | np.ndarray,
    what: str,
    advice: str = "",
    label: Callable[[Any], str] = str,
) -> list[Finding]:
    """A finding with the number of offenders and the first of them; none if there are none.

    Args:
        level: a key of LEVELS.
        offenders: whatever `label` takes.
        what: follows the number; `{s}` and `{es}` are for the plural.
        advice: what it does, or what to do.
        label: how an offender is called.
    """
    if len(offenders) == 0:
        return []
    s, es = ("", "") if len(offenders) == 1 else ("s", "es")
    sentence = f"{len(offenders)} {what.format(s=s, es=es)}"
    return [Finding(level, sentence, tuple(map(label, offenders[:_EXAMPLES])), advice)]


def of_dataset(name: str, findings: Iterable[Finding]) -> list[Finding]:
    """The findings, with this name where they have none."""
    return [replace(finding, dataset=finding.dataset or name) for finding in findings]


def as_text(findings: Sequence[Finding]) -> str:
    """All findings, the severe ones first, and at the end how many there are of each level."""
    lines = []
    for level, meaning in LEVELS.items():
        of_level = [finding for finding in findings if finding.level == level]
        if of_level:
            lines.append(f"{level.upper()}S ({meaning})")
            lines += [line for finding in of_level for line in _lines(finding)]
            lines.append("")
    counts = [(sum(f.level == level for f in findings), level) for level in LEVELS]
    numbers = ", ".join(f"{n} {level}{'' if n == 1 else 's'}" for n, level in counts)
    return "\n".join([*lines, f"{numbers}."])


def _lines(finding: Finding) -> list[str]:
    lines = _wrap(f"{finding.dataset}: {finding.what}", "- ")
    if finding.examples:
        lines += _wrap("; ".join(finding.examples), "  e.g. ")
    if finding.advice:
        lines += _wrap(finding.advice, "  -> ")
    return lines


def _wrap(text: str, start: str) -> list[str]:
    # Paths and file names stay whole, so that they can be copied.
    return textwrap.wrap(
        text,
        _WIDTH,
        initial_indent=start,
        subsequent_indent=" " * len(start),
        break_long_words=False,
        break_on_hyphens=False,
    )
