"""Objects and parts of ADE20K, full release, as boxes, and the names of its classes.

Zhou et al., "Semantic Understanding of Scenes through the ADE20K Dataset" (IJCV 2019). Two releases
have different files beside each image `X.jpg`; both are read:

- 2021: `X.json` with a list of objects. Each has a raw name, a part level, the path of a mask (255
  visible, 128 occluded) and a polygon, which is used where the mask is missing: occluded pixels
  are then inside, and the box ends a pixel or two further right and down than the mask would.
- 2016: `X_atr.txt`, one record per line with columns separated by `#`: number, part level, ...,
  fifth the raw name. The blue channel of `X_seg.png` (level 0) and `X_parts_1.png`, ... tells
  instances apart: the value at rank t among the sorted values is the number t. Rank 0 is the value
  0, "no object", also in an image where no pixel has it.

A box is the extent of the visible pixels, (x, y, width, height) with width = x2 - x1 + 1 for the
first and last column x1, x2; the area is their number. All in pixels of the image.

Needs numpy, Pillow and OpenCV, not Detectron2.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np
from PIL import Image

from .exif import UPRIGHT, exif_orientation
from .files import read_json

Box = tuple[int, int, int, int]  # x, y, width, height

SPLIT_FOLDERS = {"training": "train", "validation": "val"}
VISIBLE, OCCLUDED = 255, 128  # in an instance mask of 2021

# Why a record, or a value of a mask, becomes no box.
NO_NAME = "has no name"
NO_SHAPE = "has neither mask nor polygon"
NO_PIXEL = "has no visible pixel"
OTHER_VALUES = "mask has no pixel of 255, but others than 0 and 128"
NO_RECORD = "pixels without a record"
REPEATED = "number given again by a later record"
# Why an image is left out.
NO_SPLIT = "in no folder called training or validation"
NO_ANNOTATION = "without .json or _atr.txt beside it"
TURNED = "turned by EXIF, which Detectron2 applies to images but masks do not follow"

DAMAGED = "a file is damaged, or a mask is missing or of another size"

_LEVELS = 10  # more than there are parts of parts of parts
_SENSE = re.compile(r"\.[a-z]\.\d+$")  # of bag.n.04
_NOT_PLURAL = {"scissors", "pants", "sunglasses", "chest_of_drawers", "goggles", "tennis"}


class Region(NamedTuple):
    """An object (`level` 0), a part of one (1), a part of a part (2), ..."""

    name: str  # raw, with `_` for blanks
    level: int
    box: Box
    area: int  # pixels


class DamagedImage(ValueError):
    """A file of the image cannot be used; the message names it."""


@dataclass
class AnnotatedImage:
    """An image with its regions; `dropped` counts by reason what became none."""

    path: Path
    height: int
    width: int
    regions: list[Region] = field(default_factory=list)
    dropped: Counter[str] = field(default_factory=Counter)
    num_polygons: int = 0  # regions that have no mask


# ---- files ----


def find_images(root: Path) -> tuple[dict[str, list[Path]], Counter[str]]:
    """The images of a release.

    Args:
        root: folder that contains all of it.

    Returns:
        the sorted images of "train" and "val", and the numbers of other images by reason.

    Raises:
        ValueError: there are none.
    """
    splits: dict[str, list[Path]] = {split: [] for split in SPLIT_FOLDERS.values()}
    left_out: Counter[str] = Counter()
    for path in sorted(root.rglob("*.jpg")):
        folders = [part for part in path.relative_to(root).parts if part in SPLIT_FOLDERS]
        if not folders:
            left_out[NO_SPLIT] += 1
        elif not (path.with_suffix(".json").is_file() or _beside(path, "atr.txt").is_file()):
            left_out[NO_ANNOTATION] += 1
        else:
            splits[SPLIT_FOLDERS[folders[0]]].append(path)
    if not any(splits.values()):
        found = "".join(f" {count} are {reason}." for reason, count in left_out.items())
        raise ValueError(
            f"{root} has no image of ADE20K's full release, in a folder called training or "
            f"validation and with a .json or _atr.txt beside it.{found}"
        )
    return splits, left_out


def read_image(path: Path, *, amodal: bool = False) -> AnnotatedImage | None:
    """The regions of an image.

    Args:
        path: the .jpg; the other files are beside it.
        amodal: whether boxes and areas contain occluded pixels.

    Returns:
        None if Detectron2 would turn the image as its EXIF orientation says: masks are not turned.

    Raises:
        DamagedImage: a file cannot be read, a mask has another size, or a record does not fit.
        ValueError: `amodal` and the release do not go together.
    """
    with _open(path) as picture:  # reads the header alone
        width, height = picture.size
        if exif_orientation(picture) != UPRIGHT:
            return None
    if path.with_suffix(".json").is_file():
        return _read_2021(path, height, width, amodal)
    if amodal:
        raise ValueError(
            f"{path} is of the 2016 release, whose masks do not tell what is occluded: amodal "
            "boxes need the 2021 release."
        )
    return _read_2016(path, height, width)


def files_of(path: Path) -> list[Path]:
    """The photo and all files beside it that `read_image` may read."""
    names = ["atr.txt", "seg.png", *(f"parts_{level}.png" for level in range(1, _LEVELS))]
    masks = path.with_suffix("")
    own = sorted(masks.iterdir()) if masks.is_dir() else []
    return [path, path.with_suffix(".json"), *(_beside(path, name) for name in names), *own]


def _beside(path: Path, suffix: str) -> Path:
    return path.with_name(f"{path.stem}_{suffix}")


def _open(path: Path) -> Image.Image:
    try:
        return Image.open(path)
    except OSError as error:
        raise DamagedImage(f"{path} cannot be read as an image: {error}.") from None


def _read_mask(path: Path, mode: str, height: int, width: int) -> np.ndarray:
    """(height, width) or (height, width, 3) uint8."""
    try:
        with _open(path) as picture:
            mask = np.asarray(picture.convert(mode))
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:  # cut off
        if isinstance(error, DamagedImage):
            raise
        raise DamagedImage(f"{path} cannot be read as an image: {error}.") from None
    if mask.shape[:2] != (height, width):
        raise DamagedImage(
            f"{path} is {mask.shape[1]} x {mask.shape[0]} pixels, but its image {width} x {height}."
        )
    return mask


# ---- 2021 ----


def _read_2021(path: Path, height: int, width: int, amodal: bool) -> AnnotatedImage:
    image = AnnotatedImage(path, height, width)
    for where, record in _records_2021(path.with_suffix(".json")):
        name = record.get("raw_name")  # an empty one is []
        mask, is_polygon, other_values = _shape(where, record, image, amodal)
        reason = None
        if not isinstance(name, str) or not name.strip():
            reason = NO_NAME
        elif mask is None:
            reason = NO_SHAPE
        elif not mask.any():
            reason = OTHER_VALUES if other_values else NO_PIXEL
        if reason:
            image.dropped[reason] += 1
            continue
        level = (record.get("parts") or {}).get("part_level", 0)
        if not isinstance(level, int):
            raise DamagedImage(f"{where}: the part_level must be an integer, but it is {level!r}.")
        box = tuple(map(int, cv2.boundingRect(mask)))
        image.regions.append(Region(underscored(name), level, box, cv2.countNonZero(mask)))
        image.num_polygons += is_polygon
    return image


def _records_2021(file: Path) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """The objects of a .json, each with where it is."""
    try:
        # A few bytes of free text may be no UTF-8; that must not cost an image.
        content = read_json(file, errors="replace")
    except ValueError as error:
        raise DamagedImage(f"{file} is damaged: {error}") from None
    try:
        objects = content["annotation"]["object"]
    except (KeyError, TypeError):
        raise DamagedImage(
            f"{file} is not of ADE20K: it has no 'object' in 'annotation'."
        ) from None
    for index, record in enumerate(objects if isinstance(objects, list) else [objects]):
        where = f"{file}, object {index}"
        if not isinstance(record, dict):
            raise DamagedImage(f"{where} must be a JSON object, but it is {record!r}.")
        yield where, record


def _shape(
    where: str, record: Mapping[str, Any], image: AnnotatedImage, amodal: bool
) -> tuple[np.ndarray | None, bool, bool]:
    """(height, width) uint8, not 0 inside, or None if there is nothing; whether it is by the
    polygon; whether a mask has a value that none should have."""
    name = record.get("instance_mask")
    file = image.path.parent / name if isinstance(name, str) and name else None
    if file is not None and file.is_file():
        values = _read_mask(file, "L", image.height, image.width)
        mask = values if amodal else (values == VISIBLE).astype(np.uint8)
        return mask, False, not mask.any() and not np.isin(values, (0, OCCLUDED)).all()
    polygon = record.get("polygon") or {}
    try:
        x, y = (np.atleast_1d(np.asarray(polygon.get(axis, []), dtype=float)) for axis in "xy")
        points = np.stack([x, y], axis=1)
    except (AttributeError, TypeError, ValueError):
        points = np.full((1, 2), np.nan)
    if not np.isfinite(points).all():
        raise DamagedImage(f"{where}: the polygon must have as many finite numbers x as y.")
    if not len(points):
        return None, True, False
    mask = np.zeros((image.height, image.width), np.uint8)
    return cv2.fillPoly(mask, [np.rint(points).astype(np.int32)], 1), True, False


# ---- 2016 ----


def _read_2016(path: Path, height: int, width: int) -> AnnotatedImage:
    image = AnnotatedImage(path, height, width)
    names = _names_2016(_beside(path, "atr.txt"), image.dropped)
    level, file = 0, _beside(path, "seg.png")
    while level == 0 or file.is_file():
        blue = _read_mask(file, "RGB", height, width)[..., 2]
        for number, (box, area) in enumerate(extents(blue), start=1):
            name = names.pop((number, level), None)
            if name:
                image.regions.append(Region(name, level, box, area))
            else:
                image.dropped[NO_RECORD if name is None else NO_NAME] += 1
        level += 1
        file = _beside(path, f"parts_{level}.png")
    if names:
        image.dropped[NO_PIXEL] += len(names)
    return image


def _names_2016(file: Path, dropped: Counter[str]) -> dict[tuple[int, int], str]:
    """(number, level) -> raw name, of the last record if there are several."""
    names: dict[tuple[int, int], str] = {}
    for line_number, line in enumerate(file.read_bytes().split(b"\n"), start=1):
        if not line.strip():
            continue
        columns = line.decode("utf-8", errors="replace").split("#")
        try:
            key, name = (int(columns[0]), int(columns[1])), underscored(columns[4])
        except (ValueError, IndexError):
            raise DamagedImage(
                f"{file}, line {line_number} must be 'number # level # ... # ... # raw name # "
                f"...', but it is {line!r}."
            ) from None
        if key in names:
            dropped[REPEATED] += 1
        names[key] = name
    return names


def extents(labels: np.ndarray) -> list[tuple[Box, int]]:
    """Box and area of every value but 0, in the order of the values.

    Args:
        labels: (H, W) uint8.
    """
    height, width = labels.shape
    in_row, in_column = np.zeros((height, 256), bool), np.zeros((width, 256), bool)
    in_row[np.arange(height)[:, None], labels] = True
    in_column[np.arange(width), labels] = True
    areas = np.bincount(labels.ravel(), minlength=256)
    found = []
    for value in np.flatnonzero(areas[1:]) + 1:
        rows, columns = np.flatnonzero(in_row[:, value]), np.flatnonzero(in_column[:, value])
        x, y = int(columns[0]), int(rows[0])
        box = x, y, int(columns[-1]) - x + 1, int(rows[-1]) - y + 1
        found.append((box, int(areas[value])))
    return found


# ---- names ----


def underscored(name: str) -> str:
    return name.strip().replace(" ", "_")


def merged_name(name: str) -> str:
    """The name that the label set `sgrn` has for a raw name: courts, pants and plurals merged.

    The rules know no grammar: "bus" becomes "bu", "gloves" "glof" and "sunglasses" "sunglass",
    although the last is an exception of a later rule. They are as published, with the data loader
    of Jiang et al., "Hybrid Knowledge Routed Modules" (NeurIPS 2018).

    Args:
        name: with `_` for blanks.
    """
    if "_court" in name:
        return "court"
    if name == "short_pants":
        return "pants"
    if len(name) > 3 and name.endswith(("ses", "xes", "shes", "ches")):
        return name[:-2]
    if len(name) > 3 and name.endswith("ves") and name not in ("waves", "eaves"):
        return "knife" if name == "knives" else name[:-3] + "f"
    is_plural = len(name) > 1 and name.endswith("s") and not name.endswith("ss")
    return name[:-1] if is_plural and name not in _NOT_PLURAL else name


def bare_name(synset: str) -> str:
    """`Traffic light` and `traffic_light.n.01` are "traffic_light"."""
    return underscored(_SENSE.sub("", synset.strip())).lower()
