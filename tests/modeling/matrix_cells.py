"""The cells of the matrix (`matrix.py`): axes, a cell as a config, and what one cell must do.

A cell works if a tiny model of it builds and keeps every parameter name of Detectron2's own model;
trains a step (finite losses, a gradient for every parameter); resumes (from Detectron2's checkpoint
a new model has the same detections and the same next losses); and is evaluated by COCO's measures.
`REFUSALS` says by rule which cells the check of the config must refuse, and what its sentence must
name; all other cells must work.
"""

from __future__ import annotations

import contextlib
import functools
import itertools
import random
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
import yaml
from detectron2.checkpoint import DetectionCheckpointer
from detectron2.evaluation import COCOEvaluator
from detectron2.modeling import ROI_HEADS_REGISTRY
from detectron2.solver import build_optimizer
from detectron2.structures import Instances
from torch import nn

from relation_heads import get_cfg
from relation_heads.engine.checks import check_cfg
from tests.helpers import TinyCoco, registered, write_json
from tests.modeling import common

ROOT = Path(__file__).parents[2]
SEED = 0


class Cell(NamedTuple):
    """One level of each axis."""

    mechanism: str
    form: str
    task: str
    boxes: str
    end: str
    backbone: str

    def __str__(self) -> str:
        return ", ".join(self)


MECHANISMS = {
    "none": "DuplicateRemoval",  # Detectron2's head; its end can be chosen
    "relation": "Relation",
    "SGRN": "SGRN",
    "Reasoning-RCNN": "ReasoningRCNN",
    "reasoning": "Reasoning",
    "relation + SGRN": "SGRN",
}
FORMS = {"FPN": "", "C4": "Res5", "Cascade": "Cascade"}
TASKS = {"box": (), "+ mask": common.MASK, "+ keypoint": common.KEYPOINT}
BOXES = {"agnostic": True, "per class": False}
ENDS = {
    "NMS": (),
    "Soft-NMS": ("MODEL.DUPLICATE_REMOVAL.TEST_METHOD", "soft_nms"),
    "learned": (
        "MODEL.DUPLICATE_REMOVAL.LEARN", True,
        "MODEL.DUPLICATE_REMOVAL.TEST_METHOD", "learned",
    ),
}  # fmt: skip
BACKBONES = {"stock": None, "GC": "gc.yaml", "GloRe": "glore.yaml"}  # of configs/blocks
CELLS = [Cell(*c) for c in itertools.product(MECHANISMS, FORMS, TASKS, BOXES, ENDS, BACKBONES)]

# (which cells, what their one sentence must name)
REFUSALS: list[tuple[Callable[[Cell], bool], Sequence[str]]] = [
    # Detectron2's C4 heads have no keypoint branch.
    (lambda c: c.form == "C4" and c.task == "+ keypoint", ["MODEL.KEYPOINT_ON"]),
    # Detectron2's cascade has one box for all classes.
    (
        lambda c: c.form == "Cascade" and c.boxes == "per class",
        ["MODEL.ROI_BOX_HEAD.CLS_AGNOSTIC_BBOX_REG"],
    ),
]


def must_name(cell: Cell) -> Sequence[str]:
    """What the sentence that refuses a cell must name; empty if the cell must work."""
    return [name for rule, names in REFUSALS if rule(cell) for name in names]


def pairwise(cells: Iterable[Cell], seed: int = SEED) -> list[Cell]:
    """Some of the cells, such that each pair of levels which one of them has is covered.

    Greedy: the next cell has most pairs that no cell before it has; the seed decides among equal
    ones.
    """
    pool = {cell: set(itertools.combinations(enumerate(cell), 2)) for cell in cells}
    order = sorted(pool)
    random.Random(seed).shuffle(order)
    left, chosen = set().union(*pool.values()), []
    while left:
        chosen.append(max(order, key=lambda cell: len(pool[cell] & left)))
        left -= pool[chosen[-1]]
    return chosen


def sample(seed: int = SEED) -> list[Cell]:
    """All pairs of cells that must work, and all of cells that must be refused."""
    works = [cell for cell in CELLS if not must_name(cell)]
    refused = [cell for cell in CELLS if must_name(cell)]
    return [*pairwise(works, seed), *pairwise(refused, seed)]


# ---- a cell as keys and values ----

# Nothing scales the gradients of an untrained model, so steps are small.
SMALL = (
    "SOLVER.BASE_LR", 1e-5,
    "TEST.DETECTIONS_PER_IMAGE", 20,
)  # fmt: skip


@functools.cache
def _plugins(name: str) -> list[dict[str, Any]]:
    content = yaml.safe_load((ROOT / "configs" / "blocks" / name).read_text())
    return content["MODEL"]["CONTEXT_BLOCKS"]["PLUGINS"]


