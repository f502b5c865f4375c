"""A relation between regions that is read from the differences of their features.

Source: Jiang et al., "Hybrid Knowledge Routed Modules for Large-scale Object Detection", NeurIPS
2018, as in the release within chanyn/Reasoning-RCNN (Apache-2.0). There it is used twice, for
attributes and for relationships, and each learns from a prior between classes. For regions i and j
of an image:

    a_ij = MLP(|f_i - f_j|)                 D -> 256 -> 128 -> 64 -> 1, f without gradient
    f'_i = sum_j softmax_j(a_ij) f_j W      D -> E
    loss = mean_ij (a_ij - prior[class i, class j])^2

The release keeps |f_i - f_j| of all pairs, N^2 D numbers: 1 GiB at N = 512, D = 1024. Here pairs
are computed in blocks, forward and again backward, and as a_ij = a_ji each pair once.

Shapes: N regions of B images, D channels of f, E of f', C classes.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn

from ..arguments import Wrong, at_least, require
from ..recomputed import recomputed
from ..regions import Regions

BLOCK = 2**22  # numbers of a block of differences, 16 MiB in float32


class DifferenceRelation(nn.Module):
    """One relation: a, and f'."""

    def __init__(
        self, dim: int, *, channels: int = 256, hidden: Sequence[int] = (256, 128, 64)
    ) -> None:
        """
        Args:
            dim: D.
            channels: E.
            hidden: widths between |f_i - f_j| and a_ij, each with a ReLU; a_ij itself has none (our
                choice, so that it can be below 0).

        Raises:
            ArgumentError: a width below 1.
        """
        super().__init__()
        narrow = any(width < 1 for width in hidden)
        require(
            at_least("dim", dim, 1),
            at_least("channels", channels, 1),
            Wrong("hidden", "widths of at least 1", hidden) if narrow else None,
        )
        layers: list[nn.Module] = []
        for before, width in pairwise((dim, *hidden)):
            layers += [nn.Linear(before, width), nn.ReLU()]
        self.edge = nn.Sequential(*layers, nn.Linear((dim, *hidden)[-1], 1))  # the MLP
        self.transform = nn.Linear(dim, channels)  # W

    def forward(self, features: Tensor, regions: Regions) -> tuple[Tensor, list[Tensor]]:
        """
        Args:
            features: (N, D) f.
            regions: of the same rows. Those that are no keys are left out of the sum.

        Returns:
            f' (N, E), zeros in an image without keys, and a, (N_b, N_b) of each image.
        """
        edges = [self._edges(f) for f in regions.split(features.detach())]
        values = self.transform(features)
        is_key = torch.ones_like(regions.boxes[:, 0], dtype=torch.bool)
        is_key = is_key if regions.is_key is None else regions.is_key
        heard = []
        for a, keys, own in zip(
            edges, regions.split(is_key), regions.split_keys(values), strict=True
        ):
            heard.append(a[:, keys].softmax(dim=1).to(own.dtype) @ own)
        return torch.cat(heard), edges

    def _edges(self, f: Tensor) -> Tensor:
        """a (N_b, N_b) of one image."""
        n = f.shape[0]
        i, j = torch.triu_indices(n, n, device=f.device)
        step = max(1, BLOCK // max(f.shape[1], 1))
        blocks = zip(i.split(step), j.split(step), strict=True)
        upper = torch.cat([recomputed(self._of_pairs, f, *block) for block in blocks])
        a = upper.new_zeros(n, n).index_put((i, j), upper)
        return a + a.triu(1).T

    def _of_pairs(self, f: Tensor, i: Tensor, j: Tensor) -> Tensor:
        """a of p pairs, (p,)."""
        a: Tensor = self.edge((f[i] - f[j]).abs())[:, 0]
        return a


def prior_loss(edges: Sequence[Tensor], labels: Sequence[Tensor], prior: Tensor) -> Tensor:
    """Mean of (a_ij - prior[class i, class j])^2 over the pairs of regions that have a class.

    Which pairs the release counts is not known to us: pairs with the background are left out here.

    Args:
        edges: a of each image, (N_b, N_b).
        labels: of each image (N_b,), int64; outside 0 .. C - 1 for the background.
        prior: (C, C).

    Returns:
        (), 0 without such pairs.
    """
    errors = []
    for a, label in zip(edges, labels, strict=True):
        known = (label >= 0) & (label < len(prior))
        wanted = prior[label[known]][:, label[known]]
        errors.append((a[known][:, known] - wanted.to(a.dtype)).square().flatten())
    together = torch.cat(errors)
    return together.sum() / max(together.numel(), 1)
