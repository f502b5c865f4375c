"""Regions read out of a map and written back to it: crops of a fixed size and their inverse.

Source: Chen et al., "Iterative Visual Reasoning Beyond Convolutions", CVPR 2018; its
released code (endernewton/iter-reason, `utils/snippets.py`) does both with the TensorFlow operator
`crop_and_resize`, the write with the inverse of the box.

Sample p of P along an axis lies at `lo + p (hi - lo) / (P - 1)`, so the outermost samples lie on
the border of the box (ROIAlign, which averages inside bins, is a different operator). Values are
bilinear and 0 outside the map. Seen from the other side, cell i of the map lies at

    u_i  = (i - lo) / (hi - lo) (P - 1)                      in samples of the crop
    A_pi = max(0, 1 - |u_i - p|)  where lo <= i <= hi, else 0

and the sum of the inverse crops of all regions is

    sum_ij = sum_n sum_pq A^y_npi V_npq A^x_nqj              `inverse_crop_sum`
    c_ij   = sum_n [y1 <= i <= y2] [x1 <= j <= x2]           `coverage_count`

of which only the cells inside a box and four samples for each are not 0 (`region_write`). The
released form, which resizes every region to the whole map before it sums, is equal and holds
N x H x W x D numbers. A box that covers no cell centre, or whose width or height is 0, writes
nothing.

Shapes: N boxes (x1, y1, x2, y2 in cells) of B images concatenated, `splits` of them in each image;
maps (B, D, H, W), padded at the bottom and on the right; crops (N, D, P, P). `grid_sizes` says how
many cells (h, w) of its map belong to each image, None that all do. Cells beyond them count as
outside: they are neither read nor written, so no result depends on the padding.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from ..arguments import at_least, require
from ..precision import no_autocast
from ..regions import row_counts
from .region_write import Size, Write, covers, write_traced


def boxes_in_cells(boxes: Tensor, stride: float, half_pixel: bool = False) -> Tensor:
    """Boxes in pixels to boxes in cells, without gradient, in float32 or wider.

    Args:
        boxes: (N, 4) x1, y1, x2, y2 in pixels of the input image.
        stride: pixels per cell.
        half_pixel: False, cell i is at pixel `i stride` (released code); True, at its centre,
            `(i + 1/2) stride`, the convention of Detectron2's aligned operators.
    """
    cells = _widened(boxes) / stride
    return cells - 0.5 if half_pixel else cells


def valid_mask(
    grid_sizes: Sequence[Size], padded_size: Size, device: torch.device | None = None
) -> Tensor:
    """(B, 1, H, W) bool, True for the cells that belong to their image.

    Args:
        grid_sizes: (h, w) of each image.
        padded_size: (H, W), no smaller than any of them.
        device: of the result.
    """
    check_grids(grid_sizes, len(grid_sizes), padded_size)
    heights, widths = (
        row_counts([s[k] for s in grid_sizes], device).view(-1, 1, 1, 1) for k in (0, 1)
    )
    rows, columns = (torch.arange(n, device=device) for n in padded_size)
    return (rows[:, None] < heights) & (columns < widths)


def crop(
    maps: Tensor,
    boxes: Tensor,
    splits: Sequence[int],
    *,
    crop_size: int = 7,
    grid_sizes: Sequence[Size] | None = None,
) -> Tensor:
    """Reads regions: P x P bilinear samples of each box, (N, D, P, P) in the dtype of `maps`.

    Computed in float32 or wider; no gradient reaches the boxes.

    Args:
        maps: (B, D, H, W).
        boxes: (N, 4) in cells.
        splits: number of boxes of each image.
        crop_size: P, at least 2.
        grid_sizes: (h, w) of each image.

    Raises:
        ArgumentError: crops below 2.
        ValueError: numbers of boxes, images or cells that do not fit.
    """
    require(at_least("crop_size", crop_size, 2))
    size = (maps.shape[2], maps.shape[3])
    _check(boxes, splits, maps.shape[0], grid_sizes, size)
    crops = []
    with no_autocast(maps):
        for image, own, (h, w) in zip(
            maps.unbind(),
            _widened(boxes).split(list(splits)),
            grid_sizes or [size] * maps.shape[0],
            strict=True,
        ):
            crops.append(_crop_image(image[:, :h, :w], own, crop_size).to(maps.dtype))
    return torch.cat(crops) if crops else maps.new_zeros(0, maps.shape[1], crop_size, crop_size)


def inverse_crop_sum(
    values: Tensor,
    boxes: Tensor,
    splits: Sequence[int],
    size: Size,
    *,
    grid_sizes: Sequence[Size] | None = None,
    weights: Tensor | None = None,
) -> Tensor:
    """Writes regions: each crop resized to its box, summed per image: (B, D, H, W).

    The result is float32 or wider; no gradient reaches boxes and weights. Time grows with the area
    of the boxes; the scratch memory is bounded.

    Args:
        values: (N, D, P, P) V, P at least 2.
        boxes: (N, 4) in cells.
        splits: number of boxes of each image.
        size: (H, W) of the maps.
        grid_sizes: (h, w) of each image.
        weights: (N,) a factor for each region, None for 1.
    """
    _check_values(values, boxes)
    _check(boxes, splits, len(splits), grid_sizes, size, weights)
    if weights is None:
        weights = boxes.new_ones(boxes.shape[0])
    weights = weights.detach().to(_at_least_float32(values))
    boxes, grids = _widened(boxes), grid_sizes or [size] * len(splits)
    with no_autocast(values):
        if not torch.jit.is_tracing():
            return Write.apply(values, boxes, weights, splits, grids, size)
        parts = [t.split(list(splits)) for t in (values, boxes, weights)]
        images = [
            write_traced(v, b, w, grid, size) for v, b, w, grid in zip(*parts, grids, strict=True)
        ]
        return torch.stack(images)


@torch.no_grad()
def coverage_count(
    boxes: Tensor,
    splits: Sequence[int],
    size: Size,
    *,
    grid_sizes: Sequence[Size] | None = None,
    weights: Tensor | None = None,
) -> Tensor:
    """c: how many boxes cover the centre of each cell, (B, 1, H, W), float32.

    Exact integers without weights, below 2^24 boxes; with them the sum of the weights of those
    boxes, in float32 or wider.

    Args:
        boxes: (N, 4) in cells.
        splits: number of boxes of each image.
        size: (H, W) of the maps.
        grid_sizes: (h, w) of each image.
        weights: (N,), the same as those of the values.
    """
    _check(boxes, splits, len(splits), grid_sizes, size, weights)
    if weights is None:
        weights = boxes.new_ones(boxes.shape[0], dtype=torch.float32)
    dtype, counts = _at_least_float32(weights), list(splits)
    sums = []
    with no_autocast(boxes):
        for own, own_weights, (h, w) in zip(
            _widened(boxes).split(counts),
            weights.to(dtype).split(counts),
            grid_sizes or [size] * len(counts),
            strict=True,
        ):
            rows = covers(own[:, 1], own[:, 3], h).to(dtype) * own_weights[:, None]  # (n, h)
            columns = covers(own[:, 0], own[:, 2], w).to(dtype)  # (n, w)
            sums.append(F.pad(rows.T @ columns, (0, size[1] - w, 0, size[0] - h)))
    return torch.stack(sums)[:, None] if sums else boxes.new_zeros(0, 1, *size, dtype=dtype)


def _crop_image(image: Tensor, boxes: Tensor, crop_size: int) -> Tensor:
    """(D, h, w) and (n, 4) to (n, D, P, P), float32 or wider."""
    image = image.to(_at_least_float32(image))
    (channels, h, w), n = image.shape, boxes.shape[0]
    steps = torch.arange(crop_size, device=boxes.device, dtype=boxes.dtype)
    x1, y1, x2, y2 = boxes[:, :, None].unbind(1)  # (n, 1) each
    x = x1 + steps * ((x2 - x1) / (crop_size - 1))  # (n, P)
    y = y1 + steps * ((y2 - y1) / (crop_size - 1))
    inside = ((y >= 0) & (y <= h - 1))[:, :, None] & ((x >= 0) & (x <= w - 1))[:, None, :]
    # Pixel i at (2 i + 1) / size - 1, that is, align_corners=False: it also works for size 1.
    grid = torch.stack(
        [
            ((2 * x + 1) / w - 1)[:, None, :].expand(n, crop_size, crop_size),
            ((2 * y + 1) / h - 1)[:, :, None].expand(n, crop_size, crop_size),
        ],
        dim=-1,
    ).view(1, n * crop_size, crop_size, 2)
    grid = grid.to(image.dtype)
    samples = F.grid_sample(image[None], grid, padding_mode="border", align_corners=False)
    return samples.view(channels, n, crop_size, crop_size).transpose(0, 1) * inside[:, None]


def _at_least_float32(tensor: Tensor) -> torch.dtype:
    return torch.promote_types(tensor.dtype, torch.float32)


def _widened(tensor: Tensor) -> Tensor:
    return tensor.detach().to(_at_least_float32(tensor))


def check_grids(grid_sizes: Sequence[Size], images: int, size: Size) -> None:
    """Raises a ValueError unless there is an (h, w) for each image that fits into (H, W)."""
    if torch.jit.is_tracing():  # a trace would keep the sizes it compares
        return
    if len(grid_sizes) != images:
        raise ValueError(f"grid_sizes names {len(grid_sizes)} images, there are {images}.")
    for h, w in grid_sizes:
        if not (1 <= h <= size[0] and 1 <= w <= size[1]):
            raise ValueError(
                f"grid_sizes must lie between (1, 1) and the padded size {tuple(size)}, "
                f"got {(h, w)}."
            )


def _check_values(values: Tensor, boxes: Tensor) -> None:
    if torch.jit.is_tracing():
        return
    shape = tuple(values.shape)
    if len(shape) != 4 or shape[0] != len(boxes) or shape[2] != shape[3] or shape[3] < 2:
        raise ValueError(
            f"values must be ({len(boxes)}, D, P, P) with P of at least 2 for these boxes, "
            f"got {shape}."
        )


def _check(
    boxes: Tensor,
    splits: Sequence[int],
    images: int,
    grid_sizes: Sequence[Size] | None,
    size: Size,
    weights: Tensor | None = None,
) -> None:
    if torch.jit.is_tracing():
        return
    if boxes.dim() != 2 or boxes.shape[1] != 4 or not boxes.is_floating_point():
        raise ValueError(
            f"boxes must be floating point of shape (N, 4), got {boxes.dtype} of shape "
            f"{tuple(boxes.shape)}."
        )
    if len(splits) != images or sum(splits) != len(boxes):
        raise ValueError(
            f"splits {tuple(splits)} must divide {len(boxes)} boxes among {images} images."
        )
    if grid_sizes is not None:
        check_grids(grid_sizes, images, size)
    if weights is not None and weights.shape != boxes.shape[:1]:
        raise ValueError(f"weights must be ({len(boxes)},), got {tuple(weights.shape)}.")
