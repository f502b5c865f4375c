"""The table of `tools/compare_trackers.py`, from the JSON file that it writes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

# Of `relation_heads.tracking.methods.METHODS`, which cannot be imported without `trackers`.
NAMES = {
    "association": "association, motion alone",
    "sort": "SORT",
    "bytetrack": "ByteTrack",
}
ALL = "COMBINED"  # as `trackers` calls all sequences together


def table(result: Mapping[str, Any]) -> str:
    """Markdown: all sequences together, then IDF1, HOTA and identity switches of each of them."""
    methods = result["mot"]
    lines = [
        "| all sequences | IDF1 | HOTA | AssA | DetA | MOTA | identity switches |",
        "|:--|--:|--:|--:|--:|--:|--:|",
    ]
    for name, entry in methods.items():
        scores = entry["scores"][ALL]
        shares = [f"{100 * scores[k]:.1f}" for k in ("IDF1", "HOTA", "AssA", "DetA", "MOTA")]
        lines.append(f"| {' | '.join([name, *shares])} | {scores['IDSW']:.0f} |")
    lines += [
        "",
        f"| IDF1 / HOTA / identity switches | {' | '.join(methods)} |",
        "|:--|" + "--:|" * len(methods),
    ]
    first = next(iter(methods.values()))["scores"]
    for sequence in first:
        if sequence != ALL:
            cells = [_cell(entry["scores"][sequence]) for entry in methods.values()]
            lines.append(f"| {' | '.join([sequence, *cells])} |")
    return "\n".join(lines)


def _cell(scores: Mapping[str, float]) -> str:
    return f"{100 * scores['IDF1']:.1f} / {100 * scores['HOTA']:.1f} / {scores['IDSW']:.0f}"
