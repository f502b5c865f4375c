"""A GloRe unit of 16 nodes in a trained ResNet-18: where it goes, how it starts, and what then
happens in training.

    python -m relation_heads.analysis.insertions --weights output/looks.pth \\
        --output docs/insertions.json

A report on CUB-200-2011 has it: one unit, "256 -> 256", 16 projections, learning rate 0.04. After
the last stage it "introduces huge loss, not trainable despite learning rate tuning", after the
stage before it costs 4 % of accuracy. Here the classes are pairs of looks: two objects in opposite
corners of 64 x 64 pixels, out of five looks, which makes 10 classes. The ResNet learns them without
a unit; then every form of the unit is put into the same weights, and all is trained on, at the
reported rate (0.04 of 32 images, which is 0.01 of 8), momentum and weight decay.
"""

from __future__ import annotations

import argparse
import json
import math
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import combinations
from pathlib import Path
from statistics import mean
from typing import Any

import cv2
import numpy as np
from detectron2.checkpoint import DetectionCheckpointer
from detectron2.config import CfgNode
from torch import nn

from ..config import get_cfg
from ..config.files import merge_file
from ..data.files import write_whole
from ..data.image_classes import register_image_folder
from ..data.scenes.draw import CLASS_TABLE, draw_background, draw_object
from ..engine.trainer import RelationTrainer
from ..layers import GloRe
from .measuring_trainer import MeasuringTrainer
from .provenance import provenance

TOOL = "python -m relation_heads.analysis.insertions"
CONFIG = "Classification/cub_R_18_glore.yaml"
SIZE, OBJECT = 64, 20  # pixels
LOOKS = ("disc", "triangle", "cross", "ring", "sun")
IMAGES = {"train": 48, "test": 5}  # of each class
LR = 0.01  # of 8 images, by the linear rule; reported: 0.04 of 32
LAST = 3  # iterations whose mean loss is the last loss


@dataclass(frozen=True)
class Form:
    """How a unit is put in.

    norm, normalize: of the plugin. zero: its branch starts at zero, else as its other layers do.
    """

    norm: str
    normalize: bool
    zero: bool


FORMS = {
    "no norm, no 1/L": Form("", normalize=False, zero=False),
    "1/L": Form("", normalize=True, zero=False),
    "zero start": Form("", normalize=False, zero=True),
    "norm": Form("GN", normalize=False, zero=False),
    "norm, 1/L, zero start (default)": Form("GN", normalize=True, zero=True),
}
CURE = list(FORMS)[-1]
BARE = next(iter(FORMS))
# Stage, form, learning rate; "" has no unit.
CASES = (
    ("", "", LR),
    ("res4", BARE, LR),
    ("res4", CURE, LR),
    *(("res5", form, LR) for form in FORMS),
    ("res5", BARE, LR / 10),
)


@dataclass(frozen=True)
class Outcome:
    """Of one training.

    Attributes:
        place, form, lr: a case.
        seed: of its images and of the unit.
        first_loss: of the first batch, before any step; None if it was not finite.
        last_loss: mean of the last iterations; None if it diverged.
        diverged_at: iteration, from 0, of the first loss that was not finite.
        top1: on the test images, in per cent; None if it diverged.
    """

    place: str
    form: str
    lr: float
    seed: int
    first_loss: float | None
    last_loss: float | None
    diverged_at: int | None
    top1: float | None


def write_images(folder: Path, seed: int) -> list[str]:
    """Images of every class below `folder`/train and `folder`/test; returns the classes."""
    pairs = list(combinations(LOOKS, 2))
    for part, count in IMAGES.items():
        for pair in pairs:
            (folder / part / "_".join(pair)).mkdir(parents=True)
            for k in range(count):
                key = (seed, list(IMAGES).index(part), pairs.index(pair), k)
                path = folder / part / "_".join(pair) / f"{k:03d}.png"
                cv2.imwrite(str(path), draw(pair, np.random.default_rng(key)))
    return ["_".join(pair) for pair in pairs]


def draw(pair: Sequence[str], rng: np.random.Generator) -> np.ndarray:
    """(64, 64, 3) BGR: the two objects in opposite corners, either one in either corner."""
    image = draw_background(SIZE, rng)
    x, y = rng.integers(0, 8, 2), rng.integers(0, 8, 2)
    far = SIZE - OBJECT
    corners = [(x[0], y[0]), (far - x[1], far - y[1])]
    if rng.random() < 0.5:  # the other diagonal
        corners = [(far - left, top) for left, top in corners]
    for k, (left, top) in zip(rng.permutation(2), corners, strict=True):
        _, shape, colour = CLASS_TABLE[pair[k]]
        box = np.array([left, top, left + OBJECT, top + OBJECT])
        draw_object(image, box, shape, colour, rng)
    return image.clip(0, 255).astype(np.uint8)


def config_of(
    place: str, form: str, lr: float, seed: int, iterations: int, batch: int, weights: str
) -> CfgNode:
    """Of one training; see `Outcome`."""
    cfg = get_cfg()
    merge_file(cfg, CONFIG)
    keys = {
        "MODEL.DEVICE": "cpu",
        "MODEL.WEIGHTS": weights,
        "MODEL.RESNETS.NORM": "BN",
        "MODEL.CLASSIFIER.NUM_CLASSES": math.comb(len(LOOKS), 2),
        "MODEL.CLASSIFIER.CROP_SIZE": SIZE,
        "MODEL.CLASSIFIER.RESIZE": SIZE,
        "MODEL.CLASSIFIER.MIN_AREA": 1.0,  # both objects are needed
        "MODEL.CONTEXT_BLOCKS.PLUGINS": [],
        "DATASETS.TRAIN": ("insertions_train",),
        "DATASETS.TEST": ("insertions_test",),
        "DATALOADER.NUM_WORKERS": 0,
        "SOLVER.BASE_LR": lr,
        "SOLVER.IMS_PER_BATCH": batch,
        "SOLVER.MAX_ITER": iterations,
        "SEED": seed,
    }
    if place:
        chosen = FORMS[form]
        plugin = {"name": "GloRe", "stages": {place: [1]}, "num_nodes": 16}
        plugin |= {"norm": chosen.norm, "normalize": chosen.normalize}
        keys["MODEL.CONTEXT_BLOCKS.PLUGINS"] = [plugin]
    cfg.merge_from_list([x for pair in keys.items() for x in pair])
    return cfg


