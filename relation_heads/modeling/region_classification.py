"""Region classification (Chen et al., CVPR 2018): boxes are given, only their classes are asked.

The proposals are the boxes of the data set (see `data.region_mapper`): nothing is matched, sampled,
regressed or suppressed, the background has no logit, and every box comes back with its
`region_ids`. The mechanism is iterative reasoning (MODULES [] leaves it out), and the box head may
have relation modules. Shapes: N boxes of all images, R of one, C classes.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import torch
import torch.nn.functional as F
from detectron2.config import CfgNode
from detectron2.layers import ShapeSpec
from detectron2.modeling.roi_heads import ROI_HEADS_REGISTRY
from detectron2.structures import ImageList, Instances

from ..config.problems import Problem
from .region_pooler import within_images
from .roi_heads.end import End
from .roi_heads.heads import RelationalROIHeads, Res5RelationalROIHeads
from .roi_heads.reasoning import ReasoningMechanism
from .roi_heads.seam import Classified, Losses, Maps, Shapes


@dataclass(frozen=True, eq=False)
class GivenBoxes(Classified):
    """A classification without background: logits (N, C)."""

    def losses(self) -> Losses:
        """`loss_cls`, the mean cross-entropy."""
        labels = torch.cat([p.gt_classes for p in self.proposals])
        loss = F.cross_entropy(self.logits, labels, reduction="sum") / max(len(labels), 1)
        return {"loss_cls": loss}


class EveryBox(End):
    """Ends region classification: no box is suppressed."""

    key = ""

    @classmethod
    def build(cls, cfg: CfgNode, dim: int) -> End:
        return cls()

    @classmethod
    def problems(cls, cfg: CfgNode) -> Iterator[Problem]:
        yield from ()

    def forward(self, last: Classified) -> list[Instances]:
        """Every box of each image, with the probabilities of its classes."""
        named = {"": last.logits, **(last.named or {"plain": last.logits})}
        found = []
        for given in last.proposals:
            result = Instances(given.image_size)
            result.pred_boxes = given.proposal_boxes
            result.region_ids = given.region_ids
            found.append(result)
        for name, logits in named.items():
            probabilities = last.regions.split(logits.float().softmax(dim=1))
            for result, per_image in zip(found, probabilities, strict=True):
                result.set(f"class_probs_{name}".rstrip("_"), per_image)
        for result in found:
            result.scores, result.pred_classes = result.class_probs.max(dim=1)
        return found


class RegionClassification:
    """Mix-in before the ROI heads of this package."""

    classifies_given_boxes = True
    mechanism_class = ReasoningMechanism
    end_class = EveryBox

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.box_predictor.bbox_pred.requires_grad_(False)  # nothing is regressed

    @classmethod
    def _shapes(
        cls, cfg: CfgNode, args: dict[str, Any], input_shape: dict[str, ShapeSpec]
    ) -> Shapes:
        shapes = super()._shapes(cfg, args, input_shape)
        return replace(shapes, num_logits=cfg.MODEL.ROI_HEADS.NUM_CLASSES)

    @classmethod
    def problems(cls, cfg: CfgNode) -> Iterator[Problem]:
        """What is wrong with the keys that these heads read."""
        yield from super().problems(cfg)
        for key, value, allowed in (
            (
                "PROPOSAL_GENERATOR.NAME",
                cfg.MODEL.PROPOSAL_GENERATOR.NAME,
                "PrecomputedProposals",
            ),
            ("MASK_ON", cfg.MODEL.MASK_ON, False),
            ("KEYPOINT_ON", cfg.MODEL.KEYPOINT_ON, False),
        ):
            if value != allowed:
                yield Problem(
                    f"MODEL.{key} must be {allowed} where MODEL.ROI_HEADS.NAME is {cls.__name__}, "
                    f"which classifies the boxes of the data set; got {value} (see "
                    "configs/heads/given_boxes.yaml)."
                )

    def forward(
        self,
        images: ImageList,
        features: Maps,
        proposals: list[Instances],
        targets: list[Instances] | None = None,
    ) -> tuple[list[Instances], Losses]:
        """Losses in training; else instances with `region_ids`, `class_probs` (R, C) and a field
        `class_probs_<name>` for every prediction of the mechanism."""
        with within_images(self, proposals):
            x = self._embed(features, proposals)
        logits, second = self.box_predictor(x)
        logits = logits[:, : self.num_classes]  # (N, C)
        base = GivenBoxes(x, self.box_predictor, (logits, second), proposals)
        found = self._conclude(base, features, targets)
        return ([], found) if self.training else (found, {})


@ROI_HEADS_REGISTRY.register()
class RegionClassificationROIHeads(RegionClassification, RelationalROIHeads):
    """FPN, DC5, C5."""


@ROI_HEADS_REGISTRY.register()
class Res5RegionClassificationROIHeads(RegionClassification, Res5RelationalROIHeads):
    """C4."""
