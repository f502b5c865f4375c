"""What the regions of a trained detector listened to: the weights of its relation modules, or the
edges of its SGRN graph."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from detectron2.structures import Instances
from torch import Tensor, nn

from ..layers import SGRN, ObjectRelation
from ..modeling import watch
from .relations import draw_detections, draw_relations, side_by_side, upscale

SAME_OBJECT = 0.3  # IoU above which two proposals are drawn as one object


@dataclass(frozen=True)
class ImageRelations:
    """One image: R regions (the proposals; in two-stage SGRN the refined boxes), D detections.

    Attributes:
        image: (H, W, 3) uint8 BGR, the network's input.
        boxes: (R, 4) regions in its pixels.
        labels: R names, each region's most probable object class.
        weights: (heads, R, R) how much each region (row) listened to each other one; rows sum to 1.
            Of an SGRN (1, R, R): softmax of the edge scores e over the neighbours, 0 elsewhere.
        detections: in the same pixels.
        detection_labels: D names.
        queries: for each detection the region that it came from.
    """

    image: np.ndarray
    boxes: np.ndarray
    labels: list[str]
    weights: np.ndarray
    detections: Instances
    detection_labels: list[str]
    queries: list[int]


def relation_modules(model: nn.Module) -> dict[str, ObjectRelation | SGRN]:
    """The relation modules and SGRN graphs of a model by name, in the order in which they stand in
    it."""
    return {n: m for n, m in model.named_modules() if isinstance(m, ObjectRelation | SGRN)}


@torch.no_grad()
def inspect_image(
    model: nn.Module, image: Tensor, class_names: Sequence[str], module: str | None = None
) -> ImageRelations:
    """Runs a `GeneralizedRCNN` on one image and reads the weights of one relation module or SGRN.

    Args:
        model: in evaluation mode, with relation modules or an SGRN.
        image: (3, H, W) as the data loader gives it, BGR.
        class_names: K names.
        module: its name, see `relation_modules`; by default the last, whose output is classified.

    Raises:
        ValueError: the model has no such module.
    """
    with watch() as seen:
        (detections,) = model.inference([{"image": image}], do_postprocess=False)
    names = {m: n for n, m in model.named_modules()}
    listened = {names[entry.module]: entry for entry in seen.listened}
    chosen = list(listened)[-1] if listened and module is None else module
    if chosen not in listened:
        raise ValueError(
            f"The model has no relation module{'' if module is None else f' {module!r}'}; "
            f"it has: {', '.join(listened) or 'none'}."
        )
    regions, (weights,) = listened[chosen].regions, listened[chosen].weights
    (probabilities,) = seen.last.probabilities()
    # Where both stages of an SGRN end in one NMS, the second one's rows come after the first's.
    objects = probabilities[-len(regions) :, : len(class_names)]
    return ImageRelations(
        image=np.ascontiguousarray(image.numpy().transpose(1, 2, 0)),
        boxes=regions.boxes.cpu().numpy(),
        labels=[class_names[k] for k in objects.argmax(1).tolist()],
        weights=weights.cpu().numpy(),
        detections=detections.to("cpu"),
        detection_labels=[class_names[k] for k in detections.pred_classes.tolist()],
        queries=(detections.region % max(len(regions), 1)).tolist(),
    )


def picture(
    seen: ImageRelations,
    detection: int,
    *,
    head: int | None = None,
    top: int = 5,
    min_score: float = 0.5,
    min_side: int = 640,
) -> np.ndarray:
    """Detections beside what one of them listened to: (H', W', 3) uint8 BGR.

    Args:
        seen: of `inspect_image`.
        detection: index of the detection that is asked.
        head: which head's weights, None for the mean.
        top: number of objects to draw lines to.
        min_score: detections below are not drawn.
        min_side: small images are enlarged until their shorter side has so many pixels.

    Raises:
        ValueError: there is no such head.
    """
    if head is not None and not 0 <= head < len(seen.weights):
        raise ValueError(f"head must be in 0 to {len(seen.weights) - 1}, got {head}.")
    query = seen.queries[detection]
    weights = seen.weights[:, query].mean(0) if head is None else seen.weights[head, query]
    shown = seen.detections.scores.numpy() >= min_score
    found = seen.detections.pred_boxes.tensor.numpy()
    image, boxes = upscale(seen.image, np.concatenate([found, seen.boxes]), min_side)
    found, boxes = boxes[: len(found)], boxes[len(found) :]
    name = seen.detection_labels[detection]
    return side_by_side(
        [
            draw_detections(
                image,
                found[shown],
                [n for n, s in zip(seen.detection_labels, shown, strict=True) if s],
                seen.detections.scores.numpy()[shown],
            ),
            draw_relations(
                image, boxes[query], name, boxes, seen.labels, weights, top=top, iou=SAME_OBJECT
            ),
        ],
        ["detections", f"{name} listens to"],
    )
