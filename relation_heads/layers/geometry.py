"""Relative geometry of boxes, and its sinusoidal embedding.

Source: Hu et al., "Relation Networks for Object Detection", CVPR 2018, section 3.1 and eq. 5; the
released MXNet code (`extract_position_matrix`, `extract_position_embedding`) where the two differ;
for the geometry "position" Hou et al., "Relation DETR", ECCV 2024, as released.

Shapes: Nq queries (index n, rows), Nk keys (index m, columns), boxes `(., 4)` x1, y1, x2, y2 in
pixels. Width and height follow the legacy "+1" convention of the released code (w = x2 - x1 + 1),
which also keeps boxes of zero width finite; "position", whose boxes may also be in units of the
image, adds 1e-5 instead. Everything is float32 or wider, whatever autocast says:
phases reach 691 rad, where one bfloat16 step is larger than a period.
"""

from __future__ import annotations

import math
from typing import Literal, get_args

import torch
import torch.nn.functional as F
from torch import Tensor

from .arguments import one_of, require
from .precision import no_autocast, widen

NormalizeBy = Literal["query", "key"]
PairGeometry = Literal["relation", "signed", "position"]
Angle = Literal["atan2", "arctan"]
NORMALIZE_BY: tuple[str, ...] = get_args(NormalizeBy)
PAIR_GEOMETRIES: tuple[str, ...] = get_args(PairGeometry)

# Displacements below 1e-3 box sizes are one class of "same place" (released code).
MIN_DISPLACEMENT = 1e-3
EMBED_DIM = 64  # d_g, channels of E_G
MIN_GATE = 1e-6  # floor of w_G before the logarithm (released code)
# What is added to widths and heights, and the longest wavelength (both as released).
BORDER: dict[str, float] = {"relation": 1.0, "signed": 1.0, "position": 1e-5}
WAVELENGTH: dict[str, float] = {"relation": 1e3, "signed": 1e3, "position": 1e4}


def box_sizes(boxes: Tensor, border: float = 1.0) -> Tensor:
    """(..., 4) boxes to (..., 2) widths and heights, w = x2 - x1 + border, never below it."""
    return (boxes[..., 2:] - boxes[..., :2]).clamp(min=0) + border


def displacement(
    query_boxes: Tensor, key_boxes: Tensor, normalize_by: NormalizeBy, border: float = 1.0
) -> Tensor:
    """Centre of the key minus centre of the query, in box sizes: (..., Nq, Nk, 2) as (x, y).

    Args:
        query_boxes: (..., Nq, 4).
        key_boxes: (..., Nk, 4).
        normalize_by: whose width and height is the unit: "query" as in the released code (and its
            numbers), "key" as in the paper's text.
        border: see `box_sizes`.

    Raises:
        ArgumentError: `normalize_by` is neither.
    """
    require(one_of("normalize_by", normalize_by, NORMALIZE_BY))
    # In float64 a difference of centres is exact; twice of it, as of the unit.
    q, k = (boxes[..., :2].double() + boxes[..., 2:] for boxes in (query_boxes, key_boxes))
    doubled = (k[..., None, :, :] - q[..., :, None, :]).to(query_boxes.dtype)  # (..., Nq, Nk, 2)
    unit = query_boxes[..., :, None, :] if normalize_by == "query" else key_boxes[..., None, :, :]
    return doubled / (2 * box_sizes(unit, border))


def log_size_ratio(query_boxes: Tensor, key_boxes: Tensor, border: float = 1.0) -> Tensor:
    """log(w_n / w_m), log(h_n / h_m): (..., Nq, Nk, 2)."""
    q, k = query_boxes[..., :, None, :], key_boxes[..., None, :, :]
    return box_sizes(q, border).log() - box_sizes(k, border).log()


def relative_geometry(
    query_boxes: Tensor,
    key_boxes: Tensor,
    *,
    geometry: PairGeometry = "relation",
    normalize_by: NormalizeBy = "query",
) -> Tensor:
    """Four numbers for every pair of boxes: (..., Nq, Nk, 4) as (dx, dy, dw, dh).

    In all forms `dw = log(w_n / w_m)`, and with `t = (cx_m - cx_n) / w_n`; y and h likewise:

    - "relation", published (eq. 5 and the text before it): `dx = log(max(|t|, 1e-3))`. Invariant to
      translation, scale (up to what is added to w) and flips.
    - "signed", not in the paper: `dx = sign(t) log(1 + 4|t|)`. The others take |t|, so they cannot
      tell left from right or above from below; this one can.
    - "position" (Hou et al. 2024): `dx = log(1 + |t|)`, which is smooth where centres coincide.

    Args:
        query_boxes: (..., Nq, 4) pixels; for "position" any unit in which 1e-5 is nothing.
        key_boxes: (..., Nk, 4), the same.
        geometry: which form.
        normalize_by: see `displacement`.
    """
    require(one_of("geometry", geometry, PAIR_GEOMETRIES))
    query_boxes, key_boxes = widen(query_boxes), widen(key_boxes)
    offset = displacement(query_boxes, key_boxes, normalize_by, BORDER[geometry])
    if geometry == "signed":
        offset = offset.sign() * torch.log1p(4 * offset.abs())
    elif geometry == "position":
        offset = offset.abs().log1p()
    else:
        offset = offset.abs().clamp(min=MIN_DISPLACEMENT).log()
    ratio = log_size_ratio(query_boxes, key_boxes, BORDER[geometry])
    return torch.cat([offset, ratio], dim=-1)


