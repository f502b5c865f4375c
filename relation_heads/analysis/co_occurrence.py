"""Do objects listen to the classes that they are seen with?

For classes a and b of a data set with K classes:

    P(a, b)  share of the training images with an object of class a that have another one of class b
    A(a, b)  how much an object of class a listens to all regions of other objects of class b: the
             mean of their relation weights, over the heads and over all detections of class a
    U(a, b)  the same, were every region heard alike (weights 1 / R)
    C(a, b)  A, in the images with another object of class b alone

A figure of the slides on relation networks gives the correlation of relation weights and class
co-occurrence, r = 0.90, without a definition; A with P is our reading of it. U is the control: what
is often there is often heard, by weights that have learned nothing as well. C is what is left of A
when b is there.

Shapes: Q detections, R regions, M objects of one image.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from tqdm import tqdm

from ..data.files import write_whole
from ..engine.predictor import Predictor, load
from ..visualization.detections import Relations
from .labelled import Objects, check_data, objects_of, objects_shown
from .provenance import made_by

PAIRS = 10  # of classes, in the report


class Tally:
    """What detections of a class listened to, summed over images."""

    def __init__(self, num_classes: int) -> None:
        """
        Args:
            num_classes: K.
        """
        self.heard = np.zeros((num_classes, num_classes))  # sums of weights, by (a, b)
        self.alike = np.zeros((num_classes, num_classes))  # the same of weights 1 / R
        self.present = np.zeros((num_classes, num_classes), dtype=np.int64)  # detections with a b
        self.asked = np.zeros(num_classes, dtype=np.int64)  # detections of class a

    def add(
        self, weights: np.ndarray, asking: np.ndarray, shown: np.ndarray, classes: np.ndarray
    ) -> None:
        """One image.

        Args:
            weights: (Q, R), how much each detection listens to each region.
            asking: (Q,) the object that a detection shows, -1 for none.
            shown: (R,) the object that a region shows, -1 for none.
            classes: (M,) of the objects.
        """
        of_region = np.zeros((len(shown), len(self.asked)))  # (R, K)
        of_region[shown >= 0, classes[shown[shown >= 0]]] = 1
        counts = np.bincount(classes, minlength=len(self.asked))
        for q in np.flatnonzero(asking >= 0):
            a = classes[asking[q]]
            others = shown != asking[q]
            self.asked[a] += 1
            self.heard[a] += (weights[q] * others) @ of_region
            self.alike[a] += others @ of_region / len(shown)
            self.present[a] += (counts - (np.arange(len(counts)) == a)) > 0

    def means(self) -> dict[str, np.ndarray]:
        """A, U and C, (K, K) each; NaN where nothing was counted."""
        with np.errstate(invalid="ignore", divide="ignore"):
            asked = self.asked[:, None]
            return {
                "A": self.heard / asked,
                "U": self.alike / asked,
                "C": np.where(self.present > 0, self.heard / self.present, np.nan),
            }


def listen(tally: Tally, relations: Relations, objects: Objects) -> None:
    """Adds what the detections of an image listened to in one module."""
    shown = objects_shown(relations.boxes, objects)
    tally.add(relations.weights.mean(0), shown[relations.region], shown, objects.classes)


def seen_together(images: Sequence[np.ndarray], num_classes: int) -> tuple[np.ndarray, np.ndarray]:
    """P (K, K), with NaN in rows of classes that are nowhere, and the share (K,) of the images that
    have a class.

    Args:
        images: classes (M,) of the objects of each image.
        num_classes: K.
    """
    with_both, with_two = np.zeros((num_classes, num_classes)), np.zeros(num_classes)
    for classes in images:
        here, counts = np.unique(classes, return_counts=True)
        with_both[np.ix_(here, here)] += 1
        with_two[here] += counts > 1
    with_one = with_both.diagonal().copy()
    np.fill_diagonal(with_both, with_two)
    with np.errstate(invalid="ignore"):
        return with_both / with_one[:, None], with_one / len(images)


def correlations(
    matrix: np.ndarray, together: np.ndarray, frequency: np.ndarray
) -> dict[str, float | None]:
    """Pearson's r of a matrix and P, over the pairs that have both.

    Args:
        matrix: (K, K).
        together: P (K, K).
        frequency: (K,) share of the images that have a class.

    Returns:
        over all pairs; over pairs of different classes; over those with the frequency of b taken
        out of both (the partial correlation). None where it is not defined.
    """
    known = np.isfinite(matrix) & np.isfinite(together)
    other = known & ~np.eye(len(matrix), dtype=bool)
    often = np.broadcast_to(frequency, matrix.shape)
    return {
        "all pairs": _pearson(matrix[known], together[known]),
        "different classes": _pearson(matrix[other], together[other]),
        "frequency taken out": _pearson(
            _rest(matrix[other], often[other]), _rest(together[other], often[other])
        ),
    }


def _rest(values: np.ndarray, cause: np.ndarray) -> np.ndarray:
    """What a straight line through `cause` does not explain of the values."""
    line = np.stack([np.ones_like(cause), cause], 1)
    return values - line @ np.linalg.lstsq(line, values, rcond=None)[0]


def _pearson(x: np.ndarray, y: np.ndarray) -> float | None:
    if len(x) < 3 or np.ptp(x) < 1e-12 or np.ptp(y) < 1e-12:
        return None
    return float(np.corrcoef(x, y)[0, 1])


# ---- a detector on a data set ----


def tallies(predictor: Predictor, data: Mapping[str, Objects]) -> dict[str, Tally]:
    """Of every relation module and SGRN graph, by its name."""
    found: dict[str, Tally] = {}
    heard = predictor.stream(data, relations=True)
    for objects, one in zip(data.values(), tqdm(heard, total=len(data), disable=None), strict=True):
        for relations in one.relations:
            tally = found.setdefault(relations.module, Tally(len(predictor.class_names)))
            listen(tally, relations, objects)
    return found


def report(
    found: Mapping[str, Tally], together: np.ndarray, frequency: np.ndarray, names: Sequence[str]
) -> dict[str, Any]:
    """Module -> correlations of A, U and C with P, the numbers of detections, and the pairs of
    different classes with the largest A."""
    made = {}
    for module, tally in found.items():
        means = tally.means()
        finite = np.where(np.isfinite(means["A"]) & ~np.eye(len(names), dtype=bool), means["A"], -1)
        best = np.argsort(-finite, axis=None)[: min(PAIRS, int((finite >= 0).sum()))]
        made[module] = {
            "detections": int(tally.asked.sum()),
            "r": {key: correlations(m, together, frequency) for key, m in means.items()},
            "pairs": [
                {
                    "asks": names[a],
                    "is heard": names[b],
                    **{key: float(m[a, b]) for key, m in means.items() if np.isfinite(m[a, b])},
                    "P": None if np.isnan(together[a, b]) else float(together[a, b]),
                }
                for a, b in (divmod(int(k), len(names)) for k in best)
            ],
        }
    return made


def compare(args: argparse.Namespace) -> None:
    """What `tools/compare_co_occurrence.py` does."""
    predictor = load(args.model, device=args.device, opts=args.opts)
    test = args.dataset or predictor.cfg.DATASETS.TEST[0]
    train = args.train or predictor.cfg.DATASETS.TRAIN[0]
    for name in (test, train):
        check_data(name, predictor.class_names)
    num_classes = len(predictor.class_names)
    classes = [objects.classes for objects in objects_of(train).values()]
    together, frequency = seen_together(classes, num_classes)
    found = tallies(predictor, objects_of(test))
    if not found:
        raise ValueError(f"{args.model} has no relation module and no SGRN graph.")
    modules = report(found, together, frequency, predictor.class_names)
    setting = {"model": str(args.model), "test": test, "train": train}
    content = {"co_occurrence": modules, "setting": setting, "made_by": made_by()}
    print(table(content))
    if args.output:
        write_whole(args.output, json.dumps(content, indent=1) + "\n")


def table(content: Mapping[str, Any]) -> str:
    """One row for every module and matrix, one column for every correlation; then the setting."""
    titles = {"A": "heard", "U": "every region heard alike", "C": "heard, where it is there"}
    kinds = ["all pairs", "different classes", "frequency taken out"]
    lines = [f"| module | matrix | {' | '.join(kinds)} |", f"|:--|:--|{'--:|' * len(kinds)}"]
    for module, made in content["co_occurrence"].items():
        for key, title in titles.items():
            cells = (made["r"][key][kind] for kind in kinds)
            shown = ["" if r is None else f"{r:.2f}" for r in cells]
            lines.append(f"| `{module}` | {title} | {' | '.join(shown)} |")
    setting, origin = content["setting"], content["made_by"]
    return "\n".join(
        [
            *lines,
            "",
            f"- `{setting['model']}` on {setting['test']}; seen together in {setting['train']}",
            f"- commit {origin['commit']}, {origin['machine']}, torch {origin['torch']}",
        ]
    )
