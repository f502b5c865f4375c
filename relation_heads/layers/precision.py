"""What is computed in float32 or wider, whatever autocast says."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor


def widen(x: Tensor) -> Tensor:
    """float16 and bfloat16 to float32; float32 and float64 stay."""
    return x if x.dtype == torch.float64 else x.float()


def no_autocast(x: Tensor) -> AbstractContextManager[None]:
    """No autocast on the device of x. Tensors without memory ("meta") are never cast."""
    return nullcontext() if x.is_meta else torch.autocast(x.device.type, enabled=False)
