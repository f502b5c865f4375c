"""Tiny stock and relational models, and a batch to feed them."""

from __future__ import annotations

from functools import cache
from typing import Any

import torch
from detectron2.layers import ShapeSpec
from detectron2.modeling import build_model, build_roi_heads
from detectron2.modeling.roi_heads import FastRCNNOutputLayers
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
SMALL_SGRN = ("MODEL.SGRN.GRAPH_DIMS", [32, 16], "MODEL.SGRN.LATENT_DIM", 16)
SGRN = ("MODEL.ROI_HEADS.NAME", "SGRNROIHeads", *SMALL_SGRN)
C4_SGRN = (*C4, "MODEL.ROI_HEADS.NAME", "Res5SGRNROIHeads", *SMALL_SGRN)
SMALL_REASONING_RCNN = (
    "MODEL.REASONING_RCNN.CHANNELS", 16,
    "MODEL.REASONING_RCNN.SQUEEZE_CHANNELS", 8,
)  # fmt: skip
REASONING_RCNN = ("MODEL.ROI_HEADS.NAME", "ReasoningRCNNROIHeads", *SMALL_REASONING_RCNN)
C4_REASONING_RCNN = (
    *C4, "MODEL.ROI_HEADS.NAME", "Res5ReasoningRCNNROIHeads", *SMALL_REASONING_RCNN,
)  # fmt: skip
SMALL_REASONING = (
    "MODEL.REASONING.LOCAL.CHANNELS", 8,
    "MODEL.REASONING.LOCAL.FC_DIM", 16,
    "MODEL.REASONING.LOCAL.INIT_SIZE", [4, 4],
    "MODEL.REASONING.GLOBAL.CHANNELS", 8,
)  # fmt: skip
REASONING = ("MODEL.ROI_HEADS.NAME", "ReasoningROIHeads", *SMALL_REASONING)
C4_REASONING = (*C4, "MODEL.ROI_HEADS.NAME", "Res5ReasoningROIHeads", *SMALL_REASONING)
CASCADE = (
    "MODEL.ROI_HEADS.NAME", "CascadeROIHeads",
    "MODEL.ROI_BOX_HEAD.CLS_AGNOSTIC_BBOX_REG", True,
)  # fmt: skip
CASCADE_RELATION = (*CASCADE, "MODEL.ROI_HEADS.NAME", "CascadeRelationROIHeads")
CASCADE_SGRN = (*CASCADE, "MODEL.ROI_HEADS.NAME", "CascadeSGRNROIHeads", *SMALL_SGRN)
CASCADE_REASONING_RCNN = (
    *CASCADE, "MODEL.ROI_HEADS.NAME", "CascadeReasoningRCNNROIHeads", *SMALL_REASONING_RCNN,
)  # fmt: skip
CASCADE_REASONING = (*CASCADE, "MODEL.ROI_HEADS.NAME", "CascadeReasoningROIHeads", *SMALL_REASONING)
# Stride 8, for the classes of `registered_labels(tiny_coco(...))`.
SEM_SEG = (
    "MODEL.META_ARCHITECTURE", "SemanticSegmentor",
    "MODEL.BACKBONE.NAME", "build_resnet_deeplab_backbone",
    "MODEL.RESNETS.STEM_TYPE", "basic",
    "MODEL.RESNETS.OUT_FEATURES", ["res5"],
    "MODEL.RESNETS.RES4_DILATION", 2,
    "MODEL.RESNETS.RES5_DILATION", 4,
    "MODEL.SEM_SEG_HEAD.NAME", "GloReFCNHead",
    "MODEL.SEM_SEG_HEAD.IN_FEATURES", ["res5"],
    "MODEL.SEM_SEG_HEAD.NUM_CLASSES", 4,
    "MODEL.SEM_SEG_HEAD.CONVS_DIM", 32,
    "MODEL.SEM_SEG_HEAD.NORM", "BN",
    "MODEL.GLORE_HEAD.NUM_NODES", 8,
)  # fmt: skip
REFINE = ("MODEL.SGRN.REFINE", True)
RCNN_REFINE = ("MODEL.REASONING_RCNN.REFINE", True)
NO_GRAPH = ("MODEL.SGRN.GRAPH_DIMS", [])
MASK = ("MODEL.MASK_ON", True, "MODEL.ROI_MASK_HEAD.NAME", "MaskRCNNConvUpsampleHead",
        "MODEL.ROI_MASK_HEAD.NUM_CONV", 1, "MODEL.ROI_MASK_HEAD.CONV_DIM", 8)  # fmt: skip
