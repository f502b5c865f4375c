"""Position relation: a bias on attention logits from pairs of boxes, for any attention over boxes.

Source: Hou et al., "Relation DETR: Exploring Explicit Position Relation Prior for Object
Detection", ECCV 2024; released code xiuqhou/Relation-DETR (Apache-2.0),
`PositionRelationEmbedding`. For query n, key m and head h:

    dx = log(1 + |cx_n - cx_m| / w_n),  dw = log(w_n / w_m),  w = x2 - x1 + 1e-5,  y and h likewise
    E  = sin and cos of 100 d / 10000^(k / 8),  k = 0 .. 7                  64 channels of a pair
    b  = max(0, W_G E + b_G)                                  is added to <q_n, k_m> / sqrt(d_k)

In a DETR decoder the queries' boxes are the ones that a layer began with (of the layer before),
the keys' the ones that it has just predicted; all layers share W_G, and the first has no bias.

The released form keeps E, 64 numbers for every pair of boxes. Here E is computed in blocks of
queries, forward and again backward (see `separable_gate`). `PositionRelation.attend` never has a
tensor of all pairs at all; the forward pass of the module has its result alone, H numbers a pair.

Shapes: B images, Nq queries, Nk keys, H heads of d_k and d_v channels.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from ..arguments import at_least, require
from ..geometry import EMBED_DIM, pair_embedding, position_bias
from ..precision import no_autocast, widen
from ..separable_gate import NUM_OFFSET_CHANNELS, gate, key_factors, offset_weight, query_factors
from .fused import blocks, fused_relation

GEOMETRY: dict[str, Any] = {"geometry": "position", "normalize_by": "query"}


class _Bias(torch.autograd.Function):
    """W_xy, U (B, H, Nq, 33), V (B, Nk, 33) and both boxes (B, N, 4) to (B, H, Nq, Nk)."""

    @staticmethod
    def forward(
        ctx: Any, weight: Tensor, u: Tensor, v: Tensor, query_boxes: Tensor, key_boxes: Tensor
    ) -> Tensor:
        out = v.new_empty(*u.shape[:3], v.shape[1])
        for image, rows, _, g in _gates(weight, u, v, query_boxes, key_boxes):
            torch.clamp(g, min=0, out=out[image, :, rows])
        ctx.save_for_backward(weight, u, v, query_boxes, key_boxes)  # masks may be written into out
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        weight, u, v, _, _ = ctx.saved_tensors
        d_weight, d_u = torch.zeros_like(weight), torch.zeros_like(u)
        with no_autocast(grad):
            for image, rows, channels, g in _gates(*ctx.saved_tensors):
                d = torch.mul(grad[image, :, rows], g > 0, out=g)
                d_weight.addmm_(d.flatten(1), channels.flatten(1).T)
                d_u[image, :, rows] = d @ v[image]
        return d_weight, d_u, None, None, None


def _gates(
    weight: Tensor, u: Tensor, v: Tensor, query_boxes: Tensor, key_boxes: Tensor
) -> Iterator[tuple[int, slice, Tensor, Tensor]]:
    """Blocks of b queries: which image and rows, E_xy (32, b, Nk) and W_G E + b_G (H, b, Nk)."""
    width = NUM_OFFSET_CHANNELS + len(weight)
    for image in range(len(u)):
        one = slice(image, image + 1)
        for rows, numbers in blocks(query_boxes[one], key_boxes[one], GEOMETRY, width):
            channels, g = numbers[None, :NUM_OFFSET_CHANNELS], numbers[None, NUM_OFFSET_CHANNELS:]
            gate(channels, weight, u[one, :, rows], v[one], g)
            yield image, rows, channels[0], g[0]


class PositionRelation(nn.Module):
    """The bias of the position relation, 65 H parameters: 520 at 8 heads.

    Boxes are x1, y1, x2, y2 in units of the image, 0 to 1, as in DETR, of whose boxes
    `torchvision.ops.box_convert(boxes, "cxcywh", "xyxy")` makes them. Other units differ in the
    1e-5 alone. Boxes get no gradient, as released. Everything is float32 or wider.

    Released weights, whose channels are sine, cosine, sine, ... :

        weight = released["pos_proj.0.weight"].view(H, 4, 8, 2).mT.reshape(H, 64)
    """

    def __init__(self, num_heads: int = 8) -> None:
        """
        Args:
            num_heads: H of the attention.

        Raises:
            ArgumentError: fewer than one.
        """
        super().__init__()
        require(at_least("num_heads", num_heads, 1))
        self.num_heads = num_heads
        self.gate = nn.Linear(EMBED_DIM, num_heads)  # W_G, with torch's own initialisation

    def forward(self, query_boxes: Tensor, key_boxes: Tensor) -> Tensor:
        """The bias. `bias.flatten(0, 1)` is the `attn_mask` of `nn.MultiheadAttention`.

        Args:
            query_boxes: (B, Nq, 4).
            key_boxes: (B, Nk, 4).

        Returns:
            (B, H, Nq, Nk), not negative, float32 or wider; differentiable once.
        """
        boxes = self._checked(query_boxes, key_boxes)
        weight: Tensor = self.gate.weight
        bias: Tensor = self.gate.bias
        if torch.jit.is_tracing() or torch.compiler.is_compiling():
            return position_bias(pair_embedding(*boxes, **GEOMETRY), weight, bias)
        with no_autocast(boxes[0]):
            weight, bias = weight.to(boxes[0].dtype), bias.to(boxes[0].dtype)
            of_queries, of_keys = (key_factors(b, "position") for b in boxes)
            factors = query_factors(of_queries, weight, bias)  # (B, H, Nq, 33)
            out: Tensor = _Bias.apply(offset_weight(weight), factors, of_keys, *boxes)
            return out

    def attend(
        self, query: Tensor, key: Tensor, value: Tensor, query_boxes: Tensor, key_boxes: Tensor
    ) -> Tensor:
        """softmax_m(<q_n, k_m> / sqrt(d_k) + b_nm) v_m, in memory linear in the number of boxes.

        The same as `F.scaled_dot_product_attention(query, key, value, relation(query_boxes,
        key_boxes))`, computed in float32 or wider. In a trace and under `torch.compile`
        it is just that, with a bias of all pairs, as blocks are of one number of boxes.

        Args:
            query: (B, H, Nq, d_k).
            key: (B, H, Nk, d_k).
            value: (B, H, Nk, d_v).
            query_boxes: (B, Nq, 4).
            key_boxes: (B, Nk, 4).

        Returns:
            (B, H, Nq, d_v), the type of `value`; zeros without keys.
        """
        boxes = self._checked(query_boxes, key_boxes)
        rows = [(len(b), self.num_heads, b.shape[1]) for b in boxes]
        expected = {"query": rows[0], "key": rows[1], "value": rows[1]}
        for name, x in zip(expected, (query, key, value), strict=True):
            if x.dim() != 4 or x.shape[:3] != expected[name]:
                raise ValueError(_wrong(name, (*expected[name], "d"), x))
        if torch.jit.is_tracing() or torch.compiler.is_compiling():
            mask = self(*boxes).to(query.dtype)
            return F.scaled_dot_product_attention(query, key, value, attn_mask=mask)
        by_row = (x.transpose(1, 2) for x in (query, key, value))  # (B, N, H, d)
        weight, bias = self.gate.weight, self.gate.bias
        heard = [
            fused_relation(q, k, v, asking, answering, weight, bias, **GEOMETRY)
            for q, k, v, asking, answering in zip(*by_row, *boxes, strict=True)
        ]
        return torch.stack(heard).transpose(1, 2)

    def _checked(self, query_boxes: Tensor, key_boxes: Tensor) -> tuple[Tensor, Tensor]:
        """Both boxes without gradient, float32 or wider."""
        for name, boxes in (("query_boxes", query_boxes), ("key_boxes", key_boxes)):
            if boxes.dim() != 3 or boxes.shape[2] != 4 or not len(boxes) == len(query_boxes) > 0:
                raise ValueError(_wrong(name, (len(query_boxes) or "B", "N", 4), boxes))
        return widen(query_boxes.detach()), widen(key_boxes.detach())

    def extra_repr(self) -> str:
        return f"num_heads={self.num_heads}"


def _wrong(name: str, expected: Sequence[object], x: Tensor) -> str:
    return f"{name} must be ({', '.join(map(str, expected))}), got {tuple(x.shape)}."
