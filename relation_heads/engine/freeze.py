"""Training ROI heads on a detector that stays as it is."""

from __future__ import annotations

from detectron2.layers import FrozenBatchNorm2d
from torch import nn


def freeze_below_roi_heads(model: nn.Module) -> None:
    """Freezes all of a `GeneralizedRCNN` but its `roi_heads`: backbone and RPN.

    Parameters get no gradient, and batch normalisations keep their statistics. Call it before the
    optimizer is built and before weights are loaded.
    """
    _freeze_children(model, but="roi_heads")


def freeze_all_but_duplicate_removal(model: nn.Module) -> None:
    """Freezes a detector but for `roi_heads.duplicate_removal`, in the same way."""
    freeze_below_roi_heads(model)
    _freeze_children(model.roi_heads, but="duplicate_removal")


def _freeze_children(module: nn.Module, but: str) -> None:
    for name, child in list(module.named_children()):
        if name != but:
            child.requires_grad_(False)
            setattr(module, name, FrozenBatchNorm2d.convert_frozen_batchnorm(child))
