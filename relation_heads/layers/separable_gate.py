"""The geometric gate of object relation without its embedding: less work, the same function.

Source: Hu et al., "Relation Networks for Object Detection", CVPR 2018, eq. 5: the gate of head h is
linear in sines and cosines of the four relative coordinates (`geometry.pair_embedding`),

    w_G(n, m) = b + sum_{c, k} A_ck sin(z_k d_c(n, m)) + B_ck cos(z_k d_c(n, m)),
    z_k = 100 / 1000^(k / 8),   c in x, y, w, h,   k = 0 .. 7,

(10000 in place of 1000 for the geometry "position"),
so it is a sum of four functions of one number each. Those of d_w = log w_n - log w_m and d_h are
products of terms of one box each, by the addition theorem, and b is one more:

    A sin(z d_w) + B cos(z d_w) = (A s_n + B c_n) c_m + (B s_n - A c_n) s_m,   s = sin(z log w)

and c = cos(z log w). With all of them in `factors`,

    w_G(n, m) = W_xy E_xy(n, m) + <U_n, V_m>.

Per pair 32 sines and cosines are computed where the embedding has 64, and what is kept is of one
box each. V is computed in float64, since it costs nothing.

Shapes: G groups of Nq queries and Nk keys (of one image, or of one image and class), boxes
`(G, ., 4)` in pixels, H heads. Everything is float32 or wider, whatever autocast says.
"""

from __future__ import annotations

import torch
from torch import Tensor

from .geometry import (
    BORDER,
    MIN_DISPLACEMENT,
    MIN_GATE,
    WAVELENGTH,
    NormalizeBy,
    PairGeometry,
    box_sizes,
)
from .precision import no_autocast, widen

NUM_WAVELENGTHS = 8
NUM_OFFSET_CHANNELS = 4 * NUM_WAVELENGTHS  # sin and cos of d_x and d_y


def frequencies(device: torch.device, geometry: PairGeometry = "relation") -> Tensor:
    """z_k of `geometry.pair_embedding`, radians per unit: (8,) float64."""
    k = torch.arange(NUM_WAVELENGTHS, device=device, dtype=torch.float64)
    return 100 / WAVELENGTH[geometry] ** (k / NUM_WAVELENGTHS)


def offset_weight(weight: Tensor) -> Tensor:
    """W_xy, the columns of W_G that belong to d_x and d_y: (H, 64) to (H, 32)."""
    by_coordinate = weight.unflatten(1, (4, 2, NUM_WAVELENGTHS))  # (H, xywh, sin cos, k)
    return by_coordinate[:, :2].transpose(1, 2).flatten(1)  # (H, sin cos x xy x k)


def offset_channels(
    query_boxes: Tensor,
    key_boxes: Tensor,
    *,
    geometry: PairGeometry,
    normalize_by: NormalizeBy,
    memory: Tensor | None = None,
) -> Tensor:
    """E_xy, sines and cosines of d_x and d_y: (G, 32, Nq, Nk), in the order of `offset_weight`.

    Args:
        query_boxes: (G, Nq, 4), float32 or float64.
        key_boxes: (G, Nk, 4), the same.
        geometry, normalize_by: see `geometry.relative_geometry`.
        memory: (G, 32, Nq, Nk) for the result, or None for new.
    """
    unit = query_boxes[..., :, None, :] if normalize_by == "query" else key_boxes[..., None, :, :]
    unit = box_sizes(unit, BORDER[geometry]).movedim(-1, 1)  # (G, 2, Nq, 1) or (G, 2, 1, Nk)
    # In float64 a difference of centres is exact; twice of it, as of the unit.
    q, k = ((b[..., :2].double() + b[..., 2:]).mT.contiguous() for b in (query_boxes, key_boxes))
    offset = (k[:, :, None] - q[..., None]).to(unit.dtype).div_(2 * unit)  # (G, 2, Nq, Nk)
    if geometry == "signed":
        offset = offset.abs().mul_(4).log1p_().copysign_(offset)
    elif geometry == "position":
        offset.abs_().log1p_()
    else:
        offset.abs_().clamp_(min=MIN_DISPLACEMENT).log_()
    groups, _, num_queries, num_keys = offset.shape
    if memory is None:
        memory = offset.new_empty(groups, NUM_OFFSET_CHANNELS, num_queries, num_keys)
    channels = memory.view(groups, 2, 2, NUM_WAVELENGTHS, num_queries, num_keys)
    sines, cosines = channels.unbind(1)
    z = frequencies(offset.device, geometry).to(offset.dtype)
    torch.mul(offset[:, :, None], z[:, None, None], out=cosines)  # phases, for a moment
    torch.sin(cosines, out=sines)
    cosines.cos_()
    return memory


