"""Detectors trained beside each other: how good they were on the way, and in the end.

A training leaves one JSON: its evaluations by iteration, and what is needed to repeat it. Tables
have a row for every metric and a column for every training, as "mean (lowest–highest)" over the
seeds. A second table says at which evaluation a metric first reached 90 %.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from .marks import spread

PREFIX = "bbox/"  # of the metrics that are kept
REACHED = 90.0


@dataclass(frozen=True)
class Trained:
    """What a training showed.

    Args:
        name: of the detector, such as "relation".
        seed: of the training.
        config: name or path.
        overrides: keys and values, as on a command line.
        evaluations: iteration -> metric -> percent, such as "AP50"; None is not a number.
        made_by: commit, machine and torch.
    """

    name: str
    seed: int
    config: str
    overrides: str
    evaluations: dict[str, dict[str, float | None]]
    made_by: dict[str, str]

    @property
    def final(self) -> dict[str, float | None]:
        """Of the last evaluation."""
        return self.evaluations[max(self.evaluations, key=int)]


def evaluations(metrics: Path, iterations: int) -> dict[str, dict[str, float | None]]:
    """From the `metrics.json` of a training, one JSON a line.

    Args:
        metrics: the file. Of an iteration that was done twice, the last line counts. AP of single
            classes is left out.
        iterations: of the training; the evaluation after it is logged as one iteration later.

    Raises:
        ValueError: the file has no evaluation.
    """
    found = {}
    for line in metrics.read_text(encoding="utf-8").splitlines():
        logged = json.loads(line)
        values = {
            key.removeprefix(PREFIX): None if value != value else round(value, 3)
            for key, value in logged.items()
            if key.startswith(PREFIX) and not key.startswith(f"{PREFIX}AP-")
        }
        if values:
            found[str(min(logged["iteration"] + 1, iterations))] = values
    if not found:
        raise ValueError(f"{metrics} has no evaluation of boxes.")
    return found


def reached(trained: Trained, metric: str) -> int | None:
    """The first evaluation with `REACHED` percent, None if there is none."""
    for iteration in sorted(trained.evaluations, key=int):
        if (trained.evaluations[iteration].get(metric) or 0.0) >= REACHED:
            return int(iteration)
    return None


def table(all_trained: Sequence[Trained]) -> str:
    """Markdown: the last evaluations, when a metric reached 90 %, and how it was made."""
    columns = _columns(all_trained)
    lines, when = _titles(columns), []
    for metric in _metrics(all_trained):
        cells = [spread([t.final.get(metric) for t in runs]) for runs in columns.values()]
        lines.append("| " + " | ".join([metric, *cells]) + " |")
        times = [[reached(t, metric) for t in runs] for runs in columns.values()]
        if any(any(row) for row in times):
            when.append("| " + " | ".join([metric, *map(first_times, times)]) + " |")
    if when:
        lines += ["", f"Iterations of the first evaluation with {REACHED:g} % and more, by seed:"]
        lines += ["", *_titles(columns), *when]
    return "\n".join([*lines, "", *(f"- {note}" for note in _notes(columns))])


def _columns(all_trained: Sequence[Trained]) -> dict[str, list[Trained]]:
    columns: dict[str, list[Trained]] = {}
    for trained in all_trained:
        columns.setdefault(trained.name, []).append(trained)
    return columns


def _metrics(all_trained: Sequence[Trained]) -> list[str]:
    """Those of a table: of groups AP50 alone, and none that is never a number."""
    found = dict.fromkeys(
        metric
        for trained in all_trained
        for metric, value in trained.final.items()
        if value is not None and not metric.startswith(("AP/", "AR/"))
    )
    return list(found)


def _titles(columns: Iterable[str]) -> list[str]:
    names = list(columns)
    return ["| " + " | ".join(["", *names]) + " |", "|:--|" + "--:|" * len(names)]


def first_times(iterations: Sequence[int | None]) -> str:
    """Of the seeds, "200, 400, never"."""
    return ", ".join("never" if i is None else str(i) for i in iterations)


def _notes(columns: Mapping[str, Sequence[Trained]]) -> list[str]:
    notes = []
    for name, runs in columns.items():
        seeds = ", ".join(str(run.seed) for run in runs)
        overrides = f" `{runs[0].overrides}`" if runs[0].overrides else ""
        last = "; ".join(sorted({max(run.evaluations, key=int) for run in runs}, key=int))
        notes.append(f"{name}: `{runs[0].config}`{overrides}, seeds {seeds}, {last} iterations")
    every = [run for runs in columns.values() for run in runs]
    for key in ("commit", "machine", "torch"):
        notes.append(f"{key}: " + "; ".join(sorted({run.made_by[key] for run in every})))
    return notes