def start_as_the_other_layers(model: nn.Module) -> None:
    """Undoes the zero start of the units in a model."""
    for unit in model.modules():
        if isinstance(unit, GloRe):
            if isinstance(unit.blocker, nn.Identity):
                nn.init.xavier_uniform_(unit.conv_extend.weight)
            else:
                nn.init.ones_(unit.blocker.weight)


def learn(path: Path, iterations: int, batch: int) -> None:
    """Writes the weights of a ResNet-18 that has learned the classes from random weights, at half
    the reported rate (twice as many images)."""
    cfg = config_of("", "", LR, 0, iterations, batch, "")
    cfg.SOLVER.WARMUP_ITERS = iterations // 4
    cfg.SOLVER.STEPS = (iterations * 3 // 4,)
    trainer = MeasuringTrainer(cfg)
    trainer.train()
    path.parent.mkdir(parents=True, exist_ok=True)
    DetectionCheckpointer(trainer.model, str(path.parent)).save(path.stem)


def train(cfg: CfgNode, place: str, form: str) -> Outcome:
    """One training."""
    trainer = MeasuringTrainer(cfg)
    if place and not FORMS[form].zero:
        start_as_the_other_layers(trainer.model)
    diverged = trainer.diverged() is not None
    losses = list(trainer.history().get("total_loss", {}).values())
    first = losses[0] if losses else None
    found = {} if diverged else trainer.test(cfg, trainer.model)
    return Outcome(
        place=place,
        form=form,
        lr=cfg.SOLVER.BASE_LR,
        seed=cfg.SEED,
        first_loss=first,
        last_loss=None if diverged else mean(losses[-LAST:]),
        diverged_at=trainer.iter if diverged else None,
        top1=found["classification"]["top1"] if found else None,
    )


def run(args: argparse.Namespace) -> dict[str, Any]:
    """Learns the classes, then trains every case with every seed; what the JSON holds."""
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        write_images(folder, seed=0)
        for part in IMAGES:
            register_image_folder(f"insertions_{part}", str(folder / part))
        weights = str(args.weights)
        if not args.weights.exists():
            learn(args.weights, args.first, 2 * args.batch)
        pretrained = RelationTrainer.evaluate(config_of("", "", LR, 0, 1, args.batch, weights))
        content = provenance(0, TOOL) | {
            "batch": args.batch, "iterations": args.iterations,
            "before": pretrained["classification"]["top1"], "insertions": [],
        }  # fmt: skip
        for seed in range(args.seeds):
            for place, form, lr in CASES:
                cfg = config_of(place, form, lr, seed, args.iterations, args.batch, weights)
                outcome = train(cfg, place, form)
                content["insertions"].append(asdict(outcome))
                print(outcome)
                write_whole(args.output, json.dumps(content, indent=1) + "\n")
    return content


def table(content: Mapping[str, Any]) -> str:
    """Markdown: a row for every case, of all its seeds."""
    lines = [
        "| unit after | form | learning rate | first loss | last loss | top-1 |",
        "|:--|:--|--:|--:|--:|--:|",
    ]
    outcomes = [Outcome(**outcome) for outcome in content["insertions"]]
    for place, form, lr in dict.fromkeys((o.place, o.form, o.lr) for o in outcomes):
        seeds = [o for o in outcomes if (o.place, o.form, o.lr) == (place, form, lr)]
        measured = map(" / ".join, zip(*map(_cells, seeds), strict=True))
        cells = [place or "no unit", form, f"{lr:g}", *measured]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join([
        *lines, "",
        f"- {content['iterations']} iterations of {content['batch']} images. Before, without a "
        f"unit: top-1 {content['before']:.1f} %. Chance is 10 %.",
        f"- {content['machine']}, commit {content['commit']}",
    ])  # fmt: skip


def _cells(outcome: Outcome) -> Iterator[str]:
    """First loss, last loss, top-1 of one seed."""
    yield "not finite" if outcome.first_loss is None else f"{outcome.first_loss:.3g}"
    if outcome.diverged_at is not None:
        yield from (f"diverged at {outcome.diverged_at}", "-")
    else:
        yield from (f"{outcome.last_loss:.3g}", f"{outcome.top1:.1f}")


def main(argv: list[str] | None = None) -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    add = parser.add_argument
    add("--first", type=int, default=160, help="iterations without a unit (%(default)s)")
    add("--iterations", type=int, default=12, help="iterations of a case (%(default)s)")
    add("--batch", type=int, default=8, help="images; twice as many at first (%(default)s)")
    add("--seeds", type=int, default=3, help="trainings of a case (%(default)s)")
    add("--weights", type=Path, required=True, metavar="FILE", help="what is learned without a "
        "unit, a .pth file; it is made if it is not there")  # fmt: skip
    add("--output", type=Path, required=True, metavar="FILE", help="JSON")
    print(table(run(parser.parse_args(argv))))


if __name__ == "__main__":
    main()
