"""Whole detectors of configs: a training step and inference, in turns, and where their time goes.

Images, boxes and objects are random and the same for all detectors. The RPN runs, and its losses
count, but random boxes take the place of its proposals: a network with random weights proposes
other numbers of boxes than a trained one. Ratios are to the first config, the stock twin.
"""

from __future__ import annotations

import argparse
import json
import shlex
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from detectron2.config import CfgNode
from detectron2.modeling import build_model
from detectron2.structures import Boxes, Instances
from detectron2.utils.events import EventStorage
from torch import Tensor, nn

from relation_heads.analysis.provenance import provenance
from relation_heads.config import get_cfg, merge_file
from relation_heads.engine.model_config import merge_overrides

from .measure import peak_bytes, require_device, seconds_in_turns
from .run import MIB, Cost

DETECTORS = (
    "COCO-Detection/faster_rcnn_R_50_FPN_1x.yaml",
    "COCO-Detection/faster_rcnn_R_50_FPN_relation_1x.yaml",
    "COCO-Detection/faster_rcnn_R_50_FPN_sgrn_1x.yaml",
    "COCO-Detection/faster_rcnn_R_50_FPN_reasoning_1x.yaml",
)
SIZE = (800, 1216)  # pixels
OBJECTS = 20  # in an image
SIDE = 16  # pixels; of a box at least
PASSES = ("training", "inference")


def random_boxes(count: int, generator: torch.Generator) -> Boxes:
    """(count, 4) boxes inside the image, at least `SIDE` pixels on a side."""
    room = torch.tensor([SIZE[1] - SIDE, SIZE[0] - SIDE])
    corners = torch.rand(count, 2, 2, generator=generator) * room  # (count, 2 corners, x and y)
    return Boxes(torch.cat([corners.amin(1), corners.amax(1) + SIDE], dim=1))


def random_proposals(count: int, generator: torch.Generator) -> Instances:
    """Boxes as of an RPN."""
    proposals = Instances(SIZE)
    proposals.proposal_boxes = random_boxes(count, generator)
    proposals.objectness_logits = torch.zeros(count)
    return proposals


def random_objects(num_classes: int, generator: torch.Generator) -> Instances:
    """`OBJECTS` boxes with classes, as of an annotated image."""
    objects = Instances(SIZE)
    objects.gt_boxes = random_boxes(OBJECTS, generator)
    objects.gt_classes = torch.randint(num_classes, (OBJECTS,), generator=generator)
    return objects


class GivenProposals(nn.Module):
    """An RPN whose proposals are replaced, as many in an image as its config allows."""

    def __init__(self, rpn: nn.Module, cfg: CfgNode) -> None:
        super().__init__()
        self.rpn = rpn
        self.count = {
            True: cfg.MODEL.RPN.POST_NMS_TOPK_TRAIN,
            False: cfg.MODEL.RPN.POST_NMS_TOPK_TEST,
        }

    def forward(
        self, images: Any, features: dict[str, Tensor], objects: list[Instances] | None = None
    ) -> tuple[list[Instances], dict[str, Tensor]]:
        """As of the RPN: proposals by image, and its losses."""
        _, losses = self.rpn(images, features, objects)
        generator = torch.Generator().manual_seed(1)
        count = self.count[self.training]
        given = [random_proposals(count, generator).to(images.device) for _ in range(len(images))]
        return given, losses


@dataclass
class Detector:
    """One that is measured.

    Attributes:
        name: of its config.
        parameters: how many.
        costs: by pass.
        stages: pass -> stage -> seconds of one call, forward only.
    """

    name: str
    parameters: int = 0
    costs: dict[str, Cost] = field(default_factory=lambda: {which: Cost() for which in PASSES})
    stages: dict[str, dict[str, float]] = field(default_factory=dict)


def build(name: str, batch: int, opts: list[str]) -> tuple[nn.Module, list[dict[str, Any]]]:
    """The model of a config with random weights, and images with objects.

    Args:
        name: a config, or a config and overrides: "NAME KEY VALUE".
        batch: how many images.
        opts: overrides that come last.

    Raises:
        FileNotFoundError, ValueError: a config or key does not fit.
    """
    config, *own = shlex.split(name)
    cfg = get_cfg()
    merge_file(cfg, config)
    merge_overrides(cfg, [*own, *opts])
    torch.manual_seed(0)
    model = build_model(cfg)
    model.proposal_generator = GivenProposals(model.proposal_generator, cfg)
    generator = torch.Generator().manual_seed(0)
    images = []
    for _ in range(batch):
        objects = random_objects(cfg.MODEL.ROI_HEADS.NUM_CLASSES, generator)
        pixels = torch.randint(0, 256, (3, *SIZE), generator=generator, dtype=torch.uint8)
        images.append({"image": pixels, "instances": objects, "height": SIZE[0], "width": SIZE[1]})
    return model, images


