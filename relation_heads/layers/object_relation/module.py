"""Object relation module: every region looks at the others, by appearance and geometry.

Source: Hu et al., "Relation Networks for Object Detection", CVPR 2018, eq. 2-6; released code
msracver/Relation-Networks-for-Object-Detection (MIT), `attention_module_multi_head`.

For query n, key m and head h (H heads, d_k channels each):

    w_A = <W_K f_m, W_Q f_n> / sqrt(d_k)             eq. 4     appearance
    w_G = max(0, W_G E_G(n, m))                      eq. 5     gate; E_G: geometry.pair_embedding
    w   = w_G exp(w_A) / sum_m w_G exp(w_A)          eq. 3
    f'_n = f_n + concat_h[ sum_m w W_V f_m ]         eq. 2, 6

By default W_Q, W_K and W_V get `bounded` rows of f: otherwise logits, which are of second degree in
f, and values grow with f, their gradients into f too, and f with these, until training diverges
(docs/divergence.md).

Two forms that equal the released code in value and gradient: `log(max(w_G, 1e-6)) + w_A` goes
through one softmax (a row that is gated off everywhere falls back to appearance instead of 0/0),
and values are projected before they are summed (the released order, summed first, multiplies 3.5
times as much at N = 1000). This file is the module and its simple form, the equations one after the
other; `fused_relation` and `triton_gate` are the same function in less time and memory.

Shapes: N regions of B images concatenated, D channels; in one image Nq regions ask and Nk of them
(the keys) answer.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any, Literal, get_args

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..arguments import Wrong, at_least, multiple_of, one_of, require
from ..geometry import (
    EMBED_DIM,
    NORMALIZE_BY,
    PAIR_GEOMETRIES,
    NormalizeBy,
    aimed_gates,
    box_embedding,
    log_gate,
    pair_embedding,
    position_bias,
)
from ..precision import widen
from ..regions import Regions
from .fused import fused_relation, linear_by_channel
from .triton_gate import triton_relation

Geometry = Literal["none", "unary", "relation", "signed", "position"]
Norm = Literal["max_rms", ""]
Init = Literal["zero", "xavier", "normal"]
Implementation = Literal["auto", "simple", "fused", "triton"]
GEOMETRIES: tuple[str, ...] = get_args(Geometry)
NORMS: tuple[str, ...] = get_args(Norm)
INITS: tuple[str, ...] = get_args(Init)
IMPLEMENTATIONS: tuple[str, ...] = get_args(Implementation)

MAX_RMS, MAX_RMS_OF_VALUES = 1.0, 2.0  # of what enters W_Q and W_K, and W_V; see `bounded`
FEW_PAIRS = 2**15  # of queries and keys in one image, 181 x 181: "simple" is faster up to there


def bounded(features: Tensor, *max_rms: float) -> Iterator[Tensor]:
    """f / max(1, rms(f) / max_rms), (N, D), for each `max_rms`: rows of a root mean square above it
    are scaled down to it. Shorter rows stay: regions of little response, most of the background,
    still say little."""
    mean_square = widen(features).square().mean(dim=1, keepdim=True)  # (N, 1)
    for limit in max_rms:
        scale = (mean_square / limit**2).clamp(min=1.0).rsqrt()
        yield features * scale.to(features.dtype)


def appearance_logits(query: Tensor, key: Tensor) -> Tensor:
    """w_A of eq. 4, (Nq, H, d_k) and (Nk, H, d_k) to (H, Nq, Nk), float32 or wider."""
    return widen(torch.einsum("nhd,mhd->hnm", query, key) / math.sqrt(query.shape[-1]))


def relation_weights(query: Tensor, key: Tensor, log_gate: Tensor | None) -> Tensor:
    """The weights w of eq. 3, float32 or wider.

    Args:
        query: (Nq, H, d_k).
        key: (Nk, H, d_k).
        log_gate: (H, Nq, Nk), or None for w_G = 1.

    Returns:
        (H, Nq, Nk); each row sums to 1 over the keys. Without keys (H, Nq, 0).
    """
    logits = appearance_logits(query, key)
    if log_gate is not None:
        logits = logits + log_gate
    return logits.softmax(dim=-1)


class ObjectRelation(nn.Module):
    """The object relation module, eq. 2-6, with its residual.

    Parameters, with biases: 2 (D + 1) H d_k + (D + 1) D + 65 H; 3,149,840 at D = 1024, H = 16,
    d_k = 64.
    """

    def __init__(
        self,
        dim: int,
        *,
        num_heads: int = 16,
        key_dim: int = 64,
        norm: Norm = "max_rms",
        geometry: Geometry = "relation",
        normalize_by: NormalizeBy = "query",
        init: Init = "zero",
        implementation: Implementation = "auto",
    ) -> None:
        """
        Args:
            dim: D, channels of the features; a multiple of `num_heads` (and of 8 for "unary").
            num_heads: H (N_r in the paper).
            key_dim: d_k, channels of queries and keys per head.
            norm: of what enters W_Q, W_K and W_V: "max_rms", `bounded` to 1, 1 and 2, which trains
                where a stock head does, or "" (published).
            geometry: "none" (w_G = 1), "unary" (embedded boxes are added to the features that enter
                the projections), "relation" (published), "signed" (see
                `geometry.relative_geometry`) or "position" (Hou et al. 2024: max(0, W_G E_G + b) is
                added to w_A, in place of the logarithm of the gate; see `PositionRelation`).
            normalize_by: unit of displacements, see `geometry.displacement`.
            init: "zero" (W_V = 0, the others xavier: the module starts as the identity, so it
                disturbs neither a trained detector nor, on features that are not normalised, a
                training from scratch), "xavier" (uniform; where it is stable it learns fastest in
                short schedules) or "normal" (N(0, 0.01), as released). Biases are 0. For "signed"
                `geometry.aimed_gates` are added to W_G: without them a head finds its direction
                late, since a gate has no gradient before values count.
            implementation: how `forward` computes the same function: "simple" (all pairs at once,
                `relation_weights`), "fused" (blocks of queries, `fused_relation`), "triton" (the
                gate of all pairs by a kernel, `triton_gate.triton_relation`, which "position" has
                not; no GPU has run it yet)
                or "auto": "fused" for images of more than FEW_PAIRS pairs, else "simple". Without a
                gate "fused" and "triton" are torch's own attention. In `torch.jit.trace`,
                `torch.export` and `torch.compile` all of them are "simple": blocks would be of one
                number of regions, and break a compiled graph. It takes the memory of all pairs.

        Raises:
            ArgumentError: arguments outside these, all of them at once.
        """
        super().__init__()
        require(
            multiple_of("dim", dim, num_heads, "num_heads"),
            Wrong("dim", "a multiple of 8 for geometry='unary'", dim)
            if geometry == "unary" and dim % 8
            else None,
            at_least("num_heads", num_heads, 1),
            at_least("key_dim", key_dim, 1),
            one_of("norm", norm, NORMS),
            one_of("geometry", geometry, GEOMETRIES),
            one_of("normalize_by", normalize_by, NORMALIZE_BY),
            one_of("init", init, INITS),
            one_of("implementation", implementation, IMPLEMENTATIONS),
            Wrong(
                "implementation",
                "'auto', 'simple' or 'fused' for geometry='position', which has no kernel",
                implementation,
            )
            if geometry == "position" and implementation == "triton"
            else None,
        )
        self.dim = dim
        self.num_heads = num_heads
        self.norm = norm
        self.geometry = geometry
        self.normalize_by = normalize_by
        self.init = init
        self.implementation = implementation
        self.query = nn.Linear(dim, num_heads * key_dim)  # W_Q
        self.key = nn.Linear(dim, num_heads * key_dim)  # W_K
        self.value = nn.Linear(dim, dim)  # W_V
        if self.has_gate:
            self.gate = nn.Linear(EMBED_DIM, num_heads)  # W_G
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draws all weights anew, see `init`."""
        for layer in self.children():
            assert isinstance(layer, nn.Linear)
            if self.init == "normal":
                nn.init.normal_(layer.weight, std=0.01)
            else:
                nn.init.xavier_uniform_(layer.weight)
            nn.init.zeros_(layer.bias)
        if self.init == "zero":
            nn.init.zeros_(self.value.weight)
        if self.geometry == "signed":
            with torch.no_grad():
                self.gate.weight += aimed_gates(self.num_heads).to(self.gate.weight)

    @property
    def has_gate(self) -> bool:
        """Whether w_G depends on pairs of boxes."""
        return self.geometry in PAIR_GEOMETRIES

    @property
    def _form(self) -> dict[str, Any]:
        """How a pair of boxes is seen, see `geometry.relative_geometry`."""
        return {"geometry": self.geometry, "normalize_by": self.normalize_by}

    def forward(self, features: Tensor, regions: Regions, wanted: Tensor | None = None) -> Tensor:
        """
        Args:
            features: (N, D) f, images concatenated.
            regions: boxes, images and keys of the same N rows.
            wanted: (N,) bool, the rows of the result that are computed; the others answer as keys
                alone. None: all.

        Returns:
            (N, D) f', eq. 6, of the wanted rows. A region of an image without keys comes back as it
            went in.
        """
        relation = [
            self._relate(*image).flatten(1)  # (Nq, D)
            for image in self._images(features, regions, wanted)
        ]
        own = features if wanted is None else features[wanted]
        return own + torch.cat(relation)  # (N, D), eq. 6

    def weights(self, features: Tensor, regions: Regions) -> list[Tensor]:
        """The relation weights w of eq. 3: B tensors (H, Nq, Nk); arguments as in `forward`."""
        return [
            relation_weights(
                self._by_head(self.query(queries)),
                self._by_head(self.key(keys)),
                self._log_gate(*boxes),
            )
            for queries, keys, _, *boxes in self._images(features, regions)
        ]

    def _relate(
        self, queries: Tensor, keys: Tensor, values: Tensor, query_boxes: Tensor, key_boxes: Tensor
    ) -> Tensor:
        """Eq. 2 for one image: what enters W_Q (Nq, D), W_K and W_V (Nk, D) to (Nq, H, d_v)."""
        implementation: str = self.implementation
        if torch.jit.is_tracing() or torch.compiler.is_compiling():
            implementation = "simple"
        elif implementation == "auto":
            implementation = "fused" if len(queries) * len(keys) > FEW_PAIRS else "simple"
        if implementation == "fused" and self.has_gate:
            projected = [linear_by_channel(self.key, keys), linear_by_channel(self.value, values)]
        else:
            projected = [self.key(keys), self.value(values)]
        query, key, value = map(self._by_head, (self.query(queries), *projected))
        if implementation == "simple":
            weights = relation_weights(query, key, self._log_gate(query_boxes, key_boxes))
            return torch.einsum("hnm,mhd->nhd", weights.to(value.dtype), value)
        if not self.has_gate:
            q, k, v = (x.transpose(0, 1)[None] for x in (query, key, value))  # (1, H, N, d)
            return F.scaled_dot_product_attention(q, k, v)[0].transpose(0, 1)  # 0 without keys
        relate = fused_relation if implementation == "fused" else triton_relation
        return relate(
            *(query, key, value, query_boxes, key_boxes, self.gate.weight, self.gate.bias),
            **self._form,
        )

    def _log_gate(self, query_boxes: Tensor, key_boxes: Tensor) -> Tensor | None:
        """log w_G of one image, for "position" its bias: (H, Nq, Nk). None for w_G = 1."""
        if not self.has_gate:
            return None
        embedding = pair_embedding(query_boxes, key_boxes, dim=EMBED_DIM, **self._form)
        bias_of = position_bias if self.geometry == "position" else log_gate
        return bias_of(embedding, self.gate.weight, self.gate.bias)

    def _images(
        self, features: Tensor, regions: Regions, wanted: Tensor | None = None
    ) -> Iterator[tuple[Tensor, Tensor, Tensor, Tensor, Tensor]]:
        """Of each image what enters W_Q (Nq, D), W_K and W_V (Nk, D each), both boxes."""
        if not torch.jit.is_tracing() and features.shape != (regions.boxes.shape[0], self.dim):
            raise ValueError(
                f"features must be ({len(regions)}, {self.dim}) for these regions, "
                f"got {tuple(features.shape)}."
            )
        if wanted is not None and (wanted.dtype, wanted.shape) != (torch.bool, features.shape[:1]):
            raise ValueError(
                f"wanted must be bool of shape ({len(regions)},), got {wanted.dtype} of shape "
                f"{tuple(wanted.shape)}."
            )
        appearance, values = self._entering(features, regions)
        return zip(
            regions.split_where(wanted, appearance),
            regions.split_keys(appearance),
            regions.split_keys(values),
            regions.split_where(wanted, regions.asking),
            regions.split_keys(regions.boxes),
            strict=True,
        )

    def _by_head(self, x: Tensor) -> Tensor:
        """(N, H d) to (N, H, d)."""
        return x.unflatten(1, (self.num_heads, -1))

    def _entering(self, features: Tensor, regions: Regions) -> tuple[Tensor, Tensor]:
        """What enters W_Q and W_K, and what enters W_V: (N, D) each, for "unary" with the embedded
        boxes added."""
        appearance = values = features
        if self.norm:
            appearance, values = bounded(features, MAX_RMS, MAX_RMS_OF_VALUES)
        if self.geometry == "unary":
            where = box_embedding(regions.boxes, self.dim).to(features.dtype)
            appearance, values = appearance + where, values + where
        return appearance, values

    def extra_repr(self) -> str:
        return f"{self.dim}, num_heads={self.num_heads}, norm={self.norm}, geometry={self.geometry}"
