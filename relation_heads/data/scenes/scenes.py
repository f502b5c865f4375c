"""Relational Scenes: small synthetic detection scenes in which other objects decide a class.

Each scene holds one motif of one group and a few plain distractors. Except in `plain`, `partner`
and `crowd`, objects of different classes look exactly alike; which class an object has follows from
its *partner*: from which one is present, on which side it stands, or how large it is. A partner
is at least `min_gap` pixels away (Chebyshev distance between box edges), hence outside the reach
of a detector with a small receptive field.

numpy and OpenCV only. Boxes are float32 xyxy in whole pixels, right and bottom edges exclusive.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from relation_heads.data.files import read_json, write_whole
from relation_heads.data.scenes.compose import compose_layout
from relation_heads.data.scenes.draw import (
    CLASS_GROUPS,
    CLASS_TABLE,
    CLASSES,
    DEPENDENCIES,
    HFLIP_PAIRS,
    LOOK_ALIKES,
    draw_background,
    draw_object,
)
from relation_heads.data.scenes.draw import GROUPS as GROUPS

VERSION = "1.0"
MIX: dict[str, float] = {
    "plain": 0.08,
    "co-occurrence": 0.23,
    "direction": 0.25,
    "size": 0.19,
    "crowd": 0.10,
    "rare": 0.15,
}
"""Share of scenes per group; partners appear inside the scenes of the groups that need them.

