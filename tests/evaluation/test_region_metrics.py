"""Metrics of region classification beside their definition written out."""

from __future__ import annotations

import math

import numpy as np
import pytest

from relation_heads.evaluation.region_metrics import ranked_ap, region_metrics

# The published evaluation has a column 0 for background, which it never looks at.
ORACLE = np.array(
    [
        [0.01, 0.70, 0.20, 0.09],
        [0.01, 0.30, 0.60, 0.09],
        [0.01, 0.55, 0.25, 0.19],
        [0.02, 0.10, 0.28, 0.60],
        [0.02, 0.40, 0.38, 0.20],
    ]
)
ORACLE_CLASSES = np.array([1, 1, 2, 3, 2])


def voc_ap(ranking, num_positives):
    """Area under the envelope of precision over recall; `ranking` says which are positive."""
    recall, precision, found = [0.0], [0.0], 0
    for rank, positive in enumerate(ranking, start=1):
        found += positive
        recall.append(found / num_positives)
        precision.append(found / rank)
    for i in reversed(range(len(precision) - 1)):
        precision[i] = max(precision[i], precision[i + 1])
    return sum((recall[i] - recall[i - 1]) * precision[i] for i in range(1, len(recall)))


def reference(probabilities, labels):
    """The metrics, region by region and class by class."""
    rows = [[float(p) for p in row] for row in probabilities]
    answered = [any(row) for row in rows]
    hits = [
        a and row.index(max(row)) == g for row, a, g in zip(rows, answered, labels, strict=True)
    ]

    def ap(confidence, positive, num_positives):
        order = sorted(range(len(rows)), key=lambda r: -confidence[r])  # stable
        return voc_ap([positive[r] for r in order], num_positives)

    def mean(values):
        return sum(values) / len(values)

    sc, ac, aps = [], [], []
    for c in range(len(rows[0])):
        regions = [r for r, g in enumerate(labels) if g == c]
        if not regions:
            continue
        sc.append(mean([rows[r][c] for r in regions]))
        ac.append(mean([hits[r] for r in regions]))
        positive = [g == c and a for g, a in zip(labels, answered, strict=True)]
        aps.append(ap([row[c] for row in rows], positive, len(regions)))
    own = [row[g] for row, g in zip(rows, labels, strict=True)]
    return {
        "AP-instance": ap(own, hits, len(rows)),
        "AC-instance": mean(hits),
        "AP-class": mean(aps),
        "AC-class": mean(ac),
        "SC-instance": mean(own),
        "SC-class": mean(sc),
        "AP-instance-pred": ap([max(row) for row in rows], hits, len(rows)),
    }


def test_oracle():
    overall, table = region_metrics(ORACLE[:, 1:], ORACLE_CLASSES - 1)
    assert overall == pytest.approx(
        {
            "AP-instance": 0.4,
            "AC-instance": 0.4,
            "AP-class": 0.75,
            "AC-class": 0.5,
            "SC-instance": (0.70 + 0.30 + 0.25 + 0.60 + 0.38) / 5,
            "SC-class": (0.5 + 0.315 + 0.6) / 3,
            "AP-instance-pred": 1 / 3,
        }
    )
    # Of class 0, the regions rank first and fourth; of class 1, second and fourth.
    expected = [[2, 0.5, 0.5, 0.75], [2, 0.315, 0, 0.5], [1, 0.6, 1, 1]]
    np.testing.assert_allclose(table, expected)


@pytest.mark.parametrize(("seed", "levels"), [(0, None), (1, 3), (2, 20)])
def test_reference(seed, levels):
    """Long-tailed classes of which some are absent, ties, and regions without a prediction."""
    rng = np.random.default_rng(seed)
    num_regions, num_classes = 300, 160
    labels = np.minimum(rng.geometric(0.02, num_regions), num_classes) - 1
    probabilities = rng.random((num_regions, num_classes))
    probabilities[np.arange(num_regions), labels] += rng.random(num_regions)
    if levels:
        probabilities = np.ceil(probabilities * levels) / levels
    probabilities[rng.random(num_regions) < 0.1] = 0
    probabilities = (probabilities / num_classes).astype(np.float32)
    overall, table = region_metrics(probabilities, labels)
    assert overall == pytest.approx(reference(probabilities, labels.tolist()), rel=1e-6)
    assert 64 < (table[:, 0] > 0).sum() < num_classes  # more than one block, not all
    assert table[:, 0].sum() == num_regions
    assert np.isnan(table[table[:, 0] == 0, 1:]).all()
    assert not np.isnan(table[table[:, 0] > 0]).any()


def test_ties_rank_in_the_order_of_the_rows():
    scores = np.full(4, 0.5)
    assert ranked_ap(scores, np.array([True, False, False, False]), 1) == 1
    assert ranked_ap(scores, np.array([False, False, False, True]), 1) == 0.25


def test_a_row_of_zeros_is_wrong_even_for_class_0():
    """The arg-max of zeros is class 0, and sorted by score they would still be found last."""
    probabilities = np.array([[0.9, 0.1], [0.0, 0.0]])
    overall, table = region_metrics(probabilities, np.array([0, 0]))
    assert overall["AC-instance"] == overall["AC-class"] == 0.5
    assert overall["AP-instance"] == overall["AP-instance-pred"] == overall["AP-class"] == 0.5
    assert overall["SC-instance"] == pytest.approx(0.45)
    np.testing.assert_allclose(table[0], [2, 0.45, 0.5, 0.5])


def test_no_regions(caplog):
    overall, table = region_metrics(np.zeros((0, 3), np.float32), np.zeros(0, np.int64))
    assert len(overall) == 7 and all(math.isnan(v) for v in overall.values())
    assert table[:, 0].tolist() == [0, 0, 0]
    assert "no regions to evaluate" in caplog.text


@pytest.mark.parametrize(
    ("probabilities", "labels", "match"),
    [
        (np.ones((2, 3)), np.array([0]), r"\(2, 3\) and labels \(1,\)"),
        (np.ones(3), np.array([0, 1, 2]), "must have the shapes"),
        (np.ones((0, 0)), np.zeros(0, int), "K >= 1"),
        (np.ones((2, 3)), np.array([0, 3]), r"in 0\.\.2, but they are in 0\.\.3"),
        (np.ones((2, 3)), np.array([-1, 0]), r"in 0\.\.2, but they are in -1\.\.0"),
        (np.ones((1, 3)), np.array([0.0]), "must be integers"),
        (np.array([[0.5, np.nan]]), np.array([0]), "must be finite"),
    ],
)
def test_bad_input(probabilities, labels, match):
    with pytest.raises(ValueError, match=match):
        region_metrics(probabilities, labels)
