"""Selection among thousands of classes against a slow reference: filter, NMS by class, best K."""

from __future__ import annotations

import math

import pytest
import torch

from relation_heads.layers.arguments import ArgumentError
from relation_heads.layers.duplicates import class_selection
from relation_heads.layers.duplicates.class_selection import nms_per_class, select_by_class
from tests.layers.tracing import assert_traces


def iou(a, b):
    """Of two boxes, in Python's float64."""
    width = max(min(a[2], b[2]) - max(a[0], b[0]), 0.0)
    height = max(min(a[3], b[3]) - max(a[1], b[1]), 0.0)
    inner = width * height
    union = (a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - inner
    return inner / union if union > 0 else 0.0


def reference(scores, boxes, score_threshold, iou_threshold, max_detections):
    """(region, class) of the detections: all candidates by rank, each against what was kept."""
    rows, corners = scores.tolist(), boxes.double().tolist()
    score_threshold = scores.new_tensor(score_threshold).item()  # torch compares in their dtype
    ranked = sorted(
        (
            (-score, r, c)
            for r, row in enumerate(rows)
            for c, score in enumerate(row)
            if score > score_threshold
        )
    )
    kept = []
    for _, r, c in ranked:
        overlaps = (iou(corners[r][c], corners[s][d]) for s, d in kept if d == c)
        if not any(value > iou_threshold for value in overlaps):
            kept.append((r, c))
    return kept[:max_detections]


def image(regions, classes, *, levels=None, objects=3, seed=0):
    """Scores (R, C), of `levels` different values, and boxes (R, C, 4) around some objects."""
    generator = torch.Generator().manual_seed(seed)
    scores = torch.rand(regions, classes, generator=generator) ** 3
    if levels:
        scores = (scores * levels).floor() / levels
    corners = torch.rand(objects, 2, 2, generator=generator) * 80
    places = torch.cat([corners.amin(1), corners.amax(1) + 10], dim=1)
    boxes = places[torch.randint(objects, (regions, classes), generator=generator)]
    noise = torch.randn(regions, classes, 4, generator=generator) * 3
    return scores, (boxes + noise).clamp(0, 100)


def select(scores, boxes, score_threshold=0.0, iou_threshold=0.5, max_detections=None):
    return select_by_class(
        scores,
        lambda region, label: boxes[region, label],
        score_threshold=score_threshold,
        iou_threshold=iou_threshold,
        max_detections=max_detections,
    )


def assert_is(found, expected, scores, boxes):
    assert list(zip(found.region.tolist(), found.label.tolist(), strict=True)) == expected
    assert torch.equal(found.scores, scores[found.region, found.label])
    assert torch.equal(found.boxes, boxes[found.region, found.label])


@pytest.mark.parametrize("seed", range(240))
def test_it_selects_what_the_reference_selects(seed, monkeypatch):
    monkeypatch.setattr(class_selection, "BLOCK", (2, 5, 64)[seed % 3])
    monkeypatch.setattr(class_selection, "FIRST", (1, 3, 10)[seed // 3 % 3])
    generator = torch.Generator().manual_seed(seed)
    regions, classes = (int(torch.randint(1, 13, (), generator=generator)) for _ in range(2))
    levels = (None, 1, 3, 50)[seed % 4]  # 1: all scores are 0
    scores, boxes = image(regions, classes, levels=levels, objects=1 + seed % 5, seed=seed)
    if seed % 5 == 0:
        boxes = boxes[torch.randint(regions, (regions,), generator=generator)]  # duplicates
    if seed % 7 == 0:
        boxes = boxes.round()
    overlap = (0.3, 0.5)[seed % 2]
    for threshold, limit in ((0.0, 5), ((0.1, 20), (0.5, None), (0.0, 0), (2.0, 5))[seed // 4 % 4]):
        expected = reference(scores, boxes, threshold, overlap, limit)
        found = select(scores, boxes, threshold, overlap, limit)
        assert_is(found, expected, scores, boxes)


def test_few_candidates_are_decoded_and_more_only_if_they_are_duplicates():
    asked = []

    def count(region, label):
        asked.append(len(region))
        return boxes[region, label]

    arguments = {"score_threshold": 0.0, "iou_threshold": 0.5, "max_detections": 5}
    scores, boxes = image(200, 40)
    boxes[:] = torch.tensor([0.0, 0.0, 9.0, 9.0])  # one box: a class keeps one
    select_by_class(scores, count, **arguments)
    assert asked == [50]
    scores[:, 2:] = 0  # of two classes two detections are left, of their 400 candidates
    asked.clear()
    assert len(select_by_class(scores, count, **arguments).region) == 2
    assert asked == [50, 200, 400]
    asked.clear()
    select_by_class(scores, count, **{**arguments, "max_detections": None})
    assert asked == [400]


def test_exactly_as_many_candidates_as_are_taken_first():
    scores, boxes = torch.zeros(20, 64), torch.tensor([0.0, 0.0, 9.0, 9.0]).expand(20, 64, 4)
    scores[:11, 0] = torch.linspace(0.9, 0.1, 11)  # one block each; all but the first go
    scores[12, 1] = 0.05  # the twelfth candidate, which is the second detection
    found = select(scores, boxes, max_detections=2)
    assert found.region.tolist() == [0, 12] and found.label.tolist() == [0, 1]
    scores[10, 0] = 0.0
    found = select(scores, boxes, max_detections=2)
    assert found.region.tolist() == [0, 12] and found.label.tolist() == [0, 1]


@pytest.mark.parametrize("shape", [(0, 7), (4, 0), (3, 7)])
@pytest.mark.parametrize("limit", [None, 5])
def test_nothing_to_select(shape, limit):
    scores, boxes = torch.zeros(shape), torch.zeros(*shape, 4)
    found = select(scores, boxes, max_detections=limit)
    assert [tuple(x.shape) for x in found] == [(0,), (0,), (0,), (0, 4)]
    assert found.region.dtype == found.label.dtype == torch.int64


def test_the_threshold_is_exclusive_and_minus_infinity_is_never_chosen():
    scores = torch.tensor([[0.5, 0.25], [-torch.inf, 0.3]])
    boxes = torch.tensor([0.0, 0.0, 9.0, 9.0]).expand(2, 2, 4)
    assert select(scores, boxes, 0.25, 1.0).label.tolist() == [0, 1]
    assert len(select(scores, boxes, -torch.inf, 1.0).label) == 3


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.float16])
def test_scores_and_boxes_keep_their_dtype(dtype):
    scores, boxes = image(9, 4, levels=16)
    expected = reference(scores, boxes.to(dtype), 0.1, 0.5, 6)
    found = select(scores.to(dtype), boxes.to(dtype), 0.1, 0.5, 6)
    assert_is(found, expected, scores.to(dtype), boxes.to(dtype))


def test_autocast_changes_nothing():
    scores, boxes = image(40, 30)
    expected = select(scores, boxes, 0.1, 0.5, 20)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = select(scores, boxes, 0.1, 0.5, 20)
    assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))


def test_class_numbers_do_not_blur_boxes():
    boxes = torch.tensor([[0.0, 0, 1333, 800], [0, 0, 1333, 400.3], [0, 0, 1333, 399.9]])
    scores = torch.tensor([0.9, 0.8, 0.7])
    for label in (0, 3000, 10**6):
        labels = torch.tensor([label, label, label])
        assert nms_per_class(boxes, scores, labels, 0.5).tolist() == [0, 2]


def test_boxes_outside_the_image_meet_their_class_alone():
    boxes = torch.tensor([[-90.0, -90, -10, -10], [-90, -90, -11, -11], [-8, -8, 0, 0]])
    boxes = torch.cat([boxes, boxes])
    labels = torch.tensor([7, 7, 7, 3, 3, 3])
    scores = torch.tensor([0.6, 0.5, 0.4, 0.3, 0.2, 0.1])
    assert nms_per_class(boxes, scores, labels, 0.5).tolist() == [0, 2, 3, 5]


def test_a_trace_runs_at_any_number_of_regions():
    def detect(scores, boxes):
        return tuple(select(scores, boxes, 0.3, 0.5, 5))

    assert_traces(detect, *(image(n, 4, seed=n) for n in (7, 0, 1, 60)))


@pytest.mark.parametrize(
    ("argument", "value"),
    [("max_detections", -1), ("iou_threshold", None), ("score_threshold", math.nan)],
)
def test_wrong_arguments_are_refused(argument, value):
    with pytest.raises(ArgumentError) as caught:
        select(torch.zeros(3, 2), torch.zeros(3, 2, 4), **{argument: value})
    assert [w.argument for w in caught.value.wrong] == [argument]


def test_scores_of_another_shape_are_refused():
    with pytest.raises(ValueError, match=r"scores must be \(R, C\), got \(3,\)"):
        select(torch.zeros(3), torch.zeros(3, 4))
