"""Tiny stock and relational models, and a batch to feed them."""

from __future__ import annotations

from typing import Any

import torch
from detectron2.modeling import build_model
from detectron2.structures import BitMasks, Boxes, Instances, Keypoints
from detectron2.utils.events import EventStorage
from torch import nn

from relation_heads import get_cfg
from tests.helpers import tiny_cfg

NUM_CLASSES = 5
SMALL_RELATION = (
    "MODEL.RELATION.NUM_HEADS", 4,
    "MODEL.RELATION.KEY_DIM", 8,
    "MODEL.RELATION.INIT", "xavier",  # the default starts as the stock head
)  # fmt: skip
STOCK, RELATION = (), ("MODEL.ROI_HEADS.NAME", "RelationROIHeads")
C4 = (
    "MODEL.BACKBONE.NAME", "build_resnet_backbone",
    "MODEL.RESNETS.DEPTH", 50,
    "MODEL.RESNETS.RES2_OUT_CHANNELS", 32,
    "MODEL.RESNETS.WIDTH_PER_GROUP", 8,
    "MODEL.RESNETS.OUT_FEATURES", ["res4"],
    "MODEL.RPN.IN_FEATURES", ["res4"],
    "MODEL.ANCHOR_GENERATOR.SIZES", [[16, 32, 64]],
    "MODEL.ROI_HEADS.NAME", "Res5ROIHeads",
    "MODEL.ROI_HEADS.IN_FEATURES", ["res4"],
    "MODEL.ROI_BOX_HEAD.NAME", "",
    "MODEL.ROI_BOX_HEAD.NUM_FC", 0,
    "MODEL.ROI_BOX_HEAD.POOLER_RESOLUTION", 6,
)  # fmt: skip
C4_RELATION = (*C4, "MODEL.ROI_HEADS.NAME", "Res5RelationROIHeads")
MASK = ("MODEL.MASK_ON", True, "MODEL.ROI_MASK_HEAD.NAME", "MaskRCNNConvUpsampleHead",
        "MODEL.ROI_MASK_HEAD.NUM_CONV", 1, "MODEL.ROI_MASK_HEAD.CONV_DIM", 8)  # fmt: skip
KEYPOINT = ("MODEL.KEYPOINT_ON", True, "MODEL.ROI_KEYPOINT_HEAD.CONV_DIMS", [8],
            "MODEL.ROI_KEYPOINT_HEAD.NUM_KEYPOINTS", 3)  # fmt: skip


def config(*opts: Any) -> Any:
    """The config of a tiny model; relation modules get 4 heads of 8 channels unless `opts` says
    otherwise."""
    return tiny_cfg([], [], NUM_CLASSES, "unused", (*SMALL_RELATION, *opts), base=get_cfg())


def build(*opts: Any, settle: bool = True) -> nn.Module:
    """A tiny model from seed 0, in training mode, on the CPU.

    Args:
        opts: keys and values.
        settle: sets the statistics of the batch normalisations from one batch; without it an
            untrained ResNet overflows in evaluation mode.
    """
    torch.manual_seed(0)
    model = build_model(config(*opts))
    if settle:
        norms = [m for m in model.modules() if isinstance(m, nn.BatchNorm2d)]
        for norm in norms:
            norm.momentum = 1.0
        with torch.no_grad():
            losses(model)
        for norm in norms:
            norm.momentum = 0.0  # every model of a test keeps the same statistics
    return model


def batch(
    sizes: tuple[tuple[int, int], ...] = ((64, 96), (64, 80)), objects: int = 4
) -> list[dict]:
    """Images of noise of the given (height, width), each with `objects` boxes, masks and three
    keypoints."""
    generator = torch.Generator().manual_seed(1)
    inputs = []
    for height, width in sizes:
        corners = torch.rand(objects, 2, 2, generator=generator) * torch.tensor(
            [width - 8.0, height - 8.0]
        )
        boxes = torch.cat([corners.amin(1), corners.amax(1) + 8], dim=1)
        instances = Instances((height, width))
        instances.gt_boxes = Boxes(boxes)
        instances.gt_classes = torch.randint(NUM_CLASSES, (objects,), generator=generator)
        instances.gt_masks = BitMasks(torch.ones(objects, height, width).bool())
        centers = (boxes[:, :2] + boxes[:, 2:]) / 2
        points = centers[:, None].repeat(1, 3, 1)
        instances.gt_keypoints = Keypoints(
            torch.cat([points, torch.full((objects, 3, 1), 2.0)], dim=2)
        )
        image = torch.randint(0, 256, (3, height, width), generator=generator, dtype=torch.uint8)
        inputs.append({"image": image, "instances": instances, "height": height, "width": width})
    return inputs


def losses(model: nn.Module, inputs: list[dict] | None = None) -> dict[str, torch.Tensor]:
    """The losses of one training step, from a fixed state of the random sampler."""
    torch.manual_seed(2)
    with EventStorage():
        return model.train()(batch() if inputs is None else inputs)


def detections(model: nn.Module, inputs: list[dict] | None = None) -> list[Instances]:
    """What the model finds; no score threshold, so that an untrained model finds something."""
    model.eval()
    predictor = model.roi_heads.box_predictor
    predictor.test_score_thresh = 0.0
    with torch.no_grad():
        return [out["instances"] for out in model(batch() if inputs is None else inputs)]


def box_regions(model: nn.Module, train: bool = True) -> Any:
    """The `Regions` that the relation modules of `model` see in one step."""
    from relation_heads.layers import ObjectRelation

    seen = []
    module = next(m for m in model.modules() if isinstance(m, ObjectRelation))
    handle = module.register_forward_pre_hook(lambda _, args: seen.append(args[1]))
    losses(model) if train else detections(model)
    handle.remove()
    return seen[0]
