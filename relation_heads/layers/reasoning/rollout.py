"""Iterative visual reasoning: local and global module, rolled out, and attention over all
predictions.

Source: Chen et al., "Iterative Visual Reasoning Beyond Convolutions", CVPR 2018, section 3.3 and
3.4; released code (endernewton/iter-reason), which has the local module only.

    f_0 = the plain classifier's logits
    for i = 1 .. I:
        S <- local update (h_r, fed_r);    f_i^l, a_i^l = local prediction from S
        M <- global update (v_r, fed_r);   f_i^g, a_i^g = global prediction from M
        fed_r = [f_i^l, f_i^g]                                               cross-feed
    w_n = softmax over n of a_n;  f = sum_n w_n f_n, n over all N = 2 I + 1 predictions

with fed = [f_0, f_0] at first. Everything that comes from the detector (crops h, features v, logits
f_0) is detached here, what is fed back and what f sums too: the detector is trained by its own loss
alone, L_f trains the attention alone. The attention of f_0 is fixed to 0; a softmax needs only
differences (the released code reads it from the empty memory, where it starts as exactly 0).
I is the number of updates; the released setting MEM.ITER = 3 is I = 2.

Shapes: N regions of B images, K logits per region, P predictions.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ..arguments import at_least, require
from ..regions import Regions
from .global_module import GlobalReasoning
from .region_crops import Size, crop
from .region_edges import RELATIONS, edge_problems, spatial_edges
from .spatial_memory import SpatialMemory


@dataclass(frozen=True, eq=False)
class ReasonedLogits:
    """Predictions of N regions.

    Attributes:
        plain: (N, K) f_0, detached.
        memory: I tensors (N, K) f^l of the spatial memory, none without it.
        graph: I tensors (N, K) f^g of the graph, none without it.
        attention: (N, P) w, rows sum to 1; of plain, then of all in `memory`, then in `graph`.
        final: (N, K) f.
    """

    plain: Tensor
    memory: list[Tensor]
    graph: list[Tensor]
    attention: Tensor
    final: Tensor

    def named(self) -> dict[str, Tensor]:
        """All predictions by name, in the order of `attention`: plain, local1, ..., global1, ...,
        and at last final."""
        named = {"plain": self.plain}
        for name, path in (("local", self.memory), ("global", self.graph)):
            named.update({f"{name}{k}": f for k, f in enumerate(path, 1)})
        return {**named, "final": self.final}


class IterativeReasoning(nn.Module):
    """Roll-out of the local module, a spatial memory, and the global one, a graph of regions and
    classes; either may be missing."""

    def __init__(
        self,
        *,
        memory: SpatialMemory | None,
        graph: GlobalReasoning | None,
        num_iterations: int = 3,
        relations: Sequence[str] = RELATIONS,
        bandwidth: float = 50.0,
        normalize_edges: bool = True,
        cross_feed: bool = True,
    ) -> None:
        """
        Args:
            memory: whose updates take `fed_width` logits.
            graph: likewise.
            num_iterations: I.
            relations, bandwidth, normalize_edges: see `spatial_edges`; none where the graph has no
                spatial path.
            cross_feed: whether each module is updated with both predictions, or with its own.

        Raises:
            ArgumentError: an argument outside these.
            ValueError: no module at all.
        """
        super().__init__()
        if memory is None and graph is None:
            raise ValueError("IterativeReasoning needs a memory or a graph, got neither.")
        require(at_least("num_iterations", num_iterations, 1), *edge_problems(relations, bandwidth))
        self.memory = memory
        self.graph = graph
        self.num_iterations = num_iterations
        self.relations = tuple(relations)
        self.bandwidth = bandwidth
        self.normalize_edges = normalize_edges
        self.cross_feed = cross_feed and memory is not None and graph is not None

    def forward(
        self,
        logits: Tensor,
        features: Tensor,
        regions: Regions,
        *,
        maps: Tensor,
        boxes_in_cells: Tensor,
        grid_sizes: Sequence[Size],
        assignment: Tensor | None = None,
        weights: Tensor | None = None,
    ) -> ReasonedLogits:
        """
        Args:
            logits: (N, K) f_0.
            features: (N, D_v) v of the regions.
            regions: N.
            maps: (B, D_m, H, W) mid-level feature maps, from which h is cropped.
            boxes_in_cells: (N, 4) the regions' boxes in cells of the maps.
            grid_sizes: (h, w) cells of each image.
            assignment: (N, C) class probabilities, for class graphs.
            weights: (N,) how much a region writes and is listened to, for example its probability
                to be an object; None for 1.
        """
        plain, features = logits.detach(), features.detach()
        where = (boxes_in_cells, regions.splits, grid_sizes)
        if self.memory is not None:
            crops = crop(
                maps.detach(),
                boxes_in_cells,
                regions.splits,
                crop_size=self.memory.crop_size,
                grid_sizes=grid_sizes,
            )  # (N, D_m, P, P)
            cells = self.memory.initial(grid_sizes, (maps.shape[2], maps.shape[3]))  # S
        if self.graph is not None:
            nodes = self.graph.initial(features)  # M
            adjacencies = self._adjacencies(regions, weights)
        from_memory: list[tuple[Tensor, Tensor]] = []  # f_i^l and a_i^l
        from_graph: list[tuple[Tensor, Tensor]] = []  # f_i^g and a_i^g
        for _ in range(self.num_iterations):
            own = [path[-1][0].detach() if path else plain for path in (from_memory, from_graph)]
            fed = [torch.cat(own, dim=1)] * 2 if self.cross_feed else own
            if self.memory is not None:
                cells = self.memory.update(cells, crops, fed[0], *where, weights=weights)
                from_memory.append(self.memory.predict(cells, *where))
            if self.graph is not None:
                nodes = self.graph.update(nodes, features, fed[1])
                reasoned = self.graph.reason(nodes, regions, adjacencies, assignment)
                from_graph.append(self.graph.predict(reasoned))
        zero = plain.new_zeros(plain.shape[0], 1)
        predictions, attention = zip((plain, zero), *from_memory, *from_graph, strict=True)
        w = torch.cat(attention, dim=1).float().softmax(dim=1)  # (N, P)
        stacked = torch.stack([f.detach().float() for f in predictions], dim=1)  # (N, P, K)
        final = (w[:, :, None] * stacked).sum(dim=1)  # (N, K)
        return ReasonedLogits(
            plain, [f for f, _ in from_memory], [f for f, _ in from_graph], w, final
        )

    def _adjacencies(self, regions: Regions, weights: Tensor | None) -> list[Tensor]:
        """A_e of each image, B tensors (E, R, R)."""
        splits = len(regions.splits)
        parts = [None] * splits if weights is None else regions.split(weights.detach())
        return [
            spatial_edges(
                boxes,
                self.relations,
                bandwidth=self.bandwidth,
                source_weight=weight,
                normalize=self.normalize_edges,
            )
            for boxes, weight in zip(regions.split(regions.boxes), parts, strict=True)
        ]
