"""What of a detector can be exported how: every cell is tried, and compared with the model.

A cell is one kind of detector, a part of it (the whole, or `BoxBranch` with given regions) and a
way. It is "ok" if the exported file finds what the model finds, for the image with which it was
made and for one of another size, with another number of regions. Else it is "no", with the reason.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from detectron2.config import CfgNode
from detectron2.export import scripting_with_instances
from detectron2.modeling import build_model
from detectron2.structures import Boxes
from torch import Tensor, nn

from ..config import get_cfg, merge_file
from ..engine.box_branch import BoxBranch, difference_of, example_of, export_branch, onnx_of
from ..engine.export_model import inference
from .shrink import images, settle, shrink

BASE = "RelationalScenes/faster_rcnn_R_18_FPN.yaml"
END = "MODEL.DUPLICATE_REMOVAL"
ENDS = ("MODEL.ROI_HEADS.NAME", "DuplicateRemovalROIHeads", f"{END}.TEST_METHOD")
DETECTORS: dict[str, tuple[Any, ...]] = {
    "stock": (),
    # The default start is the identity, which would hide what is wrong.
    "relation": ("MODEL.ROI_HEADS.NAME", "RelationROIHeads", "MODEL.RELATION.INIT", "xavier"),
    "SGRN": ("MODEL.ROI_HEADS.NAME", "SGRNROIHeads"),
    "reasoning": ("MODEL.ROI_HEADS.NAME", "ReasoningROIHeads"),
    "Soft-NMS": (*ENDS, "soft_nms"),
    "learned duplicate removal": (*ENDS, "learned", f"{END}.LEARN", True),
    "GC blocks": (),
}
CONFIGS = {"GC blocks": "RelationalScenes/faster_rcnn_R_18_FPN_gc.yaml"}  # of others: BASE
# The others have the box branch of the stock detector.
WITH_A_BRANCH = ("stock", "relation", "SGRN", "reasoning")
PARTS = ("whole detector", "box branch")
WAYS = ("trace", "script", "torch.export", "ONNX")
SIZES = ((64, 96), (96, 160))  # of the image with which it is made, and of another one
FOLDERS = r"/(?:[^/\s\"']+/)+"  # of an absolute path
FIELDS = {"proposal_boxes": Boxes, "objectness_logits": Tensor,
          "pred_boxes": Boxes, "scores": Tensor, "pred_classes": Tensor}  # fmt: skip

Run = Callable[..., Sequence[Tensor]]


@dataclass(frozen=True)
class Cell:
    """One detector, part and way.

    Args:
        detector: of `DETECTORS`.
        part: of `PARTS`.
        way: of `WAYS`.
        result: "ok" or "no".
        reason: what was said, or how the results differ.
    """

    detector: str
    part: str
    way: str
    result: str
    reason: str = ""


class Detector(nn.Module):
    """A whole detector from an image (3, H, W) to the tensors of its detections."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, image: Tensor) -> tuple[Tensor, ...]:
        (found,) = inference(self.model, [{"image": image}])
        instances = found["instances"]
        return instances.pred_boxes.tensor, instances.scores, instances.pred_classes


def try_exports(
    detectors: Iterable[str] = tuple(DETECTORS), parts: Iterable[str] = PARTS
) -> Iterator[Cell]:
    """Tries all ways on narrow random models, the quick box branches first.

    Args:
        detectors: of `DETECTORS`.
        parts: of `PARTS`.

    Yields:
        what happened.
    """
    places = [(part, name) for part in reversed(PARTS) if part in parts for name in detectors]
    for part, name in places:
        if part == PARTS[0] or name in WITH_A_BRANCH:
            model, pictures = build(name)
            module = Detector(model) if part == PARTS[0] else BoxBranch(model.roi_heads)
            examples = [
                (image,) if part == PARTS[0] else example_of(model, image) for image in pictures
            ]
            problem = ""
            for way in WAYS:
                if way != "ONNX" or not problem:  # it goes through torch.export, the way before
                    problem = _tried(way, module.eval(), examples)
                yield Cell(name, part, way, "no" if problem else "ok", problem)


