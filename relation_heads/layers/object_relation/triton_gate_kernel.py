"""The Triton kernel of `triton_gate`. Importing this file needs Triton; nothing else does.

A program computes BM x BN pairs of boxes for all heads at once: the 64 channels of a pair are made
one after the other and are added into the gates of all heads, so they only ever exist in registers
and their sines are computed once, not once per head.

- Angles are in turns: what is left after the nearest integer is taken off is exact in float32, and
  a polynomial does the rest, without the slow path (and the stack) of a general sine.
- Displacements come from differences of corners, as in `geometry.displacement`.
- The channels of the sizes need no sine: sin(a - b) = sin a cos b - cos a sin b, from tables.

Shapes: Nq queries, Nk keys, H heads; P = BM BN pairs in a program. Queries and then keys are the
N = Nq + Nk columns of one table (38, N), see `triton_gate.box_table`; i and j are columns of it.
"""

from __future__ import annotations

import triton
import triton.language as tl

# sin(2 pi t) = t (S0 + S1 t^2 + ... + S4 t^8) for |t| <= 1/4: minimax, error 3e-9 before rounding.
S0 = tl.constexpr(6.283185160089304)
S1 = tl.constexpr(-41.34165503137163)
S2 = tl.constexpr(81.6010040702634)
S3 = tl.constexpr(-76.54978222046338)
S4 = tl.constexpr(39.53670548005903)


@triton.jit
def _sine(turns: tl.tensor) -> tl.tensor:
    """sin(2 pi t) for |t| <= 1/4."""
    square = turns * turns
    return turns * (S0 + square * (S1 + square * (S2 + square * (S3 + square * S4))))


@triton.jit
def _sine_and_cosine(turns: tl.tensor) -> tl.tensor:
    """sin(2 pi t), cos(2 pi t) of any t."""
    turns = turns - tl.floor(turns + 0.5)  # [-1/2, 1/2]
    folded = tl.maximum(tl.minimum(turns, 0.5 - turns), -0.5 - turns)  # [-1/4, 1/4], same sine
    return _sine(folded), _sine(0.25 - tl.abs(turns))


@triton.jit
def _offset(
    table: tl.tensor,
    num_boxes: tl.tensor,
    i: tl.tensor,
    j: tl.tensor,
    AXIS: tl.constexpr,
    SIGNED: tl.constexpr,
    BY_KEY: tl.constexpr,
    MIN_DISPLACEMENT: tl.constexpr,
) -> tl.tensor:
    """dx (axis 0) or dy (axis 1) of `geometry.relative_geometry`: (P,)."""
    low, high = table + AXIS * num_boxes, table + (AXIS + 2) * num_boxes
    doubled = (tl.load(low + j) - tl.load(low + i)) + (tl.load(high + j) - tl.load(high + i))
    moved = doubled / tl.load(table + (AXIS + 4) * num_boxes + (j if BY_KEY else i))
    size = tl.abs(moved)
    if SIGNED:
        length = tl.log(1 + 4 * size)
        return tl.where(moved < 0, -length, length)
    return tl.log(tl.where(size < MIN_DISPLACEMENT, MIN_DISPLACEMENT, size))  # keeps NaN


@triton.jit
def _size_waves(
    table: tl.tensor, num_boxes: tl.tensor, i: tl.tensor, j: tl.tensor, row: tl.tensor
) -> tl.tensor:
    """Sine and cosine of a phase of log(w_i / w_j), from rows `row` and `row` + 8 of the table."""
    sines, cosines = table + row * num_boxes, table + (row + 8) * num_boxes
    sin_i, cos_i = tl.load(sines + i), tl.load(cosines + i)
    sin_j, cos_j = tl.load(sines + j), tl.load(cosines + j)
    return sin_i * cos_j - cos_i * sin_j, cos_i * cos_j + sin_i * sin_j


@triton.jit
def _plus(
    gate: tl.tensor,
    weight: tl.tensor,
    channel: tl.tensor,
    head: tl.tensor,
    HEADS: tl.constexpr,
    sine: tl.tensor,
    cosine: tl.tensor,
) -> tl.tensor:
    """The gates (HEADS, P) with a sine (P,) and its cosine, 8 channels later, added."""
    gate += tl.load(weight + channel * HEADS + head)[:, None] * sine[None, :]
    gate += tl.load(weight + (channel + 8) * HEADS + head)[:, None] * cosine[None, :]
    return gate


# Numbers of boxes change with every image: compiled once, not for each kind of number.
@triton.jit(do_not_specialize=["num_queries", "num_keys"])
def log_gate_kernel(
    out: tl.tensor,  # (H, Nq, >= Nk), strides (head_stride, row_stride, 1)
    table: tl.tensor,  # (38, Nq + Nk)
    weight: tl.tensor,  # (64, HEADS): rows are the channels of geometry.pair_embedding
    bias: tl.tensor,  # (HEADS,)
    frequencies: tl.tensor,  # (8,) turns per unit
    num_queries: tl.tensor,
    num_keys: tl.tensor,
    num_heads: tl.tensor,
    head_stride: tl.tensor,
    row_stride: tl.tensor,
    SIGNED: tl.constexpr,
    BY_KEY: tl.constexpr,
    MIN_DISPLACEMENT: tl.constexpr,
    MIN_GATE: tl.constexpr,
    HEADS: tl.constexpr,  # H rounded up to a power of two
    BM: tl.constexpr,
    BN: tl.constexpr,
) -> None:
    pair = tl.arange(0, BM * BN)
    row = tl.program_id(0) * BM + pair // BN
    column = tl.program_id(1) * BN + pair % BN
    inside = (row < num_queries) & (column < num_keys)
    num_boxes = num_queries + num_keys
    i = tl.minimum(row, num_queries - 1)  # what lies outside repeats the last box, unstored
    j = num_queries + tl.minimum(column, num_keys - 1)
    head = tl.arange(0, HEADS)

    dx = _offset(table, num_boxes, i, j, 0, SIGNED, BY_KEY, MIN_DISPLACEMENT)
    dy = _offset(table, num_boxes, i, j, 1, SIGNED, BY_KEY, MIN_DISPLACEMENT)
    gate = tl.zeros((HEADS, BM * BN), tl.float32) + tl.load(bias + head)[:, None]
    for k in range(8):
        frequency = tl.load(frequencies + k)
        sine, cosine = _sine_and_cosine(dx * frequency)
        gate = _plus(gate, weight, k, head, HEADS, sine, cosine)
        sine, cosine = _sine_and_cosine(dy * frequency)
        gate = _plus(gate, weight, 16 + k, head, HEADS, sine, cosine)
        sine, cosine = _size_waves(table, num_boxes, i, j, 6 + k)
        gate = _plus(gate, weight, 32 + k, head, HEADS, sine, cosine)
        sine, cosine = _size_waves(table, num_boxes, i, j, 22 + k)
        gate = _plus(gate, weight, 48 + k, head, HEADS, sine, cosine)

    gate = tl.log(tl.where(gate < MIN_GATE, MIN_GATE, gate))  # keeps NaN
    head, row = head.to(tl.int64), row.to(tl.int64)  # H Nq Nk may exceed 2^31
    place = head[:, None] * head_stride + (row * row_stride + column)[None, :]
    tl.store(out + place, gate, mask=inside[None, :] & (head < num_heads)[:, None])


# TRITON_INTERPRET=1 when Triton is imported: kernels run on the CPU, in NumPy.
INTERPRETED = not isinstance(log_gate_kernel, triton.JITFunction)
