"""Images and their classes: a backbone, the mean of its last map, one linear layer.

    MODEL:
      META_ARCHITECTURE: ImageClassifier
      CLASSIFIER:
        NUM_CLASSES: 200

The backbone is the one that `MODEL.BACKBONE` describes for a detector, and its parameters have the
names that they have there. So the checkpoint is `MODEL.WEIGHTS` of a detector with the same
`MODEL.BACKBONE`: the log then says that `classifier` is not in the model, and that the rest of the
detector is new. Of an FPN, and of the C5 backbone, only the network below is built: its parameters
are `backbone.bottom_up.*`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from detectron2.config import CfgNode, configurable
from detectron2.modeling import META_ARCH_REGISTRY, Backbone, build_backbone
from detectron2.structures import ImageList
from torch import nn

from ..config.defaults import node
from ..config.problems import Problem


@META_ARCH_REGISTRY.register()
class ImageClassifier(nn.Module):
    """`MODEL.META_ARCHITECTURE ImageClassifier`. Shapes: n images, K classes."""

    @configurable
    def __init__(
        self,
        *,
        backbone: Backbone,
        num_classes: int,
        pixel_mean: Sequence[float],
        pixel_std: Sequence[float],
    ) -> None:
        """
        Args:
            backbone: of a detector; the last of its maps is classified.
            num_classes: K.
            pixel_mean, pixel_std: by channel; images are normalised as in a detector.
        """
        super().__init__()
        below = getattr(backbone, "bottom_up", None)
        self.backbone = nn.ModuleDict({"bottom_up": below}) if below is not None else backbone
        self.last, shape = list(self.network.output_shape().items())[-1]
        self.classifier = nn.Linear(shape.channels, num_classes)
        nn.init.normal_(self.classifier.weight, std=0.01)
        nn.init.zeros_(self.classifier.bias)
        for name, values in (("pixel_mean", pixel_mean), ("pixel_std", pixel_std)):
            self.register_buffer(name, torch.tensor(values).view(-1, 1, 1), persistent=False)

    @classmethod
    def from_config(cls, cfg: CfgNode) -> dict[str, Any]:
        """Arguments from a config."""
        return {
            "backbone": build_backbone(cfg),
            "num_classes": node(cfg, "CLASSIFIER").NUM_CLASSES,
            "pixel_mean": cfg.MODEL.PIXEL_MEAN,
            "pixel_std": cfg.MODEL.PIXEL_STD,
        }

    @classmethod
    def problems(cls, cfg: CfgNode) -> Iterator[Problem]:
        """What is wrong with the keys that this model reads."""
        keys = node(cfg, "CLASSIFIER")
        if keys.RESIZE < keys.CROP_SIZE:
            yield Problem(
                f"MODEL.CLASSIFIER.RESIZE {keys.RESIZE} must be at least "
                f"MODEL.CLASSIFIER.CROP_SIZE {keys.CROP_SIZE}, which is cut out of it."
            )

    @property
    def network(self) -> Backbone:
        """What the image runs through, without an FPN."""
        return self.backbone["bottom_up"] if hasattr(self.backbone, "keys") else self.backbone

    @property
    def device(self) -> torch.device:
        """Where the model is."""
        return self.pixel_mean.device

    def forward(self, batched_inputs: Sequence[Mapping[str, Any]]) -> Any:
        """
        Args:
            batched_inputs: of `data.image_classes.ImageClassMapper`.

        Returns:
            in training {"loss_cls": the mean cross-entropy}; else a {"class_probs": (K,)} for each
            image.
        """
        images = self.preprocess_image(batched_inputs)
        logits = self.classifier(self.network(images.tensor)[self.last].mean(dim=(2, 3)))  # (n, K)
        if not self.training:
            return [{"class_probs": probs} for probs in logits.float().softmax(dim=1)]
        labels = torch.tensor([x["label"] for x in batched_inputs], device=self.device)
        return {"loss_cls": F.cross_entropy(logits.float(), labels)}

    def preprocess_image(self, batched_inputs: Sequence[Mapping[str, Any]]) -> ImageList:
        """Normalised and padded, as `GeneralizedRCNN` does it."""
        images = [
            (x["image"].to(self.device) - self.pixel_mean) / self.pixel_std for x in batched_inputs
        ]
        return ImageList.from_tensors(
            images,
            self.network.size_divisibility,
            padding_constraints=self.network.padding_constraints,
        )
