"""Parts of pages that are made from code or results, between two lines of HTML comments; and what
stands in the cells of their tables."""

from __future__ import annotations

import re
from collections.abc import Sequence
from statistics import mean

MARK = re.compile(r"<!-- made: (.+?) -->\n(?:.*?)<!-- end of \1 -->\n", re.DOTALL)


def marked(page: str) -> list[str]:
    """Names of the parts of a page."""
    return MARK.findall(page)


def put_between_marks(page: str, name: str, text: str) -> str:
    """A page with the text between the lines `<!-- made: NAME -->` and `<!-- end of NAME -->`.

    Raises:
        ValueError: the page has no such lines.
    """
    first, last = f"<!-- made: {name} -->\n", f"<!-- end of {name} -->\n"
    before, found, rest = page.partition(first)
    _, end, after = rest.partition(last)
    if not (found and end):
        raise ValueError(f"The page must have the lines {first.strip()!r} and {last.strip()!r}.")
    return f"{before}{first}\n{text}\n\n{last}{after}"


def spread(values: Sequence[float | None], digits: int = 1) -> str:
    """`81.2 (80.6–82.3)`: mean, lowest and highest of those that are known."""
    known = [value for value in values if value is not None]
    numbers = [mean(known), min(known), max(known)] if known else []
    middle, *ends = (f"{number:.{digits}f}" for number in numbers) if known else ("",)
    return f"{middle} ({'–'.join(ends)})" if len(known) > 1 else middle
