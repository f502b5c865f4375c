"""Object relation module: every region looks at the others, by appearance and geometry.

Source: Hu et al., "Relation Networks for Object Detection", CVPR 2018, eq. 2-6; released code
msracver/Relation-Networks-for-Object-Detection (MIT), `attention_module_multi_head`.

For query n, key m and head h (H heads, d_k channels each):

    w_A = <W_K f_m, W_Q f_n> / sqrt(d_k)             eq. 4     appearance
    w_G = max(0, W_G E_G(n, m))                      eq. 5     gate; E_G: geometry.pair_embedding
    w   = w_G exp(w_A) / sum_m w_G exp(w_A)          eq. 3
    f'_n = f_n + concat_h[ sum_m w W_V f_m ]         eq. 2, 6

Two forms that equal the released code in value and gradient: `log(max(w_G, 1e-6)) + w_A` goes
through one softmax (a row that is gated off everywhere falls back to appearance instead of 0/0),
and values are projected before they are summed (the released order, summed first, multiplies 3.5
times as much at N = 1000).

Shapes: N regions of B images concatenated, D channels; in one image Nq regions ask and Nk of them
(the keys) answer.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal, get_args

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .geometry import NormalizeBy, box_embedding, pair_embedding
from .regions import Regions

Geometry = Literal["none", "unary", "relation", "signed"]
Init = Literal["zero", "xavier", "normal"]
GEOMETRIES: tuple[str, ...] = get_args(Geometry)
INITS: tuple[str, ...] = get_args(Init)

EMBED_DIM = 64  # d_g
MIN_GATE = 1e-6  # floor of w_G before the logarithm (released code)


def regions_embedding(
    regions: Regions, geometry: Geometry, normalize_by: NormalizeBy = "query"
) -> list[Tensor] | None:
    """E_G of every image, B tensors (Nq, Nk, 64), or None where the geometry has no pairwise part.

    It depends on the boxes alone: modules of one head share it.
    """
    if geometry not in ("relation", "signed"):
        return None
    return [
        pair_embedding(
            queries, keys, dim=EMBED_DIM, signed=geometry == "signed", normalize_by=normalize_by
        )
        for queries, keys in zip(
            regions.split(regions.boxes), regions.split_keys(regions.boxes), strict=True
        )
    ]


def log_gate(embedding: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """log(max(w_G, 1e-6)) of eq. 5 in float32 or wider: (Nq, Nk, 64) to (H, Nq, Nk).

    The floor makes the paper's max(0, .) redundant: same value, same gradient.
    """
    with torch.autocast(embedding.device.type, enabled=False):
        gate = F.linear(embedding, weight.to(embedding.dtype), bias.to(embedding.dtype))
        return gate.clamp(min=MIN_GATE).log().permute(2, 0, 1)


def relation_weights(query: Tensor, key: Tensor, log_gate: Tensor | None) -> Tensor:
    """The weights w of eq. 3, float32 or wider.

    Args:
        query: (Nq, H, d_k).
        key: (Nk, H, d_k).
        log_gate: (H, Nq, Nk), or None for w_G = 1.

    Returns:
        (H, Nq, Nk); each row sums to 1 over the keys. Without keys (H, Nq, 0).
    """
    logits = torch.einsum("nhd,mhd->hnm", query, key) / math.sqrt(query.shape[-1])
    if logits.dtype != torch.float64:
        logits = logits.float()
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
        geometry: Geometry = "relation",
        normalize_by: NormalizeBy = "query",
        init: Init = "zero",
    ) -> None:
        """
        Args:
            dim: D, channels of the features; a multiple of `num_heads` (and of 8 for "unary").
            num_heads: H (N_r in the paper).
            key_dim: d_k, channels of queries and keys per head.
            geometry: "none" (w_G = 1), "unary" (embedded boxes are added to the features that enter
                the projections), "relation" (published), "signed" (see
                `geometry.relative_geometry`).
            normalize_by: unit of displacements, see `geometry.displacement`.
            init: "zero" (W_V = 0, the others xavier: the module starts as the identity, so it
                disturbs neither a trained detector nor, on features that are not normalised, a
                training from scratch), "xavier" (uniform; where it is stable it learns fastest in
                short schedules) or "normal" (N(0, 0.01), as released). Biases are 0.

        Raises:
            ValueError: an argument outside these.
        """
        super().__init__()
        for name, value, allowed in (("geometry", geometry, GEOMETRIES), ("init", init, INITS)):
            if value not in allowed:
                raise ValueError(f"{name} must be one of {', '.join(allowed)}, got {value!r}.")
        if num_heads < 1 or dim % num_heads:
            raise ValueError(f"dim={dim} must be a multiple of num_heads={num_heads}.")
        if geometry == "unary" and dim % 8:
            raise ValueError(f"geometry='unary' needs dim to be a multiple of 8, got {dim}.")
        self.dim = dim
        self.num_heads = num_heads
        self.geometry = geometry
        self.normalize_by = normalize_by
        self.init = init
        self.query = nn.Linear(dim, num_heads * key_dim)  # W_Q
        self.key = nn.Linear(dim, num_heads * key_dim)  # W_K
        self.value = nn.Linear(dim, dim)  # W_V
        if geometry in ("relation", "signed"):
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

    def forward(
        self, features: Tensor, regions: Regions, embedding: Sequence[Tensor] | None = None
    ) -> Tensor:
        """
        Args:
            features: (N, D) f, images concatenated.
            regions: boxes, images and keys of the same N rows.
            embedding: `regions_embedding(...)` of this module's geometry, when the caller has it
                already.

        Returns:
            (N, D) f', eq. 6. A region of an image without keys comes back as it went in.
        """
        weights = self.weights(features, regions, embedding)
        values = self.value(self._projected(features, regions)).unflatten(1, (self.num_heads, -1))
        relation = [
            torch.einsum("hnm,mhd->nhd", w.to(v.dtype), v).flatten(1)  # (Nq, D), eq. 2
            for w, v in zip(weights, regions.split_keys(values), strict=True)
        ]
        return features + torch.cat(relation)  # (N, D), eq. 6

    def weights(
        self, features: Tensor, regions: Regions, embedding: Sequence[Tensor] | None = None
    ) -> list[Tensor]:
        """The relation weights w of eq. 3: B tensors (H, Nq, Nk); arguments as in `forward`."""
        if not torch.jit.is_tracing() and features.shape != (len(regions), self.dim):
            raise ValueError(
                f"features must be ({len(regions)}, {self.dim}) for these regions, "
                f"got {tuple(features.shape)}."
            )
        if embedding is None:
            embedding = regions_embedding(regions, self.geometry, self.normalize_by)
        projected = self._projected(features, regions)
        queries = self.query(projected).unflatten(1, (self.num_heads, -1))  # (N, H, d_k)
        keys = self.key(projected).unflatten(1, (self.num_heads, -1))  # (N, H, d_k)
        gates = (
            [None] * len(regions.splits)
            if embedding is None
            else [log_gate(e, self.gate.weight, self.gate.bias) for e in embedding]
        )
        return [
            relation_weights(q, k, g)
            for q, k, g in zip(regions.split(queries), regions.split_keys(keys), gates, strict=True)
        ]

    def _projected(self, features: Tensor, regions: Regions) -> Tensor:
        """What enters W_Q, W_K, W_V: (N, D), for "unary" with the embedded boxes added."""
        if self.geometry != "unary":
            return features
        return features + box_embedding(regions.boxes, self.dim).to(features.dtype)

    def extra_repr(self) -> str:
        return f"{self.dim}, num_heads={self.num_heads}, geometry={self.geometry}"
