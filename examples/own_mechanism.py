"""A mechanism of your own: x and the mean x of the image's other regions, by their probability to
be an object, are classified together. docs/own_mechanism.md walks through it."""

from dataclasses import replace

import torch
from detectron2.layers import ShapeSpec
from detectron2.modeling.roi_heads import ROI_HEADS_REGISTRY, FastRCNNOutputLayers

from relation_heads.modeling import roi_heads


class MeanOfOthers(roi_heads.Mechanism):
    sampling, gt_as_keys = "loss", False  # it sees all proposals, as at test time
    num_classifications = 2  # train x, which gets the mean of their gradients

    def __init__(self, predictor):
        super().__init__()
        self.predictor = predictor

    @classmethod
    def build(cls, cfg, shapes):
        return cls(FastRCNNOutputLayers(cfg, ShapeSpec(channels=2 * shapes.dim)))

    def forward(self, base, maps, embed, targets=None):
        regions, w = base.regions, 1 - base.logits.detach().softmax(dim=1)[:, -1:]  # (N, 1)
        if regions.is_key is not None:  # ground truth, which is not there at test time
            w = w * regions.is_key[:, None]
        means = []
        for x, v in zip(regions.split(base.x), regions.split(w), strict=True):  # (R, D), (R, 1)
            others = (v * x).sum(dim=0) - v * x
            means.append(others / (v.sum() - v).clamp(min=1e-6))
        predictions = self.predictor(torch.cat([base.x, torch.cat(means)], dim=1))
        last = replace(base, predictor=self.predictor, predictions=predictions, name="others")
        return last, {**base.losses(), **last.losses()} if self.training else {}


for form in ("", "Res5", "Cascade"):
    name, heads = f"{form}MeanOfOthersROIHeads", getattr(roi_heads, f"{form}RelationalROIHeads")
    ROI_HEADS_REGISTRY.register(type(name, (heads,), {"mechanism_class": MeanOfOthers}))
