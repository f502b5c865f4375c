"""The predictor of a detector of 3000 classes with boxes per class, against Detectron2's."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from functools import partial

import torch
from detectron2.layers import ShapeSpec
from detectron2.modeling.box_regression import Box2BoxTransform
from detectron2.modeling.roi_heads import FastRCNNOutputLayers
from detectron2.structures import Boxes, Instances
from detectron2.utils.events import EventStorage
from torch import Tensor, nn

from relation_heads.modeling.many_classes import ManyBoxesOutputLayers

from ..case import OURS, Case, Target, Variant

CLASSES, CHANNELS, WIDTH, HEIGHT = 3000, 1024, 1333, 800
STOCK = "stock Detectron2"
PIXELS = 1e-3  # boxes that differ by less are the same: float32 products of other shapes


def _predictors(device: str, **options: float) -> dict[str, nn.Module]:
    """Ours and Detectron2's with the same parameters."""
    torch.manual_seed(0)
    stock, ours = (
        form(
            ShapeSpec(channels=CHANNELS),
            box2box_transform=Box2BoxTransform((10.0, 10.0, 5.0, 5.0)),
            num_classes=CLASSES,
            **options,
        ).to(device)
        for form in (FastRCNNOutputLayers, ManyBoxesOutputLayers)
    )
    ours.load_state_dict(stock.state_dict())
    return {OURS: ours, STOCK: stock}


def _proposals(count: int, seed: int, device: str) -> Instances:
    """Boxes of 16 to 400 pixels, a quarter of them matched to an object nearby."""
    generator = torch.Generator().manual_seed(seed)
    center = torch.rand(count, 2, generator=generator) * torch.tensor([WIDTH, HEIGHT])
    side = 16 * torch.exp(torch.rand(count, 2, generator=generator) * math.log(25.0))
    boxes = Boxes(torch.cat([center - side / 2, center + side / 2], dim=1))
    boxes.clip((HEIGHT, WIDTH))
    labels = torch.full((count,), CLASSES)
    labels[: count // 4] = torch.randint(CLASSES, (count // 4,), generator=generator)
    objects = boxes.tensor + torch.randn(count, 4, generator=generator) * 3
    return Instances(
        (HEIGHT, WIDTH), proposal_boxes=boxes, gt_classes=labels, gt_boxes=Boxes(objects)
    ).to(device)


def _training(device: str) -> Case:
    """One step on 2 images of 512 regions."""
    predictors = _predictors(device, smooth_l1_beta=1.0)
    for predictor in predictors.values():
        nn.init.normal_(predictor.bbox_pred.weight, std=0.05, generator=_seeded(device))
    proposals = [_proposals(512, seed, device) for seed in (1, 2)]
    x = torch.randn(1024, CHANNELS, generator=_seeded(device), device=device, requires_grad=True)

    def step(predictor: nn.Module) -> list[Tensor]:
        with EventStorage():
            losses = predictor.losses(predictor(x), proposals)
        inputs = [x, *predictor.parameters()]
        values = [value.detach() for value in losses.values()]
        return [*values, *torch.autograd.grad(sum(losses.values()), inputs)]

    def errors() -> dict[str, float]:
        ours, stock = (step(p) for p in (predictors[OURS], predictors[STOCK]))
        differences = [
            float((a - b).double().norm() / b.double().norm())
            for a, b in zip(ours, stock, strict=True)
        ]
        return {"losses": max(differences[:2]), "gradients": max(differences[2:])}

    return Case(
        variants={name: Variant(None, partial(step, p)) for name, p in predictors.items()},
        target=Target(
            backward=4.2, backward_memory=0.75, errors={"losses": 1e-6, "gradients": 1e-6}
        ),
        errors=errors,
    )


def _seeded(device: str) -> torch.Generator:
    return torch.Generator(device).manual_seed(0)


def _selection(device: str, *, score_threshold: float, limit: int, faster: float) -> Case:
    """The detections of one image of 1000 regions, from their features."""
    predictors = _predictors(device, test_score_thresh=score_threshold, test_topk_per_image=limit)
    for predictor in predictors.values():  # scores as of a trained detector: few are far from 0
        with torch.no_grad():
            predictor.cls_score.weight.mul_(100 * 2.6 / 32)
            predictor.cls_score.bias[-1] += 8.0
            predictor.bbox_pred.weight.mul_(20)
    proposals = [_proposals(1000, 3, device)]
    x = torch.randn(1000, CHANNELS, generator=_seeded(device), device=device)

    def detect(predictor: nn.Module) -> tuple[list[Instances], list[Tensor]]:
        return predictor.inference(predictor(x), proposals)

    @torch.no_grad()
    def errors() -> Mapping[str, float]:
        return {"differing detections": _differing(*(detect(p) for p in predictors.values()))}

    return Case(
        variants={name: Variant(partial(detect, p)) for name, p in predictors.items()},
        target=Target(forward=faster, forward_memory=1 / 3, errors={"differing detections": 0.0}),
        errors=errors,
    )


def _differing(
    ours: tuple[list[Instances], list[Tensor]], stock: tuple[list[Instances], list[Tensor]]
) -> int:
    """How many of one image's detections differ in region, class, score or box."""
    ((a,), (regions,)), ((b,), (expected,)) = ours, stock
    if len(a) != len(b):
        return max(len(a), len(b))
    is_same = (regions == expected) & (a.pred_classes == b.pred_classes) & (a.scores == b.scores)
    is_same &= ((a.pred_boxes.tensor - b.pred_boxes.tensor).abs() < PIXELS).all(dim=1)
    return int((~is_same).sum())


CASES: dict[str, Callable[[str], Case]] = {
    "3000 classes, training, R=1024": _training,
    **{
        f"3000 classes, detections, R=1000, score > {threshold}": partial(
            _selection, score_threshold=threshold, limit=limit, faster=faster
        )
        for threshold, limit, faster in ((0.05, 100, 5.5), (0.001, 300, 7.0), (0.0, 300, 150.0))
    },
}
