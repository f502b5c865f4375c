"""Sparse graphs over the regions of a batch: who listens to whom, and the sum over neighbours.

Shapes: N regions of all images concatenated; T neighbours per region; K kernels of M channels. An
image with fewer than T keys has empty places in its rows: score -inf, weight 0.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from ..precision import no_autocast, widen
from ..regions import Regions


@dataclass(frozen=True, eq=False)
class SparseGraph:
    """T neighbours for each of N regions, all within one image.

    Attributes:
        neighbors: (N, T) rows of the regions that each region listens to, strongest first; in an
            empty place the region itself.
        scores: (N, T) e of these edges, float32 or wider, with gradient; -inf in an empty place.
    """

    neighbors: Tensor
    scores: Tensor

    @property
    def valid(self) -> Tensor:
        """(N, T) bool, False for empty places."""
        return self.scores != -torch.inf

    def weights(self, regions: Regions) -> list[Tensor]:
        """Of each image (R, R): softmax of the scores over the neighbours of a row, 0 elsewhere."""
        dense: list[Tensor] = []
        for scores, neighbors in zip(
            regions.split(self.scores), regions.split(self.neighbors), strict=True
        ):
            rows = neighbors - sum(len(d) for d in dense)  # from all images' numbers
            weights = scores.softmax(dim=1)  # 0 in empty places, which name the row itself
            dense.append(weights.new_zeros(len(rows), len(rows)).scatter_add(1, rows, weights))
        return dense


def top_neighbors(
    latent: Tensor, regions: Regions, num_neighbors: int, key_bias: Tensor | None = None
) -> SparseGraph:
    """The `num_neighbors` keys of its own image that score highest with each region.

    `e_ij = <z_i, z_j> + b_j`, computed per image in float32 or wider. A region may be its own
    neighbour.

    Args:
        latent: (N, L) z.
        regions: of the same N rows.
        num_neighbors: T.
        key_bias: (N,) b, for example the log-probability that a region is an object.
    """
    latent = widen(latent)
    rows = torch.arange(latent.shape[0], device=latent.device)
    biases = [None] * len(regions.splits) if key_bias is None else regions.split_keys(key_bias)
    neighbors, scores = [], []
    with no_autocast(latent):
        for z, z_keys, own, keys, bias in zip(
            regions.split(latent),
            regions.split_keys(latent),
            regions.split(rows),
            regions.split_keys(rows),
            biases,
            strict=True,
        ):
            e = z @ z_keys.T  # (Nq, Nk)
            if bias is not None:
                e = e + bias
            # T empty places to fall back on: no number of keys is special.
            e = torch.cat([e, e.new_full((e.shape[0], num_neighbors), -torch.inf)], dim=1)
            with torch.no_grad():
                chosen = e.topk(num_neighbors, dim=1).indices  # (Nq, T)
                keys = torch.cat([keys, keys.new_zeros(num_neighbors)])
            scores.append(e.gather(1, chosen))
            neighbors.append(torch.where(scores[-1] == -torch.inf, own[:, None], keys[chosen]))
    return SparseGraph(torch.cat(neighbors), torch.cat(scores))


def sum_over_neighbors(
    values: Tensor, neighbors: Tensor, weights: Tensor, *, sum_kernels: bool = False
) -> Tensor:
    """`out_ik = sum_t w_itk v_k(neighbor t of i)`, in float32 or wider.

    Neither the (N, T, K, M) values of the neighbours nor anything N x N is ever held.

    Args:
        values: (N, K, M).
        neighbors: (N, T) rows of `values`.
        weights: (N, T, K).
        sum_kernels: also sums over k.

    Returns:
        (N, K, M), or (N, M) with `sum_kernels`.
    """
    n, k, m = values.shape
    values, weights = widen(values), weights.to(widen(values).dtype)
    bags = neighbors[..., None] * k + torch.arange(k, device=values.device)  # (N, T, K)
    if sum_kernels:
        bags, weights = bags.flatten(1), weights.flatten(1)  # (N, T K)
    else:
        bags, weights = (t.transpose(1, 2).flatten(0, 1) for t in (bags, weights))  # (N K, T)
    # `bags` are rows of the values as (N K, M).
    out = F.embedding_bag(bags, values.flatten(0, 1), per_sample_weights=weights, mode="sum")
    return out if sum_kernels else out.view(n, k, m)
