"""Tables of docs/reliability.md: what was misused and what was answered, and what a long run used.

The JSON files are written by `tests.robustness.audit` and `tests.robustness.soak`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any

GOOD = ("sentence", "accepted")


def matrix(results: Mapping[str, Any]) -> str:
    """How many cases of each family came out how, and the bad ones one by one."""
    families = {name: Counter(count) for name, count in results["audit"].items()}
    families["all"] = sum(families.values(), Counter[str]())
    outcomes = [*GOOD, *sorted(families["all"].keys() - set(GOOD))]
    lines = [
        f"{families['all'].total()} of {results['of']} cases, {len(results['bad'])} bad "
        f"(seed {results['seed']}, commit {results['commit']}, {results['cpu_seconds']} seconds of "
        "CPU).",
        "",
        "| family | cases | " + " | ".join(outcomes) + " |",
        "|:--|--:|" + "--:|" * len(outcomes),
    ]
    for name, count in families.items():
        cells = [count.total(), *(count[outcome] for outcome in outcomes)]
        lines.append(f"| {name} | {' | '.join(map(str, cells))} |")
    if results["bad"]:
        lines += ["", "| bad | family | subject | value |", "|:--|:--|:--|:--|"]
    for family, subject, value, outcome in results["bad"]:
        lines.append(f"| {outcome} | {family} | `{subject}` | `{_cell(value)}` |")
    return "\n".join(lines)


def soak(results: Mapping[str, Any]) -> str:
    """What a long training used, at its start and its end, and by how much that grew."""
    memory, files = results["memory_mib"], results["files"]
    rows = [
        ("memory, MiB", memory, results["memory_mib_per_hour"]),
        ("open files", files, results["files_per_hour"]),
    ]
    lines = [
        f"{results['iterations']} iterations in {results['minutes']} minutes, with "
        f"{results['workers']} data worker (commit {results['commit']}, {results['machine']}).",
        "",
        "| | first note | after a third | last note | largest | growth per hour |",
        "|:--|--:|--:|--:|--:|--:|",
    ]
    for name, values, (slope, error) in rows:
        third = values[len(values) // 3]
        cells = [values[0], third, values[-1], max(values), f"{slope:g} ± {error:g}"]
        lines.append(f"| {name} | {' | '.join(map(str, cells))} |")
    return "\n".join(lines)


def _cell(value: str) -> str:
    text = "".join(c if c.isprintable() else repr(c)[1:-1] for c in value)
    text = text.replace("|", "\\|").replace("`", "'").strip() or " "
    return text if len(text) <= 60 else f"{text[:60]}..."
