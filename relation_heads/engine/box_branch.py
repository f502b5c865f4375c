"""The box branch of a detector with given regions, as a function of tensors alone.

`torch.export` and ONNX cannot follow Detectron2's proposals, pooling and NMS: their numbers of
boxes depend on values, and its structures make constants of them. What lies between, from the
pooled features to probabilities and boxes, has the relational layers inside, and holds for every
number of regions.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from detectron2.modeling.roi_heads import StandardROIHeads
from detectron2.structures import Boxes
from torch import Tensor, nn

from ..modeling.roi_heads.heads import Relational
from ..modeling.roi_heads.seam import Classified, ListensToRegions, regions_of


@dataclass(frozen=True, eq=False)
class _Regions:
    """The fields of `Instances` that a mechanism reads. `Instances` itself calls len() of the
    boxes, which makes a constant of their number."""

    proposal_boxes: Boxes
    image_size: tuple[Tensor, Tensor]

    def has(self, name: str) -> bool:
        return False


class BoxBranch(nn.Module):
    """Box head, predictor and mechanism, for the regions of one image; without the end (NMS)."""

    def __init__(self, roi_heads: nn.Module) -> None:
        """
        Args:
            roi_heads: of an FPN, DC5 or C5 model, stock or relational.

        Raises:
            ValueError: other heads, or a mechanism that refines its boxes.
        """
        super().__init__()
        if not isinstance(roi_heads, StandardROIHeads) or isinstance(
            roi_heads.box_predictor, nn.ModuleList
        ):
            raise ValueError(
                "The box branch can be exported of FPN, DC5 and C5 models, not of "
                f"{type(roi_heads).__name__}."
            )
        self.box_head = roi_heads.box_head
        self.box_predictor = roi_heads.box_predictor
        self.mechanism = roi_heads.mechanism if isinstance(roi_heads, Relational) else None
        if getattr(self.mechanism, "resampler", None):
            raise ValueError(
                f"The box branch has given boxes: MODEL.{self.mechanism.key}.REFINE must be False, "
                "got True."
            )

    def forward(
        self, pooled: Tensor, boxes: Tensor, image_size: Tensor, *feature_maps: Tensor
    ) -> tuple[Tensor, Tensor]:
        """
        Args:
            pooled: (R, C, h, w) features of the regions.
            boxes: (R, 4) x1, y1, x2, y2 in pixels.
            image_size: (2,) int64, height and width in pixels.
            feature_maps: (1, D, H, W) of the backbone, those that the mechanism reads, see
                `Mechanism.map_names`.

        Returns:
            probabilities (R, C + 1), background last, and boxes (R, 4) or (R, 4 C), not clipped.
        """
        height, width = image_size.unbind()
        regions = [_Regions(Boxes(boxes), (height, width))]
        listens = isinstance(self.box_head, ListensToRegions)
        x = self.box_head(pooled, regions_of(regions)) if listens else self.box_head(pooled)
        last = Classified(x, self.box_predictor, self.box_predictor(x), regions)
        if self.mechanism is not None:
            maps = dict(zip(self.mechanism.map_names, feature_maps, strict=True))
            last, _ = self.mechanism(last, maps, _no_other_boxes)
        logits, deltas = last.predictions
        probabilities = (
            logits.sigmoid() if last.predictor.use_sigmoid_ce else logits.softmax(dim=-1)
        )
        return probabilities, last.predictor.box2box_transform.apply_deltas(deltas, boxes)


def _no_other_boxes(*args: object, **kwargs: object) -> Tensor:
    """In the place of `seam.Embed`."""
    raise ValueError("The box branch has given boxes, and the mechanism asks for others.")


Example = tuple[Tensor, ...]  # the arguments of `BoxBranch.forward`


@torch.no_grad()
def example_of(model: nn.Module, image: Tensor) -> Example:
    """What the box branch gets in a detector: three tensors, and the maps of its mechanism.

    Args:
        model: a `GeneralizedRCNN` in evaluation mode.
        image: (3, H, W), 0 to 255.
    """
    images = model.preprocess_image([{"image": image}])
    maps = model.backbone(images.tensor)
    (proposals,), _ = model.proposal_generator(images, maps)
    heads, boxes = model.roi_heads, proposals.proposal_boxes
    pooled = heads.box_pooler([maps[name] for name in heads.box_in_features], [boxes])
    size = torch.tensor(images.image_sizes[0], device=boxes.device)
    names = heads.mechanism.map_names if isinstance(heads, Relational) else ()
    return pooled, boxes.tensor, size, *(maps[name] for name in names)


@torch.no_grad()
def export_branch(branch: BoxBranch, example: Example) -> torch.export.ExportedProgram:
    """By `torch.export`, for every number of regions and every size of map."""
    dynamic = torch.export.Dim.DYNAMIC
    maps = ({2: dynamic, 3: dynamic},) * (len(example) - 3)
    # An argument with a star that gets nothing has no entry.
    shapes = ({0: dynamic}, {0: dynamic}, None, *([maps] if maps else ()))
    return torch.export.export(branch, example, dynamic_shapes=shapes)


def onnx_of(program: torch.export.ExportedProgram) -> tuple[bytes, Callable[..., list[Tensor]]]:
    """An exported program as an ONNX file, and a function that runs it by onnxruntime.

    Raises:
        ModuleNotFoundError: of the extra `[export]`.
    """
    import onnxruntime

    content = torch.onnx.export(program, dynamo=True, verbose=False).model_proto.SerializeToString()
    session = onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])
    names = [entry.name for entry in session.get_inputs()]

    def run(*arguments: Tensor) -> list[Tensor]:
        arrays = [tensor.cpu().numpy() for tensor in arguments]
        outputs = session.run(None, dict(zip(names, arrays, strict=True)))
        return [torch.from_numpy(output) for output in outputs]

    return content, run


def difference_of(ours: Sequence[Tensor], theirs: Sequence[Tensor], tolerance: float = 1e-3) -> str:
    """How tensors differ, or "" if they do not."""
    for a, b in zip(ours, theirs, strict=True):
        if a.shape != b.shape:
            return f"gives {tuple(a.shape)} instead of {tuple(b.shape)}"
        if not torch.allclose(a, b.to(a.device), rtol=tolerance, atol=tolerance):
            return f"differs by {float((a - b.to(a.device)).abs().max()):.1e}"
    return ""
