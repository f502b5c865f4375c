"""The table of `tools/time_tracker.py`, from the JSON file that it writes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def table(result: Mapping[str, Any]) -> str:
    """Markdown: steps a second by D, then the memory in a long video."""
    lines = [
        f"One CPU thread ({result['machine']}), commit {result['commit']}.",
        "",
        "| D | association, steps a second | tracker, frames a second |",
        "|:--|--:|--:|",
    ]
    for dim, steps in result["steps"].items():
        lines.append(f"| {dim} | {steps['association']:.0f} | {steps['tracker']:.0f} |")
    frames, memory, tracks = zip(*result["memory"], strict=True)
    lines += [
        "",
        f"| after frame | {' | '.join(f'{n:,}' for n in frames)} |",
        "|:--|" + "--:|" * len(frames),
        f"| memory, MiB | {' | '.join(f'{m:.1f}' for m in memory)} |",
        f"| tracks | {' | '.join(map(str, tracks))} |",
    ]
    return "\n".join(lines)
