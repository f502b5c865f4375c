"""Gradient clipping by the norm over all parameters: `SOLVER.CLIP_GRADIENTS.CLIP_TYPE full_model`.

Detectron2 clips every parameter by itself ("norm", "value"), which hardly slows down a network
whose many gradients are each of moderate size. Training from scratch needs the joint norm
(Pascanu et al., ICML 2013, algorithm 1).
"""

from __future__ import annotations

from typing import Any

from detectron2.config import CfgNode
from detectron2.solver import build_optimizer as build_detectron2_optimizer
from torch import nn
from torch.optim import Optimizer

FULL_MODEL = "full_model"


def build_optimizer(cfg: CfgNode, model: nn.Module) -> Optimizer:
    """Detectron2's optimizer; with CLIP_TYPE full_model it scales all gradients before a step.

    Args:
        cfg: the keys of `SOLVER`; CLIP_GRADIENTS.CLIP_VALUE is the largest norm, of type NORM_TYPE.
        model: the model.
    """
    clip = cfg.SOLVER.CLIP_GRADIENTS
    if not clip.ENABLED or clip.CLIP_TYPE != FULL_MODEL:
        return build_detectron2_optimizer(cfg, model)
    cfg = cfg.clone()
    cfg.defrost()
    cfg.SOLVER.CLIP_GRADIENTS.ENABLED = False
    optimizer = build_detectron2_optimizer(cfg, model)

    def clip_all(optimizer: Optimizer, args: Any, kwargs: Any) -> None:
        parameters = [p for group in optimizer.param_groups for p in group["params"]]
        nn.utils.clip_grad_norm_(parameters, clip.CLIP_VALUE, clip.NORM_TYPE)

    # Mixed precision unscales the gradients before it calls `step`, so they have their true size.
    optimizer.register_step_pre_hook(clip_all)
    return optimizer
