"""Training ROI heads on a detector that stays as it is."""

from __future__ import annotations

from detectron2.layers import FrozenBatchNorm2d
from torch import nn


def freeze_below_roi_heads(model: nn.Module) -> None:
    """Freezes all of a `GeneralizedRCNN` but its `roi_heads`: backbone and RPN.

    Parameters get no gradient, and batch normalisations keep their statistics. Call it before the
    optimizer is built and before weights are loaded.
    """
    for name, module in list(model.named_children()):
        if name != "roi_heads":
            module.requires_grad_(False)
            setattr(model, name, FrozenBatchNorm2d.convert_frozen_batchnorm(module))


def freeze_all_but_duplicate_removal(model: nn.Module) -> None:
    """Freezes a detector but for `roi_heads.duplicate_removal`, in the same way."""
    freeze_below_roi_heads(model)
    heads = model.roi_heads
    for name, module in list(heads.named_children()):
        if name != "duplicate_removal":
            module.requires_grad_(False)
            setattr(heads, name, FrozenBatchNorm2d.convert_frozen_batchnorm(module))
