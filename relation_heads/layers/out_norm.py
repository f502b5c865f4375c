"""A LayerNorm of what a graph gives, which starts far smaller than the features beside it."""

from __future__ import annotations

from typing import Literal, get_args

import torch.nn.functional as F
from torch import Tensor, nn

from .precision import widen

OutNorm = Literal["", "LN"]
OUT_NORMS: tuple[str, ...] = get_args(OutNorm)


class WideLayerNorm(nn.LayerNorm):
    """A LayerNorm of float32 or wider, also where its parameters are narrower."""

    def forward(self, x: Tensor) -> Tensor:
        """(N, E) to (N, E)."""
        weight, bias = widen(self.weight), widen(self.bias)
        return F.layer_norm(widen(x), self.normalized_shape, weight, bias, self.eps)


def out_norm_layer(out_norm: OutNorm, channels: int) -> nn.Module:
    """The layer of `out_norm`: "LN", or "" for the identity."""
    # What comes in may be as small as 1e-4: a usual epsilon is not small beside its variance.
    return WideLayerNorm(channels, eps=1e-10) if out_norm == "LN" else nn.Identity()
