"""What the regions of a trained detector listened to: the weights of its relation modules, or the
edges of its SGRN graph."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from detectron2.structures import Boxes, Instances
from torch import Tensor, nn

from ..layers import SGRN, ObjectRelation, Regions
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


@contextmanager
def _recorded(module: nn.Module) -> Iterator[list[tuple[Any, Any]]]:
    """(inputs, output) of every call of `module` while open."""
    calls: list[tuple[Any, Any]] = []
    handle = module.register_forward_hook(lambda _, inputs, output: calls.append((inputs, output)))
    try:
        yield calls
    finally:
        handle.remove()


def _weights(module: ObjectRelation | SGRN, inputs: tuple[Any, ...]) -> Tensor:
    """(heads, R, R) of a call with one image; see `ImageRelations.weights`."""
    if isinstance(module, ObjectRelation):
        return module.weights(*inputs)[0]
    features, _, regions, key_bias = inputs
    graph = module.graph(features, regions, key_bias)
    weights = graph.scores.softmax(dim=1)  # (R, T), 0 in empty places, which name the row itself
    dense = weights.new_zeros(len(regions), len(regions))
    return dense.scatter_add(1, graph.neighbors, weights)[None]


def _final_predictor(model: nn.Module) -> nn.Module:
    """The predictor whose rows became the detections."""
    sgrn = getattr(model.roi_heads, "sgrn", None)
    if sgrn is None:
        return model.roi_heads.box_predictor
    if model.roi_heads.ensemble != "last":
        raise ValueError(
            "Detections can be traced to their regions with MODEL.SGRN.TEST_ENSEMBLE last only, "
            f"got {model.roi_heads.ensemble}."
        )
    return sgrn.predictor


@torch.no_grad()
def inspect_image(
    model: nn.Module, image: Tensor, class_names: Sequence[str], module: str | None = None
) -> ImageRelations:
    """Runs a `GeneralizedRCNN` on one image and reads the weights of one relation module or SGRN.

    Args:
        model: in evaluation mode, with a single-stage relational head or an SGRN head.
        image: (3, H, W) as the data loader gives it, BGR.
        class_names: K names.
        module: its name, see `relation_modules`; by default the last, whose output is classified.

    Raises:
        ValueError: the model has no such module, or its detections are not of one predictor.
    """
    modules = relation_modules(model)
    if not modules or (module is not None and module not in modules):
        raise ValueError(
            f"The model has no relation module{'' if module is None else f' {module!r}'}; "
            f"it has: {', '.join(modules) or 'none'}."
        )
    relation = modules[module or list(modules)[-1]]
    predictor = _final_predictor(model)
    with ExitStack() as stack:
        relation_calls = stack.enter_context(_recorded(relation))
        predictor_calls = stack.enter_context(_recorded(predictor))
        (detections,) = model.inference([{"image": image}], do_postprocess=False)
    (inputs, _), (_, predictions) = relation_calls[0], predictor_calls[0]
    regions = next(value for value in inputs if isinstance(value, Regions))
    proposals = Instances(regions.image_sizes[0], proposal_boxes=Boxes(regions.boxes))
    _, (kept,) = predictor.inference(predictions, [proposals])
    (probabilities,) = predictor.predict_probs(predictions, [proposals])
    return ImageRelations(
        image=np.ascontiguousarray(image.numpy().transpose(1, 2, 0)),
        boxes=regions.boxes.cpu().numpy(),
        labels=[class_names[k] for k in probabilities[:, : len(class_names)].argmax(1).tolist()],
        weights=_weights(relation, inputs).cpu().numpy(),
        detections=detections.to("cpu"),
        detection_labels=[class_names[k] for k in detections.pred_classes.tolist()],
        queries=kept.tolist(),
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
