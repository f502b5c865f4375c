from typing import get_args

import pytest
import torch

from relation_heads.layers import SGRN, ObjectRelation, Regions
from relation_heads.layers.object_relation.module import Geometry

SIZES = [(100, 200), (50, 60), (80, 80)]


def ragged():
    boxes = [torch.rand(n, 4, requires_grad=True) for n in (3, 0, 2)]
    keys = [torch.tensor([True, False, True]), torch.zeros(0).bool(), torch.tensor([False, True])]
    return Regions.from_boxes(boxes, SIZES, keys), boxes


def test_split_gives_back_each_image():
    regions, boxes = ragged()
    assert len(regions) == 5 and regions.splits == (3, 0, 2)
    assert not regions.boxes.requires_grad
    for part, expected in zip(regions.split(regions.boxes), boxes, strict=True):
        torch.testing.assert_close(part, expected.detach(), rtol=0, atol=0)


def test_split_keys_keeps_the_order_of_the_keys():
    regions, _ = ragged()
    rows = torch.arange(5)
    assert [part.tolist() for part in regions.split_keys(rows)] == [[0, 2], [], [4]]
    everyone = Regions(regions.boxes, regions.splits, regions.image_sizes)
    assert [part.tolist() for part in everyone.split_keys(rows)] == [[0, 1, 2], [], [3, 4]]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"boxes": torch.rand(5, 5)}, r"shape \(N, 4\)"),
        ({"boxes": torch.ones(5, 4).long()}, "floating point"),
        ({"splits": (3, 1, 2)}, "sums to 6, but there are 5 boxes"),
        ({"splits": (3, 2)}, "names 2 images, image_sizes 3"),
        ({"is_key": torch.ones(5)}, "must be bool"),
        ({"is_key": torch.ones(4).bool()}, r"shape \(5,\)"),
        ({"earlier": torch.ones(4, 4)}, r"earlier must be \(5, 4\) .* got \(4, 4\)"),
    ],
)
def test_inconsistent_fields_are_refused(change, message):
    fields = dict(boxes=torch.rand(5, 4), splits=(3, 0, 2), image_sizes=tuple(SIZES), is_key=None)
    with pytest.raises(ValueError, match=message):
        Regions(**{**fields, **change})


def test_no_image_is_refused():
    with pytest.raises(ValueError, match="at least one image"):
        Regions.from_boxes([], [])


@pytest.mark.parametrize("farthest", [1e38, 3.3e38, torch.inf])
def test_boxes_beyond_all_images_leave_results_and_gradients_finite(farthest):
    """Without a bound their differences and squares are infinite."""
    boxes = torch.rand(6, 4) * 90
    boxes[1], boxes[2], boxes[3, 2:] = -farthest, farthest, farthest
    regions = Regions.from_boxes([boxes], [(64, 96)])
    near = (boxes.abs() < 100).all(dim=1)
    assert torch.equal(regions.boxes[near], boxes[near])
    layers = [
        ObjectRelation(16, num_heads=2, geometry=g, init="xavier") for g in get_args(Geometry)
    ]
    for layer in (*layers, SGRN(16, 16, graph_dims=[8], num_kernels=2)):
        rows = torch.randn(6, 16, requires_grad=True)
        out = layer(rows, rows, regions) if isinstance(layer, SGRN) else layer(rows, regions)
        out.sum().backward()
        gradients = [p.grad for p in layer.parameters() if p.grad is not None]
        assert out.isfinite().all() and all(g.isfinite().all() for g in [rows.grad, *gradients])


def test_half_precision_boxes_stay_in_their_range():
    boxes = torch.full((2, 4), torch.inf, dtype=torch.float16)
    assert Regions.from_boxes([boxes], [(9, 9)]).boxes.isfinite().all()
