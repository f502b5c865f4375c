"""Results of trainings on box features as tables in Markdown.

Accuracy is in percent, as mean (lowest–highest) over the seeds. A gain is the difference to the MLP
of the same seed, and so of the same split and number of training images: its mean and the 95 %
interval of Student's t over the seeds. The same over its control says what a mechanism has from the
other boxes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from math import sqrt
from statistics import mean, stdev
from typing import Any

from ..marks import spread
from .classifiers import CONTROLS, METHODS

BASELINE = "mlp"
MIN_CLASS = 5  # test boxes of a class that is in the class mean
MIN_BOXES = 100  # test boxes of a column of the table by number of boxes, in every result
# Student's t at 97.5 % for 1 to 10 degrees of freedom; for more the last, a little too wide.
T_975 = (12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228)

Measured = Mapping[str, Any]  # what `training.run` gives
Measure = Callable[[Measured], float | None]  # percent; None where there is no box


def percent(pair: Sequence[int]) -> float | None:
    """Of [right, boxes]."""
    right, number = pair
    return 100 * right / number if number else None


def instances(measured: Measured) -> float | None:
    """Boxes that are right."""
    return percent(measured["all"])


def class_mean(measured: Measured) -> float | None:
    """Mean over the classes with at least `MIN_CLASS` test boxes."""
    found = [percent(pair) for pair in measured["by_class"].values() if pair[1] >= MIN_CLASS]
    return mean(found) if found else None


def several_classes(measured: Measured) -> float | None:
    """Boxes of images with two classes and more."""
    return percent(measured["several_classes"])


def with_boxes(low: int, high: int) -> Measure:
    """Boxes of images with `low` to `high` boxes."""

    def measure(measured: Measured) -> float | None:
        pairs = [p for n, p in measured["by_boxes"].items() if low <= int(n) <= high]
        return percent([sum(column) for column in zip(*pairs, strict=True)]) if pairs else None

    return measure


def interval(values: Sequence[float]) -> tuple[float, float | None]:
    """The mean and half of the 95 % interval; None for a single value."""
    if len(values) < 2:
        return mean(values), None
    t = T_975[min(len(values) - 1, len(T_975)) - 1]
    return mean(values), t * stdev(values) / sqrt(len(values))


class Results:
    """Measured numbers by method, seed and number of training images."""

    def __init__(self, results: Iterable[Mapping[str, Any]]) -> None:
        """
        Args:
            results: `results.Result` as dictionaries.
        """
        self.found = {(r["method"], r["train_images"], r["seed"]): r["measured"] for r in results}
        methods = {method for method, _, _ in self.found}
        self.methods = [m for m in METHODS if m in methods] + sorted(methods - METHODS.keys())
        self.sizes = sorted({size for _, size, _ in self.found if size}) + [0]  # all come last

    def seeds(self, method: str, size: int = 0) -> list[int]:
        """Of the method with so many training images."""
        return sorted(s for m, n, s in self.found if (m, n) == (method, size))

    def values(self, method: str, measure: Measure, size: int = 0) -> list[float]:
        """Of each seed."""
        found = [measure(self.found[method, size, seed]) for seed in self.seeds(method, size)]
        return [value for value in found if value is not None]

    def gains(
        self, method: str, measure: Measure, size: int = 0, over: str = BASELINE
    ) -> list[float]:
        """Differences to another method, of each seed that has both."""
        differences = []
        for seed in self.seeds(method, size):
            if (over, size, seed) in self.found:
                ours = measure(self.found[method, size, seed])
                theirs = measure(self.found[over, size, seed])
                if ours is not None and theirs is not None:
                    differences.append(ours - theirs)
        return differences


def gain_cell(values: Sequence[float]) -> str:
    """`+2.0 ± 1.4`, bold if the interval is on one side of 0."""
    if not values:
        return ""
    middle, half = interval(values)
    if half is None:
        return f"{middle:+.1f}"
    text = f"{middle:+.1f} ± {half:.1f}"
    return f"**{text}**" if abs(middle) > half else text


def main_table(results: Results) -> list[str]:
    """All training images: methods down, measures and gains across."""
    measures = {"instances": instances, "class mean": class_mean, "≥ 2 classes": several_classes}
    titles = ["method", "seeds"]
    for name in measures:
        titles += [name, "gain"]
    titles.insert(4, "over its control")
    rows = []
    for method in results.methods:
        row = [f"`{method}`", str(len(results.seeds(method)))]
        for measure in measures.values():
            row.append(spread(results.values(method, measure)))
            row.append("" if method == BASELINE else gain_cell(results.gains(method, measure)))
        row.insert(4, gain_cell(results.gains(method, instances, over=CONTROLS.get(method, ""))))
        rows.append(row)
    return _markdown(titles, rows)


def boxes_table(results: Results, min_boxes: int = MIN_BOXES) -> list[str]:
    """Gains by the number of boxes in the image: 1, 2, 3–4, 5–8, ...; of the MLP its accuracy.

    Args:
        results: of these.
        min_boxes: fewer test boxes in any result make no column.
    """
    every = [m["by_boxes"] for m in results.found.values()]
    most = max(int(n) for by_boxes in every for n in by_boxes)
    columns, low, high = {}, 1, 1
    while low <= most:
        numbers = [
            sum(pair[1] for n, pair in by_boxes.items() if low <= int(n) <= high)
            for by_boxes in every
        ]
        if min(numbers) >= min_boxes:
            title = "1 box" if high == 1 else f"{low}–{high} boxes" if low < high else "2 boxes"
            columns[title] = (with_boxes(low, high), 0)
        low, high = high + 1, high * 2
    return _gains(results, columns)


def curve_table(results: Results) -> list[str]:
    """Gains by the number of training images; of the MLP its accuracy."""
    return _gains(results, {f"{n or 'all'} images": (instances, n) for n in results.sizes})


def _gains(results: Results, columns: Mapping[str, tuple[Measure, int]]) -> list[str]:
    """Methods down; title -> measure and number of training images across."""
    rows = []
    for method in results.methods:
        if method == BASELINE:
            cells = [spread(results.values(method, *column)) for column in columns.values()]
        else:
            cells = [gain_cell(results.gains(method, *column)) for column in columns.values()]
        rows.append([f"`{method}`", *cells])
    return _markdown(["method", *columns], rows)


def tables(results: Sequence[Mapping[str, Any]]) -> str:
    """All tables of some results, and what they were made with."""
    known = Results(results)
    parts = [main_table(known), boxes_table(known)]
    if len(known.sizes) > 1:
        parts.append(curve_table(known))
    return "\n\n".join("\n".join(part) for part in [*parts, _notes(results)])


def _notes(results: Sequence[Mapping[str, Any]]) -> list[str]:
    def all_of(part: str, *keys: str) -> Iterable[str]:
        for key in keys:
            found = sorted({str(result[part][key]) for result in results})
            yield f"- {key.replace('_', ' ')}: {'; '.join(found)}"

    settings = ("train", "test", "epochs", "batch_size", "min_boxes")
    return [*all_of("setting", *settings), *all_of("made_by", "commit", "machine")]


def _markdown(titles: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    lines = ["| " + " | ".join(titles) + " |", "|:--" + "|--:" * (len(titles) - 1) + "|"]
    return lines + ["| " + " | ".join(row) + " |" for row in rows]
