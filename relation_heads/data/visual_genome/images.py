"""The images of Visual Genome: their files, sizes and splits, and the published 3000 classes.

Krishna et al., "Visual Genome" (IJCV 2017). `image_data.json` is a list with a record per image,
`{"image_id", "url", "width", "height", "coco_id", "flickr_id"}`; about half of the images are of
COCO too, the others have `coco_id` null. File names come from the url, `.../VG_100K_2/1.jpg`, as
they need not agree with the ids. Objects are read in `visual_genome_boxes`.

The splits that papers of detection use were drawn without a seed, and their lists are not
published. These rules take their place. No rule looks at objects, so that the images are the same
for every vocabulary:

- leak-free: test are the last `held_out` images, by id, that are not of COCO. A detector that was
  pretrained on COCO has not seen them. Val are the `held_out` images before these, or, given a list
  of ids, those that COCO itself evaluates on; they are then not trained on either.
- scene-graph: of the images in the order of image_data.json, without four that the papers leave
  out, the first 70 % are train and val, the others test (75,651 and 32,422 of all images); val are
  the first `held_out` of train. Xu et al., "Scene Graph Generation by Iterative Message Passing"
  (CVPR 2017), and Zellers et al., "Neural Motifs" (CVPR 2018), whose val images also have
  relationships.
- random: test and val are the first and the second `held_out` images in the order of
  SHA-256("seed image_id"), which does not change with a library or with the other images.

Needs Pillow, not Detectron2.
"""

from __future__ import annotations

import hashlib
import re
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, TypeAlias

from PIL import Image

from ..exif import exif_orientation, upright_size
from ..files import Kept, read_text, stamp
from ..json_records import read_records

Watch: TypeAlias = Callable[[Iterable[Any]], Iterable[Any]]  # passes items on, may show progress

# The list is published with "Hybrid Knowledge Routed Modules for Large-scale Object Detection"
# (Jiang et al., NeurIPS 2018), whose data SGRN uses. Class k is on line k, from 1 on.
PUBLISHED_FILE = Path(__file__).parents[1] / "vocabularies" / "vg3000_synsets.txt"
# Vocabulary -> file beside it, SHA-256 of its lines. `vocabularies` has the sources.
VOCABULARY_FILES = {
    "vg3000": (
        PUBLISHED_FILE.name,
        "eb01d1921b991445a5d9052eb2c29fd9324120549d84530debb720b28c3a6a32",
    ),
    "vg150": (
        "vg150_names.txt",
        "14b4c7226a647547a25cb9c6b5bc922fab8df27d96c334a1de324c227688381d",
    ),
    "vg1600": (
        "vg1600_names.txt",
        "217d54c63c08c29001c12269ad42ef852ee1b12fb28b65b602fdf647ed11fb19",
    ),
}

SPLIT_RULES = ("leak-free", "random", "scene-graph")
# Ids of images that the code of these papers calls corrupted.
SCENE_GRAPH_LEFT_OUT = frozenset((1592, 1722, 4616, 4617))
UNKNOWN = -1  # a COCO id

# Why an image is left out.
REPEATED_IMAGE = "image_id of an earlier record of image_data.json"
REPEATED_FILE = "file of an earlier image"
NO_FILE_NAME = "url without VG_100K/NAME.jpg or VG_100K_2/NAME.jpg"
NO_SIZE = "width and height are not two integers > 0"
NO_FILE = "file is not there"
BROKEN_FILE = "file cannot be decoded"
# What is mended.
OTHER_SIZE = "width and height of the file, not of image_data.json"
NO_COCO_ID = "no coco_id, number or null, so the leak-free rule does not hold the image out"

_FILE_NAME = re.compile(r"\bVG_100K(?:_2)?/[\w-]+\.jpg$")
_NUM_EXAMPLES = 5


@dataclass(slots=True)
class Photo:
    """An image, and why it is left out if it is."""

    image_id: int
    file_name: str  # VG_100K/NAME.jpg
    width: int  # pixels
    height: int
    coco_id: int | None  # None: not of COCO
    left_out: str = ""
    place: int = 0  # among the records of image_data.json


class Tally:
    """How often something happened, by reason, and the first few places."""

    def __init__(self) -> None:
        self.counts: Counter[str] = Counter()
        self._examples: dict[str, list[str]] = {}

    def add(self, reason: str, example: str, count: int = 1) -> None:
        if not count:
            return
        self.counts[reason] += count
        examples = self._examples.setdefault(reason, [])
        if len(examples) < _NUM_EXAMPLES:
            examples.append(example)

    def report(self) -> dict[str, Any]:
        """`{reason: {"count", "first"}}`, sorted."""
        return {
            reason: {"count": self.counts[reason], "first": self._examples[reason]}
            for reason in sorted(self.counts)
        }


