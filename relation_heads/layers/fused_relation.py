"""Object relation in blocks of queries: no tensor of all pairs exists, forward or backward.

Source: Hu et al., "Relation Networks for Object Detection", CVPR 2018, eq. 2-5. With s = w_A, the
appearance of eq. 4, g = max(w_G, 1e-6) and the maximum t = max_m s of a row,

    Z = sum_m g e^(s - t),   p = g e^(s - t) / Z,   o_n = sum_m p v_m,

which is eq. 3 as printed: it needs no logarithm of the gate, and the floor keeps Z >= 1e-6. From
the gradient do of o, with r = e^(s - t) / Z, as in FlashAttention (Dao et al., NeurIPS 2022):

    D = <do_n, o_n>,   ds = p (<do_n, v_m> - D),   dg = r (<do_n, v_m> - D) where w_G > 1e-6.

Kept for backward are queries, keys, values, o and t + log Z of each row, all linear in the number
of regions; the gate (see `separable_gate`) and the weights are computed again, block by block.

Shapes: Nq queries and Nk keys of one image, H heads of d_k and d_v channels; blocks of b queries.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from .geometry import MIN_GATE, NormalizeBy, widen
from .separable_gate import (
    NUM_OFFSET_CHANNELS,
    gate,
    key_factors,
    offset_channels,
    offset_weight,
    query_factors,
)

# Queries in a block, for each thread. A pair takes 256 bytes forward and 320 backward at H = 16 in
# float32: 14 and 17 MiB at 1000 keys.
ROWS_PER_THREAD = 56
ROWS_ON_GPU = 512  # not measured; a block is some 25 kernels


@dataclass(frozen=True)
class _Block:
    """A block of queries, and memory for its pairs that the next block takes over.

    To write where has just been written is faster than to write to new memory, by far in a virtual
    machine.
    """

    rows: slice
    channels: Tensor  # E_xy (1, 32, b, Nk)
    pairs: tuple[Tensor, ...]  # each (H, b, Nk), to be written


def _blocks(
    query_boxes: Tensor, key_boxes: Tensor, geometry: dict[str, Any], heads: int, num_pairs: int
) -> Iterator[_Block]:
    """Blocks of the queries of (1, Nq, 4) boxes, each with `num_pairs` of `_Block.pairs`."""
    on_cpu = query_boxes.device.type == "cpu"
    step = ROWS_PER_THREAD * torch.get_num_threads() if on_cpu else ROWS_ON_GPU
    num_queries, num_keys = query_boxes.shape[1], key_boxes.shape[1]
    sizes = [NUM_OFFSET_CHANNELS] + [heads] * num_pairs
    memory = key_boxes.new_empty(sum(sizes) * min(step, num_queries) * num_keys)
    for begin in range(0, num_queries if num_keys else 0, step):
        rows = slice(begin, min(begin + step, num_queries))
        pairs = (rows.stop - begin) * num_keys
        parts = memory[: sum(sizes) * pairs].view(-1, rows.stop - begin, num_keys).split(sizes)
        channels = offset_channels(
            query_boxes[:, rows], key_boxes, memory=parts[0][None], **geometry
        )
        yield _Block(rows, channels, parts[1:])


class _FusedRelation(torch.autograd.Function):
    """(H, Nq, d_k), (H, Nk, d_k), (H, Nk, d_v), W_xy, U, V and both boxes to (H, Nq, d_v)."""

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
        out = value.new_zeros(num_queries, heads, value.shape[-1]).transpose(0, 1)
        log_sum = query.new_zeros(heads, num_queries, 1)  # t + log Z
        for block in _blocks(query_boxes, key_boxes, geometry, heads, 2):
            rows, (g, s) = block.rows, block.pairs  # (H, b, Nk)
            gate(block.channels, weight, u[:, :, rows], v, g[None]).clamp_(min=MIN_GATE)
            torch.bmm(query[:, rows] * scale, key.mT, out=s)
            top = s.amax(dim=-1, keepdim=True)  # (H, b, 1)
            unnormalised = s.sub_(top).exp_().mul_(g)
            total = unnormalised.sum(dim=-1, keepdim=True)
            torch.div(unnormalised @ value, total, out=out[:, rows])
            torch.add(top, total.log_(), out=log_sum[:, rows])
        ctx.save_for_backward(query, key, value, weight, u, v, query_boxes, key_boxes, out, log_sum)
        ctx.geometry = geometry
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        with torch.autocast(grad.device.type, enabled=False):
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
    log_sum: Tensor,
) -> tuple[Tensor, ...]:
    """Of query, key, value, W_xy and U, from that of the output, (H, Nq, d_v)."""
    scale = 1 / math.sqrt(query.shape[-1])
    delta = torch.einsum("hnd,hnd->hn", grad, out)[..., None]  # D
    d_query, d_key, d_value, d_weight, d_u = (
        torch.zeros_like(x) for x in (query, key, value, weight, u)
    )
    for block in _blocks(query_boxes, key_boxes, geometry, len(query), 3):
        rows, (g, r, d_g) = block.rows, block.pairs  # (H, b, Nk)
        gate(block.channels, weight, u[:, :, rows], v, g[None]).clamp_(min=MIN_GATE)
        q, d_o = query[:, rows] * scale, grad[:, rows]
        torch.bmm(q, key.mT, out=r).sub_(log_sum[:, rows]).exp_()
        torch.bmm(d_o, value.mT, out=d_g).sub_(delta[:, rows]).mul_(r)
        p = r.mul_(g)
        d_value.baddbmm_(p.mT, d_o)
        d_s = torch.mul(d_g, g, out=p)
        torch.mul(d_s @ key, scale, out=d_query[:, rows])
        d_key.baddbmm_(d_s.mT, q)
        torch.ops.aten.threshold_backward.grad_input(d_g, g, MIN_GATE, grad_input=d_g)
        d_weight.addmm_(d_g.flatten(1), block.channels[0].flatten(1).T)
        d_u[0, :, rows] = d_g @ v
    return d_query, d_key, d_value, d_weight, d_u


def fused_relation(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    query_boxes: Tensor,
    key_boxes: Tensor,
    weight: Tensor,
    bias: Tensor,
    *,
    signed: bool = False,
    normalize_by: NormalizeBy = "query",
) -> Tensor:
    """Eq. 2-5 for one image: what every query hears, without the residual.

    Computed in float32 or wider whatever autocast says; differentiable once, not in the boxes.

    Args:
        query: (Nq, H, d_k).
        key: (Nk, H, d_k).
        value: (Nk, H, d_v).
        query_boxes: (Nq, 4) pixels.
        key_boxes: (Nk, 4).
        weight: (H, 64) W_G.
        bias: (H,) of W_G.
        signed, normalize_by: see `geometry.relative_geometry`.

    Returns:
        (Nq, H, d_v), the type of `value`; zeros without keys.
    """
    dtype = torch.promote_types(widen(query).dtype, widen(query_boxes).dtype)
    with torch.autocast(query.device.type, enabled=False):
        q, k, v = (x.to(dtype).transpose(0, 1) for x in (query, key, value))
        k, v = k.contiguous(), v.contiguous()  # rows of all heads lie 4 KB apart, one cache set
        asking, answering = (b.detach().to(dtype)[None] for b in (query_boxes, key_boxes))
        weight, bias = weight.to(dtype), bias.to(dtype)
        out: Tensor = _FusedRelation.apply(
            *(q, k, v, offset_weight(weight)),
            query_factors(key_factors(asking), weight, bias),
            key_factors(answering),
            *(asking, answering, dict(signed=signed, normalize_by=normalize_by)),
        )
    return out.transpose(0, 1).to(value.dtype)
