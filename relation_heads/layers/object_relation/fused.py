"""Object relation in blocks of queries: no tensor of all pairs exists, forward or backward.

Source: Hu et al., "Relation Networks for Object Detection", CVPR 2018, eq. 2-5. With the softmax
a_m of the appearance w_A of eq. 4 over the keys of a row, and g = max(w_G, 1e-6),

    Z = sum_m a g,   o_n = 1/Z sum_m a g v_m,

which is eq. 3 as printed: it needs no logarithm of the gate, and the floor keeps Z >= 1e-6. From
the gradient do of o, with the e of a row = do / Z, as in FlashAttention (Dao et al., NeurIPS 2022):

    dg = a (<e_n, v_m> - <e_n, o_n>) where w_G > 1e-6,   dw_A = g a (<e_n, v_m> - <e_n, o_n>),

and dv_m = sum_n a g e_n. Kept for backward are queries, keys, values, o and the Z of each row, all
linear in the number of regions; the gate (see `separable_gate`) and the softmax are computed again,
block by block. dg jumps at the floor, so that a gate that rounds to its other side changes the
gradient of W_G: in float32 one or two of a million gates, here and in the simple form alike, all of
them nearer to the floor than 5e-5 lengths of their row of W_G.

For the geometry "position" b = max(0, w_G) is added to the logits instead (Hou et al., "Relation
DETR", ECCV 2024): a = softmax(w_A + b), o = sum_m a v_m, g = Z = 1 above, db = dw_A where w_G > 0.

What it pays at N = 1000 on a CPU, against plain PyTorch on all pairs: forward and backward in half
the time and a tenth of the memory (`docs/performance.md`).

Shapes: Nq queries and Nk keys of one image, H heads of d_k and d_v channels; blocks of b queries.
Keys and values are (H, d, Nk) here, so that rows are long (`linear_by_channel`).
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from ..geometry import MIN_GATE, NormalizeBy, PairGeometry
from ..precision import no_autocast, widen
from ..separable_gate import (
    NUM_OFFSET_CHANNELS,
    gate,
    key_factors,
    offset_channels,
    offset_weight,
    query_factors,
)

# Numbers of a block for each key and thread: 18 MiB at 1000 keys in float32. At H = 16 a pair takes
# 48 forward and 80 backward, so that a block has 100 and 60 queries.
NUMBERS_PER_KEY = 4800
ROWS_ON_GPU = 512  # not measured; a block is some 25 kernels, and many more backward


def blocks(
    query_boxes: Tensor, key_boxes: Tensor, geometry: dict[str, Any], width: int
) -> Iterator[tuple[slice, Tensor]]:
    """Blocks of the queries of (1, Nq, 4) boxes: which rows, and memory (width, b, Nk) for their
    pairs, of which E_xy takes the first 32 and the others are to be written.

    All blocks have the same memory. To write where has just been written is faster than to write to
    new memory, by far in a virtual machine.
    """
    step = ROWS_ON_GPU
    if query_boxes.device.type == "cpu":
        step = max(1, NUMBERS_PER_KEY * torch.get_num_threads() // width)
    num_queries, num_keys = query_boxes.shape[1], key_boxes.shape[1]
    memory = key_boxes.new_empty(width * min(step, num_queries) * num_keys)
    for begin in range(0, num_queries if num_keys else 0, step):
        rows = slice(begin, min(begin + step, num_queries))
        size = rows.stop - begin
        numbers = memory[: width * size * num_keys].view(width, size, num_keys)
        channels = numbers[None, :NUM_OFFSET_CHANNELS]
        offset_channels(query_boxes[:, rows], key_boxes, memory=channels, **geometry)
        yield rows, numbers


class _FusedRelation(torch.autograd.Function):
    """(H, Nq, d_k), (H, d_k, Nk), (H, d_v, Nk), W_xy, U, V and both boxes to (H, Nq, d_v)."""

    @staticmethod
    def forward(
        ctx: Any,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        weight: Tensor,
        u: Tensor,
        v: Tensor,
        query_boxes: Tensor,
        key_boxes: Tensor,
        geometry: dict[str, Any],
    ) -> Tensor:
        scale = 1 / math.sqrt(query.shape[-1])
        heads, num_queries, _ = query.shape
        added = geometry["geometry"] == "position"
        out = value.new_zeros(num_queries, heads, value.shape[1]).transpose(0, 1)
        total = query.new_ones(heads, num_queries, 1)  # Z
        width = max(NUM_OFFSET_CHANNELS, heads) + heads
        for rows, numbers in blocks(query_boxes, key_boxes, geometry, width):
            channels, g = numbers[None, :NUM_OFFSET_CHANNELS], numbers[-heads:]  # g (H, b, Nk)
            gate(channels, weight, u[:, :, rows], v, g[None]).clamp_(min=0 if added else MIN_GATE)
            a = numbers[:heads]  # (H, b, Nk), in the place of the channels
            torch.bmm(query[:, rows] * scale, key, out=a)
            if added:
                out[:, rows] = torch.softmax(a.add_(g), dim=-1, out=a) @ value.mT
                continue
            gated = torch.softmax(a, dim=-1, out=a).mul_(g)
            torch.sum(gated, dim=-1, keepdim=True, out=total[:, rows])
            torch.div(gated @ value.mT, total[:, rows], out=out[:, rows])
        boxes = query_boxes, key_boxes
        ctx.save_for_backward(query, key, value, weight, u, v, *boxes, out, total)
        ctx.geometry = geometry
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        with no_autocast(grad):
            gradients = _gradients(ctx.geometry, grad, *ctx.saved_tensors)
        return *gradients, None, None, None, None


def _gradients(
    geometry: dict[str, Any],
    grad: Tensor,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    weight: Tensor,
    u: Tensor,
    v: Tensor,
    query_boxes: Tensor,
    key_boxes: Tensor,
    out: Tensor,
    total: Tensor,
) -> tuple[Tensor, ...]:
    """Of query, key, value, W_xy and U, from that of the output, (H, Nq, d_v)."""
    scale = 1 / math.sqrt(query.shape[-1])
    added = geometry["geometry"] == "position"
    floor = 0 if added else MIN_GATE
    d_query, d_key, d_value, d_weight, d_u = (
        torch.zeros_like(x) for x in (query, key, value, weight, u)
    )
    sizes = [NUM_OFFSET_CHANNELS] + [len(query)] * 3
    for rows, numbers in blocks(query_boxes, key_boxes, geometry, sum(sizes)):
        channels, g, a, d_g = numbers.split(sizes)  # (32, b, Nk), (H, b, Nk) each
        gate(channels[None], weight, u[:, :, rows], v, g[None]).clamp_(min=floor)
        q, e = query[:, rows] * scale, grad[:, rows] / total[:, rows]
        delta = (e * out[:, rows]).sum(dim=-1, keepdim=True)
        torch.bmm(q, key, out=a)
        torch.softmax(a.add_(g) if added else a, dim=-1, out=a)
        torch.bmm(e, value, out=d_g).sub_(delta).mul_(a)
        d_value.baddbmm_(e.mT, a if added else a.mul_(g))
        d_logits = d_g if added else torch.mul(d_g, g, out=a)
        torch.mul(d_logits @ key.mT, scale, out=d_query[:, rows])
        d_key.baddbmm_(q.mT, d_logits)
        torch.ops.aten.threshold_backward.grad_input(d_g, g, floor, grad_input=d_g)
        d_weight.addmm_(d_g.flatten(1), channels.flatten(1).T)
        d_u[0, :, rows] = d_g @ v
    return d_query, d_key, d_value, d_weight, d_u


def linear_by_channel(layer: nn.Linear, x: Tensor) -> Tensor:
    """`layer(x)`, (N, D) to (N, E), as the transpose of a contiguous (E, N), of which every head
    takes E / H rows without a copy; no hook of the layer is called."""
    return torch.addmm(layer.bias[:, None], layer.weight, x.T).T


def fused_relation(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    query_boxes: Tensor,
    key_boxes: Tensor,
    weight: Tensor,
    bias: Tensor,
    *,
    geometry: PairGeometry = "relation",
    normalize_by: NormalizeBy = "query",
) -> Tensor:
    """Eq. 2-5 for one image: what every query hears, without the residual.

    Computed in float32 or wider whatever autocast says; differentiable once, not in the boxes.

    Args:
        query: (Nq, H, d_k).
        key: (Nk, H, d_k). With adjacent keys, as of `linear_by_channel`, it is not copied.
        value: (Nk, H, d_v).
        query_boxes: (Nq, 4) pixels.
        key_boxes: (Nk, 4).
        weight: (H, 64) W_G.
        bias: (H,) of W_G.
        geometry, normalize_by: see `geometry.relative_geometry`.

    Returns:
        (Nq, H, d_v), the type of `value`; zeros without keys.
    """
    dtype = torch.promote_types(widen(query).dtype, widen(query_boxes).dtype)
    with no_autocast(query):
        q = query.to(dtype).transpose(0, 1)
        k, v = (x.to(dtype).permute(1, 2, 0) for x in (key, value))
        k, v = (x if x.stride(2) == 1 else x.contiguous() for x in (k, v))
        asking, answering = (b.detach().to(dtype)[None] for b in (query_boxes, key_boxes))
        weight, bias = weight.to(dtype), bias.to(dtype)
        out: Tensor = _FusedRelation.apply(
            *(q, k, v, offset_weight(weight)),
            query_factors(key_factors(asking, geometry), weight, bias),
            key_factors(answering, geometry),
            asking,
            answering,
            dict(geometry=geometry, normalize_by=normalize_by),
        )
    return out.transpose(0, 1).to(value.dtype)