def functions(model: nn.Module, images: list[dict[str, Any]]) -> dict[str, Callable[[], object]]:
    """A training step without its optimizer, and inference."""

    def training() -> None:
        with EventStorage():
            sum(model.train()(images).values()).backward()
        model.zero_grad(set_to_none=True)

    @torch.no_grad()
    def inference() -> object:
        return model.eval()(images)

    return {"training": training, "inference": inference}


@contextmanager
def timed(model: nn.Module, clock: Callable[[], float]) -> Iterator[dict[str, float]]:
    """Seconds that the parts of a detector take forward, while the context is open."""
    seconds: dict[str, float] = {}
    began: dict[str, float] = {}
    handles = []

    def watch(stage: str, module: nn.Module) -> None:
        def before(*_: object) -> None:
            began[stage] = clock()

        def after(*_: object) -> None:
            seconds[stage] = seconds.get(stage, 0.0) + clock() - began[stage]

        handles.append(module.register_forward_pre_hook(before))
        handles.append(module.register_forward_hook(after))

    watch("backbone", model.backbone)
    watch("RPN", model.proposal_generator)
    watch("ROI heads", model.roi_heads)
    for name, part in model.roi_heads.named_children():
        watch(f"ROI heads: {name}", part)
    try:
        yield seconds
    finally:
        for handle in handles:
            handle.remove()


def measure(args: argparse.Namespace) -> list[Detector]:
    """All detectors, one round after the other; `args` as of `tools/benchmark.py`."""
    opts = ["MODEL.DEVICE", args.device, "MODEL.WEIGHTS", "", *args.opts]
    built = {name: build(name, args.batch, opts) for name in args.names or DETECTORS}
    found = {name: Detector(name) for name in built}
    calls = {name: functions(*pair) for name, pair in built.items()}
    one_thread = args.device == "cpu" and torch.get_num_threads() == 1
    clock = time.process_time if one_thread else time.perf_counter
    for which in PASSES:
        chosen = {name: calls[name][which] for name in built}
        seconds = {} if args.no_time else seconds_in_turns(chosen, args.rounds, args.device, clock)
        for name, (model, _) in built.items():
            detector = found[name]
            detector.parameters = sum(p.numel() for p in model.parameters())
            with timed(model, clock) as stages:
                chosen[name]()
            detector.stages[which] = dict(stages)
            peak = peak_bytes(chosen[name], args.device) / MIB
            detector.costs[which] = Cost(seconds.get(name, []), peak)
    return list(found.values())


def table(detectors: list[Detector], batch: int) -> str:
    """Markdown: time, its ratio to the first, images a second and peak memory; then the stages."""
    titles = ["detector", "parameters, M"]
    for which in PASSES:
        titles += [f"{which}: s", "ratio", "images / s", "peak MiB"]
    lines = ["| " + " | ".join(titles) + " |", "|:--|" + "--:|" * (len(titles) - 1)]
    for detector in detectors:
        cells = [detector.name, f"{detector.parameters / 1e6:.1f}"]
        for which in PASSES:
            cost, first = detector.costs[which], detectors[0].costs[which]
            if cost.seconds:
                cells += [f"{cost.median:.2f}", f"{cost.times(first):.2f}"]
                cells += [f"{batch / cost.median:.2f}"]
            else:
                cells += ["", "", ""]
            cells += [f"{cost.peak_mib:.0f}"]
        lines.append("| " + " | ".join(cells) + " |")
    for which in PASSES:
        stages = list(dict.fromkeys(s for d in detectors for s in d.stages[which]))
        names = [detector.name for detector in detectors]
        lines += ["", f"Seconds of the stages in {which}, forward, one call:", ""]
        lines += ["| " + " | ".join(["stage", *names]) + " |", "|:--|" + "--:|" * len(names)]
        for stage in stages:
            values = [d.stages[which].get(stage) for d in detectors]
            cells = ["" if value is None else f"{value:.3f}" for value in values]
            lines.append("| " + " | ".join([stage, *cells]) + " |")
    return "\n".join(lines)


def as_json(detectors: list[Detector], args: argparse.Namespace) -> dict[str, Any]:
    """Every number, and what is needed to measure it again."""
    return {
        **provenance(0, "tools/benchmark.py"),
        "threads": torch.get_num_threads(),
        "batch": args.batch,
        "detectors": [
            {
                "name": d.name,
                "parameters": d.parameters,
                "stages": d.stages,
                "costs": {
                    which: {
                        "seconds": cost.seconds,
                        "ratio": cost.times(detectors[0].costs[which]) if cost.seconds else None,
                        "peak_mib": cost.peak_mib,
                    }
                    for which, cost in d.costs.items()
                },
            }
            for d in detectors
        ],
    }


def measure_and_print(args: argparse.Namespace) -> None:
    """What `tools/benchmark.py --whole` does with its arguments.

    Raises:
        FileNotFoundError, ValueError: a config, a key or the device does not fit.
    """
    require_device(args.device)
    torch.set_num_threads(args.threads)
    detectors = measure(args)
    print(table(detectors, args.batch))
    if args.json is not None:
        args.json.write_text(json.dumps(as_json(detectors, args), indent=1) + "\n")