def key_factors(boxes: Tensor, geometry: PairGeometry = "relation") -> Tensor:
    """V: c and s of log w and log h, and 1, of each box: (G, N, 4) to (G, N, 33)."""
    log_sizes = box_sizes(boxes.double(), BORDER[geometry]).log()  # (G, N, 2)
    phases = (log_sizes[..., None] * frequencies(boxes.device, geometry)).flatten(2)  # (G, N, 16)
    one = phases.new_ones(*phases.shape[:2], 1)
    return torch.cat([phases.cos(), phases.sin(), one], dim=2).to(boxes.dtype)


def query_factors(key_factors: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """U, from the same terms of the queries: (G, Nq, 33) to (G, H, Nq, 33).

    Args:
        key_factors: V of the queries' boxes.
        weight: (H, 64) W_G.
        bias: (H,).
    """
    cosine, sine, _ = key_factors[:, None].split([16, 16, 1], dim=-1)  # (G, 1, Nq, 16)
    by_coordinate = weight.unflatten(1, (4, 2, NUM_WAVELENGTHS))[:, 2:]
    a, b = by_coordinate.transpose(1, 2).flatten(2)[:, :, None].unbind(1)  # A, B: (H, 1, 16)
    constant = bias[:, None, None].expand(*cosine.shape[:1], -1, cosine.shape[2], 1)
    return torch.cat([a * sine + b * cosine, b * sine - a * cosine, constant], dim=-1)


def gate(
    channels: Tensor,
    offset_weight: Tensor,
    query_factors: Tensor,
    key_factors: Tensor,
    memory: Tensor | None = None,
) -> Tensor:
    """w_G before its floor: (G, H, Nq, Nk), from (G, 32, Nq, Nk), (H, 32), U and V; `memory` is
    (G, H, Nq, Nk) for the result, without gradient, or None for new."""
    groups, _, num_queries, num_keys = channels.shape
    heads = len(offset_weight)
    by_offset = None if memory is None else memory.flatten(2)  # (G, H, Nq Nk)
    by_offset = torch.matmul(
        offset_weight.expand(groups, -1, -1), channels.flatten(2), out=by_offset
    )
    rows = by_offset.view(groups, heads * num_queries, num_keys)
    rows = rows.baddbmm_(query_factors.flatten(1, 2), key_factors.mT)
    return rows.view(groups, heads, num_queries, num_keys)


def separable_log_gate(
    query_boxes: Tensor,
    key_boxes: Tensor,
    weight: Tensor,
    bias: Tensor,
    *,
    geometry: PairGeometry = "relation",
    normalize_by: NormalizeBy = "query",
) -> Tensor:
    """log(max(w_G, 1e-6)), as `geometry.log_gate` of `geometry.pair_embedding`.

    Args:
        query_boxes: (G, Nq, 4) pixels, without gradient.
        key_boxes: (G, Nk, 4).
        weight: (H, 64) W_G.
        bias: (H,).
        geometry, normalize_by: see `geometry.relative_geometry`.

    Returns:
        (G, H, Nq, Nk) float32 or wider.
    """
    queries, keys = widen(query_boxes.detach()), widen(key_boxes.detach())
    weight, bias = weight.to(queries.dtype), bias.to(queries.dtype)
    with no_autocast(queries):
        channels = offset_channels(queries, keys, geometry=geometry, normalize_by=normalize_by)
        factors = query_factors(key_factors(queries, geometry), weight, bias)
        raw = gate(channels, offset_weight(weight), factors, key_factors(keys, geometry))
        return raw.clamp(min=MIN_GATE).log()
