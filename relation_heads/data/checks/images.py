"""The image files of a data set: there, readable, and of the size that the JSON file says.

Files are read as Detectron2 reads them: with PIL, and turned by their EXIF orientation, after which
an image of another size than in the JSON file stops the program with a SizeMismatchError.
"""

from __future__ import annotations

import io
import os
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from hashlib import blake2b
from typing import Any

from PIL import Image, UnidentifiedImageError
from tqdm import tqdm

from ..exif import UPRIGHT, exif_orientation, upright_size
from .findings import Finding, found
from .names import can_be_a_file

_SUFFIXES = (".bmp", ".gif", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp")
_ABOVE_8_BIT = ("I", "F", "I;16", "I;16L", "I;16B", "I;16N")  # modes of PIL


@dataclass(frozen=True)
class ImageFile:
    """What is in a file; `error` says why the rest is unknown."""

    error: str = ""
    stored: tuple[int, int] = (0, 0)  # width, height before it is turned
    orientation: int = UPRIGHT  # of EXIF
    mode: str = ""  # of PIL
    digest: bytes = b""  # of all bytes of the file

    @property
    def size(self) -> tuple[int, int]:
        """Width and height as Detectron2 reads it."""
        return upright_size(self.stored, self.orientation)


_Listed = tuple[Mapping[str, Any], str]  # an image of the JSON file and its path
_Read = tuple[Mapping[str, Any], str, ImageFile]


def read_image_file(path: str) -> ImageFile:
    """Reads and decodes a file."""
    try:
        with open(path, "rb") as file:
            content = file.read()
        with Image.open(io.BytesIO(content)) as image:
            orientation = exif_orientation(image)
            image.load()
            digest = blake2b(content, digest_size=16).digest()
            return ImageFile("", image.size, orientation, image.mode, digest)
    except Exception as error:  # a broken file makes PIL raise nearly anything
        unknown = isinstance(error, UnidentifiedImageError)
        return ImageFile(error="it is in no format that PIL knows" if unknown else str(error))


def image_paths(images: Sequence[Mapping[str, Any]], image_root: str) -> list[str | None]:
    """Where Detectron2 looks for the images; None for one without a `file_name` of a file."""
    names = [image.get("file_name", "\0") for image in images]
    return [os.path.join(image_root, name) if can_be_a_file(name) else None for name in names]


def read_all(paths: Sequence[str], workers: int, what: str) -> list[ImageFile]:
    """Reads files in threads, with a bar on a terminal.

    Args:
        paths: of files.
        workers: threads.
        what: the name of the bar.
    """
    with ThreadPoolExecutor(workers) as pool:
        read = pool.map(read_image_file, paths)
        return [*tqdm(read, what, len(paths), unit="image", disable=None)]


def files_below(folder: str) -> list[str]:
    """All image files in a folder and its subfolders, by their suffix, in order."""
    return sorted(
        os.path.join(place, name)
        for place, _, names in os.walk(folder)
        for name in names
        if name.lower().endswith(_SUFFIXES)
    )


def image_findings(
    images: Sequence[Mapping[str, Any]],
    paths: Sequence[str | None],
    files: Mapping[str, ImageFile | None],
    below: Sequence[str],
    image_root: str,
) -> list[Finding]:
    """What is wrong or odd in the image files of one data set.

    Args:
        images: of the JSON file.
        paths: theirs, from `image_paths`.
        files: the paths where there is a file, and what is in it where it was read.
        below: `files_below` the folder of the images.
        image_root: that folder.
    """
    pairs = [(image, path) for image, path in zip(images, paths, strict=True) if path]
    read = [(i, path, file) for i, path in pairs if (file := files.get(path)) is not None]
    return [
        *_missing([(image, path) for image, path in pairs if path not in files], below),
        *_listed_twice(pairs),
        *_outside(pairs, image_root),
        *_contents(read),
        *_sizes([item for item in read if not item[2].error]),
    ]


def _missing(pairs: Sequence[_Listed], below: Sequence[str]) -> list[Finding]:
    places = {os.path.basename(path).lower(): path for path in below}

    def label(pair: _Listed) -> str:
        other = places.get(os.path.basename(pair[1]).lower())
        return f"image {pair[0].get('id')}: {pair[1]}" + (f" (there is {other})" if other else "")

    advice = "loading stops there: put the files in place, or take the images out of the JSON file"
    return found("problem", pairs, "image file{s} missing", advice, label)


def _listed_twice(pairs: Sequence[_Listed]) -> list[Finding]:
    ids: dict[str, list[Any]] = {}
    for image, path in pairs:
        ids.setdefault(os.path.realpath(path), []).append(image.get("id"))
    return found(
        "problem",
        [(path, of_file) for path, of_file in ids.items() if len(of_file) > 1],
        "image file{s} listed more than once",
        "the objects of one entry are background in the other: put them together",
        lambda item: f"{item[0]}: images {', '.join(map(str, item[1]))}",
    )


def _outside(pairs: Sequence[_Listed], image_root: str) -> list[Finding]:
    root = os.path.abspath(image_root)

    def leaves(path: str) -> bool:
        return os.path.commonpath([root, os.path.abspath(path)]) != root

    return found(
        "warning",
        [(image, path) for image, path in pairs if leaves(path)],
        "image{s} whose 'file_name' leads out of the folder of the images",
        "the folder alone is not the data set: put the files below it",
        lambda pair: f"image {pair[0].get('id')}: {pair[0]['file_name']}",
    )


def _contents(read: Sequence[_Read]) -> Iterator[Finding]:
    yield from found(
        "problem",
        [item for item in read if item[2].error],
        "image file{s} that cannot be read",
        "loading stops there: get the files again",
        lambda item: f"{item[1]}: {item[2].error}",
    )
    copies: dict[bytes, dict[str, str]] = {}  # digest -> one path per file
    for _, path, file in read:
        if not file.error:
            copies.setdefault(file.digest, {}).setdefault(os.path.realpath(path), path)
    yield from found(
        "warning",
        [list(same.values()) for same in copies.values() if len(same) > 1],
        "image{s} that more than one file holds, byte for byte",
        "keep one of them: it counts twice, and what is annotated in one alone is background in "
        "the other",
        " = ".join,
    )
    modes = Counter(file.mode for _, _, file in read if not file.error)
    yield from found(
        "warning",
        [item for item in read if item[2].mode in _ABOVE_8_BIT],
        "image file{s} of more than 8 bits per pixel",
        "Detectron2 cuts values off at 255: save them with 8 bits",
        lambda item: f"{item[1]} (PIL's mode {item[2].mode})",
    )
    other = {mode: n for mode, n in modes.items() if mode not in ("RGB", *_ABOVE_8_BIT)}
    if other:
        numbers = ", ".join(f"{count} {mode}" for mode, count in other.items())
        what = f"image files that are not RGB, by PIL's mode: {numbers}"
        yield Finding("fact", what, advice="they are converted to RGB (L is greyscale)")


def _sizes(read: Sequence[_Read]) -> Iterator[Finding]:
    def label(item: _Read) -> str:
        image, path, file = item
        size = f"{image.get('width')} x {image.get('height')} in the JSON file"
        turned = f", EXIF orientation {file.orientation}" if file.orientation != UPRIGHT else ""
        return f"image {image.get('id')} ({path}): {size}, {file.size[0]} x {file.size[1]}{turned}"

    wrong: list[_Read] = []
    unturned: list[_Read] = []
    turned: list[_Read] = []
    for item in read:
        image, _, file = item
        given = image.get("width", file.size[0]), image.get("height", file.size[1])
        if given == file.size:
            turned += [item] * (file.orientation != UPRIGHT)
        elif given == file.stored:
            unturned.append(item)
        else:
            wrong.append(item)
    yield from found(
        "problem",
        wrong,
        "image file{s} of another size than in the JSON file",
        "Detectron2 stops with a SizeMismatchError: correct width and height, and scale the boxes "
        "if they belong to the other size",
        label,
    )
    yield from found(
        "problem",
        unturned,
        "image file{s} whose size in the JSON file is that before the turn by EXIF orientation",
        "Detectron2 turns them and stops with a SizeMismatchError: remove the orientation from the "
        "files, or write size and boxes of the turned images",
        label,
    )
    yield from found(
        "warning",
        turned,
        "image file{s} with an EXIF orientation",
        "Detectron2 turns or mirrors them: see that the boxes were drawn on the turned images",
        label,
    )