def build(name: str) -> tuple[nn.Module, list[Tensor]]:
    """A narrow model of random weights, and two images."""
    cfg: CfgNode = get_cfg()
    merge_file(cfg, CONFIGS.get(name, BASE))
    cfg.merge_from_list([*DETECTORS[name], "MODEL.DEVICE", "cpu"])
    small = shrink(cfg)
    torch.manual_seed(0)
    model = build_model(small)
    settle(model, images(small))
    for module in model.modules():
        if hasattr(module, "test_score_thresh"):
            module.test_score_thresh = 0.0
    return model.eval(), [entry["image"].float() for entry in images(small, SIZES)]


def _tried(way: str, module: nn.Module, examples: Sequence[tuple[Any, ...]]) -> str:
    """What is wrong, or ""."""
    try:
        with torch.no_grad(), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            run = EXPORTS[way](module, examples[0])
            wrong = (difference_of(run(*e), module(*e)) for e in examples)
            return next(filter(None, wrong), "")
    except Exception as error:  # there is no common one
        return one_line(error)


def one_line(error: BaseException) -> str:
    """The first line of the innermost cause, and the next one if it announces it; of files their
    names alone, which are the same on every machine."""
    while error.__cause__ is not None:
        error = error.__cause__
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    text = " ".join(lines[: 2 if lines and lines[0].endswith(":") else 1])
    return f"{type(error).__name__}: {re.sub(FOLDERS, '', text)[:160]}"


def traced(module: nn.Module, example: tuple[Any, ...]) -> Run:
    """By `torch.jit.trace`."""
    return torch.jit.trace(module, example, check_trace=False)


def scripted(module: nn.Module, example: tuple[Any, ...]) -> Run:
    """By `torch.jit.script`; of a whole detector as Detectron2 does it."""
    if not isinstance(module, Detector):
        return torch.jit.script(module)
    model = scripting_with_instances(module.model, FIELDS)

    def run(image: Tensor) -> tuple[Tensor, ...]:
        (found,) = model.inference([{"image": image}], do_postprocess=False)
        return found.pred_boxes.tensor, found.scores, found.pred_classes

    return run


def exported(module: nn.Module, example: tuple[Any, ...]) -> Run:
    """By `torch.export`, sizes of images and numbers of regions dynamic."""
    return _program(module, example).module()


def through_onnx(module: nn.Module, example: tuple[Any, ...]) -> Run:
    """By `torch.onnx`, run by onnxruntime."""
    return onnx_of(_program(module, example))[1]


def _program(module: nn.Module, example: tuple[Any, ...]) -> torch.export.ExportedProgram:
    if isinstance(module, BoxBranch):
        return export_branch(module, example)
    sizes = {1: torch.export.Dim.DYNAMIC, 2: torch.export.Dim.DYNAMIC}
    return torch.export.export(module, example, dynamic_shapes=(sizes,))


EXPORTS: dict[str, Callable[[nn.Module, tuple[Any, ...]], Run]] = dict(
    zip(WAYS, (traced, scripted, exported, through_onnx), strict=True)
)


def table(cells: Sequence[Cell]) -> str:
    """Markdown: detectors down, parts and ways across; reasons are numbered and follow once."""
    by_place = {(c.detector, c.part, c.way): c for c in cells}
    columns = [(part, way) for part in PARTS for way in WAYS]
    reasons: dict[str, int] = {}
    lines = ["| | " + " | ".join(f"{part}: {way}" for part, way in columns) + " |",
             "|:--|" + ":--|" * len(columns)]  # fmt: skip
    for name in dict.fromkeys(cell.detector for cell in cells):
        row = [name]
        for place in columns:
            cell = by_place.get((name, *place))
            of_stock = place[0] == PARTS[1] and name not in WITH_A_BRANCH
            text = cell.result if cell else "as stock" if of_stock else ""
            if cell and cell.reason:
                text += f" [{reasons.setdefault(cell.reason, len(reasons) + 1)}]"
            row.append(text)
        lines.append("| " + " | ".join(row) + " |")
    return "\n".join([*lines, "", *(f"{n}. `{reason}`" for reason, n in reasons.items())])
