"""Parts of pages that are made from code or results, between two lines of HTML comments."""

from __future__ import annotations

import re

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
