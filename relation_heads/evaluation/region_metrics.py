"""Metrics of region classification: the boxes are given, only their classes are asked.

Chen, Li, Fei-Fei, Gupta, "Iterative Visual Reasoning Beyond Convolutions" (CVPR 2018), as their
released evaluation computes them. P is the (R, K) matrix of class probabilities of all R regions of
a test set, without a column for background, and g the (R,) classes of the ground truth:

    hit_r         argmax_c P[r, c] = g_r
    AC-instance   mean of hit over regions
    AC-class      mean over classes of the mean of hit over the regions of the class
    SC-instance   mean of P[r, g_r] over regions; SC-class as AC-class
    AP-instance   AP of the ranking of regions by P[r, g_r], positives hit_r, recall out of R
    AP-instance-pred   the same ranking by P[r, argmax], the confidence that is known without g
    AP-class      mean over classes of the AP of all regions by P[:, c], positives g_r = c

AP is the area under the precision-recall curve with the monotone envelope at all points (VOC 2010).
AP-instance ranks by a confidence that only the ground truth tells, so it is close to AC-instance.

Equal scores are ranked in the order of the rows. A class without a region does not count. A row
without a positive entry is a region without a prediction: wrong, and never retrieved.
"""

from __future__ import annotations

import logging
from typing import NamedTuple

import numpy as np

logger = logging.getLogger(__name__)

PER_CLASS = ("count", "SC", "AC", "AP")
_BLOCK = 64  # classes whose columns are copied together: a column alone is one cache miss per row


class RegionMetrics(NamedTuple):
    """`overall`: metric -> fraction. `per_class`: (K, 4), columns `PER_CLASS`, NaN if count = 0."""

    overall: dict[str, float]
    per_class: np.ndarray


def region_metrics(probabilities: np.ndarray, labels: np.ndarray) -> RegionMetrics:
    """All metrics of the module docstring, as fractions.

    Args:
        probabilities: (R, K) class probabilities >= 0; a missing prediction is a row of zeros.
        labels: (R,) integer classes in [0, K).

    Returns:
        metrics over all regions and by class; NaN, with a warning in the log, if R = 0.

    Raises:
        ValueError: the shapes do not fit, a label is out of range, or a number is not finite.
    """
    _check(probabilities, labels)
    names = ("AP-instance", "AC-instance", "AP-class", "AC-class", "SC-instance", "SC-class")
    names += ("AP-instance-pred",)
    rows = np.arange(len(labels))
    predicted = probabilities.argmax(axis=1)
    confidence = probabilities[rows, predicted]
    hits = (predicted == labels) & (confidence > 0)
    scores = probabilities[rows, labels]
    table = _per_class(probabilities, labels, hits, scores)
    if len(labels) == 0:
        logger.warning("There are no regions to evaluate: all metrics are NaN.")
        return RegionMetrics(dict.fromkeys(names, float("nan")), table)
    _, sc_class, ac_class, ap_class = table[table[:, 0] > 0].mean(axis=0)
    values = (
        ranked_ap(scores, hits, len(labels)),
        hits.mean(),
        ap_class,
        ac_class,
        scores.mean(dtype=np.float64),
        sc_class,
        ranked_ap(confidence, hits, len(labels)),
    )
    return RegionMetrics(dict(zip(names, map(float, values), strict=True)), table)


def ranked_ap(scores: np.ndarray, positive: np.ndarray, num_positives: int) -> float:
    """AP of a ranking, by the area under the envelope of precision over recall.

    Args:
        scores: (R,) ranked from high to low; equal ones in the order of the rows.
        positive: (R,) bool.
        num_positives: what recall is out of; at least 1 and at least `positive.sum()`.

    Returns:
        a fraction; 0 if nothing is positive.
    """
    if not positive.any():
        return 0.0
    # What ranks after the last positive changes nothing, and that is most rows of a rare class.
    candidates = np.flatnonzero(scores >= scores[positive].min())
    order = candidates[np.argsort(-scores[candidates], kind="stable")]
    ranks = np.flatnonzero(positive[order]) + 1
    # Precision is highest at the positives, and recall grows by 1 / num_positives at each of them.
    precision = np.arange(1, len(ranks) + 1) / ranks
    return float(np.maximum.accumulate(precision[::-1]).sum() / num_positives)


def _per_class(
    probabilities: np.ndarray, labels: np.ndarray, hits: np.ndarray, scores: np.ndarray
) -> np.ndarray:
    """The table of `RegionMetrics`."""
    num_classes = probabilities.shape[1]
    counts = np.bincount(labels, minlength=num_classes)
    table = np.full((num_classes, len(PER_CLASS)), np.nan)
    table[:, 0] = counts
    present = np.flatnonzero(counts)
    for column, values in ((1, scores), (2, hits)):
        sums = np.bincount(labels, weights=values, minlength=num_classes)
        table[present, column] = sums[present] / counts[present]
    answered = probabilities.max(axis=1) > 0
    for start in range(0, len(present), _BLOCK):
        classes = present[start : start + _BLOCK]
        columns = np.ascontiguousarray(probabilities[:, classes].T)  # (block, R)
        for c, column in zip(classes, columns, strict=True):
            table[c, 3] = ranked_ap(column, (labels == c) & answered, counts[c])
    return table


def _check(probabilities: np.ndarray, labels: np.ndarray) -> None:
    shape = probabilities.shape
    if len(shape) != 2 or shape[1] == 0 or labels.shape != shape[:1]:
        raise ValueError(
            f"probabilities {shape} and labels {labels.shape} must have the shapes (R, K) and "
            "(R,), with K >= 1."
        )
    if labels.dtype.kind not in "iu":
        raise ValueError(f"labels must be integers, but they are {labels.dtype}.")
    if len(labels) and not 0 <= labels.min() <= labels.max() < shape[1]:
        raise ValueError(
            f"labels must be in 0..{shape[1] - 1}, but they are in {labels.min()}..{labels.max()}."
        )
    if not np.isfinite(probabilities.sum(axis=1)).all():
        raise ValueError("probabilities must be finite, but there is a NaN or infinity.")
