"""Temporal attention: one feature of a tracklet from the frames in which it was seen."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ..arguments import at_least, require
from ..precision import no_autocast, widen
from .tracklets import Tracklets


class TemporalAttention(nn.Module):
    """Xu et al. 2019, eq. 5 and 6; without frames that do not count:

        alpha_t = softmax_t <w_T, phi_s(x_t)>         eq. 6
        phi_T   = sum_t alpha_t phi_s(x_t)            eq. 5

    It starts as the mean over the frames, w_T = 0 (our choice). D parameters.
    """

    def __init__(self, dim: int) -> None:
        """
        Args:
            dim: D.

        Raises:
            ArgumentError: `dim` is below 1.
        """
        super().__init__()
        require(at_least("dim", dim, 1))
        self.weight = nn.Parameter(torch.zeros(dim))  # w_T

    def weights(self, tracklets: Tracklets) -> Tensor:
        """alpha (T, L), float32 or wider; rows sum to 1, 0 where there is no frame."""
        return self._weights(known(tracklets), tracklets.seen)

    def forward(self, tracklets: Tracklets) -> Tensor:
        """phi_T (T, D), in the dtype of the features."""
        phi = known(tracklets)
        return torch.einsum("tl,tld->td", self._weights(phi, tracklets.seen).to(phi.dtype), phi)

    def _weights(self, phi: Tensor, seen: Tensor) -> Tensor:
        with no_autocast(phi):
            logits = widen(phi) @ widen(self.weight)
            return logits.masked_fill(~seen, float("-inf")).softmax(dim=1)


def known(tracklets: Tracklets) -> Tensor:
    """The features (T, L, D) with zeros where there is no frame: 0 times NaN would not be 0."""
    return tracklets.features.masked_fill(~tracklets.seen[..., None], 0.0)