`direction` has the fewest ambiguous objects per scene and `size` more, hence their shares.
"""

CROWDED: dict[str, Any] = {"mix": {"plain": 0.5, "crowd": 0.5}, "crowd_iou": (0.55, 0.85)}
"""Arguments of `write_dataset` for the crowded scenes: more overlap, and nothing else to learn."""

SPLITS = ("train", "val")
_DESCRIPTION = "Relational Scenes"
_SCENE_TRIES = 300


@dataclass(frozen=True, eq=False)
class Scene:
    """What is where; `render` turns it into pixels.

    Attributes:
        boxes: `(N, 4)` float32 xyxy pixels.
        classes: `(N,)` int64 indices into `CLASSES`.
        group: one of `GROUPS` except `partner`.
        seed: drives the background and every object's colour.
        size: side of the square image in pixels.
    """

    boxes: np.ndarray
    classes: np.ndarray
    group: str
    seed: int
    size: int


def compose_scene(
    rng: np.random.Generator,
    group: str,
    *,
    size: int = 192,
    min_gap: float = 32,
    flag_probability: float = 0.25,
    crowd_iou: tuple[float, float] = (0.5, 0.7),
) -> Scene:
    """Draws one scene.

    Args:
        rng: the only source of randomness.
        group: a key of `MIX`.
        size: side of the image in pixels.
        min_gap: least Chebyshev distance in pixels between the box edges of an ambiguous object
            and those of its partner.
        flag_probability: how often a scene of group `rare` has the flag.
        crowd_iou: range of the IoU between neighbours in group `crowd`.

    Raises:
        ValueError: if the group is unknown or no scene fits these limits.
    """
    if group not in MIX:
        raise ValueError(f"group is {group!r}; a scene is of one of the groups {', '.join(MIX)}")
    for _ in range(_SCENE_TRIES):
        layout = compose_layout(rng, group, size, min_gap, flag_probability, crowd_iou)
        if layout is not None:
            names, boxes = layout
            return Scene(
                boxes=np.array(boxes, np.float32),
                classes=np.array([CLASSES.index(name) for name in names], np.int64),
                group=group,
                seed=int(rng.integers(2**31)),
                size=size,
            )
    raise ValueError(
        f"no scene of group {group!r} fits size={size}, min_gap={min_gap}, crowd_iou={crowd_iou}"
    )


def compose_scenes(
    num: int,
    seed: int,
    *,
    mix: Mapping[str, float] = MIX,
    flag_probability: float = 0.25,
    **limits: Any,
) -> list[Scene]:
    """Draws `num` scenes in random order with exact shares of groups and of flag scenes.

    Args:
        num: number of scenes.
        seed: the same seed and arguments give the same scenes.
        mix: group: weight; the weights need not sum to one.
        flag_probability: share of the scenes of group `rare` that have the flag.
        limits: `size`, `min_gap` and `crowd_iou` of `compose_scene`.

    Raises:
        ValueError: for a negative `num`, weights or groups that make no mix, or limits that no
            scene fits.
    """
    if not set(mix) <= set(MIX) or min(mix.values(), default=0) < 0 or not sum(mix.values()) > 0:
        raise ValueError(f"mix is {dict(mix)}; it gives weights >= 0 to groups of {', '.join(MIX)}")
    if num < 0:
        raise ValueError(f"num is {num}; a number of scenes is not negative")
    groups, stops = list(mix), np.cumsum(list(mix.values())) / sum(mix.values())
    # Scenes are evenly spaced over the unit interval and the groups share it out, so counts are
    # exact to within one scene; the first part of the interval of `rare` has the flag.
    positions = np.random.default_rng(seed).permutation((np.arange(num) + 0.5) / num)
    scenes = []
    for index, position in enumerate(positions):
        k = int(np.searchsorted(stops, position, side="right"))
        start = stops[k - 1] if k else 0.0
        has_flag = position - start < flag_probability * (stops[k] - start)
        rng = np.random.default_rng([seed, index + 1])
        scenes.append(compose_scene(rng, groups[k], flag_probability=float(has_flag), **limits))
    return scenes


def render(scene: Scene) -> np.ndarray:
    """Draws a scene: a pure function of it.

    Every object has its own generator, from the scene's seed and its index, so another class in
    one place changes pixels in that object's box alone, and look-alikes are equal pixel by pixel.

    Returns:
        `(size, size, 3)` uint8 BGR.
    """
    image = draw_background(scene.size, np.random.default_rng(scene.seed))
    for index, (box, label) in enumerate(zip(scene.boxes, scene.classes, strict=True)):
        _, shape, colour = CLASS_TABLE[CLASSES[label]]
        rng = np.random.default_rng([scene.seed, index + 1])
        draw_object(image, box, shape, colour, rng)
    return np.rint(image.clip(0, 255)).astype(np.uint8)


def swap_partner(scene: Scene, new_partner: str) -> Scene:
    """The counterfactual: the same scene with another object in the partner's place.

    The labels of all other objects stay as they were; use the result to compare predictions, not
    to train on it. A head that sees only crops cannot tell the two scenes apart at the ambiguous
    objects.

    Args:
        scene: a scene with a partner: co-occurrence, direction, size, or rare with the flag.
        new_partner: a class of group `partner`.

    Raises:
        ValueError: if the scene has no partner or `new_partner` is no partner class.
    """
    if CLASS_GROUPS.get(new_partner) != "partner":
        partners = ", ".join(name for name, group in CLASS_GROUPS.items() if group == "partner")
        raise ValueError(f"new_partner is {new_partner!r}; the partner classes are {partners}")
    is_partner = np.array([CLASS_GROUPS[CLASSES[label]] == "partner" for label in scene.classes])
    if not is_partner.any():
        raise ValueError(f"this scene of group {scene.group!r} has no partner to swap")
    classes = np.where(is_partner, CLASSES.index(new_partner), scene.classes)
    return replace(scene, classes=classes)


def coco_dict(
    scenes: Sequence[Scene],
    file_names: Sequence[str],
    *,
    info: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Ground truth in COCO's format.

    All ids count from 1; category id = index in `CLASSES` + 1, supercategory = group of the class.
    Each image carries the `group` and the `seed` of its scene.

    Args:
        scenes: the scenes.
        file_names: one per scene, relative to the image folder.
        info: added to the `info` entry.
    """
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    for image_id, (scene, file_name) in enumerate(zip(scenes, file_names, strict=True), start=1):
        image = {"id": image_id, "file_name": file_name, "height": scene.size, "width": scene.size}
        images.append({**image, "group": scene.group, "seed": scene.seed})
        for box, label in zip(scene.boxes.tolist(), scene.classes.tolist(), strict=True):
            ids = {"id": len(annotations) + 1, "image_id": image_id, "category_id": label + 1}
            width, height = box[2] - box[0], box[3] - box[1]
            bbox = [box[0], box[1], width, height]
            annotations.append({**ids, "bbox": bbox, "area": width * height, "iscrowd": 0})
    categories = [
        {"id": index, "name": name, "supercategory": CLASS_GROUPS[name]}
        for index, name in enumerate(CLASSES, start=1)
    ]
    return {
        "info": {"description": _DESCRIPTION, "version": VERSION, **(info or {})},
        "images": images,
        "annotations": annotations,
        "categories": categories,
    }


