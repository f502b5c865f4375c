"""Detectron2's optimizer with two things more: a joint clipping, and maps that count as biases.

`SOLVER.CLIP_GRADIENTS.CLIP_TYPE full_model` clips by the norm of the gradients of all parameters.

Detectron2 clips every parameter by itself ("norm", "value"), which hardly slows down a network
whose many gradients are each of moderate size. Training from scratch needs the joint norm
(Pascanu et al., ICML 2013, algorithm 1).

`SOLVER.WEIGHT_DECAY_BIAS` is for the initial map of a spatial memory, too, as in the released code
(endernewton/iter-reason: "kinda like bias"). None, the default, decays biases as all weights.
"""

from __future__ import annotations

from typing import Any

from detectron2.config import CfgNode
from detectron2.solver import build_optimizer as build_detectron2_optimizer
from torch import nn
from torch.optim import Optimizer

from ..layers.reasoning.spatial_memory import SpatialMemory

FULL_MODEL = "full_model"


def build_optimizer(cfg: CfgNode, model: nn.Module) -> Optimizer:
    """Detectron2's optimizer; with CLIP_TYPE full_model it scales all gradients before a step, and
    WEIGHT_DECAY_BIAS is also that of initial memories.

    Args:
        cfg: the keys of `SOLVER`; CLIP_GRADIENTS.CLIP_VALUE is the largest norm, of type NORM_TYPE.
        model: the model.
    """
    clip = cfg.SOLVER.CLIP_GRADIENTS
    if not clip.ENABLED or clip.CLIP_TYPE != FULL_MODEL:
        return _with_biases(build_detectron2_optimizer(cfg, model), cfg, model)
    cfg = cfg.clone()
    cfg.defrost()
    cfg.SOLVER.CLIP_GRADIENTS.ENABLED = False
    optimizer = _with_biases(build_detectron2_optimizer(cfg, model), cfg, model)

    def clip_all(optimizer: Optimizer, args: Any, kwargs: Any) -> None:
        parameters = [p for group in optimizer.param_groups for p in group["params"]]
        nn.utils.clip_grad_norm_(parameters, clip.CLIP_VALUE, clip.NORM_TYPE)

    # Mixed precision unscales the gradients before it calls `step`, so they have their true size.
    optimizer.register_step_pre_hook(clip_all)
    return optimizer


def _with_biases(optimizer: Optimizer, cfg: CfgNode, model: nn.Module) -> Optimizer:
    """Initial memories go to groups of their own, which differ in weight decay alone."""
    decay = cfg.SOLVER.WEIGHT_DECAY_BIAS
    memories = {id(m.initial_memory) for m in model.modules() if isinstance(m, SpatialMemory)}
    for group in [] if decay is None else list(optimizer.param_groups):
        moved = [p for p in group["params"] if id(p) in memories]
        if moved:
            group["params"] = [p for p in group["params"] if id(p) not in memories]
            optimizer.add_param_group({**group, "params": moved, "weight_decay": decay})
    return optimizer