def stock_opts(form: str, task: str) -> tuple[Any, ...]:
    """Detectron2's own model."""
    heads = () if form == "C4" else ("MODEL.ROI_HEADS.NAME", f"{FORMS[form] or 'Standard'}ROIHeads")
    return (*(common.C4 if form == "C4" else ()), *SMALL, *heads, *TASKS[task])


def heads_name(cell: Cell) -> str:
    """`MODEL.ROI_HEADS.NAME`."""
    return f"{FORMS[cell.form]}{MECHANISMS[cell.mechanism]}ROIHeads"


def opts(cell: Cell) -> tuple[Any, ...]:
    """The keys and values of a cell, for `common.build`."""
    keys: dict[str, Any] = {
        "MODEL.ROI_HEADS.NAME": heads_name(cell),
        "MODEL.ROI_BOX_HEAD.CLS_AGNOSTIC_BBOX_REG": BOXES[cell.boxes],
    }
    if cell.mechanism == "relation + SGRN":
        keys["MODEL.ROI_BOX_HEAD.NAME"] = "RelationBoxHead"
    if file := BACKBONES[cell.backbone]:
        kind = "resnet" if cell.form == "C4" else "resnet_fpn"
        keys["MODEL.BACKBONE.NAME"] = f"build_context_{kind}_backbone"
        keys["MODEL.CONTEXT_BLOCKS.PLUGINS"] = _plugins(file)
    return (
        *stock_opts(cell.form, cell.task),
        *(common.SMALL_SGRN if "SGRN" in cell.mechanism else ()),
        *(common.SMALL_REASONING_RCNN if cell.mechanism == "Reasoning-RCNN" else ()),
        *(common.SMALL_REASONING if "reasoning" in cell.mechanism else ()),
        *ENDS[cell.end],
        *itertools.chain.from_iterable(keys.items()),
    )


def check(cell: Cell) -> None:
    """What a run checks: a ValueError that names all problems."""
    cfg = common.config(*opts(cell))
    if "relation" not in cell.mechanism:  # `common.config` makes them small for all models
        cfg.MODEL.RELATION = get_cfg().MODEL.RELATION
    check_cfg(cfg, eval_only=True)  # there is no data set


# ---- one cell ----


class Outcome(NamedTuple):
    """What became of a cell.

    Attributes:
        kind: "works"; "refused", by the check of the config; "refused wrongly", as it should work;
            "refused late", while the model was built; "not registered"; "fails".
        text: the sentences of a refusal, the name of the heads, or the error.
    """

    kind: str
    text: str = ""


def run(cell: Cell, dataset: str) -> Outcome:
    """Builds, trains, resumes and evaluates a cell, or has it refused.

    Args:
        cell: the cell.
        dataset: of `noise_coco`.

    Raises:
        AssertionError: the cell was built, and does not what it must.
        Exception: whatever the model raises.
    """
    if heads_name(cell) not in ROI_HEADS_REGISTRY:
        return Outcome("not registered", heads_name(cell))
    cfg = common.config(*opts(cell))
    try:
        check(cell)
    except ValueError as error:
        return _refused(cell, str(error))
    if names := must_name(cell):
        try:
            common.build(*opts(cell), settle=False)
        except (AssertionError, ValueError) as error:
            return Outcome("refused late", str(error) or "an assertion of Detectron2")
        raise AssertionError(f"The check should have refused {', '.join(names)}.")
    with tempfile.TemporaryDirectory() as folder:
        model, found, trained = _train_and_resume(cell, cfg, folder)
        _check_gradients(model, trained, _stock_names(cell.form, cell.task))
        _evaluate(cfg, dataset, found, folder)
    return Outcome("works")


def _refused(cell: Cell, message: str) -> Outcome:
    """What a refusal is worth: good is one sentence that names what it must, of the right cell."""
    _, *sentences = message.replace("\n- ", "\n").splitlines()
    names, text = must_name(cell), " ".join(sentences)
    good = names and len(sentences) == 1 and text.endswith(".") and all(n in text for n in names)
    return Outcome("refused" if good else "refused wrongly", text)


@functools.cache
def _stock_names(form: str, task: str) -> frozenset[str]:
    """Parameters of Detectron2's model; boxes per class and context blocks change none."""
    keys = (*stock_opts(form, task), "MODEL.ROI_BOX_HEAD.CLS_AGNOSTIC_BBOX_REG", True)
    return frozenset(name for name, _ in common.build(*keys, settle=False).named_parameters())


