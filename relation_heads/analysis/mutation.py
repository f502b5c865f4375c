"""The table of survivors, from the JSON file that `tests/mutation/mutate.py` writes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any


def table(results: Mapping[str, Any]) -> str:
    """Markdown: how many mutants were run, then a row for each that was not killed."""
    mutants = results["mutants"]
    counts = Counter(mutant["status"] for mutant in mutants)
    told = ", ".join(f"{count} {status}" for status, count in sorted(counts.items()))
    lines = [
        f"{len(mutants)} of {results['count']} mutants were run (seed {results['seed']}): {told}."
    ]
    left = sorted(
        (m for m in mutants if m["status"] != "killed"), key=lambda m: (m["file"], m["line"])
    )
    if left:
        lines += ["", "| place | change | status | note |", "|:--|:--|:--|:--|"]
    for mutant in left:
        change = f"`{mutant['old']}` to `{mutant['new']}`".replace("|", "\\|")
        place = f"{mutant['file']}:{mutant['line']}"
        cells = [place, change, mutant["status"], mutant.get("note", "")]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)
