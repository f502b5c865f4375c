"""What the page shows, as values that JSON can hold.

Weights are whole numbers of 1/1000 (`UNITS`). The parts of one detection in one head are what it
gave itself, the strongest objects, and the rest; they are rounded together, so that the printed
percentages add up to 100 as the weights of a softmax add up to 1. An object is a detection of the
page, or regions that show none (`visualization.objects`).

Shapes: D detections, R regions, H heads of a relation module, K kernels of a graph layer.
"""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from ..visualization.detections import Detections, Relations
from ..visualization.objects import HeardObject

UNITS = 1000
LONGEST_SIDE = 1000  # pixels of an image on the page
QUALITIES = (85, 75, 65, 55, 45, 35, 25, 15, 5)  # of JPEG, the first that is small enough
IMAGE_BYTES = 130_000
KERNEL_SIDE = 96  # pixels
NODES = 16  # of a GloRe unit, the first ones
NODE_BYTES = 10_000  # of an image, the maps of all units together
NODE_COLUMNS = 4

Kernels = Mapping[str, Sequence[np.ndarray]]


def page_data(
    detections: Mapping[str, Sequence[Detections]],
    *,
    min_score: float,
    top: int,
    kernels: Kernels,
) -> dict[str, Any]:
    """Everything that the page shows.

    Args:
        detections: by the name of a detector, one entry for every image. All detectors saw the same
            images in the same order.
        min_score: detections below are left out.
        top: how many objects a detection has in each head; the others are summed up.
        kernels: by the name of a detector, (K, side, side) maps in 0 to 1 of every graph layer.

    Returns:
        `names` is a table of class names, and classes are numbers in it. Boxes are x1 y1 x2 y2 in
        pixels of the image on the page.

    Raises:
        ValueError: there is no detector or image, the detectors saw different images, or a value is
            not valid.
    """
    _check(detections, min_score, top, kernels)
    names: dict[str, int] = {}
    images = []
    for number, found in enumerate(zip(*detections.values(), strict=True), start=1):
        picture = _fitted(found[0].image)
        images.append(
            {
                "name": Path(found[0].file_name).name or f"image {number}",
                "width": picture.shape[1],
                "height": picture.shape[0],
                "src": jpeg_uri(picture),
                "found": [_found(one, picture, names, min_score, top) for one in found],
            }
        )
    return {
        "units": UNITS,
        "minScore": min_score,
        "detectors": list(detections),
        "names": list(names),
        "images": images,
        "kernels": [
            [[_kernel_uri(one) for one in layer] for layer in kernels.get(name, ())]
            for name in detections
        ],
    }


def shares(about_self: float, objects: Sequence[HeardObject], top: int) -> list[int]:
    """What one detection listened to in one head, in 1/1000: itself, the rest, the `top` objects.

    For example [200, 50, 600, 150]: 20% itself, 60% and 15% the first objects, 5% all others.

    Args:
        about_self: the weight of its own object.
        objects: the largest weight first.
        top: at most so many are told; the others are the rest.
    """
    weights = [one.weight for one in objects]
    return apportion(np.array([about_self, sum(weights[top:]), *weights[:top]]))


def apportion(weights: np.ndarray) -> list[int]:
    """Rounds to 1/1000 without changing the sum: the largest remainders are rounded up.

    For example 0.3333, 0.3333, 0.3334 become 333, 333, 334.

    Args:
        weights: (N,) not negative.
    """
    scaled = weights * UNITS
    whole = np.floor(scaled).astype(np.int64)
    missing = round(scaled.sum()) - int(whole.sum())
    order = np.argsort(whole - scaled, kind="stable")  # the largest remainder first
    whole[order[:missing]] += 1
    return whole.tolist()


def jpeg_uri(image: np.ndarray) -> str:
    """A JPEG as a data URI: quality 85, or the next lower one with at most 130,000 bytes."""
    for quality in QUALITIES:
        code = cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, quality])[1].tobytes()
        if len(code) <= IMAGE_BYTES:
            break
    return _uri("image/jpeg", code)


def _check(
    detections: Mapping[str, Sequence[Detections]], min_score: float, top: int, kernels: Kernels
) -> None:
    if not 0 <= min_score <= 1:
        raise ValueError(f"min_score must be in 0 to 1, got {min_score}.")
    if top < 1:
        raise ValueError(f"top must be at least 1, got {top}.")
    if not detections or not all(detections.values()):
        raise ValueError("The page needs at least one detector, and each at least one image.")
    first, *others = detections
    for name in others:
        if len(detections[name]) != len(detections[first]):
            raise ValueError(
                f"All detectors must have seen the same images, but {first!r} has "
                f"{len(detections[first])} and {name!r} has {len(detections[name])}."
            )
        for i, (a, b) in enumerate(zip(detections[first], detections[name], strict=True)):
            if a.image.shape != b.image.shape or a.file_name != b.file_name:
                raise ValueError(
                    f"All detectors must have seen the same images, but image {i} is "
                    f"{a.file_name!r} {a.image.shape} of {first!r} and {b.file_name!r} "
                    f"{b.image.shape} of {name!r}."
                )
    for name, found in detections.items():
        for unit, maps in (pair for one in found for pair in one.nodes.items()):
            if maps.ndim != 3 or not maps.size or not np.isfinite(maps).all():
                raise ValueError(
                    f"Maps of {unit} must be (N, h, w) and finite, got {maps.shape} of {name!r}."
                )
    for name in kernels:
        if name not in detections:
            raise ValueError(f"There are kernels of {name!r}, which is none of {[*detections]}.")
        for layer in kernels[name]:
            if layer.ndim != 3 or not layer.size:
                raise ValueError(f"Kernels must be (K, side, side), got {layer.shape} of {name!r}.")


