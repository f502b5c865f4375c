"""What a model of a config costs, part by part: parameters, multiply-adds, memory.

No data set, no weights and, but for the ROI heads, no memory: the other parts run on tensors that
have only a shape. Everything is of one image, whose pixels do not matter:

- parameters; with the statistics of batch norms; those that are trained (not frozen);
- multiply-adds at test time (`counting`): all proposals, then a fixed number of boxes in the mask
  and keypoint branches. Pooling, the RPN's choice and what is elementwise have no products;
- bytes that a training step keeps for its backward pass.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

import torch
from detectron2.config import CfgNode
from detectron2.layers import FrozenBatchNorm2d
from detectron2.modeling import build_model
from detectron2.structures import ImageList
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from ..engine.freeze import train_only
from ..modeling.without_memory import without_memory
from .counting import Count, kept_bytes, multiply_adds
from .roi_heads import RegionCounts, count_roi_heads

NEW = "new blocks"
# The children of a model, by the names that they have in a table.
PARTS = {
    "backbone": "backbone",
    "proposal_generator": "RPN",
    "roi_heads": "ROI heads",
    "sem_seg_head": "segmentation head",
    "head": "dense head",
}


@dataclass
class Cost:
    """Of one part of a model; multiply-adds at test time, bytes kept in training."""

    parameters: int = 0
    with_statistics: int = 0
    trained: int = 0
    multiply_adds: int = 0
    kept_bytes: int = 0


Costs = dict[str, Cost]


def build_shapes(cfg: CfgNode) -> Any:
    """The model as it would be trained, without memory, on "meta".

    Raises:
        ValueError: it cannot be built; says why.
    """
    cfg = cfg.clone()
    cfg.defrost()
    cfg.MODEL.DEVICE = "meta"
    try:
        with without_memory():
            model = build_model(cfg)
            train_only(model, cfg.MODEL.get("TRAIN_ONLY", []))
    except (AssertionError, KeyError) as error:
        raise ValueError(f"The model cannot be built: {error.args[0]}") from error
    return model


def padded_size(model: Any, size: tuple[int, int]) -> tuple[int, int]:
    """Height and width with which an image of this size enters the backbone."""
    images = ImageList.from_tensors(
        [torch.empty(3, *size, device="meta")],
        model.backbone.size_divisibility,
        padding_constraints=model.backbone.padding_constraints,
    )
    return images.tensor.shape[-2], images.tensor.shape[-1]


def analyze(
    cfg: CfgNode,
    size: tuple[int, int],
    regions: RegionCounts,
    device: str = "cpu",
    twin: CfgNode | None = None,
) -> Costs:
    """The costs of every part of a model.

    Args:
        cfg: of the model.
        size: height and width of the image in pixels, before padding.
        regions: in it.
        device: where the ROI heads run.
        twin: modules that its model does not have are the part NEW.

    Returns:
        Part -> cost; parts without anything are left out.

    Raises:
        ValueError: a part that is not known, or that cannot run here.
    """
    model = build_shapes(cfg)
    for name, child in model.named_children():
        if name not in PARTS and any(True for _ in child.parameters()):
            raise ValueError(
                f"{cfg.MODEL.META_ARCHITECTURE} has a part {name!r}, and only "
                f"{', '.join(PARTS)} can be analysed."
            )
    known = {n for n, _ in build_shapes(twin).named_modules()} if twin else None
    new = {n for n, _ in model.named_modules() if known is not None and n not in known}
    costs = {part: Cost() for part in ("backbone", NEW, *list(PARTS.values())[1:])}
    _add_parameters(costs, model, new)
    try:
        _add_dense(costs, model, padded_size(model, size), new, training=False)
        maps = _add_dense(costs, model, padded_size(model, size), new, training=True)
        if hasattr(model, "roi_heads"):
            inside = {n.removeprefix("roi_heads.") for n in new if n.startswith("roi_heads.")}
            shapes = model.backbone.output_shape()
            products, kept = count_roi_heads(cfg, shapes, maps, size, regions, device, inside)
            _add(costs, "roi_heads", "multiply_adds", products)
            _add(costs, "roi_heads", "kept_bytes", kept)
    except NotImplementedError as error:
        raise ValueError(f"The model cannot be analysed on a CPU: {error}") from error
    return {part: cost for part, cost in costs.items() if cost != Cost()}


def _add(costs: Costs, child: str, field: str, count: Count) -> None:
    for part, number in ((PARTS[child], count.elsewhere), (NEW, count.watched)):
        setattr(costs[part], field, getattr(costs[part], field) + number)


def _add_parameters(costs: Costs, model: nn.Module, new: Collection[str]) -> None:
    for name, module in model.named_modules():
        if name.split(".")[0] not in PARTS:
            continue
        cost = costs[NEW if name in new else PARTS[name.split(".")[0]]]
        own = list(module.parameters(recurse=False))
        cost.parameters += sum(p.numel() for p in own)
        cost.trained += sum(p.numel() for p in own if p.requires_grad)
        if isinstance(module, _BatchNorm | FrozenBatchNorm2d):
            own += [b for b in module.buffers(recurse=False) if b.is_floating_point()]
        cost.with_statistics += sum(t.numel() for t in own)


def _add_dense(
    costs: Costs, model: Any, size: tuple[int, int], new: Collection[str], training: bool
) -> dict[str, Tensor]:
    """Everything but the ROI heads, at test time or in training.

    Args:
        size: of the padded image.

    Returns:
        The backbone's feature maps.
    """
    watched = [module for name, module in model.named_modules() if name in new]
    model.train(training)

    def through(child: str, module: nn.Module, *args: Any) -> Any:
        with torch.set_grad_enabled(training):
            if training:
                own = [*module.parameters(), *module.buffers()]
                out, count = kept_bytes(lambda: module(*args), watched, own)
            else:
                out, count = multiply_adds(lambda: module(*args), watched)
        _add(costs, child, "kept_bytes" if training else "multiply_adds", count)
        return out

    with without_memory():
        image, labels = torch.empty(1, 3, *size), torch.zeros(1, *size, dtype=torch.int64)
    maps = through("backbone", model.backbone, image)
    rpn: Any = getattr(model, "proposal_generator", None)
    if hasattr(rpn, "rpn_head"):
        through("proposal_generator", rpn.rpn_head, [maps[f] for f in rpn.in_features])
    if hasattr(model, "sem_seg_head"):
        through("sem_seg_head", model.sem_seg_head, maps, labels)
    if hasattr(model, "head"):
        through("head", model.head, [maps[f] for f in model.head_in_features])
    return maps