def class_graph() -> dict[str, Any]:
    """What the scenes are made by, as a graph over classes that can be written as JSON.

    An edge reads "an object is of class `class` because of `relation` to `partner`"; classes
    without an edge are known from their own looks. `relations` explains each kind of edge.
    """
    return {
        "description": f"{_DESCRIPTION}: which classes depend on which partner",
        "version": VERSION,
        "classes": list(CLASSES),
        "groups": dict(CLASS_GROUPS),
        "look_alikes": [list(names) for names in LOOK_ALIKES],
        "hflip_pairs": [list(pair) for pair in HFLIP_PAIRS],
        "relations": {
            "present": "the partner is somewhere in the scene",
            "absent": "the partner is nowhere in the scene",
            "left_of": "the object's centre is left of the partner's",
            "right_of": "the object's centre is right of the partner's",
            "smaller_than": "the object's side is shorter than the partner's",
            "larger_than": "the object's side is longer than the partner's",
        },
        "edges": [
            {"class": name, "relation": relation, "partner": partner}
            for name, (relation, partner) in DEPENDENCIES.items()
        ],
    }


def split_seed(seed: int, split: str) -> int:
    """The seed of `compose_scenes` behind `write_dataset`'s split `train` or `val`."""
    return int(np.random.SeedSequence([seed, SPLITS.index(split) + 1]).generate_state(1)[0])


def write_dataset(
    output: str | os.PathLike[str],
    *,
    num_train: int = 2000,
    num_val: int = 300,
    seed: int = 0,
    progress: Callable[[], Any] | None = None,
    **recipe: Any,
) -> bool:
    """Writes images, COCO annotations and the class graph; the same arguments give the same bytes.

    Annotations are written last and appear whole, so an interrupted run is never taken for a
    finished one.

    Args:
        output: folder; gets `train/`, `val/`, `annotations/{train,val}.json`, `class_graph.json`.
        num_train: number of training scenes.
        num_val: number of validation scenes, drawn from an independent seed.
        seed: seed of both splits.
        progress: called after each image.
        recipe: `mix`, `flag_probability` and `crowd_iou` of `compose_scenes`.

    Returns:
        False if the folder already held exactly this data set and nothing was written.

    Raises:
        FileExistsError: if the folder holds annotations that are not of Relational Scenes.
    """
    output = Path(output)
    counts = dict(zip(SPLITS, (num_train, num_val), strict=True))
    scenes: dict[str, list[Scene]] = {}
    annotations: dict[str, dict[str, Any]] = {}
    for split, num in counts.items():
        seed_of_split = split_seed(seed, split)
        scenes[split] = compose_scenes(num, seed_of_split, **recipe)
        names = [f"{number:06d}.png" for number in range(1, num + 1)]
        info = {"split": split, "seed": seed, "num_images": num}
        annotations[split] = coco_dict(scenes[split], names, info=info)
    if all([_is_written(output, split, annotations[split]) for split in SPLITS]):
        return False
    for split in SPLITS:
        (output / split).mkdir(parents=True, exist_ok=True)
        (output / "annotations" / f"{split}.json").unlink(missing_ok=True)
        for scene, entry in zip(scenes[split], annotations[split]["images"], strict=True):
            path = output / split / entry["file_name"]
            if not cv2.imwrite(str(path), render(scene)):
                raise OSError(f"cannot write {path}")
            if progress is not None:
                progress()
    write_whole(output / "class_graph.json", json.dumps(class_graph(), indent=1) + "\n")
    for split in SPLITS:
        text = json.dumps(annotations[split]) + "\n"
        write_whole(output / "annotations" / f"{split}.json", text)
    return True


def _is_written(output: Path, split: str, annotations: dict[str, Any]) -> bool:
    """Whether a split with exactly these annotations is complete on disk."""
    path = output / "annotations" / f"{split}.json"
    try:
        found = read_json(path)
        description = found["info"]["description"]
    except FileNotFoundError:
        return False
    except (ValueError, KeyError, TypeError):  # whatever this is, it is not ours to overwrite
        description = None
    if description != _DESCRIPTION:
        raise FileExistsError(f"{path} is not of {_DESCRIPTION}; give another output folder")
    names = [output / split / image["file_name"] for image in annotations["images"]]
    files = [output / "class_graph.json", *names]
    return found == annotations and all(file.is_file() for file in files)
