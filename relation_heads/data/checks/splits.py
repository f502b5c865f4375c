"""Do the splits of a data set fit together: classes, images that are in two of them, coverage.

An object is an annotation that is not a crowd. As in LVIS, a class is rare with objects in 1-10
training images, common with 11-100, frequent with more.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any, NamedTuple

import numpy as np

from ...layers.arguments import first_few
from ..coco_format import class_names
from .annotations import Table
from .findings import Finding, found
from .images import ImageFile

# Fewest training images of a class.
_BUCKETS = {"without any": 0, "rare (1-10)": 1, "common (11-100)": 11, "frequent (more)": 101}


class Source(NamedTuple):
    """Where a split is."""

    name: str
    json_file: str
    image_root: str
    classes: Sequence[str] | None = None  # as registered, if they are known


@dataclass(frozen=True)
class Split:
    """What is kept of a split: a few numbers per image and class."""

    source: Source
    classes: list[str]  # as Detectron2 numbers them, K
    category_ids: list[Any]  # K, of the classes
    image_ids: list[Any]  # M
    paths: list[str | None]  # M, None without `file_name`
    files: dict[str, ImageFile | None]  # the paths that exist; None where it was not read
    below: list[str]  # image files in the folder
    num_annotations: int
    num_crowds: int
    class_images: np.ndarray  # (K,) int64, images with an object of the class
    class_objects: np.ndarray  # (K,) int64
    image_objects: np.ndarray  # (M,) int64

    @property
    def name(self) -> str:
        return self.source.name


def make_split(
    source: Source,
    dataset: Mapping[str, Any],
    table: Table,
    paths: list[str | None],
    files: dict[str, ImageFile | None],
    below: list[str],
) -> Split:
    """Counts objects per image and class; the rest is as in `Split`."""
    images, classes = dataset["images"], class_names(dataset)
    image, category = table.image[~table.crowd], table.category[~table.crowd]
    cells = np.unique(image * len(classes) + category)
    return Split(
        source,
        classes,
        sorted(c["id"] for c in dataset["categories"]),
        [item.get("id") for item in images],
        paths,
        files,
        below,
        len(dataset.get("annotations", [])),
        int(table.crowd.sum()),
        np.bincount(cells % len(classes), minlength=len(classes)),
        np.bincount(category, minlength=len(classes)),
        np.bincount(image, minlength=len(images)),
    )


def training_findings(train: Split) -> Iterator[Finding]:
    """How often classes occur in the training split, and which images have no object."""
    empty = np.flatnonzero(train.image_objects == 0)
    if len(empty) == len(train.image_objects):
        yield Finding(
            "problem",
            "no image has an object (an annotation that is not a crowd)",
            advice="nothing can be trained: Detectron2 stops with 'No valid data found'",
        )
    else:
        yield from found(
            "fact",
            empty,
            "image{s} without an object",
            "left out of the training, unless DATALOADER.FILTER_EMPTY_ANNOTATIONS is False",
            lambda k: _image(train, k),
        )
    limits = np.array([*_BUCKETS.values()])
    bucket = np.searchsorted(limits, train.class_images, side="right") - 1
    numbers = np.bincount(bucket, minlength=len(limits))
    counts = ", ".join(f"{n} {name}" for n, name in zip(numbers, _BUCKETS, strict=True))
    yield Finding("fact", f"classes by training images: {counts}")


def coverage_findings(train: Split, test: Split) -> Iterator[Finding]:
    """Whether two splits have the same classes, and which classes only one of them shows."""
    difference = _class_difference(train, test)
    if difference:
        advice = "give every split the full list of categories: classes are numbered by it"
        yield Finding("problem", difference, advice=advice)
    elif train.category_ids != test.category_ids:
        yield Finding(
            "warning",
            "the same classes have other category ids",
            advice="results cannot be sorted by training counts: use one list of categories",
        )
    if not test.class_objects.any():
        what, advice = "no image has an object", "every AP will be NaN"
        yield Finding("warning", what, advice=advice, dataset=test.name)
    seen = dict(zip(train.classes, train.class_objects.tolist(), strict=True))
    tested = dict(zip(test.classes, test.class_objects.tolist(), strict=True))
    yield from found(
        "warning",
        [name for name, count in tested.items() if count and not seen.get(name)],
        f"class{{es}} with objects in {test.name} and none in {train.name}",
        "they cannot be learned and lower the AP: add training images, or leave them out",
        lambda name: f"{name} ({tested[name]})",
    )
    yield from found(
        "fact",
        [name for name, count in seen.items() if count and not tested.get(name)],
        f"class{{es}} with objects in {train.name} and none in {test.name}",
        "they have no AP and are not in its mean",
        lambda name: f"{name} ({seen[name]})",
    )
    yield from found(
        "fact",
        [name for name, count in seen.items() if not count and not tested.get(name)],
        "class{es} without an object in either",
    )


def _class_difference(train: Split, test: Split) -> str:
    a, b = train.classes, test.classes
    if a == b:
        return ""
    if sorted(a) == sorted(b):
        k = next(k for k, pair in enumerate(zip(a, b, strict=True)) if pair[0] != pair[1])
        return f"the same classes in another order: class {k} is {a[k]!r} and {b[k]!r}"
    parts = []
    for split, other in ((train, b), (test, a)):
        known = set(other)
        alone = [repr(name) for name in split.classes if name not in known]
        if alone:
            parts.append(f"{split.name} alone has {first_few(alone, 3)}")
    return f"{len(a)} and {len(b)} classes that differ: {'; '.join(parts) or 'names repeat'}"


def shared_images(a: Split, b: Split) -> Iterator[Finding]:
    """Images that are in two splits."""
    places_a, places_b = ({os.path.realpath(p): p for p in s.paths if p} for s in (a, b))
    same = [path for place, path in places_a.items() if place in places_b]
    leak = "what is tested was trained on: take them out of one split"
    yield from found("problem", same, "image file{s} listed in both", leak)
    contents_a, contents_b = ({f.digest: p for p, f in _read(s)} for s in (a, b))
    copies = [
        (path, contents_b[digest])
        for digest, path in contents_a.items()
        if digest in contents_b and os.path.realpath(path) != os.path.realpath(contents_b[digest])
    ]
    what = "image{s} in both, in files that are equal byte for byte"
    yield from found("problem", copies, what, leak, " = ".join)
    ids_b = set(b.image_ids)
    yield from found(
        "fact",
        [i for i in a.image_ids if i in ids_b],
        "image id{s} in both",
        "no harm, unless results of both are put in one file",
    )


def _read(split: Split) -> Iterator[tuple[str, ImageFile]]:
    return ((path, file) for path, file in split.files.items() if file and not file.error)


def unlisted_files(splits: Sequence[Split]) -> list[Finding]:
    """Image files in the folders that no split lists."""
    listed = {os.path.abspath(path) for split in splits for path in split.paths if path}
    below = dict.fromkeys(chain.from_iterable(split.below for split in splits))
    unlisted = [path for path in below if os.path.abspath(path) not in listed]
    return found("fact", unlisted, "image file{s} in the folders that no JSON file lists")


def _image(split: Split, k: int) -> str:
    path = split.paths[k]
    return f"image {split.image_ids[k]}" + (f" ({os.path.basename(path)})" if path else "")
