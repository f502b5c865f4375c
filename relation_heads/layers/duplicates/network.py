"""Learned duplicate removal: a network in place of NMS that decides which box of an object stays.

Source: Hu et al., "Relation Networks for Object Detection", CVPR 2018, section 4.3; released code
msracver/Relation-Networks-for-Object-Detection (MIT), `learn_nms` and `nms_multi_target`, which
says more (rank embedding of 1024 channels, residual and ReLU, weight 4 of positives, sums).

In one image and class, the boxes of highest score s0 in falling order, rank r = 0, 1, ...:

    f   = W_f f_A + W_fR E_R(r)                 appearance f_A of the region + embedded rank
    f'  = relu(f + relation(f))                 object relation, eq. 2-6; geometry of these boxes
    s1  = sigmoid(W_s f')                       one per threshold eta
    s   = s0 mean_eta s1                        the score of the detection; no NMS afterwards
    L   = -4 y log(s0 s1) - (1 - y) log(1 - s0 s1)
    y   = 1 for the box of highest s0 among those of IoU > eta with an object that they overlap most

Gradients reach scores and features, not boxes. The released code takes first_n boxes of each class,
whatever they score. Here a box takes part in a class in which it scores above a threshold: M
triples (image, class, region), the candidates, in groups of one image and class, so that memory
follows what could be detected and not the vocabulary. Everything after f_A is linear up to the
attention: W_Q f = (W_Q W_f) f_A + (W_Q W_fR) E_R is projected once per region and once per rank and
added per candidate. Attention is computed for groups of like size together and once more in
backward, so that no tensor of all pairs is kept.

Shapes: N regions of B images concatenated, D channels, C classes without background; M candidates,
T thresholds, H heads; G groups of up to n candidates in one batch.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal, get_args

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..arguments import at_least, multiple_of, one_of, require, within
from ..geometry import EMBED_DIM, sinusoidal_embedding
from ..precision import widen
from ..recomputed import recomputed
from .candidates import Candidates
from .gates import PAIRS_PER_BATCH, BoxGates, TableGates, gates_of

Init = Literal["xavier", "normal"]


def plan_batches(sizes: Sequence[int] | Tensor) -> tuple[list[tuple[Tensor, Tensor]], Tensor]:
    """Puts groups of like size together.

    Args:
        sizes: candidates of each group; groups follow each other.

    Returns:
        Batches `(rows, is_key)`, both (G, n): candidates of each group, padded with its first where
        `is_key` is False; and (M,), where the candidates are in all batches flattened. A group
        fills more than 3/4 of its row; a batch has at most `PAIRS_PER_BATCH` pairs or one group.
        There is always a batch, at worst an empty one.
    """
    if isinstance(sizes, Tensor):
        return one_batch(sizes)
    lengths = torch.tensor(sizes, dtype=torch.long)
    starts = lengths.cumsum(0) - lengths
    by_size = lengths.argsort(descending=True, stable=True)
    slots = torch.zeros(int(lengths.sum()), dtype=torch.long)
    batches: list[tuple[Tensor, Tensor]] = []
    begin = offset = 0
    while begin < len(sizes) or not batches:
        width = int(lengths[by_size[begin]]) if begin < len(sizes) else 0
        alike = int((4 * lengths > 3 * width).sum()) - begin
        groups = by_size[begin : begin + min(alike, max(PAIRS_PER_BATCH // max(width, 1) ** 2, 1))]
        column = torch.arange(width)
        is_key = column < lengths[groups][:, None]  # (G, n)
        rows = starts[groups][:, None] + column * is_key
        slots[rows[is_key]] = offset + is_key.flatten().nonzero()[:, 0]
        batches.append((rows, is_key))
        begin, offset = begin + max(len(groups), 1), offset + rows.numel()
    return batches, slots


def one_batch(sizes: Tensor) -> tuple[list[tuple[Tensor, Tensor]], Tensor]:
    """As `plan_batches`, but all groups together, in a form that `torch.jit.trace` follows.

    Args:
        sizes: (G,) candidates of each group.
    """
    starts = sizes.cumsum(0) - sizes
    is_key = torch.arange(_largest(sizes), device=sizes.device) < sizes[:, None]  # (G, n)
    rows = starts[:, None] + (is_key.cumsum(1) - 1) * is_key
    return [(rows, is_key)], is_key.flatten().nonzero()[:, 0]


def _largest(sizes: Sequence[int] | Tensor) -> int:
    """The largest of the sizes, 0 without any; in a trace a tensor."""
    if isinstance(sizes, Tensor):
        return torch.cat([sizes, sizes.new_zeros(1)]).amax()  # type: ignore[return-value]
    return max(sizes, default=0)


def group_attention(
    query: Tensor, key: Tensor, value: Tensor, log_gate: Tensor, is_key: Tensor, key_dim: int
) -> Tensor:
    """Eq. 2-3 inside every group; the weights are float32 or wider because the gate is.

    Args:
        query: (G, H, n, d_k).
        key: (G, H, n, d_k).
        value: (G, H, n, d_v).
        log_gate: (G, H, n, n), log w_G, see `separable_gate.separable_log_gate`.
        is_key: (G, n) bool, False for padding; every group has a key.
        key_dim: d_k.

    Returns:
        (G, n, H d_v).
    """
    logits = query @ key.transpose(-1, -2) / math.sqrt(key_dim) + log_gate
    weights = logits.masked_fill(~is_key[:, None, None], -math.inf).softmax(dim=-1)
    return (weights.to(value.dtype) @ value).transpose(1, 2).flatten(2)


class DuplicateRemoval(nn.Module):
    """The network of section 4.3: candidates to logits of s1.

    Parameters at the released sizes (D = 1024, T = 5): 544,789.
    """

    def __init__(
        self,
        dim: int,
        *,
        num_thresholds: int = 5,
        embed_dim: int = 128,
        rank_dim: int = 1024,
        num_heads: int = 16,
        key_dim: int = 64,
        init: Init = "xavier",
        logit_bias: float = -3.0,
    ) -> None:
        """
        Args:
            dim: D, channels of the features (after the last ReLU of the box head).
            num_thresholds: T.
            embed_dim: channels of f, a multiple of `num_heads`.
            rank_dim: channels of E_R, even; 1024 as released, 128 in the paper.
            num_heads: H.
            key_dim: d_k, channels of queries and keys per head.
            init: "xavier" (uniform) or "normal" (N(0, 0.01), as released). W_s is N(0, 0.01) in
                both, so that all boxes start with the same s1; other biases are 0.
            logit_bias: of W_s at the start: -3 (released end-to-end training) or 0 (released
                training of this module alone).

        Raises:
            ArgumentError: an argument outside these.
        """
        super().__init__()
        require(
            at_least("dim", dim, 1),
            at_least("num_thresholds", num_thresholds, 1),
            at_least("num_heads", num_heads, 1),
            multiple_of("embed_dim", embed_dim, num_heads, "num_heads"),
            multiple_of("rank_dim", rank_dim, 2),
            at_least("key_dim", key_dim, 1),
            one_of("init", init, get_args(Init)),
            within("logit_bias", logit_bias, "(-inf, inf)"),
        )
        self.dim = dim
        self.rank_dim = rank_dim
        self.num_heads = num_heads
        self.key_dim = key_dim
        self.init = init
        self.logit_bias = logit_bias
        self.rank = nn.Linear(rank_dim, embed_dim)  # W_fR
        self.appearance = nn.Linear(dim, embed_dim)  # W_f
        self.query = nn.Linear(embed_dim, num_heads * key_dim)  # W_Q
        self.key = nn.Linear(embed_dim, num_heads * key_dim)  # W_K
        self.value = nn.Linear(embed_dim, embed_dim)  # W_V
        self.gate = nn.Linear(EMBED_DIM, num_heads)  # W_G
        self.logit = nn.Linear(embed_dim, num_thresholds)  # W_s
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draws all weights anew, see `init`."""
        for layer in self.children():
            assert isinstance(layer, nn.Linear)
            if self.init == "normal" or layer is self.logit:
                nn.init.normal_(layer.weight, std=0.01)
            else:
                nn.init.xavier_uniform_(layer.weight)
            nn.init.zeros_(layer.bias)
        nn.init.constant_(self.logit.bias, self.logit_bias)

    def forward(self, features: Tensor, boxes: Tensor, candidates: Candidates) -> Tensor:
        """
        Args:
            features: (N, D) f_A.
            boxes: (N, 4), or (N, C, 4) where each class has its own, in pixels: the final boxes
                (regressed and clipped), not the proposals. No gradient reaches them.
            candidates: of the same N regions.

        Returns:
            (M, T) logits of s1.
        """
        if not torch.jit.is_tracing():
            self._check(features, boxes, sum(candidates.region_splits))
        appearance = self.appearance(features)  # (N, E)
        ranks = torch.arange(_largest(candidates.sizes), device=features.device)
        embedded = sinusoidal_embedding(
            ranks[:, None].to(widen(self.rank.weight).dtype), self.rank_dim // 2, scale=1.0
        )  # (n, rank_dim), E_R
        rank = self.rank(embedded.to(self.rank.weight.dtype))  # (n, E)
        f = F.embedding(candidates.region, appearance) + F.embedding(candidates.rank, rank)
        return self.logit(F.relu(f + self._relation(appearance, rank, boxes, candidates)))

    def _relation(
        self, appearance: Tensor, rank: Tensor, boxes: Tensor, candidates: Candidates
    ) -> Tensor:
        """Eq. 2 inside every group, without the residual: (M, E)."""
        projections = [
            (layer(appearance), F.linear(rank, layer.weight))  # once per region, once per rank
            for layer in (self.query, self.key, self.value)
        ]
        gates = gates_of(candidates, boxes, self.gate.weight, self.gate.bias)
        batches, slots = plan_batches(candidates.sizes)
        outputs = [
            recomputed(
                self._relate,
                projections,
                gates,
                candidates,
                rows.to(boxes.device),
                is_key.to(boxes.device),
            )
            for rows, is_key in batches
        ]
        return torch.cat(outputs)[slots.to(boxes.device)]

    def _relate(
        self,
        projections: Sequence[tuple[Tensor, Tensor]],
        gates: BoxGates | TableGates,
        candidates: Candidates,
        rows: Tensor,
        is_key: Tensor,
    ) -> Tensor:
        """Eq. 2 for one batch of groups, (G, n) candidates: (G n, E)."""
        regions, ranks = candidates.region[rows], candidates.rank[rows]  # (G, n)
        q, k, v = (
            (F.embedding(regions, by_region) + F.embedding(ranks, by_rank))
            .unflatten(-1, (self.num_heads, -1))
            .transpose(1, 2)  # (G, H, n, d)
            for by_region, by_rank in projections
        )
        return group_attention(q, k, v, gates.of(rows), is_key, self.key_dim).flatten(0, 1)

    def _check(self, features: Tensor, boxes: Tensor, expected: int) -> None:
        if features.shape != (expected, self.dim):
            raise ValueError(
                f"features must be ({expected}, {self.dim}) for these candidates, "
                f"got {tuple(features.shape)}."
            )
        if boxes.dim() not in (2, 3) or boxes.shape[0] != expected or boxes.shape[-1] != 4:
            raise ValueError(
                f"boxes must be ({expected}, 4) or ({expected}, C, 4) for these candidates, "
                f"got {tuple(boxes.shape)}."
            )

    def extra_repr(self) -> str:
        return f"{self.dim}, num_heads={self.num_heads}, rank_dim={self.rank_dim}"