def _train_and_resume(
    cell: Cell, cfg: Any, folder: str
) -> tuple[nn.Module, list[Instances], set[str]]:
    """One step, a checkpoint, and a new model from it that goes on.

    Returns:
        the new model after another backward pass, what it finds in `common.batch()`, and which of
        its parameters had a gradient other than 0 in one of the two steps.
    """
    model = common.build(*opts(cell))
    optimizer = build_optimizer(cfg, model)
    trained = _step(model)
    optimizer.step()
    DetectionCheckpointer(model, folder, optimizer=optimizer).save("model_0", iteration=0)

    fresh = common.build(*opts(cell), settle=False)
    again = build_optimizer(cfg, fresh)
    checkpointer = DetectionCheckpointer(fresh, folder, optimizer=again)
    assert checkpointer.resume_or_load("", resume=True)["iteration"] == 0
    for key, state in optimizer.state_dict()["state"].items():
        assert _equal(state["momentum_buffer"], again.state_dict()["state"][key]["momentum_buffer"])
    expected, found = common.detections(model), common.detections(fresh)
    for ours, theirs in zip(found, expected, strict=True):
        assert ours.get_fields().keys() == theirs.get_fields().keys() and len(ours) > 0
        for name, value in ours.get_fields().items():
            assert _equal(value, theirs.get(name)), f"{name} of the resumed model"
    assert {k: v.item() for k, v in common.losses(model).items()} == {
        k: v.item() for k, v in common.losses(fresh).items()
    }, "the next losses of the resumed model"
    return fresh, found, trained | _step(fresh)


def _equal(a: Any, b: Any) -> bool:
    return torch.equal(getattr(a, "tensor", a), getattr(b, "tensor", b))


def _step(model: nn.Module) -> set[str]:
    """Gradients of one step; the names of the parameters whose gradient is not 0 everywhere."""
    model.zero_grad()
    losses = common.losses(model)
    for name, loss in losses.items():
        assert loss.isfinite(), f"{name} is {loss.item()}"
    sum(losses.values()).backward()
    return {n for n, p in model.named_parameters() if p.grad is not None and p.grad.any()}


def _check_gradients(model: nn.Module, trained: set[str], stock: frozenset[str]) -> None:
    parameters = dict(model.named_parameters())
    assert not stock - parameters.keys(), f"names lost: {sorted(stock - parameters.keys())}"
    for name, parameter in parameters.items():
        assert parameter.grad is not None and parameter.grad.isfinite().all(), f"gradient of {name}"
    idle = [n for n in parameters if n not in trained | stock and not _has_no_effect(n)]
    assert not idle, f"new parameters whose gradient is 0: {idle}"


def _has_no_effect(name: str) -> bool:
    """Whether a softmax takes a bias out, which adds one number to all that the softmax weighs."""
    return name.endswith(("key.bias", "conv_mask.bias"))


# ---- evaluation ----


@contextlib.contextmanager
def noise_coco(folder: Path) -> Iterator[str]:
    """Registers the images of `common.batch()` with their boxes, masks and keypoints."""
    images, annotations = [], []
    for image, x in enumerate(common.batch()):
        images.append({"id": image, "file_name": "", "height": x["height"], "width": x["width"]})
        objects = x["instances"]
        for box, label, points in zip(
            objects.gt_boxes.tensor.tolist(),
            objects.gt_classes.tolist(),
            objects.gt_keypoints.tensor.flatten(1).tolist(),
            strict=True,
        ):
            x0, y0, x1, y1 = box
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": image,
                    "category_id": label + 1,
                    "bbox": [x0, y0, x1 - x0, y1 - y0],
                    "area": (x1 - x0) * (y1 - y0),
                    "iscrowd": 0,
                    "segmentation": [[x0, y0, x1, y0, x1, y1, x0, y1]],
                    "keypoints": points,
                    "num_keypoints": len(points) // 3,
                }
            )
    names = [{"id": k + 1, "name": f"class{k}"} for k in range(common.NUM_CLASSES)]
    content = {"images": images, "annotations": annotations, "categories": names}
    with registered(TinyCoco(write_json(folder / "noise.json", content), folder, content)) as name:
        yield name


def _evaluate(cfg: Any, dataset: str, found: list[Instances], folder: str) -> None:
    """COCO's AP of what was found, for every task of the model."""
    tasks = {"bbox": True, "segm": cfg.MODEL.MASK_ON, "keypoints": cfg.MODEL.KEYPOINT_ON}
    names = tuple(name for name, on in tasks.items() if on)
    sigmas = [0.05] * cfg.MODEL.ROI_KEYPOINT_HEAD.NUM_KEYPOINTS
    evaluator = COCOEvaluator(dataset, names, output_dir=folder, kpt_oks_sigmas=sigmas)
    evaluator.reset()
    inputs = [{"image_id": image} for image in range(len(found))]
    evaluator.process(inputs, [{"instances": instances} for instances in found])
    result = evaluator.evaluate()
    for name in names:
        assert 0 <= result[name]["AP"] <= 100, name
