"""The write of regions to a map, as a sum over the cells that boxes cover and over nothing else.

Cell i of a map lies at `u = (i - lo) / (hi - lo) (P - 1)` in samples of a crop whose box is
[lo, hi]; a cell inside a box is the bilinear mean of four of its P x P samples (see
`region_crops`). So the sum of all inverse crops is a sparse matrix, four numbers for each pair of a
cell and a box that covers it, times the samples:

    Y_d = M V_d                                  for each channel d; gradient: dV_d = M^T dY_d

M is made twice, for the values and for the gradient, and never kept. Crops in channels_last are
read as they lie. Of others a few channels go at a time, so that the copy that brings the channels
of a sample together, most of the time of the write, stays small.

Shapes: n boxes of one image; crops (n, D, P, P); map (D, H, W), of which the top left (h, w) cells
belong to the image.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

Size = tuple[int, int]  # height, width

PAIRS_AT_ONCE = 2**17  # of a cell and a box that covers it; a pair takes some 250 bytes
SCRATCH_BYTES = 4 * 2**20  # of one copy of samples or cells
CHANNELS = 32  # the number in one copy is a multiple, and at least one of them


def covers(low: Tensor, high: Tensor, length: int) -> Tensor:
    """(n,) and (n,) to (n, length) bool: which cell centres lie in the interval; if it is empty or
    not finite, none."""
    cells = torch.arange(length, device=low.device)
    exists = (low < high) & (high - low).isfinite()
    return (low[:, None] <= cells) & (cells <= high[:, None]) & exists[:, None]


@dataclass(frozen=True, eq=False)
class _Axis:
    """Along one axis: where covered, cell i of box n lies between samples `first` and first + 1."""

    covered: Tensor  # (n, length) bool, for each box one run of cells
    first: Tensor  # (n, length)
    factors: Tensor  # (n, length, 2) of these two samples

    @staticmethod
    def of(low: Tensor, high: Tensor, crop_size: int, length: int) -> _Axis:
        """For borders (n,) and (n,)."""
        covered = covers(low, high, length)
        cells = torch.arange(length, device=low.device, dtype=low.dtype)
        extent = torch.where(low < high, high - low, 1)[:, None]
        u = (cells - low[:, None]) / extent * (crop_size - 1)  # (n, length), at most P - 1 inside
        u = torch.where(covered, u, 0)  # far outside a tiny box it overflows
        first = u.floor().clamp(max=crop_size - 2)
        return _Axis(covered, first.long(), torch.stack([1 - u + first, u - first], dim=-1))

    def runs(self, block: slice = slice(None)) -> tuple[Tensor, Tensor]:
        """Of the cells of a block: the first that each box covers, and how many it covers."""
        covered = self.covered[:, block]
        return covered.int().argmax(1) + (block.start or 0), covered.sum(1)  # (n,) each


@dataclass(frozen=True, eq=False)
class _Entries:
    """The numbers of M in some rows of the map, box by box."""

    rows: slice  # of the map
    cells: Tensor  # (pairs,), in 0 .. (number of these rows) W - 1
    samples: Tensor  # (pairs, 4), in 0 .. n P P - 1
    factors: Tensor  # (pairs, 4)


def _entries(
    boxes: Tensor, weights: Tensor, crop_size: int, grid: Size, width: int, *, whole: bool = False
) -> Iterator[_Entries]:
    """M of one image, from (n, 4) boxes in cells and (n,) weights, a block of rows at a time, or
    the `whole` map."""
    rows = _Axis.of(boxes[:, 1], boxes[:, 3], crop_size, grid[0])
    columns = _Axis.of(boxes[:, 0], boxes[:, 2], crop_size, grid[1])
    row_factors = rows.factors.to(weights.dtype) * weights[:, None, None]  # (n, h, 2)
    column_factors = columns.factors.to(weights.dtype)  # (n, w, 2)
    left, widths = columns.runs()  # (n,)
    blocks: Iterable[slice] = [slice(0, grid[0])]
    if not whole:
        blocks = _row_blocks((rows.covered * widths[:, None]).sum(0).tolist())
    for block in blocks:
        top, heights = rows.runs(block)
        areas = heights * widths
        box = torch.arange(boxes.shape[0], device=boxes.device).repeat_interleave(areas)  # (pairs,)
        place = torch.arange(box.shape[0], device=boxes.device) - (areas.cumsum(0) - areas)[box]
        i = top[box] + place // widths[box]
        j = left[box] + place % widths[box]
        first = (box * crop_size + rows.first[box, i]) * crop_size + columns.first[box, j]
        factors = row_factors[box, i][:, :, None] * column_factors[box, j][:, None]
        corners = [first, first + 1, first + crop_size, first + crop_size + 1]
        cells = (i - block.start) * width + j
        yield _Entries(block, cells, torch.stack(corners, dim=1), factors.flatten(1))


def _row_blocks(pairs: Sequence[int]) -> Iterator[slice]:
    """Consecutive rows that have no more than PAIRS_AT_ONCE pairs together, or one row."""
    start = total = 0
    for row, count in enumerate(pairs):
        if row > start and total + count > PAIRS_AT_ONCE:
            yield slice(start, row)
            start, total = row, 0
        total += count
    yield slice(start, len(pairs))


def _weighted_sums(rows: Tensor, chosen: Tensor, factors: Tensor, starts: Tensor) -> Tensor:
    """`out_t = sum of factor_e row_e` over the entries e of t: (J, D) to (T, D).

    Args:
        rows: (J, D).
        chosen, factors: (entries,) of each a row and a factor, by t.
        starts: (T,) of each t its first entry.
    """
    return F.embedding_bag(chosen, rows, starts, mode="sum", per_sample_weights=factors)


def _starts(targets: Tensor, count: int) -> Tensor:
    """(entries,) ascending numbers in 0 .. count - 1 to (count,), where each begins."""
    sizes = torch.bincount(targets, minlength=count)
    return sizes.cumsum(0) - sizes


def write_traced(values: Tensor, boxes: Tensor, weights: Tensor, grid: Size, size: Size) -> Tensor:
    """Y of one image in a form that `torch.jit.trace` follows: (n, D, P, P) to (D, H, W).

    All rows of the map are one block, so that no number of regions or cells is kept, and memory is
    not bounded.
    """
    (m,) = _entries(boxes, weights, values.shape[-1], grid, grid[1], whole=True)
    cells, order = m.cells.sort(stable=True)
    cells = cells[:, None].expand(-1, 4).flatten()
    rows = values.permute(0, 2, 3, 1).to(weights.dtype).flatten(0, 2)  # (n P P, D)
    samples, factors = m.samples[order].flatten(), m.factors[order].flatten()
    y = _weighted_sums(rows, samples, factors, _starts(cells, grid[0] * grid[1]))  # (h w, D)
    y = y.view(grid[0], grid[1], -1).permute(2, 0, 1)
    return F.pad(y, (0, size[1] - grid[1], 0, size[0] - grid[0]))


def _channel_blocks(crops: Tensor) -> Iterator[slice]:
    """Of (n, D, P, P), as many channels as fit into SCRATCH_BYTES, a multiple of CHANNELS."""
    size = crops[:, 0].numel() * crops.element_size()  # of a channel, bytes
    step = CHANNELS * max(1, SCRATCH_BYTES // (CHANNELS * max(1, size)))
    return (slice(start, start + step) for start in range(0, crops.shape[1], step))


def _adjacent(crops: Tensor) -> bool:
    """Whether the channels of a sample lie together."""
    return crops.is_contiguous(memory_format=torch.channels_last)


def _write(values: Tensor, entries: Iterator[_Entries], out: Tensor) -> None:
    """Sets the rows of (D, H, W) that the entries are of to M V, for V (n, D, P, P)."""
    for m in entries:
        cells, order = m.cells.sort(stable=True)
        cells = cells[:, None].expand(-1, 4).flatten()
        samples, factors = m.samples[order].flatten(), m.factors[order].flatten()
        starts = _starts(cells, out[0, m.rows].numel())
        for c in [slice(None)] if _adjacent(values) else _channel_blocks(values):
            rows = values[:, c].permute(0, 2, 3, 1).to(out.dtype).flatten(0, 2)  # (n P P, c)
            block = out[c, m.rows].permute(1, 2, 0)  # (rows, W, c)
            block.copy_(_weighted_sums(rows, samples, factors, starts).view_as(block))


def _write_backward(grad_out: Tensor, entries: Iterator[_Entries], grad_values: Tensor) -> None:
    """Sets (n, D, P, P) to M^T dY, for dY (D, H, W)."""
    for k, m in enumerate(entries):
        samples, order = m.samples.flatten().sort(stable=True)
        cells = m.cells[:, None].expand(-1, 4).flatten()[order]
        factors = m.factors.flatten()[order]
        starts = _starts(samples, grad_values[:, 0].numel())
        for c in _channel_blocks(grad_values):
            rows = grad_out[c, m.rows].flatten(1).T.contiguous()  # (cells, c)
            block = grad_values[:, c].permute(0, 2, 3, 1)
            part = _weighted_sums(rows, cells, factors, starts).view_as(block)
            block.copy_(part) if k == 0 else block.add_(part)


class Write(torch.autograd.Function):
    """Y of a batch: see `region_crops.inverse_crop_sum`, which checks and prepares."""

    @staticmethod
    def forward(
        ctx: Any,
        values: Tensor,
        boxes: Tensor,
        weights: Tensor,
        splits: Sequence[int],
        grids: Sequence[Size],
        size: Size,
    ) -> Tensor:
        """(N, D, P, P) to (B, D, H, W), in the layout of the crops and the dtype of the weights,
        float32 or wider."""
        ctx.save_for_backward(boxes, weights)
        ctx.shape, ctx.dtype, ctx.splits, ctx.grids = values.shape, values.dtype, splits, grids
        ctx.layout = torch.channels_last if _adjacent(values) else torch.contiguous_format
        out = Write._empty(ctx, (len(splits), values.shape[1], *size), weights)
        for image, (own, entries) in enumerate(Write._images(ctx, values, boxes, weights, size[1])):
            _write(own, entries, out[image])
            out[image, :, grids[image][0] :] = 0  # the entries are of the other rows
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_out: Tensor) -> tuple[Tensor | None, ...]:
        boxes, weights = ctx.saved_tensors
        grad = Write._empty(ctx, ctx.shape, weights)
        width = grad_out.shape[3]
        for image, (own, entries) in enumerate(Write._images(ctx, grad, boxes, weights, width)):
            _write_backward(grad_out[image], entries, own)
        return grad.to(ctx.dtype), None, None, None, None, None

    @staticmethod
    def _empty(ctx: Any, shape: Sequence[int], like: Tensor) -> Tensor:
        """In the layout of the crops."""
        return torch.empty(shape, dtype=like.dtype, device=like.device, memory_format=ctx.layout)

    @staticmethod
    def _images(
        ctx: Any, crops: Tensor, boxes: Tensor, weights: Tensor, width: int
    ) -> Iterator[tuple[Tensor, Iterator[_Entries]]]:
        """The crops and M of each image."""
        parts = zip(*(t.split(list(ctx.splits)) for t in (crops, boxes, weights)), strict=True)
        for (own, own_boxes, own_weights), grid in zip(parts, ctx.grids, strict=True):
            yield own, _entries(own_boxes, own_weights, crops.shape[-1], grid, width)
