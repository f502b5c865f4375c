"""Write of the spatial memory (Chen et al. 2018): the mean of what all regions want in each cell.

Peer: the released TensorFlow order, in which `crop_and_resize` takes every region to the whole map
before the maps are summed.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor

from relation_heads.layers.reasoning.region_crops import coverage_count, inverse_crop_sum

from ..case import OURS, Case, Target
from ..computation import ACCURATE, Computation, errors, variants

CROP_SIZE = 7
LONGEST_SIDE = 36.0  # of a box, in cells; the logarithms of the sides are uniform


def random_boxes(n: int, size: tuple[int, int]) -> Tensor:
    """(n, 4) float32 in cells, within the map; they cover 2 to 4 % of it on average."""
    generator = torch.Generator().manual_seed(0)
    limit = torch.tensor([size[1] - 1.0, size[0] - 1.0])
    centers = torch.rand(n, 2, generator=generator) * limit
    sides = LONGEST_SIDE ** torch.rand(n, 2, generator=generator)
    corners = torch.stack([centers - sides / 2, centers + sides / 2], dim=1)  # (n, 2, 2)
    return corners.clamp(min=0).minimum(limit).flatten(1)


def to_map(values: Tensor, boxes: Tensor, size: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """Each crop resized to the whole map: (n, D, P, P), (n, 4) to (n, D, *size) and where it is."""
    x1, y1, x2, y2 = (t[:, None] for t in boxes.unbind(1))  # (n, 1)
    rows, columns = (torch.arange(s, device=boxes.device, dtype=boxes.dtype) for s in size)
    in_y, in_x = (y1 <= rows) & (rows <= y2), (x1 <= columns) & (columns <= x2)
    x, y = 2 * (columns - x1) / (x2 - x1) - 1, 2 * (rows - y1) / (y2 - y1) - 1
    shape = (len(boxes), *size)
    grid = torch.stack([x[:, None, :].expand(shape), y[:, :, None].expand(shape)], dim=-1)
    samples = F.grid_sample(values, grid.to(values), padding_mode="border", align_corners=True)
    inside = (in_y[:, :, None] & in_x[:, None])[:, None].to(values.dtype)  # (n, 1, *size)
    return samples.mul_(inside), inside


def released_order(values: Tensor, boxes: Tensor, size: tuple[int, int]) -> Tensor:
    """All maps, then their sum: (D, *size)."""
    maps, inside = to_map(values, boxes, size)
    return maps.sum(0) / inside.sum(0).clamp(min=1)


def write(values: Tensor, boxes: Tensor, size: tuple[int, int]) -> Tensor:
    """Ours."""
    total = inverse_crop_sum(values, boxes, (len(boxes),), size)
    return (total / coverage_count(boxes, (len(boxes),), size).clamp(min=1))[0]


FORMS = {OURS: write, "released order": released_order}


def problem(
    n: int, size: tuple[int, int], channels: int, device: str, dtype: torch.dtype = torch.float32
) -> dict[str, Computation]:
    """All forms, of the same values."""
    boxes = random_boxes(n, size).to(device)
    generator = torch.Generator().manual_seed(1)
    values = torch.randn(n, channels, CROP_SIZE, CROP_SIZE, generator=generator)
    values = values.to(device, dtype, memory_format=torch.channels_last).requires_grad_()
    return {
        name: Computation(lambda form=form: form(values, boxes, size), [values])
        for name, form in FORMS.items()
    }


def accuracy() -> dict[str, float]:
    """At a size at which the slow form is quick. Boxes are float64 here: theirs is the truth."""
    boxes = random_boxes(60, (38, 57)).double()
    values = torch.randn(60, 16, CROP_SIZE, CROP_SIZE, generator=torch.Generator().manual_seed(1))
    forms = {}
    for dtype in (torch.float32, torch.float64):
        leaf = values.to(dtype).requires_grad_()
        forms[dtype] = Computation(lambda leaf=leaf: write(leaf, boxes, (38, 57)), [leaf])
    leaf = values.double().requires_grad_()
    return errors(forms, Computation(lambda: released_order(leaf, boxes, (38, 57)), [leaf]))


def against_released_order(n: int, size: tuple[int, int], target: Target, device: str) -> Case:
    """512 channels; the maps of all regions fit into memory."""
    return Case(variants(problem(n, size, 512, device)), target, accuracy)


CASES: dict[str, Callable[[str], Case]] = {
    # Not yet large: what the values themselves take is 1/40 of the maps.
    "spatial memory write, N=128": partial(
        against_released_order, 128, (38, 57), Target(errors=ACCURATE)
    ),
    "spatial memory write, N=512": partial(
        against_released_order, 512, (50, 84), Target(200, 200, 1 / 50, 1 / 50, errors=ACCURATE)
    ),
}
