"""A published number, our count of the same, and the verdict that follows from both."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

M, MI, G = 1e6, 2**20, 1e9


@dataclass(frozen=True)
class Row:
    """One published number.

    Attributes:
        what: it counts.
        unit: of both numbers, such as "M parameters".
        published: as it is printed; with a sign it is a difference of published numbers.
        here: our count in that unit; None if there is none.
        lines: what the published number counts in another way: text, and what to add to our count.
        why: there is no count here, or what is known of the difference that remains.
    """

    what: str
    unit: str
    published: str
    here: float | None
    lines: Sequence[tuple[str, float]] = ()
    why: str = ""

    @property
    def digits(self) -> int:
        """Behind the point of the published number."""
        return len(self.published.partition(".")[2])

    @property
    def value(self) -> float:
        """The published number.

        Raises:
            ValueError: it is not one.
        """
        return float(self.published.replace(",", ""))

    def counted(self) -> str:
        """Our count, with two digits more than the published number if that is rounded."""
        if self.here is None:
            return ""
        sign = "+" if self.published.startswith("+") else ""
        return f"{self.here:{sign},.{self.digits + 2 if self.digits else 0}f}"

    def verdict(self) -> str:
        """See the page."""
        if self.here is None:
            return f"not reproduced: {self.why}"
        if self._rounds(self.here):
            return "equal"
        if self._is_cut(self.here):
            return "explained: the digits behind are cut off, not rounded"
        total = self.here + sum(amount for _, amount in self.lines)
        told = [f"{amount:+.{self.digits + 1}f}: {text}" for text, amount in self.lines]
        if self._rounds(total):
            return f"explained: {'; '.join(told)}"
        if self._is_cut(total):
            return f"explained: {'; '.join(told)}; the digits behind are cut off, not rounded"
        told.append(f"{self.value - total:+.{self.digits + 1}f} remain")
        return f"not reproduced: {'; '.join(told)}{f' ({self.why})' if self.why else ''}"

    def _rounds(self, number: float) -> bool:
        """A difference of rounded numbers may be off by two halves of the last digit."""
        halves = 2 if self.published[0] in "+-" else 1
        return abs(number - self.value) <= halves * 0.5 * 10**-self.digits + 1e-9

    def _is_cut(self, number: float) -> bool:
        scale = 10**self.digits
        return math.floor(number * scale) == round(self.value * scale)


@dataclass(frozen=True)
class Table:
    """The numbers of one published table.

    Attributes:
        title: with the paper.
        source: where the published numbers are from.
        rows: one per number.
        note: the settings of our counts.
    """

    title: str
    source: str
    rows: Sequence[Row]
    note: str = ""

    def markdown(self) -> str:
        """The table with its title."""
        lines = [f"## {self.title}", "", f"Published numbers: {self.source}.\n{self.note}".strip()]
        lines += ["", "| | unit | published | here | verdict |", "|:--|:--|--:|--:|:--|"]
        for row in self.rows:
            cells = [row.what, row.unit, row.published, row.counted(), row.verdict()]
            lines.append(f"| {' | '.join(cells)} |")
        return "\n".join(lines)
