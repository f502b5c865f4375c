"""Features of bounded length, for what enters an attention whose logits are of second degree.

Such logits, and their gradients into the features, grow with the features, and these with the
gradients, until training diverges (docs/divergence.md).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal, get_args

from torch import Tensor

from .geometry import widen

Norm = Literal["max_rms", ""]
NORMS: tuple[str, ...] = get_args(Norm)
MAX_RMS = 1.0  # of what enters queries and keys


def bounded(features: Tensor, *max_rms: float) -> Iterator[Tensor]:
    """f / max(1, rms(f) / max_rms), (N, D), for each `max_rms`: rows of a root mean square above it
    are scaled down to it. Shorter rows stay: regions of little response, most of the background,
    still say little."""
    mean_square = widen(features).square().mean(dim=1, keepdim=True)  # (N, 1)
    for limit in max_rms:
        scale = (mean_square / limit**2).clamp(min=1.0).rsqrt()
        yield features * scale.to(features.dtype)
