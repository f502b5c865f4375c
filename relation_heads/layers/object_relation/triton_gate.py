"""The geometric gate of the object relation module for all pairs of boxes, as one kernel.

Source: Hu et al., "Relation Networks for Object Detection", CVPR 2018, eq. 5:

    log max(w_G, 1e-6),    w_G = W_G E_G(n, m) + b_G

equal to `geometry.log_gate(pair_embedding(...), W_G, b_G)`, but E_G, 64 channels
for every pair, is never in memory. On a GPU that traffic is most of the module's time.

The kernel (`triton_gate_kernel`) needs Triton, a GPU and float32 boxes, or TRITON_INTERPRET=1,
which runs it on the CPU for tests. Tests compile it for a GPU, but no GPU has run it yet: nothing
chooses it but `implementation="triton"`, and where it cannot run, that is an error.

The backward pass is that of the plain layers, a block of queries at a time, with everything
recomputed: only boxes and weights are kept. Its 64 H sums over all pairs are a matrix product, and
the same in every run; in a kernel they would fill the registers or need atomic additions.

Shapes: Nq queries, Nk keys, H heads; boxes (., 4) x1, y1, x2, y2 in pixels.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Iterator
from types import ModuleType
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from ..arguments import one_of, require
from ..geometry import (
    EMBED_DIM,
    MIN_DISPLACEMENT,
    MIN_GATE,
    NORMALIZE_BY,
    NormalizeBy,
    PairGeometry,
    box_sizes,
    log_gate,
    pair_embedding,
)
from ..precision import no_autocast
from ..separable_gate import frequencies

TRITON_GEOMETRIES = ("relation", "signed")
ROW_ALIGNMENT = 16  # elements; CUDA's memory-efficient attention copies masks with other rows
BLOCK_BYTES = 2**25  # of a block's embedding, in the backward pass; in all 4 times that
_NEEDS = "implementation='triton' needs Triton and boxes of float32 on a GPU"
_INSTEAD = "implementation='fused' computes the same everywhere."
PROGRAM_QUERIES, PROGRAM_KEYS = 4, 64  # of one program at up to 32 heads: two pairs per thread


def triton_log_gate(
    query_boxes: Tensor,
    key_boxes: Tensor,
    weight: Tensor,
    bias: Tensor,
    *,
    geometry: PairGeometry,
    normalize_by: NormalizeBy,
    dtype: torch.dtype = torch.float32,
) -> Tensor:
    """log(max(w_G, 1e-6)) of all pairs, computed in float32: (H, Nq, Nk).

    Differentiable in `weight` and `bias` (once), not in the boxes. Rows are 16 elements aligned, so
    the result is a view whose rows may lie apart; what lies between them is 0.

    Args:
        query_boxes: (Nq, 4).
        key_boxes: (Nk, 4).
        weight: (H, 64) W_G.
        bias: (H,) b_G.
        geometry: "relation" or "signed", see `geometry.relative_geometry`.
        normalize_by: see `geometry.displacement`.
        dtype: of the result.

    Raises:
        ArgumentError: `geometry` or `normalize_by` is another one.
        RuntimeError: the kernel cannot run for these boxes.
    """
    require(
        one_of("geometry", geometry, TRITON_GEOMETRIES),
        one_of("normalize_by", normalize_by, NORMALIZE_BY),
    )
    kernel = kernel_for(query_boxes)
    boxes = query_boxes.float(), key_boxes.float()
    parameters = weight.float(), bias.float()
    return _LogGate.apply(kernel, *boxes, *parameters, geometry, normalize_by, dtype)


def triton_relation(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    query_boxes: Tensor,
    key_boxes: Tensor,
    weight: Tensor,
    bias: Tensor,
    *,
    geometry: PairGeometry,
    normalize_by: NormalizeBy,
) -> Tensor:
    """sum_m w_nm v_m of eq. 2 and 3, by this gate and PyTorch's fused attention: (Nq, H, d_v).

    Without keys it is 0. The gate is rounded to the type of `query`, as the attention asks.

    Args:
        query: (Nq, H, d_k).
        key: (Nk, H, d_k).
        value: (Nk, H, d_v).
        query_boxes, key_boxes, weight, bias, geometry, normalize_by: see `triton_log_gate`.
    """
    if not len(key):
        return query.new_zeros(len(query), *value.shape[1:])
    form: dict[str, Any] = dict(geometry=geometry, normalize_by=normalize_by, dtype=query.dtype)
    gate = triton_log_gate(query_boxes, key_boxes, weight, bias, **form)
    query, key, value = (x.transpose(0, 1)[None] for x in (query, key, value))  # (1, H, N, d)
    attended = F.scaled_dot_product_attention(query, key, value, attn_mask=gate[None])
    return attended[0].transpose(0, 1)  # (Nq, H, d_v)


def kernel_for(boxes: Tensor) -> ModuleType:
    """The module with the kernel.

    Raises:
        RuntimeError: it cannot run for boxes like these; says why.
    """
    try:
        from . import triton_gate_kernel
    except ImportError as error:
        raise RuntimeError(f"{_NEEDS}, and importing Triton fails: {error}. {_INSTEAD}") from error
    if boxes.dtype == torch.float64:
        raise RuntimeError(f"{_NEEDS}, and the boxes are float64. {_INSTEAD}")
    if not (boxes.is_cuda or triton_gate_kernel.INTERPRETED):
        raise RuntimeError(f"{_NEEDS}, and the boxes are on {boxes.device}. {_INSTEAD}")
    return triton_gate_kernel


class _LogGate(torch.autograd.Function):
    """The kernel, with the backward pass of the plain layers."""

    @staticmethod
    def forward(
        ctx: Any,
        kernel: ModuleType,
        query_boxes: Tensor,
        key_boxes: Tensor,
        weight: Tensor,
        bias: Tensor,
        geometry: PairGeometry,
        normalize_by: NormalizeBy,
        dtype: torch.dtype,
    ) -> Tensor:
        ctx.save_for_backward(query_boxes, key_boxes, weight, bias)
        ctx.geometry = {"geometry": geometry, "normalize_by": normalize_by}
        out = _aligned_rows(len(weight), len(query_boxes), len(key_boxes), weight, dtype)
        if out.numel():
            _fill(kernel, out, query_boxes, key_boxes, weight, bias, **ctx.geometry)
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        query_boxes, key_boxes, weight, bias = ctx.saved_tensors
        parameters = weight.detach().requires_grad_(), bias.detach().requires_grad_()
        totals = torch.zeros_like(weight), torch.zeros_like(bias)
        for rows in _blocks(query_boxes, key_boxes):
            # Matrix products of the inner backward pass would follow an autocast around this one.
            with torch.enable_grad(), no_autocast(grad):
                embedding = pair_embedding(query_boxes[rows], key_boxes, **ctx.geometry)
                gate = log_gate(embedding, *parameters)  # (H, block, Nk)
                parts = torch.autograd.grad(gate, parameters, grad[:, rows].to(gate.dtype))
            for total, part in zip(totals, parts, strict=True):
                total += part
        return None, None, None, *totals, None, None, None


def _aligned_rows(heads: int, rows: int, columns: int, like: Tensor, dtype: torch.dtype) -> Tensor:
    """An empty (heads, rows, columns) with rows of a multiple of 16 elements, 0 beyond columns."""
    stride = -(-columns // ROW_ALIGNMENT) * ROW_ALIGNMENT
    memory = like.new_empty(heads, rows, stride, dtype=dtype)
    memory[..., columns:] = 0  # attention may read it: anything but NaN
    return memory[..., :columns]


def _blocks(query_boxes: Tensor, key_boxes: Tensor) -> Iterator[slice]:
    """Blocks of queries whose embedding fits into `BLOCK_BYTES`."""
    row = max(1, len(key_boxes)) * EMBED_DIM * query_boxes.element_size()  # bytes of one query
    size = max(1, BLOCK_BYTES // row)
    return (slice(start, start + size) for start in range(0, len(query_boxes), size))


def _fill(
    kernel: ModuleType,
    out: Tensor,
    query_boxes: Tensor,
    key_boxes: Tensor,
    weight: Tensor,
    bias: Tensor,
    *,
    geometry: PairGeometry,
    normalize_by: NormalizeBy,
) -> None:
    """Writes the log gate into `out` (H, Nq, Nk), which is not empty."""
    heads, num_queries, num_keys = out.shape
    padded = 2 ** math.ceil(math.log2(heads))
    rows = max(1, min(PROGRAM_QUERIES, 128 // padded))  # gates stay in registers
    grid = (-(-num_queries // rows), -(-num_keys // PROGRAM_KEYS))
    inputs = (
        box_table(torch.cat([query_boxes, key_boxes])),
        F.pad(weight.t(), (0, padded - heads)).contiguous(),  # (64, padded)
        F.pad(bias, (0, padded - heads)),
        _turns(out.device),
    )
    try:
        with torch.cuda.device_of(out):  # Triton starts kernels on the current device
            kernel.log_gate_kernel[grid](
                out,
                *inputs,
                num_queries,
                num_keys,
                heads,
                *out.stride()[:2],
                SIGNED=geometry == "signed",
                BY_KEY=normalize_by == "key",
                MIN_DISPLACEMENT=MIN_DISPLACEMENT,
                MIN_GATE=MIN_GATE,
                HEADS=padded,
                BM=rows,
                BN=PROGRAM_KEYS,
                enable_fp_fusion=True,
            )
    except Exception as error:  # compilers fail in many ways; which one follows as the cause
        raise RuntimeError(
            f"The kernel of implementation='triton' failed on {out.device} with "
            f"{type(error).__name__}. {_INSTEAD}"
        ) from error


@functools.cache
def _turns(device: torch.device) -> Tensor:
    """The 8 frequencies in turns per unit."""
    return (frequencies(device) / math.tau).float()


def box_table(boxes: Tensor) -> Tensor:
    """What the kernel needs of every box, computed in float64: (N, 4) to (38, N) float32.

    Rows: x1, y1, x2, y2; twice the width and the height; for log w, then for log h, the sines of 8
    phases and their cosines.
    """
    boxes = boxes.double()
    sizes = box_sizes(boxes)  # (N, 2)
    phases = sizes.log()[..., None] * frequencies(boxes.device)  # (N, 2, 8)
    waves = torch.cat([phases.sin(), phases.cos()], dim=-1).flatten(1)  # (N, 32)
    return torch.cat([boxes, 2 * sizes, waves], dim=1).t().float().contiguous()
