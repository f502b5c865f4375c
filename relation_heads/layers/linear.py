"""A linear layer whose result lies in memory channel by channel instead of row by row."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

ALIGNMENT = 8  # numbers of float32 in a register of 32 bytes


def linear_by_channel(layer: nn.Linear, x: Tensor) -> Tensor:
    """`layer(x)`, (N, D) to (N, E), as the transpose of a contiguous (E, N); no hook is called.

    On a CPU a product of matrices wants long rows that begin where a register does, which is so
    here if N is a multiple of 8, see `pad_rows`. Each attention head is a matrix of its own, E / H
    rows of N, without a copy; and with an odd E, such as 3000 classes and the background, the rows
    of `layer(x)` begin anywhere, which makes it take a third longer.
    """
    return torch.addmm(layer.bias[:, None], layer.weight, x.T).T


def pad_rows(x: Tensor) -> Tensor:
    """(N, D) to (N', D) with zeros below, N' the next multiple of 8. In a trace, which would keep
    the number of zeros, x as it is."""
    spare = 0 if torch.jit.is_tracing() else -len(x) % ALIGNMENT
    return F.pad(x, (0, 0, 0, spare)) if spare else x
