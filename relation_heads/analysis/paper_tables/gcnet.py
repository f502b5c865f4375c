"""Cao et al. 2019: the COCO table, and the parameters of the blocks."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from detectron2.layers import Conv2d
from torch import nn

from ...config import get_cfg, merge_file
from ...layers.blocks.global_context import GlobalContext, SqueezeExcitation
from ...layers.blocks.non_local import NonLocal
from ...modeling.without_memory import without_memory
from ..detectors import build_shapes
from .counts import parameters, products, products_and_elementwise
from .rows import G, M, Row, Table

# Name, suffix of the config; millions of parameters, billions of FLOPs in the table.
COCO = (
    ("Mask R-CNN R50-FPN", "", "44.4", "279.4"),
    ("+ one NL in res4", "_nl", "46.5", "288.7"),
    ("+ SE in res3 to res5", "_se", "46.9", "279.5"),
    ("+ GC r16 in res3 to res5", "_gc", "46.9", "279.6"),
)
CLASSES_WITH_BACKGROUND = 81  # of boxes and masks in mmdetection v1
SIZE = (800, 1408)  # pixels
RES4 = (1, 1024, SIZE[0] // 16, SIZE[1] // 16)
BOXES, MASKS = 1000, 100
BLOCKS: tuple[tuple[str, Callable[..., nn.Module], tuple[str, ...]], ...] = (
    ("GC r16", GlobalContext, ("8,753", "33,889", "133,313", "528,769")),
    ("GC r4", partial(GlobalContext, ratio=1 / 4), ("33,473", "132,481", "527,105", "2,102,785")),
    ("SE r16", SqueezeExcitation, ("8,464", "33,312", "132,160", "526,464")),
    ("NL C/2", NonLocal, ("131,712", "525,568", "2,099,712", "8,393,728")),
)
NOTE = f"""\
Ours: configs/COCO-InstanceSegmentation/mask_rcnn_R_50_FPN*_1x.yaml with trained batch norms, the
stride in the 3 x 3 convolutions and outputs for {CLASSES_WITH_BACKGROUND} classes of boxes and
masks, as in mmdetection v1, where the background has them too; {SIZE[0]} x {SIZE[1]} pixels,
{BOXES} boxes, {MASKS} masks. "Here" are all multiply-adds; the lines lead to the convention of
mmdetection v1's counter, which looks at modules."""
CHANNELS = (256, 512, 1024, 2048)


def mask_rcnn(suffix: str) -> Any:
    """Of a config of ours: trained batch norms, the stride in the 3 x 3 convolutions, and outputs
    for the background."""
    cfg = get_cfg()
    name = f"COCO-InstanceSegmentation/mask_rcnn_R_50_FPN{suffix}_1x.yaml"
    merge_file(cfg, name)
    cfg.MODEL.RESNETS.NORM = "BN"
    cfg.MODEL.RESNETS.STRIDE_IN_1X1 = False
    model = build_shapes(cfg)
    heads = model.roi_heads
    with without_memory():
        heads.box_predictor.cls_score = nn.Linear(1024, CLASSES_WITH_BACKGROUND)
        heads.box_predictor.bbox_pred = nn.Linear(1024, 4 * CLASSES_WITH_BACKGROUND)
        heads.mask_head.predictor = Conv2d(256, CLASSES_WITH_BACKGROUND, 1)
    return model


def flops(model: Any) -> tuple[int, int]:
    """Multiply-adds, and elementwise operations as mmdetection v1 counts them."""
    heads = model.roi_heads
    features = model.proposal_generator.in_features
    parts: list[tuple[nn.Module, Callable[[Any], Any]]] = [
        (model.backbone, lambda image: image),
        (model.proposal_generator.rpn_head, lambda maps: [maps[f] for f in features]),
        (heads.box_head, lambda _: torch.empty(BOXES, 256, 7, 7, device="meta")),
        (heads.box_predictor, lambda x: x),
        (
            nn.Sequential(*heads.mask_head.children()),
            lambda _: torch.empty(MASKS, 256, 14, 14, device="meta"),
        ),
    ]
    return products_and_elementwise(parts, (1, 3, *SIZE))


def pairs_of_places() -> int:
    """Multiply-adds of the two L x L products of the NL block in res4."""
    _, channels, height, width = RES4
    convolutions = 4 * height * width * channels * channels // 2
    return products(partial(NonLocal, channels=channels), RES4) - convolutions


def tables() -> list[Table]:
    """COCO, then the blocks."""
    return [_coco(), _blocks()]


def _coco() -> Table:
    rows = []
    for name, suffix, size, published in COCO:
        model = mask_rcnn(suffix)
        count = sum(p.numel() for p in model.parameters())
        rows.append(Row(name, "M parameters", size, count / M))
        here, elementwise = flops(model)
        lines = [("norms (2 an element), ReLUs, biases, pooling (1)", elementwise / G)]
        if suffix == "_nl":
            lines.append(("the L x L products, which it misses", -pairs_of_places() / G))
        rows.append(Row(name, "G multiply-adds", published, here / G, lines))
    return Table("GCNet (Cao et al. 2019), COCO", "slides", rows, NOTE)


def _blocks() -> Table:
    rows = [
        Row(f"{name}, C = {c}", "parameters", published, parameters(partial(layer, channels=c)))
        for name, layer, numbers in BLOCKS
        for c, published in zip(CHANNELS, numbers, strict=True)
    ]
    source = "GC, NL: layers of the released code of Cao et al. 2019; SE: of Hu et al. 2018"
    return Table("Parameters of a block", source, rows)