def sinusoidal_embedding(
    values: Tensor, num_wavelengths: int, *, scale: float, wavelength: float = 1000.0
) -> Tensor:
    """Sines and cosines of values at geometrically spaced wavelengths: (..., C) to (..., C * 2 K).

    `z_k = scale * value / wavelength^(k / K)`, k = 0 .. K - 1, K = `num_wavelengths`. Channel
    order, per value: all sines, then all cosines (as released, so that released weights fit).
    """
    k = torch.arange(num_wavelengths, device=values.device, dtype=values.dtype)
    phases = values[..., None] * (scale / wavelength ** (k / num_wavelengths))  # (..., C, K)
    return torch.cat([phases.sin(), phases.cos()], dim=-1).flatten(-2)  # (..., C * 2K)


def pair_embedding(
    query_boxes: Tensor,
    key_boxes: Tensor,
    *,
    dim: int = EMBED_DIM,
    geometry: PairGeometry = "relation",
    normalize_by: NormalizeBy = "query",
) -> Tensor:
    """The embedding E_G of the relative geometry (eq. 5), without gradient: (..., Nq, Nk, dim) for
    boxes (..., Nq, 4) and (..., Nk, 4).

    Four values, dim / 8 wavelengths each, scale 100: E = [sin, cos](100 d / 1000^(8k / dim)), for
    "position" 10000 in place of 1000.
    """
    with torch.no_grad():
        deltas = relative_geometry(
            query_boxes, key_boxes, geometry=geometry, normalize_by=normalize_by
        )
        wavelength = WAVELENGTH[geometry]
        return sinusoidal_embedding(deltas, dim // 8, scale=100.0, wavelength=wavelength)


def aimed_gates(num_heads: int) -> Tensor:
    """What is added to random weights of W_G for "signed": (H, 64).

    Not in the paper. Every second head is aimed: of K = H // 2 such heads the k-th gets
    `W_G E_G = cos(a) s(dx) + sin(a) s(dy)`, a = 2 pi k / K, with s the sum of the sines of the two
    longest wavelengths, which grows up to 6.7 box sizes. So the first listens to the right, and of
    four the second listens downwards. The other rows are 0: with all heads aimed, what does not
    depend on a direction is learned later (docs/relational_scenes.md).
    """
    count = num_heads // 2
    angles = torch.arange(count) * (2 * math.pi / max(count, 1))
    # (dx, dy, dw, dh), (sin, cos), wavelengths
    weight = torch.zeros(num_heads, 4, 2, EMBED_DIM // 8)
    weight[1::2, 0, 0, -2:] = angles.cos()[:, None]
    weight[1::2, 1, 0, -2:] = angles.sin()[:, None]
    return weight.flatten(1)


def log_gate(embedding: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """log(max(w_G, 1e-6)) of eq. 5 in float32 or wider: (Nq, Nk, 64) to (H, Nq, Nk).

    The floor makes the paper's max(0, .) redundant: same value, same gradient.

    Args:
        embedding: E_G, see `pair_embedding`.
        weight: (H, 64) W_G.
        bias: (H,).
    """
    with no_autocast(embedding):
        gate = F.linear(embedding, weight.to(embedding.dtype), bias.to(embedding.dtype))
        return gate.clamp(min=MIN_GATE).log().permute(2, 0, 1)


def position_bias(embedding: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """max(0, W_G E_G + b), which the geometry "position" adds to logits, in float32 or wider:
    (..., Nq, Nk, 64) to (..., H, Nq, Nk); arguments as in `log_gate`."""
    with no_autocast(embedding):
        raw = F.linear(embedding, weight.to(embedding.dtype), bias.to(embedding.dtype))
        return raw.relu().movedim(-1, -3)


def box_embedding(boxes: Tensor, dim: int) -> Tensor:
    """Embedding of single boxes (the paper's "unary" ablation): (N, 4) to (N, dim), no gradient.

    Values (cx / 4, cy / 4, w, h) in pixels, dim / 8 wavelengths each, scale 1 (released code,
    `extract_unary_multi_position_embedding`).
    """
    with torch.no_grad():
        boxes = widen(boxes)
        centers = (boxes[:, :2] + boxes[:, 2:]) / 2
        return sinusoidal_embedding(
            torch.cat([centers / 4, box_sizes(boxes)], dim=1), dim // 8, scale=1.0
        )


def polar(offsets: Tensor, angle: Angle = "atan2") -> Tensor:
    """Offsets (x, y) as polar coordinates (distance, angle in radians): (..., 2) to (..., 2).

    Args:
        offsets: (..., 2).
        angle: "atan2", in (-pi, pi], or "arctan" of y / x, as the SGRN paper writes it (Xu et al.
            2019), in [-pi/2, pi/2]: that cannot tell left from right. The angle of no offset is 0.
    """
    require(one_of("angle", angle, get_args(Angle)))
    x, y = offsets.unbind(-1)
    theta = torch.atan2(y, x) if angle == "atan2" else torch.atan(y / x).nan_to_num(0.0)
    return torch.stack([(x * x + y * y).sqrt(), theta], dim=-1)  # ONNX has no hypot
