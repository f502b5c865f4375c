"""Object relation in blocks of queries: no tensor of all pairs exists, forward or backward.

Source: Hu et al., "Relation Networks for Object Detection", CVPR 2018, eq. 2-5. With the softmax
a_m of the appearance w_A of eq. 4 over the keys of a row, and g = max(w_G, 1e-6),

    Z = sum_m a g,   o_n = 1/Z sum_m a g v_m,

which is eq. 3 as printed: it needs no logarithm of the gate, and the floor keeps Z >= 1e-6. From
the gradient do of o, with the e of a row = do / Z, as in FlashAttention (Dao et al., NeurIPS 2022):

    dg = a (<e_n, v_m> - <e_n, o_n>) where w_G > 1e-6,   dw_A = g a (<e_n, v_m> - <e_n, o_n>),

and dv_m = sum_n a g e_n. Kept for backward are queries, keys, values, o and the Z of each row, all
linear in the number of regions; the gate (see `separable_gate`) and the softmax are computed again,
block by block. dg jumps at the floor, so that a single gate that rounds to its other side can be
worth a thousandth of the gradient of W_G: those in doubt, one in 10^4, are decided in float64.

Shapes: Nq queries and Nk keys of one image, H heads of d_k and d_v channels; blocks of b queries.
Keys and values are (H, d, Nk) here, so that rows are long. Where Nk is a multiple of 8 all rows
begin where a register does, which is faster by up to a fifth: spare keys at the end, which are not
heard, can make it one.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from .geometry import MIN_GATE, NormalizeBy, pair_embedding, widen
from .separable_gate import (
    NUM_OFFSET_CHANNELS,
    NUM_WAVELENGTHS,
    frequencies,
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
ROUNDING = 1e-6  # in float32 a sine or cosine of z d is wrong by less than z times this, b by |b|
PAIRS = 1024  # that are computed in float64 at once


def _blocks(
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
    """(H, Nq, d_k), (H, d_k, Nk), (H, d_v, Nk), W_xy, U, V, both boxes, W_G with its bias for the
    gates in doubt, and how many keys are heard, to (H, Nq, d_v)."""

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
        gate_weight: Tensor,
        gate_bias: Tensor,
        num_keys: int,
        geometry: dict[str, Any],
    ) -> Tensor:
        scale = 1 / math.sqrt(query.shape[-1])
        heads, num_queries, _ = query.shape
        out = value.new_zeros(num_queries, heads, value.shape[1]).transpose(0, 1)
        total = query.new_ones(heads, num_queries, 1)  # Z
        width = max(NUM_OFFSET_CHANNELS, heads) + heads
        for rows, numbers in _blocks(query_boxes, key_boxes, geometry, width):
            channels, g = numbers[None, :NUM_OFFSET_CHANNELS], numbers[-heads:]  # g (H, b, Nk)
            gate(channels, weight, u[:, :, rows], v, g[None]).clamp_(min=MIN_GATE)
            a = numbers[:heads]  # (H, b, Nk), in the place of the channels
            torch.bmm(query[:, rows] * scale, key, out=a)
            a[..., num_keys:] = -math.inf
            gated = torch.softmax(a, dim=-1, out=a).mul_(g)
            torch.sum(gated, dim=-1, keepdim=True, out=total[:, rows])
            torch.div(gated @ value.mT, total[:, rows], out=out[:, rows])
        boxes, layer = (query_boxes, key_boxes), (gate_weight, gate_bias)
        ctx.save_for_backward(query, key, value, weight, u, v, *boxes, *layer, out, total)
        ctx.num_keys, ctx.geometry = num_keys, geometry
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        with torch.autocast(grad.device.type, enabled=False):
            gradients = _gradients(ctx.num_keys, ctx.geometry, grad, *ctx.saved_tensors)
        return *gradients, *[None] * 7


def _gradients(
    num_keys: int,
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
    gate_weight: Tensor,
    gate_bias: Tensor,
    out: Tensor,
    total: Tensor,
) -> tuple[Tensor, ...]:
    """Of query, key, value, W_xy and U, from that of the output, (H, Nq, d_v)."""
    scale = 1 / math.sqrt(query.shape[-1])
    d_query, d_key, d_value, d_weight, d_u = (
        torch.zeros_like(x) for x in (query, key, value, weight, u)
    )
    doubt = _doubt(gate_weight, gate_bias)
    asking, answering = query_boxes[0].double(), key_boxes[0].double()
    layer = gate_weight.double(), gate_bias.double()
    sizes = [NUM_OFFSET_CHANNELS] + [len(query)] * 3
    for rows, numbers in _blocks(query_boxes, key_boxes, geometry, sum(sizes)):
        channels, g, a, d_g = numbers.split(sizes)  # (32, b, Nk), (H, b, Nk) each
        gate(channels[None], weight, u[:, :, rows], v, g[None])
        if g.dtype != torch.float64:
            _decide(g, doubt, asking[rows], answering, *layer, geometry, memory=a)
        g.clamp_(min=MIN_GATE)
        q, e = query[:, rows] * scale, grad[:, rows] / total[:, rows]
        delta = (e * out[:, rows]).sum(dim=-1, keepdim=True)
        torch.bmm(q, key, out=a)[..., num_keys:] = -math.inf
        torch.softmax(a, dim=-1, out=a)
        torch.bmm(e, value, out=d_g).sub_(delta).mul_(a)
        d_value.baddbmm_(e.mT, a.mul_(g))
        d_logits = torch.mul(d_g, g, out=a)
        torch.mul(d_logits @ key.mT, scale, out=d_query[:, rows])
        d_key.baddbmm_(q.mT, d_logits)
        torch.ops.aten.threshold_backward.grad_input(d_g, g, MIN_GATE, grad_input=d_g)
        d_weight.addmm_(d_g.flatten(1), channels.flatten(1).T)
        d_u[0, :, rows] = d_g @ v
    return d_query, d_key, d_value, d_weight, d_u


def _doubt(weight: Tensor, bias: Tensor) -> Tensor:
    """Below which |w_G| may be on either side of the floor, of (H, 64) W_G: (H, 1)."""
    z = frequencies(weight.device).to(weight.dtype)
    by_phase = weight.abs().unflatten(1, (-1, NUM_WAVELENGTHS)).sum(dim=1) @ z  # (H,)
    return (MIN_GATE + ROUNDING * (by_phase + bias.abs()))[:, None]


def _decide(
    g: Tensor,
    doubt: Tensor,
    query_boxes: Tensor,
    key_boxes: Tensor,
    weight: Tensor,
    bias: Tensor,
    geometry: dict[str, Any],
    memory: Tensor,
) -> None:
    """Replaces the w_G in doubt, of (H, b, Nk), by the same in float64, the dtype of weights and
    boxes; `memory` is as g, and is written."""
    size = torch.abs(g, out=memory)
    head, n = (size.amin(dim=2) < doubt).nonzero().unbind(1)  # rows that have such gates: few
    for some in (size[head, n] < doubt[head]).nonzero().split(PAIRS):
        row, m = some.unbind(1)
        head_of, n_of = head[row], n[row]
        embedding = pair_embedding(query_boxes[n_of, None], key_boxes[m, None], **geometry)
        exact = (embedding[:, 0, 0] * weight[head_of]).sum(dim=1) + bias[head_of]  # (P,)
        g[head_of, n_of, m] = exact.to(g.dtype)


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
        key: (Nk, H, d_k), or more rows; those without a box are not heard. With adjacent keys, as
            of `linear_by_channel`, it is not copied.
        value: as long as `key`, (., H, d_v).
        query_boxes: (Nq, 4) pixels.
        key_boxes: (Nk, 4).
        weight: (H, 64) W_G.
        bias: (H,) of W_G.
        signed, normalize_by: see `geometry.relative_geometry`.

    Returns:
        (Nq, H, d_v), the type of `value`; zeros without keys.

    Raises:
        ValueError: fewer keys than boxes of them.
    """
    num_keys = len(key_boxes)
    if len(key) < num_keys:
        raise ValueError(f"{num_keys} key boxes need as many keys, got {len(key)}.")
    if not num_keys:
        key, value = key[:0], value[:0]
    dtype = torch.promote_types(widen(query).dtype, widen(query_boxes).dtype)
    with torch.autocast(query.device.type, enabled=False):
        q = query.to(dtype).transpose(0, 1)
        k, v = (x.to(dtype).permute(1, 2, 0) for x in (key, value))
        k, v = (x if x.stride(2) == 1 else x.contiguous() for x in (k, v))
        boxes = query_boxes, F.pad(key_boxes, (0, 0, 0, len(key) - num_keys))
        asking, answering = (b.detach().to(dtype)[None] for b in boxes)
        weight, bias = weight.to(dtype), bias.to(dtype)
        out: Tensor = _FusedRelation.apply(
            *(q, k, v, offset_weight(weight)),
            query_factors(key_factors(asking), weight, bias),
            key_factors(answering),
            *(asking, answering, weight.detach(), bias.detach()),
            num_keys,
            dict(signed=signed, normalize_by=normalize_by),
        )
    return out.transpose(0, 1).to(value.dtype)
