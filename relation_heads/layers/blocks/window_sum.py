"""The sum over a window of the local relation layer, without k^2 copies of a map.

    y_c(p) = sum_D softmax_D( Phi(q_g(p), k_g(p + D)) + b_g(D) ) x_c(p + D)    (`local_relation`)

The weights are computed for a few rows of the map at a time, and once more for the gradient.

Shapes: x (n, C, H, W), G groups of channels, a window of k x k places; queries (n, G, H', W') with
H' = ceil(H / stride).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Literal, NamedTuple, get_args

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from ..precision import no_autocast, widen

Similarity = Literal["product", "difference", "square"]
SIMILARITIES: tuple[str, ...] = get_args(Similarity)
SCRATCH_BYTES = 8 * 2**20  # of the largest tensor that a block makes
GPU_SCRATCH_BYTES = 256 * 2**20  # there a block is hundreds of kernels, and few blocks are faster

Index = tuple[Any, slice, slice]  # of the last two axes of a tensor


# ---- which positions meet ----


class Pairs(NamedTuple):
    """Queries of a block, and the neighbours that they have at one place of the window.

    place: of the window, row by row, from 0. queries: index in the block. keys: index in the map.
    """

    place: int
    queries: Index
    keys: Index


def _on_the_map(shift: int, stride: int, queries: slice, size: int) -> tuple[slice, slice]:
    """Along one axis: those queries, from 0 in their block, whose neighbour is on the map; and
    these neighbours.

    Args:
        shift: from query number i, which is at place i stride, to its neighbour.
        queries: the numbers of the block.
        size: of the map.
    """
    first = max(queries.start, -(shift // stride))  # of the smallest i with i stride + shift >= 0
    stop = max(first, min(queries.stop, (size - 1 - shift) // stride + 1))
    here = slice(first - queries.start, stop - queries.start)
    return here, slice(first * stride + shift, stop * stride + shift, stride)


def _pairs(window: int, stride: int, rows: slice, width: int, size: torch.Size) -> list[Pairs]:
    """For each place of the window that any query sees.

    Args:
        rows: of queries, those of the block.
        width: of a row of queries.
        size: (H, W) of the map.
    """
    half, found = window // 2, []
    for place in range(window**2):
        dy, dx = place // window - half, place % window - half
        y, below = _on_the_map(dy, stride, rows, size[0])
        x, beside = _on_the_map(dx, stride, slice(0, width), size[1])
        if y.start < y.stop and x.start < x.stop:
            found.append(Pairs(place, (..., y, x), (..., below, beside)))
    return found


def _blocks(query: Tensor, numbers: int) -> Iterator[tuple[slice, slice]]:
    """Ranges of images and of rows of queries, so many that the scratch memory holds `numbers`
    numbers for each of these queries."""
    images, _, rows, width = query.shape
    scratch = SCRATCH_BYTES if query.device.type == "cpu" else GPU_SCRATCH_BYTES
    fit = max(1, scratch // max(1, numbers * width * query.element_size()))
    together = max(1, fit // max(1, rows))  # images
    for image in range(0, images, together):
        for row in range(0, rows, fit):
            yield slice(image, image + together), slice(row, min(row + fit, rows))


# ---- the sum over the window ----


def _plus_similarity(
    base: Tensor, query: Tensor, key: Tensor, similarity: Similarity, out: Tensor | None = None
) -> Tensor:
    """base + Phi(query, key)."""
    if similarity == "product":
        return torch.addcmul(base, query, key, out=out)
    gap = query - key
    if similarity == "square":
        return torch.addcmul(base, gap, gap, value=-1, out=out)
    return torch.sub(base, gap.abs_(), out=out)


def _add_gradients(
    grad: Tensor,
    query: Tensor,
    key: Tensor,
    similarity: Similarity,
    grad_query: Tensor,
    grad_key: Tensor,
) -> None:
    """Adds what follows from the gradient `grad` of Phi(query, key) to those of query and key."""
    if similarity == "product":
        grad_query.addcmul_(grad, key)
        grad_key.addcmul_(grad, query)
        return
    gap = query - key
    slope = grad * (2 * gap if similarity == "square" else gap.sign_())
    grad_query.sub_(slope)
    grad_key.add_(slope)


class _WindowSum(torch.autograd.Function):
    """y, in float32 or wider inside, block by block.

    Kept for the gradient: the inputs, y, and the logarithm of the sum of each softmax.
    """

    @staticmethod
    def forward(
        ctx: Any,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        prior: Tensor,
        window: int,
        stride: int,
        similarity: Similarity,
    ) -> Tensor:
        """(n, G, H', W'), (n, G, H, W), (n, C, H, W), (k * k, G) to (n, C, H', W')."""
        groups = prior.shape[1]
        with no_autocast(value):
            q, k, b = widen(query), widen(key), widen(prior)[:, :, None, None]
            v = widen(value).unflatten(1, (groups, -1))  # (n, G, m, H, W)
            out = q.new_zeros(*q.shape[:2], v.shape[2], *q.shape[2:])  # (n, G, m, H', W')
            log_total = torch.empty_like(q)
            for images, rows in _blocks(q, window**2 * groups):
                q_block, k_block, v_block = q[images, :, rows], k[images], v[images]
                out_block = out[images, :, :, rows]
                pairs = _pairs(window, stride, rows, q.shape[3], k.shape[2:])
                weights = q.new_full((window**2, *q_block.shape), -torch.inf)
                for d, at, there in pairs:
                    _plus_similarity(b[d], q_block[at], k_block[there], similarity, weights[d][at])
                top = weights.amax(0)
                total = weights.sub_(top).exp_().sum(0)
                for d, at, there in pairs:
                    out_block[at].addcmul_(weights[d][at].unsqueeze(2), v_block[there])
                out_block.div_(total.unsqueeze(2))
                log_total[images, :, rows] = total.log_().add_(top)
            y = out.flatten(1, 2).to(value.dtype)
        ctx.save_for_backward(query, key, value, prior, y, log_total)
        ctx.options = window, stride, similarity
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_y: Tensor) -> tuple[Tensor | None, ...]:
        query, key, value, prior, y, log_total = ctx.saved_tensors
        window, stride, similarity = ctx.options
        groups = prior.shape[1]
        with no_autocast(value):
            q, k, b = widen(query), widen(key), widen(prior)[:, :, None, None]
            v, y, grad_y = (t.unflatten(1, (groups, -1)) for t in (widen(value), y, grad_y))
            grad_q, grad_k, grad_v, grad_b = map(torch.zeros_like, (q, k, v, b))
            for images, rows in _blocks(q, value.shape[1]):
                q_block, k_block, v_block = q[images, :, rows], k[images], v[images]
                grad_q_block, grad_k_block = grad_q[images, :, rows], grad_k[images]
                grad_v_block, grad = grad_v[images], widen(grad_y[images, :, :, rows])
                log_block = log_total[images, :, rows]
                product = grad * y[images, :, :, rows]
                mean = product.sum(2)  # sum_D w dw
                for d, at, there in _pairs(window, stride, rows, q.shape[3], k.shape[2:]):
                    q_at, k_there = q_block[at], k_block[there]
                    w = _plus_similarity(b[d] - log_block[at], q_at, k_there, similarity).exp_()
                    grad_v_block[there].addcmul_(w.unsqueeze(2), grad[at])
                    # Gradient of the logits, w (dw - sum_D w dw).
                    dw = torch.mul(grad[at], v_block[there], out=product[at]).sum(2)
                    slope = dw.sub_(mean[at]).mul_(w)
                    grad_b[d] += slope.sum((0, 2, 3)).view(-1, 1, 1)
                    _add_gradients(
                        slope, q_at, k_there, similarity, grad_q_block[at], grad_k_block[there]
                    )
        return (
            grad_q.to(query.dtype),
            grad_k.to(key.dtype),
            grad_v.flatten(1, 2).to(value.dtype),
            grad_b.view_as(prior).to(prior.dtype),
            None,
            None,
            None,
        )


def _window_sum_by_copies(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    prior: Tensor,
    window: int,
    stride: int,
    similarity: Similarity,
) -> Tensor:
    """The same with k^2 copies of the maps, for traces, which keep the size of a loop."""

    def neighbours(x: Tensor) -> Tensor:  # (n, c, H, W) to (n, c, k * k, H' * W')
        copies = F.unfold(x, window, padding=window // 2, stride=stride)
        return copies.unflatten(1, (-1, window**2))

    with no_autocast(value):
        q, k, v = widen(query).flatten(2).unsqueeze(2), widen(key), widen(value)
        base = widen(prior).T.unsqueeze(2)  # (G, k * k, 1)
        logits = _plus_similarity(base, q, neighbours(k), similarity)
        outside = neighbours(torch.ones_like(k[:1, :1])) == 0
        weights = logits.masked_fill(outside, -torch.inf).softmax(2)
        v = neighbours(v).unflatten(1, (prior.shape[1], -1))  # (n, G, m, k * k, H' * W')
        y = (weights.unsqueeze(2) * v).sum(3).flatten(1, 2)
        return y.unflatten(2, query.shape[2:]).to(value.dtype)


def window_sum(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    prior: Tensor,
    window: int,
    stride: int,
    similarity: Similarity,
) -> Tensor:
    """y: sum_D softmax_D( Phi(q, k(p + D)) + b(D) ) x(p + D).

    Args:
        query: (n, G, H', W').
        key: (n, G, H, W).
        value: x (n, C, H, W).
        prior: b (k * k, G), D from the upper left, row by row.
        window: k, odd.
        stride: H' = ceil(H / stride), and W' likewise.
        similarity: Phi.

    Returns:
        (n, C, H', W'), dtype of x; sums in float32 or wider.
    """
    by_copies = torch.jit.is_tracing() or torch.compiler.is_compiling()
    form = _window_sum_by_copies if by_copies else _WindowSum.apply
    return form(query, key, value, prior, window, stride, similarity)