KEYPOINT = ("MODEL.KEYPOINT_ON", True, "MODEL.ROI_KEYPOINT_HEAD.CONV_DIMS", [8],
            "MODEL.ROI_KEYPOINT_HEAD.NUM_KEYPOINTS", 3)  # fmt: skip
# Learned region features in the box branch.
SMALL_REGIONS = (
    "MODEL.REGION_FEATURES.EMBED_DIM", 8,
    "MODEL.REGION_FEATURES.DIM", 4,
    "MODEL.REGION_FEATURES.INSIDE", 3,
    "MODEL.REGION_FEATURES.AROUND", 2,
)  # fmt: skip
REGIONS = ("MODEL.REGION_FEATURES.BRANCHES", ["box"], *SMALL_REGIONS)
# What the backbones of these models give, FPN's and C4's.
SHAPES = {
    **{f"p{k}": ShapeSpec(channels=32, stride=2**k) for k in (2, 3, 4, 5)},
    "res4": ShapeSpec(channels=128, stride=16),
}
SIZES = ((64, 96), (64, 96))  # of images whose features need no padding


def config(*opts: Any) -> Any:
    """The config of a tiny model; relation modules get 4 heads of 8 channels unless `opts` says
    otherwise."""
    cfg = _tiny_config().clone()
    cfg.merge_from_list(list(opts))
    return cfg


@cache
def _tiny_config() -> Any:
    return tiny_cfg([], [], NUM_CLASSES, "unused", SMALL_RELATION, base=get_cfg())


def build(*opts: Any, settle: bool = True) -> nn.Module:
    """A tiny model from seed 0, in training mode, on the CPU.

    Args:
        opts: keys and values.
        settle: sets the statistics of the batch normalisations from one batch; without it an
            untrained ResNet overflows in evaluation mode.
    """
    torch.manual_seed(0)
    model = build_model(config(*opts))
    norms = [m for m in model.modules() if isinstance(m, nn.BatchNorm2d)]
    if settle:
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
    without_threshold(model.eval())
    with torch.no_grad():
        return [out["instances"] for out in model(batch() if inputs is None else inputs)]


def without_threshold(model: nn.Module) -> None:
    """Lets every score pass in all box predictors of `model`."""
    for module in model.modules():
        if isinstance(module, FastRCNNOutputLayers):
            module.test_score_thresh = 0.0


def box_regions(model: nn.Module, train: bool = True) -> Any:
    """The `Regions` that the relation modules of `model` see in one step."""
    from relation_heads.layers import ObjectRelation

    seen = []
    module = next(m for m in model.modules() if isinstance(m, ObjectRelation))
    handle = module.register_forward_pre_hook(lambda _, args: seen.append(args[1]))
    losses(model) if train else detections(model)
    handle.remove()
    return seen[0]


# ---- ROI heads alone: a few milliseconds, where a whole model takes a tenth of a second ----


def build_heads(*opts: Any) -> nn.Module:
    """The ROI heads of a tiny model, from seed 0, in training mode."""
    torch.manual_seed(0)
    return build_roi_heads(config(*opts), SHAPES)


