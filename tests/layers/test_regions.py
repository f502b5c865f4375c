import pytest
import torch

from relation_heads.layers import Regions

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
    ],
)
def test_inconsistent_fields_are_refused(change, message):
    fields = dict(boxes=torch.rand(5, 4), splits=(3, 0, 2), image_sizes=tuple(SIZES), is_key=None)
    with pytest.raises(ValueError, match=message):
        Regions(**{**fields, **change})


def test_no_image_is_refused():
    with pytest.raises(ValueError, match="at least one image"):
        Regions.from_boxes([], [])
