"""The model of any config with its structure, but so narrow that a CPU trains a step in a moment.

    cfg = shrink(cfg)
    model, inputs = build_model(cfg), images(cfg)
    settle(model, inputs)

Levels, stages of a cascade, deformable and grouped convolutions, norms, heads and ends stay;
widths, depths, classes, anchors and numbers of regions become small. The images are noise.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from detectron2.config import CfgNode
from detectron2.modeling.roi_heads import FastRCNNOutputLayers
from detectron2.structures import BitMasks, Boxes, Instances, Keypoints
from torch import nn

WIDTH = 16  # of FPN and of convolutions in heads
GROUP_NORM_WIDTH = 32  # Detectron2's group norm has 32 groups
# Numbers that become at most this.
LIMITS = {
    "MODEL.ROI_HEADS.NUM_CLASSES": 8,
    "MODEL.RETINANET.NUM_CLASSES": 8,
    "MODEL.RETINANET.NUM_CONVS": 1,
    "MODEL.SEM_SEG_HEAD.NUM_CLASSES": 5,
    "MODEL.RPN.PRE_NMS_TOPK_TRAIN": 100,
    "MODEL.RPN.PRE_NMS_TOPK_TEST": 100,
    "MODEL.RPN.POST_NMS_TOPK_TRAIN": 40,
    "MODEL.RPN.POST_NMS_TOPK_TEST": 40,
    "MODEL.ROI_HEADS.BATCH_SIZE_PER_IMAGE": 24,
    "MODEL.ROI_BOX_HEAD.NUM_CONV": 1,
    "MODEL.ROI_BOX_HEAD.FC_DIM": 32,
    "MODEL.ROI_MASK_HEAD.NUM_CONV": 1,
    "MODEL.RELATION.KEY_DIM": 4,
    "MODEL.SGRN.LATENT_DIM": 16,
    "MODEL.REASONING.LOCAL.CHANNELS": 8,
    "MODEL.REASONING.LOCAL.FC_DIM": 16,
    "MODEL.REASONING.GLOBAL.CHANNELS": 8,
    "MODEL.REASONING.GLOBAL.EMBEDDING_DIM": 8,
    "MODEL.GLORE_HEAD.NUM_NODES": 8,
    "TEST.DETECTIONS_PER_IMAGE": 20,
    "INPUT.MIN_SIZE_TEST": 64,
    "DATALOADER.NUM_WORKERS": 0,
    "SOLVER.IMS_PER_BATCH": 2,
}


def shrink(cfg: CfgNode) -> CfgNode:
    """A narrow copy of a config, unfrozen. It starts from random weights: `MODEL.WEIGHTS` is "".

    Where the federated loss needs the frequencies of all classes, their number stays.
    """
    cfg = cfg.clone()
    cfg.defrost()
    federated = cfg.MODEL.ROI_BOX_HEAD.USE_FED_LOSS
    for key, limit in LIMITS.items():
        *path, name = key.split(".")
        node = cfg
        for part in path:
            node = node.get(part, {})
        if name in node and not (federated and key == "MODEL.ROI_HEADS.NUM_CLASSES"):
            node[name] = min(node[name], limit)
    cfg.MODEL.WEIGHTS = ""
    cfg.INPUT.MIN_SIZE_TRAIN = (64,)
    sizes = cfg.MODEL.ANCHOR_GENERATOR.SIZES
    cfg.MODEL.ANCHOR_GENERATOR.SIZES = [[side / 4 for side in level] for level in sizes]
    if any(cfg.MODEL.RESNETS.DEFORM_ON_PER_STAGE):
        cfg.MODEL.BACKBONE.FREEZE_AT = 5  # Detectron2's deformable convolution has no CPU backward
    _shrink_resnet(cfg.MODEL.RESNETS)
    _shrink_heads(cfg.MODEL)
    return cfg


def _shrink_resnet(node: CfgNode) -> None:
    """R18 and R34 keep the width that Detectron2 allows them; others become a narrow R50."""
    if node.DEPTH <= 34:
        return
    narrow = GROUP_NORM_WIDTH if node.NORM == "GN" else 8
    node.DEPTH = 50
    node.NUM_GROUPS = min(node.NUM_GROUPS, 4)
    node.WIDTH_PER_GROUP = narrow // node.NUM_GROUPS
    node.STEM_OUT_CHANNELS = max(16, narrow)
    node.RES2_OUT_CHANNELS = 2 * node.STEM_OUT_CHANNELS  # not the same: res2 keeps its shortcut


def _shrink_heads(model: CfgNode) -> None:
    """FPN, the convolutions of the heads and the graph layers of SGRN."""
    for node, name in (
        (model.FPN, "OUT_CHANNELS"),
        (model.SEM_SEG_HEAD, "CONVS_DIM"),
        (model.ROI_BOX_HEAD, "CONV_DIM"),
        (model.ROI_MASK_HEAD, "CONV_DIM"),
    ):
        node[name] = GROUP_NORM_WIDTH if node.NORM == "GN" else WIDTH
    model.RPN.CONV_DIMS = [-1 if dim == -1 else WIDTH for dim in model.RPN.CONV_DIMS]
    model.ROI_KEYPOINT_HEAD.CONV_DIMS = [8] * min(2, len(model.ROI_KEYPOINT_HEAD.CONV_DIMS))
    if "SGRN" in model:
        layers = len(model.SGRN.GRAPH_DIMS)
        model.SGRN.GRAPH_DIMS = [16] * layers  # two channels for each of eight kernels
    if "REASONING" in model:
        model.REASONING.LOCAL.INIT_SIZE = [4, 4]


def images(
    cfg: CfgNode,
    sizes: Sequence[tuple[int, int]] = ((64, 96), (80, 64)),
    *,
    objects: int = 4,
    seed: int = 0,
) -> list[dict[str, Any]]:
    """What a data loader gives for images of noise, with all labels that the model could ask for.

    Args:
        cfg: the config of the model, shrunk.
        sizes: (height, width) of every image in pixels.
        objects: in every image.
        seed: of pixels, boxes and classes.
    """
    generator = torch.Generator().manual_seed(seed)
    proposals = cfg.MODEL.RPN.POST_NMS_TOPK_TEST
    given = cfg.MODEL.LOAD_PROPOSALS
    inputs = []
    for height, width in sizes:
        labels = Instances((height, width))
        labels.gt_boxes = _boxes(objects, (height, width), generator)
        labels.gt_classes = torch.randint(
            cfg.MODEL.ROI_HEADS.NUM_CLASSES, (objects,), generator=generator
        )
        labels.gt_masks = BitMasks(torch.ones(objects, height, width, dtype=torch.bool))
        points = cfg.MODEL.ROI_KEYPOINT_HEAD.NUM_KEYPOINTS
        centers = labels.gt_boxes.get_centers()[:, None].expand(-1, points, -1)  # (R, points, 2)
        visible = torch.full((objects, points, 1), 2.0)
        labels.gt_keypoints = Keypoints(torch.cat([centers, visible], dim=2))
        pixels = torch.randint(0, 256, (3, height, width), generator=generator, dtype=torch.uint8)
        image = {"image": pixels, "instances": labels, "height": height, "width": width}
        image["sem_seg"] = torch.randint(
            cfg.MODEL.SEM_SEG_HEAD.NUM_CLASSES, (height, width), generator=generator
        )
        if given:
            image["proposals"] = Instances((height, width))
            image["proposals"].proposal_boxes = _boxes(proposals, (height, width), generator)
            image["proposals"].objectness_logits = torch.zeros(proposals)
        inputs.append(image)
    return inputs


def _boxes(count: int, size: tuple[int, int], generator: torch.Generator) -> Boxes:
    """(count, 4) boxes of at least 8 pixels on a side in an image of (height, width) `size`."""
    room = torch.tensor([size[1] - 8.0, size[0] - 8.0])
    corners = torch.rand(count, 2, 2, generator=generator) * room
    return Boxes(torch.cat([corners.amin(1), corners.amax(1) + 8], dim=1))


@torch.no_grad()
def settle(model: nn.Module, inputs: list[dict[str, Any]]) -> None:
    """Makes random weights behave: an untrained ResNet with frozen statistics overflows.

    All batch norms, frozen or not, take their statistics from one pass over `inputs`; box
    predictors get weights that tell regions apart, and let every score pass.
    """
    for module in model.modules():
        if isinstance(module, FastRCNNOutputLayers):
            nn.init.normal_(module.cls_score.weight, std=0.2)
            nn.init.normal_(module.bbox_pred.weight, std=0.05)
            module.test_score_thresh = 0.0
    handles = [
        module.register_forward_pre_hook(_take_statistics)
        for module in model.modules()
        if isinstance(getattr(module, "running_mean", None), torch.Tensor)
    ]
    training = model.training
    model.eval()(inputs)
    model.train(training)
    for handle in handles:
        handle.remove()


def _take_statistics(norm: nn.Module, args: tuple[torch.Tensor, ...]) -> None:
    x = args[0].float()  # (B, C, h, w)
    if x.shape[0]:
        norm.running_mean.copy_(x.mean(dim=[0, 2, 3]))
        norm.running_var.copy_(x.var(dim=[0, 2, 3], unbiased=False))
