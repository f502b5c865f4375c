import pytest
import torch
import torchvision

from relation_heads.layers.boxes import box_iou


def random_boxes(n: int, seed: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    corners = torch.rand(n, 2, 2, generator=generator, dtype=torch.float64) * 50
    return torch.cat([corners.amin(1), corners.amax(1)], dim=1)


def test_all_pairs_are_those_of_torchvision():
    boxes, others = random_boxes(20, 0), random_boxes(30, 1)
    expected = torchvision.ops.box_iou(boxes, others)
    assert (expected > 0.2).any()
    torch.testing.assert_close(box_iou(boxes[:, None], others), expected)
    torch.testing.assert_close(box_iou(boxes, others[:20]), expected[:, :20].diagonal())


def test_widths_of_older_code_are_those_of_boxes_one_larger():
    boxes, others = random_boxes(20, 0), random_boxes(30, 1)
    larger = torch.tensor([0.0, 0.0, 1.0, 1.0], dtype=torch.float64)
    expected = torchvision.ops.box_iou(boxes + larger, others + larger)
    torch.testing.assert_close(box_iou(boxes[:, None], others, border=1), expected)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_what_has_no_area_overlaps_nothing(dtype):
    boxes = torch.tensor([[5, 5, 5, 5], [0, 5, 9, 5], [9, 9, 0, 0], [0, 0, 9, 9]], dtype=dtype)
    overlap = box_iou(boxes[:, None], boxes)
    assert overlap.dtype == dtype
    assert torch.equal(overlap, torch.diag(torch.tensor([0, 0, 0, 1], dtype=dtype)))


def test_no_boxes():
    assert box_iou(torch.zeros(0, 1, 4), torch.zeros(3, 4)).shape == (0, 3)
