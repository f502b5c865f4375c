"""Which regions show which object: by hand, and against a slow reference."""

from __future__ import annotations

import numpy as np
import pytest

from relation_heads.visualization.objects import Objects

# Regions: two on a cat, one far from its detection, one on a dog, two on each other and alone.
REGIONS = np.array(
    [[0, 0, 10, 10], [0, 0, 10, 8], [90, 0, 99, 9], [20, 0, 30, 10], [50, 50, 60, 60],
     [51, 50, 61, 60]], dtype=float,
)  # fmt: skip
# Detections: cat, pig (its box was moved far), dog, and the cat again under another name.
BOXES = np.array([[0, 0, 10, 10], [70, 70, 80, 80], [21, 0, 31, 10], [0, 0, 10, 9]], dtype=float)
ORIGIN = np.array([0, 2, 3, 1])


def slow_overlap(a, b):
    width = max(0.0, min(a[2], b[2]) - max(a[0], b[0]))
    height = max(0.0, min(a[3], b[3]) - max(a[1], b[1]))
    both = width * height
    union = (a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - both
    return both / union if union > 0 else 0.0


def slow_heard(regions, origin, boxes, counted, weights, detection):
    """The same by loops: (own weight, [(detected, detection or region, weight)])."""
    stands, firsts = {}, []
    for d in counted:
        same = [
            a for a in firsts if origin[a] == origin[d] or slow_overlap(boxes[a], boxes[d]) > 0.5
        ]
        stands[d] = same[0] if same else d
        if not same:
            firsts.append(d)
    groups, free = {}, []
    for r, region in enumerate(regions):
        came = [d for d in counted if origin[d] == r]
        best = max(firsts, key=lambda d: slow_overlap(region, boxes[d]), default=None)
        if came:
            groups.setdefault((True, stands[came[0]]), []).append(r)
        elif best is not None and slow_overlap(region, boxes[best]) > 0.3:
            groups.setdefault((True, best), []).append(r)
        else:
            free.append(r)
    while free:
        r = free[0]
        same = [o for o in free if o == r or slow_overlap(regions[o], regions[r]) > 0.3]
        groups[False, r] = same
        free = [o for o in free if o not in same]
    own = sum(weights[r] for r in groups.pop((True, stands[detection]), []))
    found = [(*names, sum(weights[r] for r in group)) for names, group in groups.items()]
    return own, sorted((one for one in found if one[2] > 0), key=lambda one: -one[2])


def test_by_hand():
    objects = Objects(REGIONS, ORIGIN, BOXES, np.arange(4))
    assert objects.first.tolist() == [0, 1, 2, 4] and objects.num_detected == 3
    assert objects.of_detection.tolist() == [0, 1, 2, 0]
    assert objects.of_region.tolist() == [0, 0, 1, 2, 3, 3]
    weights = np.array([0.1, 0.2, 0.3, 0.05, 0.15, 0.2])
    own, heard = objects.heard(weights, 3)
    assert own == pytest.approx(0.3)  # of the cat, whatever it is called
    assert [(one.detected, one.number) for one in heard] == [(False, 4), (True, 1), (True, 2)]
    assert [one.weight for one in heard] == pytest.approx([0.35, 0.3, 0.05])


def test_detections_that_do_not_count_are_no_objects():
    objects = Objects(REGIONS, ORIGIN, BOXES, np.array([2, 3]))
    assert objects.of_detection.tolist() == [-1, -1, 0, 1]
    assert objects.of_region.tolist() == [1, 1, 2, 0, 3, 3]
    nobody = Objects(REGIONS, ORIGIN, BOXES, np.array([], dtype=int))
    assert nobody.of_region.tolist() == [0, 0, 1, 2, 3, 3] and nobody.num_detected == 0
    points = Objects(np.zeros((2, 4)), ORIGIN, BOXES, np.array([], dtype=int))
    assert points.of_region.tolist() == [0, 1]
    Objects(np.zeros((0, 4)), np.zeros(0, int), np.zeros((0, 4)), np.array([], dtype=int))


@pytest.mark.parametrize("seed", range(4))
def test_equals_a_slow_reference_and_keeps_the_sum(seed):
    rng = np.random.default_rng(seed)
    corner = rng.uniform(0, 0.7, (60, 2))
    regions = np.hstack([corner, corner + rng.uniform(0.1, 0.4, (60, 2))])
    origin = rng.integers(9, size=12)
    boxes = regions[origin] + rng.normal(0, 0.02, (12, 4))
    boxes[4] = [2, 2, 3, 3]  # far from its region
    counted = np.flatnonzero(rng.random(12) < 0.8)
    objects = Objects(regions, origin, boxes, counted)
    assert len({*objects.of_detection[counted]}) < len(counted)  # some are one object
    for d in counted.tolist():
        weights = rng.dirichlet(np.full(60, 0.2))
        own, heard = objects.heard(weights, d)
        expected, others = slow_heard(regions, origin, boxes, counted.tolist(), weights, d)
        assert own == pytest.approx(expected)
        assert [one[:2] for one in heard] == [one[:2] for one in others]
        assert [one.weight for one in heard] == pytest.approx([one[2] for one in others])
        assert own + sum(one.weight for one in heard) == pytest.approx(1)
        assert {one.detected for one in heard} == {False, True}
