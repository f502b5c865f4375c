import math

import pytest
import torch

from relation_heads.layers.arguments import ArgumentError
from relation_heads.layers.reasoning.region_edges import RELATIONS, spatial_edges

BOXES = torch.tensor([[0.0, 0, 20, 20], [30, 0, 50, 20], [5, 40, 25, 60], [10, 0, 30, 20]])


def reference(boxes, relation, i, j, bandwidth):
    """Weight of the message from j to i, before normalisation."""
    a, b = boxes[i].tolist(), boxes[j].tolist()
    if i == j:
        return 0.0
    if relation == "iou":
        width = max(0.0, min(a[2], b[2]) - max(a[0], b[0]))
        height = max(0.0, min(a[3], b[3]) - max(a[1], b[1]))
        area = [(x[2] - x[0]) * (x[3] - x[1]) for x in (a, b)]
        return width * height / (sum(area) - width * height)
    dx = (b[0] + b[2] - a[0] - a[2]) / 2
    dy = (b[1] + b[3] - a[1] - a[3]) / 2
    there = {"left": dx < 0, "right": dx > 0, "top": dy < 0, "bottom": dy > 0}[relation]
    return math.exp(-math.hypot(dx, dy) / bandwidth) if there else 0.0


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("normalize", [False, True])
def test_equals_the_formulas(normalize, weighted):
    weight = torch.tensor([0.5, 1.0, 0.0, 0.25]) if weighted else None
    actual = spatial_edges(BOXES, bandwidth=30.0, source_weight=weight, normalize=normalize)
    assert actual.shape == (5, 4, 4)
    for e, relation in enumerate(RELATIONS):
        for i in range(4):
            row = [reference(BOXES, relation, i, j, 30.0) for j in range(4)]
            if weighted:
                row = [a * w for a, w in zip(row, weight.tolist(), strict=True)]
            if normalize and sum(row):
                row = [a / sum(row) for a in row]
            torch.testing.assert_close(actual[e, i], torch.tensor(row))


def test_rows_of_hundreds_of_proposals_sum_to_one_or_nothing():
    corners = torch.rand(300, 2, 2) * 400
    boxes = torch.cat([corners.amin(1), corners.amax(1)], dim=1)
    sums = spatial_edges(boxes).sum(2)
    assert ((sums - 1).abs() < 1e-4).logical_or(sums == 0).all()
    assert spatial_edges(boxes, normalize=False).sum(2).max() > 5


def test_no_region_and_one_region_and_boxes_without_area():
    assert spatial_edges(torch.zeros(0, 4)).shape == (5, 0, 0)
    assert not spatial_edges(torch.ones(1, 4)).any()
    assert spatial_edges(torch.ones(3, 4)).isfinite().all()
    assert spatial_edges(BOXES, ()).shape == (0, 4, 4)


def test_half_precision_boxes_and_no_gradient():
    boxes = BOXES.clone().requires_grad_()
    assert not spatial_edges(boxes).requires_grad
    assert spatial_edges(BOXES.half()).dtype == torch.float32


@pytest.mark.parametrize("bandwidth", [0.0, -1.0, math.nan, math.inf, None])
def test_wrong_arguments(bandwidth):
    with pytest.raises(ArgumentError) as caught:
        spatial_edges(BOXES, ("left", "above"), bandwidth=bandwidth)
    assert [w.argument for w in caught.value.wrong] == ["relations", "bandwidth"]
    with pytest.raises(ArgumentError) as caught:
        spatial_edges(BOXES, ("left", "left"))
    assert [w.value for w in caught.value.wrong] == [("left", "left")]
