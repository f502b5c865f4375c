"""The geometric gate of learned duplicate removal: log w_G of the pairs in groups of candidates.

Source: Hu et al., "Relation Networks for Object Detection", CVPR 2018, eq. 5 and section 4.3; see
`duplicate_removal`.

Shapes: N regions, M candidates; G groups of up to n candidates in one batch; H heads.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from ..geometry import log_gate, pair_embedding
from ..recomputed import recomputed
from ..separable_gate import separable_log_gate
from .candidates import Candidates

PAIRS_PER_BATCH = 2**16  # pairs of boxes at once; their gates take some 16 MB


@dataclass(frozen=True, eq=False)
class BoxGates:
    """log w_G of pairs of candidates, computed from their boxes (M, 4) for every batch."""

    boxes: Tensor
    weight: Tensor
    bias: Tensor

    def of(self, rows: Tensor) -> Tensor:
        """(G, n) candidates to (G, H, n, n), of the pairs in each group."""
        own = self.boxes[rows]  # (G, n, 4)
        if torch.jit.is_tracing():  # which follows the plain form
            embedding = pair_embedding(own, own).flatten(0, 1)  # (G n, n, 64)
            gate = log_gate(embedding, self.weight, self.bias)  # (H, G n, n)
            return gate.unflatten(1, rows.shape).transpose(0, 1)
        return separable_log_gate(own, own, self.weight, self.bias)


@dataclass(frozen=True, eq=False)
class TableGates:
    """log w_G of pairs of candidates, looked up in that of all pairs of regions.

    Attributes:
        table: (pairs, H), see `gate_table`.
        first: (M,) of each candidate the row of its region's first pair, see `pair_rows`.
        region: (M,) of the candidates.
    """

    table: Tensor
    first: Tensor
    region: Tensor

    def of(self, rows: Tensor) -> Tensor:
        """(G, n) candidates to (G, H, n, n), of the pairs in each group."""
        pairs = self.first[rows][:, :, None] + self.region[rows][:, None]  # (G, n, n)
        return F.embedding(pairs, self.table).movedim(-1, 1)


def gates_of(
    candidates: Candidates, boxes: Tensor, weight: Tensor, bias: Tensor
) -> BoxGates | TableGates:
    """The gates of (N, 4) or (N, C, 4) boxes.

    Where classes share boxes and fewer pairs of regions than of candidates exist, every pair of
    regions is computed once.
    """
    splits, sizes = candidates.region_splits, candidates.sizes
    if not isinstance(sizes, Tensor) and boxes.dim() == 2:
        if sum(n * n for n in splits) < sum(n * n for n in sizes):
            first = pair_rows(splits).to(boxes.device)[candidates.region]
            return TableGates(gate_table(boxes, splits, weight, bias), first, candidates.region)
    return BoxGates(candidates.boxes(boxes), weight, bias)


def _row_blocks(boxes: Tensor, splits: Sequence[int]) -> Iterator[tuple[Tensor, Tensor]]:
    """Blocks of queries and all keys of their image, at most `PAIRS_PER_BATCH` pairs or one row."""
    for image in boxes.detach().split(list(splits)):
        for queries in image.split(max(PAIRS_PER_BATCH // max(len(image), 1), 1)):
            yield queries, image


def gate_table(boxes: Tensor, splits: Sequence[int], weight: Tensor, bias: Tensor) -> Tensor:
    """log w_G of all pairs of regions of one image, image by image: (sum of N_b^2, H)."""

    def gate(queries: Tensor, keys: Tensor) -> Tensor:
        of_pairs = separable_log_gate(queries[None], keys[None], weight, bias)
        return of_pairs[0].permute(1, 2, 0).flatten(0, 1)

    return torch.cat([recomputed(gate, q, k) for q, k in _row_blocks(boxes, splits)])


def pair_rows(splits: Sequence[int]) -> Tensor:
    """(N,): the pair (n, m) of one image is row `pair_rows[n] + m` of `gate_table`."""
    rows, regions, pairs = [], 0, 0
    for n in splits:
        rows.append(torch.arange(n) * n + pairs - regions)
        regions, pairs = regions + n, pairs + n * n
    return torch.cat(rows)
