"""Which objects one detector names right and another one wrong, with pictures of why.

What a detector calls an object is the class of its surest detection there: of those whose box has
no larger IoU with another object, and 0.5 at least with this one. No detection is wrong, too.

Pictures are chosen by a rule, half of them of objects that the second detector puts right and half
of objects that it puts wrong: the surest first (the smaller of the scores of both detections), one
of an image. Each shows what the first one calls the object, and what the second one listened to.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from tqdm import tqdm

from ..data.files import write_whole
from ..engine.predictor import Predictor, load
from ..modeling.roi_heads.heads import Relational
from ..visualization import draw_detections, side_by_side, upscale
from ..visualization.detections import Detections, write_image
from .labelled import Objects, check_data, objects_of, objects_shown
from .provenance import made_by

RIGHT, WRONG = "put right", "put wrong"  # by the second detector
# Whether the first and the second one are right.
OUTCOMES = {
    (True, True): "right in both",
    (False, True): RIGHT,
    (True, False): WRONG,
    (False, False): "wrong in both",
}
SIDE = 480  # pixels of the shorter side of a picture


@dataclass(frozen=True)
class Changed:
    """An object that one detector names right and the other one wrong.

    Attributes:
        file_name: of its image.
        number: of the object in the image.
        outcome: `RIGHT` or `WRONG`.
        sureness: the smaller score of both detections, 0 without one.
    """

    file_name: str
    number: int
    outcome: str
    sureness: float


def surest(found: Detections, objects: Objects) -> np.ndarray:
    """(M,) the surest detection of each object, -1 for none."""
    shown = objects_shown(found.boxes, objects)
    best = np.full(len(objects.classes), -1)
    for d in np.argsort(-found.scores, kind="stable"):
        if shown[d] >= 0 and best[shown[d]] < 0:
            best[shown[d]] = d
    return best


def compare_image(
    first: Detections, second: Detections, objects: Objects
) -> list[tuple[str, float]]:
    """Outcome and sureness of every object."""
    names, scores = [], []
    for found in (first, second):
        best = surest(found, objects)
        classes, surenesses = np.append(found.classes, -1), np.append(found.scores, 0.0)
        names.append(classes[best])  # -1 takes the last
        scores.append(surenesses[best])
    right = [(called == objects.classes).tolist() for called in names]
    sureness = np.minimum(*scores).tolist()
    return [(OUTCOMES[a, b], s) for a, b, s in zip(*right, sureness, strict=True)]


def chosen(changed: Iterable[Changed], outcome: str, number: int) -> list[Changed]:
    """The surest of an outcome, one of an image."""
    found: dict[str, Changed] = {}
    for one in sorted(changed, key=lambda c: -c.sureness):
        if one.outcome == outcome:
            found.setdefault(one.file_name, one)
    return list(found.values())[:number]


def draw(predictors: Sequence[Predictor], changed: Changed, objects: Objects) -> np.ndarray:
    """A picture of one object, (H, W, 3) uint8 BGR."""
    true = predictors[0].class_names[objects.classes[changed.number]]
    panels, captions = [], []
    for predictor in predictors:
        relational = isinstance(predictor.model.roi_heads, Relational)
        found = predictor(changed.file_name, relations=relational)
        d = int(surest(found, objects)[changed.number])
        called = "nothing" if d < 0 else f"{found.names[d]} {found.scores[d]:.2f}"
        if d >= 0 and predictor is predictors[-1] and found.relations:
            panels.append(found.picture_of_relations(d, min_side=SIDE))
        else:
            box = objects.boxes[changed.number] if d < 0 else found.boxes[d]
            image, boxes = upscale(found.image, box[None], SIDE)
            panels.append(draw_detections(image, boxes, [called]))
        captions.append(f"{predictor.cfg.MODEL.ROI_HEADS.NAME}: {called}")
    captions[0] += f" (it is: {true})"
    return side_by_side(panels, captions)


def count(
    predictors: Sequence[Predictor], data: Mapping[str, Objects]
) -> Iterator[tuple[str, int, str, float]]:
    """File name, number of the object, outcome and sureness, of every object."""
    streams = [predictor.stream(data) for predictor in predictors]
    for (name, objects), *found in tqdm(
        zip(data.items(), *streams, strict=True), total=len(data), disable=None
    ):
        for number, (outcome, sureness) in enumerate(compare_image(*found, objects)):
            yield name, number, outcome, sureness


def compare(args: argparse.Namespace) -> None:
    """What `tools/compare_detectors.py` does."""
    predictors = [load(source, device=args.device) for source in (args.first, args.second)]
    if predictors[0].class_names != predictors[1].class_names:
        raise ValueError(f"{args.first} and {args.second} have other classes.")
    test = args.dataset or predictors[1].cfg.DATASETS.TEST[0]
    check_data(test, predictors[1].class_names)
    data = objects_of(test)
    counts = {name: dict.fromkeys(OUTCOMES.values(), 0) for name in predictors[1].class_names}
    changed = []
    for file_name, number, outcome, sureness in count(predictors, data):
        true = predictors[1].class_names[data[file_name].classes[number]]
        counts[true][outcome] += 1
        if outcome in (RIGHT, WRONG):
            changed.append(Changed(file_name, number, outcome, sureness))
    setting = {"first": args.first, "second": args.second, "test": test}
    content = {"objects": counts, "setting": setting, "made_by": made_by()}
    print(table(content))
    if args.output:
        write_whole(args.output / "objects.json", json.dumps(content, indent=1) + "\n")
        for outcome in (RIGHT, WRONG):
            for k, one in enumerate(chosen(changed, outcome, args.num), start=1):
                drawn = draw(predictors, one, data[one.file_name])
                path = args.output / f"{outcome.replace(' ', '_')}_{k}.png"
                print(write_image(path, drawn))


def table(content: Mapping[str, Any]) -> str:
    """Markdown: a row for every class that has objects, and one for all."""
    rows = {name: row for name, row in content["objects"].items() if sum(row.values())}
    outcomes = OUTCOMES.values()
    rows["all"] = {key: sum(row[key] for row in rows.values()) for key in outcomes}
    lines = [f"| class | objects | {' | '.join(outcomes)} |", f"|:--|{'--:|' * 5}"]
    for name, row in rows.items():
        lines.append(f"| {name} | {sum(row.values()):,} | {' | '.join(map(str, row.values()))} |")
    setting, origin = content["setting"], content["made_by"]
    lines += [
        "",
        f"- first: `{setting['first']}`, second: `{setting['second']}`, on {setting['test']}",
    ]
    return "\n".join([*lines, f"- commit {origin['commit']}, {origin['machine']}"])
