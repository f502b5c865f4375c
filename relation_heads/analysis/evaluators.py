"""The table of `tools/compare_evaluators.py`, from the JSON file that it writes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

OURS = "ours (sparse)"


def table(result: Mapping[str, Any]) -> str:
    """Markdown: a row for each evaluator and size; a ratio is its time divided by ours."""
    titles = ["evaluator", "classes", "images", "time / ours", "memory, MiB", "numbers that differ"]
    lines = [f"| {' | '.join([*titles, 'by at most'])} |", "|:--|" + "--:|" * len(titles)]
    for case in result["cases"]:
        ours = case["evaluators"][OURS]["seconds"]
        for name, row in case["evaluators"].items():
            cells = [
                name,
                f"{case['classes']:,}",
                f"{case['images']:,}",
                f"{row['seconds'] / ours:.2f}",
                f"{row['peak_mib']:,.0f}",
                f"{row['different']:,} of {row['numbers']:,}",
                f"{row['largest']:.1g}" if row["largest"] else "0",
            ]
            lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)