def maps(images: int = 2, requires_grad: bool = False) -> dict[str, torch.Tensor]:
    """Noise in place of a backbone's features of `SIZES`."""
    generator = torch.Generator().manual_seed(5)
    height, width = SIZES[0]
    found = {}
    for name, shape in SHAPES.items():
        size = (images, shape.channels, height // shape.stride, width // shape.stride)
        found[name] = torch.randn(size, generator=generator).requires_grad_(requires_grad)
    return found


def scattered(counts: tuple[int, ...] = (20, 20)) -> list[Instances]:
    """That many proposals anywhere in images of `SIZES`."""
    generator = torch.Generator().manual_seed(3)
    height, width = SIZES[0]
    proposals = []
    for count in counts:
        corners = torch.rand(count, 2, 2, generator=generator) * torch.tensor(
            [width - 6.0, height - 6.0]
        )
        per_image = Instances((height, width))
        per_image.proposal_boxes = Boxes(torch.cat([corners.amin(1), corners.amax(1) + 6], dim=1))
        per_image.objectness_logits = torch.zeros(count)
        proposals.append(per_image)
    return proposals


def head_losses(
    heads: nn.Module,
    proposals: list[Instances] | None = None,
    targets: list[Instances] | None = None,
    features: dict[str, torch.Tensor] | None = None,
) -> dict[str, torch.Tensor]:
    """The losses of ROI heads in one training step, from a fixed state of the random sampler."""
    proposals = scattered() if proposals is None else proposals
    targets = [x["instances"] for x in batch(SIZES)] if targets is None else targets
    features = maps(len(proposals)) if features is None else features
    torch.manual_seed(2)
    with EventStorage():
        return heads.train()(None, features, proposals, targets)[1]


def head_detections(
    heads: nn.Module,
    proposals: list[Instances] | None = None,
    features: dict[str, torch.Tensor] | None = None,
) -> list[Instances]:
    """What ROI heads find, without a score threshold."""
    proposals = scattered() if proposals is None else proposals
    without_threshold(heads.eval())
    with torch.no_grad():
        return heads(None, maps(len(proposals)) if features is None else features, proposals)[0]


def assert_same_detections(
    ours: list[Instances], theirs: list[Instances], **tolerance: float
) -> None:
    """Compares what two models found, at least one object in every image."""
    for a, b in zip(ours, theirs, strict=True):
        assert a.get_fields().keys() == b.get_fields().keys()
        assert len(a) == len(b) > 0
        for name in ("scores", "pred_classes"):
            torch.testing.assert_close(a.get(name), b.get(name), **tolerance)
        # pixels: one float32 step is 8e-6 of a coordinate near 100
        pixels = {**tolerance, "atol": 10 * tolerance["atol"]}
        torch.testing.assert_close(a.pred_boxes.tensor, b.pred_boxes.tensor, **pixels)


def assert_batch_equals_image_by_image(
    heads: nn.Module, proposals: list[Instances], features: dict[str, torch.Tensor]
) -> None:
    """ROI heads find the same in two images together as in each of them alone."""
    both = head_detections(heads, proposals, features)
    alone = [
        head_detections(heads, [p], {k: v[i : i + 1] for k, v in features.items()})[0]
        for i, p in enumerate(proposals)
    ]
    assert_same_detections(both, alone, rtol=0, atol=1e-5)


def calls(module: nn.Module) -> list[tuple[Any, Any]]:
    """A list that grows by (arguments, result) with every call of `module`."""
    seen: list[tuple[Any, Any]] = []
    module.register_forward_hook(lambda _, args, result: seen.append((args, result)))
    return seen


def results(owner: Any, name: str, patch: Any = None) -> list[tuple[Any, Any]]:
    """A list that grows by (arguments, result) with every call of a method of `owner`, or of a
    function of a module, which `patch`, pytest's `monkeypatch`, puts back."""
    method = getattr(owner, name)
    seen: list[tuple[Any, Any]] = []

    def recorded(*args: Any) -> Any:
        seen.append((args, method(*args)))
        return seen[-1][1]

    (patch.setattr if patch else setattr)(owner, name, recorded)
    return seen


def gradients(heads: nn.Module, **options: Any) -> dict[str, torch.Tensor | None]:
    """Gradients of all parameters by the sum of all losses; `options` are of `head_losses`."""
    heads.zero_grad()
    sum(head_losses(heads, **options).values()).backward()
    return {name: parameter.grad for name, parameter in heads.named_parameters()}


def second_stage_gradients(heads: nn.Module, *names: str) -> list[torch.Tensor]:
    """Gradients of parameters of SGRN heads from the second stage's losses alone, 0 for none."""
    result = head_losses(heads)
    heads.zero_grad()
    sum(value for name, value in result.items() if name.endswith("_sgrn")).backward()
    parameters = [heads.get_parameter(n) for n in names]
    return [torch.zeros_like(p) if p.grad is None else p.grad for p in parameters]