def _found(
    one: Detections, picture: np.ndarray, names: dict[str, int], min_score: float, top: int
) -> dict[str, Any]:
    kept = np.flatnonzero(one.scores >= min_score).tolist()
    scale = np.tile(np.divide(picture.shape[1::-1], one.image.shape[1::-1]), 2)
    return {
        "boxes": _rounded(one.boxes[kept] * scale),
        "classes": [names.setdefault(one.names[d], len(names)) for d in kept],
        "scores": [round(float(one.scores[d]), 3) for d in kept],
        "relations": [
            _relations(one, r, kept, scale, names, min_score, top) for r in one.relations
        ],
        "attention": {
            "names": list(one.attention),
            "rows": [
                apportion(np.array([weights[d] for weights in one.attention.values()], float))
                for d in kept
                if one.attention
            ],
        },
        "nodes": _nodes(one.nodes),
    }


def node_sheet(maps: np.ndarray, factor: float = 1.0) -> np.ndarray:
    """Maps of a GloRe unit's nodes as one grey picture, in rows of four.

    Grey 128 is 0, 255 is the largest absolute value of the map and 1 is minus that.

    Args:
        maps: (N, h, w), of which the first 16 are shown.
        factor: of the resolution.

    Returns:
        (rows * h', 4 * w') uint8; 128 where there is no node.
    """
    cells = []
    for one in maps[:NODES].astype(np.float32):
        height, width = (max(1, round(side * factor)) for side in one.shape)
        one = cv2.resize(one, (width, height), interpolation=cv2.INTER_AREA)
        most = max(float(np.abs(one).max()), 1e-12)
        cells.append((128 + np.round(127 * one / most)).astype(np.uint8))
    cells += [np.full_like(cells[0], 128)] * (-len(cells) % NODE_COLUMNS)
    rows = [cells[i : i + NODE_COLUMNS] for i in range(0, len(cells), NODE_COLUMNS)]
    return np.block(rows)


def _nodes(units: Mapping[str, np.ndarray]) -> list[dict[str, Any]]:
    """At the resolution of the features, or the next half of it that is small enough."""
    if not units:
        return []
    factor = 1.0
    while True:
        codes = [_png(node_sheet(maps, factor)) for maps in units.values()]
        if sum(map(len, codes)) <= NODE_BYTES or factor < 1 / 16:
            break
        factor /= 2
    return [
        {
            "unit": name,
            "nodes": len(maps),
            "shown": min(len(maps), NODES),
            "src": _uri("image/png", code),
        }
        for (name, maps), code in zip(units.items(), codes, strict=True)
    ]


def _png(picture: np.ndarray) -> bytes:
    return cv2.imencode(".png", picture, [cv2.IMWRITE_PNG_COMPRESSION, 9])[1].tobytes()


def _relations(
    found: Detections,
    relations: Relations,
    kept: list[int],
    scale: np.ndarray,
    names: dict[str, int],
    min_score: float,
    top: int,
) -> dict[str, Any]:
    """One module. Row 0 of a detection is the mean over the heads, row 1 + h is head h: [itself,
    rest, object, share, object, share, ...], the largest share first, without those that round to
    nothing. An object is a number d >= 0 of a detection of the page, or -1 - k of a region k of
    `boxes` and `classes`, the surest of what no detection shows."""
    weights = relations.weights
    if not np.isfinite(weights).all() or (weights < 0).any():
        raise ValueError(f"Weights of {relations.module} must be finite and not negative.")
    heads = len(weights)
    asked = [None, *range(heads)] if heads > 1 else [None]
    objects = found.objects(relations, min_score=min_score)
    place: dict[int, int] = {}  # region -> its place among those that are shown
    number = {d: i for i, d in enumerate(kept)}

    def row(d: int, head: int | None) -> list[int]:
        about_self, heard = objects.heard(relations.heard(d, head), d)
        own, rest, *rounded = shares(about_self, heard, top)
        told = [own, rest]
        for (detected, i, _), share in zip(heard, rounded, strict=False):
            if share > 0:
                told += [number[i] if detected else -1 - place.setdefault(i, len(place)), share]
        return told

    rows = [[row(d, head) for head in asked] for d in kept]
    shown = list(place)
    return {
        "module": relations.module,
        "kind": relations.kind,
        "heads": heads,
        "boxes": _rounded(relations.boxes[shown] * scale),
        "classes": [names.setdefault(relations.labels[region], len(names)) for region in shown],
        "rows": rows,
    }


def _rounded(boxes: np.ndarray) -> list[list[float]]:
    return np.round(np.asarray(boxes, dtype=np.float64).reshape(-1, 4), 1).tolist()


def _fitted(image: np.ndarray) -> np.ndarray:
    """The image, its longest side at most 1000 pixels."""
    factor = LONGEST_SIDE / max(image.shape[:2])
    if factor >= 1:
        return image
    height, width = (max(1, round(side * factor)) for side in image.shape[:2])
    return cv2.resize(image, (width, height), interpolation=cv2.INTER_AREA)


def _kernel_uri(values: np.ndarray) -> str:
    """A map in 0 to 1 as a small picture in colours that colour-blind people can tell apart."""
    shade = np.round(np.clip(values, 0, 1) * 255).astype(np.uint8)
    shade = cv2.resize(shade, (KERNEL_SIDE, KERNEL_SIDE), interpolation=cv2.INTER_AREA)
    colors = cv2.applyColorMap(shade, cv2.COLORMAP_CIVIDIS)
    return _uri("image/png", _png(colors))


def _uri(kind: str, code: bytes) -> str:
    return f"data:{kind};base64,{base64.b64encode(code).decode('ascii')}"
