"""Features of given boxes: one pass of a frozen backbone over a registered data set.

    image -> backbone -> maps of several strides
    each map -> RoIAlign of every box, 7 x 7 bins -> mean over the bins;  of all maps concatenated

The feature of a whole image is that of a box that covers it. `feature_files` keeps them.

Shapes: I images, N boxes of all of them, C channels of all maps.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from detectron2.config import CfgNode
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data import transforms as T
from detectron2.modeling.poolers import ROIPooler
from detectron2.structures import Boxes, ImageList
from torch import Tensor, nn
from tqdm import tqdm

from ...data.region_mapper import RegionClassificationMapper
from ..labelled import require_registered
from .data import BoxFeatures, digest

# What of a config a feature depends on, beside the weights.
KEYS = (
    "MODEL.BACKBONE.NAME", "MODEL.PIXEL_MEAN", "MODEL.PIXEL_STD", "INPUT.FORMAT",
    "INPUT.MIN_SIZE_TEST", "INPUT.MAX_SIZE_TEST", "MODEL.ROI_BOX_HEAD.POOLER_RESOLUTION",
    "MODEL.ROI_BOX_HEAD.POOLER_SAMPLING_RATIO", "MODEL.ROI_BOX_HEAD.POOLER_TYPE",
)  # fmt: skip


class BoxPooler:
    """Features of boxes from all maps of a backbone."""

    def __init__(self, cfg: CfgNode, backbone: nn.Module) -> None:
        """
        Args:
            cfg: its `INPUT`, `PIXEL_MEAN`, `PIXEL_STD` and `ROI_BOX_HEAD.POOLER_*` are read.
            backbone: of that config.
        """
        self.backbone = backbone
        self.mean, self.std = (
            torch.tensor(values).view(-1, 1, 1)
            for values in (cfg.MODEL.PIXEL_MEAN, cfg.MODEL.PIXEL_STD)
        )
        keys = cfg.MODEL.ROI_BOX_HEAD
        self.poolers = {
            name: ROIPooler(
                keys.POOLER_RESOLUTION,
                scales=[1 / shape.stride],
                sampling_ratio=keys.POOLER_SAMPLING_RATIO,
                pooler_type=keys.POOLER_TYPE,
            )
            for name, shape in backbone.output_shape().items()
        }

    @torch.no_grad()
    def __call__(self, image: Tensor, boxes: Tensor) -> tuple[Tensor, Tensor]:
        """
        Args:
            image: (3, H, W) pixels.
            boxes: (R, 4) in pixels of the image.

        Returns:
            (R, C) features of the boxes and (C,) of the image.
        """
        height, width = image.shape[1:]
        batch = ImageList.from_tensors(
            [(image - self.mean) / self.std], self.backbone.size_divisibility
        )
        maps = self.backbone(batch.tensor)
        whole = boxes.new_tensor([[0, 0, width, height]])
        asked = [Boxes(torch.cat([boxes, whole]))]
        pooled = [pool([maps[name]], asked).mean(dim=(2, 3)) for name, pool in self.poolers.items()]
        features = torch.cat(pooled, dim=1)  # (R + 1, C)
        return features[:-1], features[-1]


def extract(dataset: str, cfg: CfgNode, backbone: nn.Module) -> BoxFeatures:
    """The features of a registered data set.

    Args:
        dataset: its name.
        cfg: of the backbone, its input and the pooling, see `KEYS`.
        backbone: in evaluation mode.

    Raises:
        OSError, ValueError: the data set or an image is not there, or has no boxes.
    """
    records = read_records(dataset)
    load = RegionClassificationMapper(
        True,  # so that it gives the classes
        augmentations=[T.ResizeShortestEdge(cfg.INPUT.MIN_SIZE_TEST, cfg.INPUT.MAX_SIZE_TEST)],
        image_format=cfg.INPUT.FORMAT,
        mirror={},
    )
    pool = BoxPooler(cfg, backbone)
    rows: dict[str, list[Tensor]] = {
        name: [] for name in ("sizes", "boxes", "labels", "features", "image_features")
    }
    names = []
    for record in tqdm(records, dataset, unit="image", disable=None):
        data = load(record)
        given = data["proposals"]
        if len(given):
            boxes = given.proposal_boxes.tensor
            of_boxes, of_image = pool(data["image"], boxes)
            names.append(Path(record["file_name"]).name)
            for name, value in (
                ("sizes", torch.tensor(given.image_size)),
                ("boxes", boxes),
                ("labels", given.gt_classes),
                ("features", of_boxes.half()),
                ("image_features", of_image.half()),
            ):
                rows[name].append(value)
    if not names:
        raise ValueError(f"The data set {dataset!r} has no image with a box.")
    return BoxFeatures(
        names=names,
        counts=torch.tensor([len(boxes) for boxes in rows["boxes"]]),
        sizes=torch.stack(rows["sizes"]),
        image_features=torch.stack(rows["image_features"]),
        **{name: torch.cat(rows[name]) for name in ("boxes", "labels", "features")},
        class_names=list(MetadataCatalog.get(dataset).thing_classes),
        made_from=made_from(dataset, cfg, backbone, records),
    )


def made_from(
    dataset: str, cfg: CfgNode, backbone: nn.Module, records: Sequence[dict[str, Any]]
) -> dict[str, str]:
    """What the features of a data set depend on."""
    weights = hashlib.sha256()
    for name, value in backbone.state_dict().items():
        weights.update(name.encode())
        weights.update(value.cpu().contiguous().numpy().tobytes())
    asked = [
        (Path(r["file_name"]).name, [(a["bbox"], a["category_id"]) for a in r["annotations"]])
        for r in records
    ]
    values = {"dataset": dataset, "annotations": digest(json.dumps(asked).encode())}
    for key in KEYS:
        value: Any = cfg
        for part in key.split("."):
            value = value[part]
        values[key] = str(value)
    maps = {name: shape.stride for name, shape in backbone.output_shape().items()}
    return {**values, "maps": str(maps), "weights": weights.hexdigest()[:16]}


def read_records(dataset: str) -> list[dict[str, Any]]:
    """The records of a registered data set.

    Raises:
        OSError, ValueError: it is not registered, or its files are not there.
    """
    require_registered(dataset)
    return DatasetCatalog.get(dataset)