def published_classes() -> list[str]:
    """The 3000 synsets of VG3000, such as `bag.n.04`, in the order of their ids.

    Raises:
        ValueError: the file in this package is not the published one.
    """
    return published_lines("vg3000")


def published_lines(vocabulary: str) -> list[str]:
    """The lines of a key of `VOCABULARY_FILES`, see `published_classes`."""
    name, expected = VOCABULARY_FILES[vocabulary]
    file = PUBLISHED_FILE.with_name(name)
    lines = file.read_text(encoding="utf-8").splitlines()
    # Of the lines, so that the line endings of a checkout do not matter.
    digest = hashlib.sha256("".join(f"{line}\n" for line in lines).encode()).hexdigest()
    if digest != expected:
        raise ValueError(
            f"{file} is not the published list of {vocabulary.upper()}: its SHA-256 is {digest}."
        )
    return lines


def image_id_of(record: Any, path: Path, number: int) -> int:
    """The id of the image that a record is about; ValueError with file and record if none."""
    image_id = record.get("image_id") if isinstance(record, Mapping) else None
    if type(image_id) is not int or not 0 <= image_id < 1 << 53:
        raise ValueError(
            f"{path}, record {number} must be an object with an integer 'image_id' >= 0, as in "
            f"Visual Genome 1.2 and later, but 'image_id' is {image_id!r}."
        )
    return image_id


def read_photos(path: Path, repeated: Tally, mended: Tally) -> dict[int, Photo]:
    """The images of `image_data.json` by id, sorted, some of them marked as left out.

    Args:
        path: the file.
        repeated: gets records whose image was there before; the first one counts.
        mended: gets images without `coco_id`.

    Raises:
        OSError, ValueError: it cannot be read, or a record has no id; names both.
    """
    photos: dict[int, Photo] = {}
    file_names = set()
    for number, record in enumerate(read_records(path)):
        image_id = image_id_of(record, path, number)
        if image_id in photos:
            repeated.add(REPEATED_IMAGE, f"image {image_id}, record {number}")
            continue
        photo = photos[image_id] = _photo(image_id, record)
        photo.place = number
        if photo.file_name and photo.file_name in file_names:
            photo.left_out = REPEATED_FILE
        file_names.add(photo.file_name)
        if photo.coco_id == UNKNOWN:
            mended.add(NO_COCO_ID, f"image {image_id}, record {number}")
    if not photos:
        raise ValueError(f"{path} is an empty list.")
    return dict(sorted(photos.items()))


def _photo(image_id: int, record: Mapping[str, Any]) -> Photo:
    file_name = _FILE_NAME.search(str(record.get("url")))
    width, height = record.get("width"), record.get("height")
    if not (type(width) is int and type(height) is int and min(width, height) > 0):
        width, height = 0, 0
    coco_id = record.get("coco_id", UNKNOWN)
    if type(coco_id) is not int and coco_id is not None:
        coco_id = UNKNOWN
    if not file_name:
        return Photo(image_id, "", width, height, coco_id, NO_FILE_NAME)
    return Photo(image_id, file_name.group(), width, height, coco_id, "" if width else NO_SIZE)


def check_files(
    photos: Mapping[int, Photo],
    root: Path,
    workers: int,
    mended: Tally,
    watch: Watch = iter,
    kept: Kept | None = None,
) -> None:
    """Decodes all images; takes their sizes, and marks those that cannot be read as left out.

    Boxes are not scaled when a size differs: which of the two they were drawn on is not known.

    Args:
        photos: by id; changed.
        root: folder with VG_100K and VG_100K_2.
        workers: threads.
        mended: gets the images of another size.
        watch: is passed the images.
        kept: has sizes of files that were decoded before, and gets the others.

    Raises:
        ValueError: not a single image can be read.
    """
    listed = [photo for photo in photos.values() if photo.left_out in ("", NO_SIZE)]
    with ThreadPoolExecutor(workers) as pool:  # decoding leaves the interpreter free
        read = partial(_kept_size, kept=kept)
        found = pool.map(read, [root / photo.file_name for photo in listed])
        for photo, (key, size) in zip(watch(listed), found, strict=True):
            if isinstance(size, str):
                photo.left_out = size
                continue
            if kept:
                kept.set(key, list(size))
            told, photo.left_out = (photo.width, photo.height), ""
            if size != told:
                photo.width, photo.height = size
                text = "image {}, {} x {} instead of {} x {}"
                mended.add(OTHER_SIZE, text.format(photo.image_id, *size, *told))
    if all(photo.left_out for photo in listed):
        raise ValueError(
            f"None of {len(listed)} images can be read in {root}, which must have the folders "
            "VG_100K and VG_100K_2."
        )


