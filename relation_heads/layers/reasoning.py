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

from .global_reasoning import GlobalReasoning
from .region_crops import Size, crop
from .region_edges import RELATIONS, spatial_edges
from .regions import Regions
from .spatial_memory import SpatialMemory


@dataclass(frozen=True, eq=False)
class ReasonedLogits:
    """Predictions of N regions.

    Attributes:
        plain: (N, K) f_0, detached.
        local: I tensors (N, K), empty without the local module.
        globally: I tensors (N, K), empty without the global module.
        weights: (N, P) w, rows sum to 1; order plain, local 1, global 1, local 2, ...
        final: (N, K) f.
    """

    plain: Tensor
    local: list[Tensor]
    globally: list[Tensor]
    weights: Tensor
    final: Tensor


class IterativeReasoning(nn.Module):
    """Roll-out of a local and a global module, either of which may be missing."""

    def __init__(
        self,
        *,
        local: SpatialMemory | None,
        globally: GlobalReasoning | None,
        num_iterations: int = 3,
        relations: Sequence[str] = RELATIONS,
        bandwidth: float = 50.0,
        normalize_edges: bool = True,
        cross_feed: bool = True,
    ) -> None:
        """
        Args:
            local: whose updates take `fed_width` logits.
            globally: likewise.
            num_iterations: I.
            relations, bandwidth, normalize_edges: see `spatial_edges`; none where the global module
                has no spatial path.
            cross_feed: whether each module is updated with both predictions, or with its own.

        Raises:
            ValueError: no module at all, or no iteration.
        """
        super().__init__()
        if local is None and globally is None:
            raise ValueError("IterativeReasoning needs a local or a global module, got neither.")
        if num_iterations < 1:
            raise ValueError(f"num_iterations must be at least 1, got {num_iterations}.")
        self.local = local
        self.globally = globally
        self.num_iterations = num_iterations
        self.relations = tuple(relations)
        self.bandwidth = bandwidth
        self.normalize_edges = normalize_edges
        self.cross_feed = cross_feed and local is not None and globally is not None

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
        if self.local is not None:
            crops = crop(
                maps.detach(),
                boxes_in_cells,
                regions.splits,
                crop_size=self.local.crop_size,
                grid_sizes=grid_sizes,
            )  # (N, D_m, P, P)
            memory = self.local.initial(grid_sizes, (maps.shape[2], maps.shape[3]))
        if self.globally is not None:
            nodes = self.globally.initial(features)
            adjacencies = self._adjacencies(regions, weights)
        local: list[Tensor] = []
        globally: list[Tensor] = []
        predictions, attention = [plain], [plain.new_zeros(len(plain), 1)]
        fed = {"local": plain, "global": plain}
        for _ in range(self.num_iterations):
            both = torch.cat([fed["local"], fed["global"]], dim=1) if self.cross_feed else None
            if self.local is not None:
                high = fed["local"] if both is None else both
                memory = self.local.update(memory, crops, high, *where, weights=weights)
                f, a = self.local.predict(memory, *where)
                local.append(f)
                predictions.append(f)
                attention.append(a)
                fed["local"] = f.detach()
            if self.globally is not None:
                high = fed["global"] if both is None else both
                nodes = self.globally.update(nodes, features, high)
                f, a = self.globally.predict(
                    self.globally.reason(nodes, regions, adjacencies, assignment)
                )
                globally.append(f)
                predictions.append(f)
                attention.append(a)
                fed["global"] = f.detach()
        w = torch.cat(attention, dim=1).float().softmax(dim=1)  # (N, P)
        stacked = torch.stack([f.detach().float() for f in predictions], dim=1)  # (N, P, K)
        final = (w[:, :, None] * stacked).sum(dim=1)  # (N, K)
        return ReasonedLogits(plain, local, globally, w, final)

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