def _kept_size(path: Path, kept: Kept | None) -> tuple[str, tuple[int, int] | str]:
    """A key for the file as it is now, and its `decoded_size`."""
    key = stamp([path]) if kept else ""
    known = kept.get(key) if kept else None
    return key, tuple(known) if known else decoded_size(path)


def decoded_size(path: Path) -> tuple[int, int] | str:
    """Width and height as Detectron2 sees them, EXIF orientation applied, or why there are none."""
    try:
        with Image.open(path) as picture:
            size = upright_size(picture.size, exif_orientation(picture))
            picture.draft(None, (1, 1))  # an eighth of the size: faster, and all bytes are read
            picture.load()
    except FileNotFoundError:
        return NO_FILE
    except Exception:  # broken files make Pillow raise whatever it likes
        return BROKEN_FILE
    return size


def split_images(
    photos: Mapping[int, Photo],
    rule: str,
    held_out: int,
    seed: int | None = None,
    coco_val: Collection[int] | None = None,
    held_out_val: int | None = None,
) -> dict[str, set[int]]:
    """The image ids of train, val and test, see the top of this file.

    Args:
        photos: by id, all of them: images that are left out take their places too.
        rule: one of `SPLIT_RULES`.
        held_out: images of test, and of val.
        seed: of the rule random.
        coco_val: COCO's ids of the images for val, by the rule leak-free.
        held_out_val: images of val, if they are not as many.

    Raises:
        ValueError: there are too few images, or none of `coco_val` is there.
    """
    num_val = held_out if held_out_val is None else held_out_val
    if rule == "scene-graph":
        pool = sorted(photos.keys() - SCENE_GRAPH_LEFT_OUT, key=lambda k: photos[k].place)
        end = len(pool) * 7 // 10
        val, test = pool[: min(num_val, end)], pool[end:]
    elif rule == "random":
        pool = sorted(photos, key=lambda k: hashlib.sha256(f"{seed} {k}".encode()).digest())
        test, val = pool[:held_out], pool[held_out : held_out + num_val]
    else:
        pool = sorted((k for k in photos if photos[k].coco_id is None), reverse=True)
        test, val = pool[:held_out], pool[held_out : held_out + num_val]
    short = not test if rule == "scene-graph" else len(test) < held_out
    if coco_val is None:
        short = short or len(val) < num_val
    else:
        val = [k for k in photos if photos[k].coco_id in coco_val]
    left = SCENE_GRAPH_LEFT_OUT if rule == "scene-graph" else ()
    splits = {"train": set(photos).difference(test, val, left), "val": set(val), "test": set(test)}
    if short or not splits["train"]:
        which = "images that are not of COCO (coco_id null)" if rule == "leak-free" else "images"
        for_val = "" if num_val == held_out else f" and {num_val}"
        raise ValueError(
            f"There are {len(pool)} {which}, too few to hold out {held_out}{for_val} for test and "
            "for val each and to train on others: choose a smaller --held-out."
        )
    if not val:
        raise ValueError(
            f"None of {len(photos)} images is one of the {len(coco_val or ())} of COCO."
        )
    return splits


def read_split_lists(folder: Path, photos: Mapping[int, Photo]) -> dict[str, set[int]]:
    """The image ids of train, val and test, as `train.txt`, `val.txt` and `test.txt` say.

    Args:
        folder: of the files; a line begins with `VG_100K/1.jpg`. These are the lists of bottom-up
            attention, github.com/peteanderson80/bottom-up-attention, `data/genome`.
        photos: by id.

    Raises:
        OSError, ValueError: a file cannot be read, an image is in two of them, or none is there.
    """
    ids = {p.file_name: k for k, p in photos.items() if p.left_out != REPEATED_FILE}
    splits: dict[str, set[int]] = {}
    for split in ("train", "val", "test"):
        path = folder / f"{split}.txt"
        names = [line.split()[0] for line in read_text(path).splitlines() if line.strip()]
        splits[split] = {ids[name] for name in names if name in ids}
        if not splits[split]:
            raise ValueError(f"{path}: none of its {len(names)} images is in image_data.json.")
    for a, b in (("train", "val"), ("train", "test"), ("val", "test")):
        if both := splits[a] & splits[b]:
            raise ValueError(f"{folder}: image {min(both)} is in {a}.txt and in {b}.txt.")
    return splits
