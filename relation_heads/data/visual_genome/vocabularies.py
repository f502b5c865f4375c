"""The vocabularies of Visual Genome that papers use: which label an object has, and which classes.

- `vg3000`: one synset per object; the list that HKRM published (Jiang et al., NeurIPS 2018).
- `vg1000`: one synset per object; the most frequent ones, as no list is published.
- `vg3993`: every synset of an object is a box of its own; those that occur at least 5 times (Chen
  et al., "Iterative Visual Reasoning Beyond Convolutions", CVPR 2018: 3,993 classes; 100,000 /
  4,077 / 4,000 images of train / val / test). Neither the counts nor the splits are published: give
  a file of the classes, if you have it.
- `vg150`: names, of the 150 classes of scene-graph papers (Xu et al., "Scene Graph Generation by
  Iterative Message Passing", CVPR 2017). A name is written small and without punctuation, and
  replaced by its alias; of several the first that is a class counts. The names are those of
  github.com/danfeiX/scene-graph-TF-release, `data_tools/VG/object_list.txt`, in the order of their
  ids; the file of aliases beside it is not part of this package. What the release does to boxes
  is left out here: it merges those that overlap, drops those below 0.2 % of the image, and adds
  those that only relationships have.
- `vg1600`: names, of the 1,600 classes of bottom-up attention (Anderson et al., CVPR 2018). The
  first name of an object counts, written small, without a full stop at its end and without colours
  and sizes before it. The classes with their synonyms are those of
  github.com/MILVLG/bottom-up-attention.pytorch, `evaluation/objects_vocab.txt`.
"""

from __future__ import annotations

import hashlib
import string
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from ..files import read_text
from .boxes import Parts
from .images import VOCABULARY_FILES, published_lines

# SHA-256 of data_tools/VG/object_alias.txt at commit 4c9e3c6a.
ALIASES_SHA256 = "0c8e059fc31eeebfd98231f5789892da8ae33bfa00434c70aee969dc6eaa853b"
MIN_COUNT = 5  # boxes of a class of vg3993

_NO_PUNCTUATION = str.maketrans("", "", string.punctuation)
_ADJECTIVES = frozenset(
    "white black blue green red brown yellow small large silver wooden orange gray grey metal pink "
    "tall long dark".split()
)


@dataclass(frozen=True)
class Vocabulary:
    """What `datasets/prepare_vg.py` does for a vocabulary."""

    note: str
    label: str = "synsets"  # the key of an object that has the label
    clean: Callable[[str], str] | None = None  # of names
    all_names: bool = False  # whether the names after the first one count, too
    at_most: int | None = None  # classes, where no list is published
    min_count: int = 1  # boxes of a class, likewise


def without_punctuation(name: str) -> str:
    return name.strip().lower().translate(_NO_PUNCTUATION)


def without_adjectives(name: str) -> str:
    """`Red car.` is "car"."""
    name = name.strip().lower()
    words = name.removesuffix(".").split()
    if len(words) > 1 and _ADJECTIVES.issuperset(words[:-1]):
        return words[-1]
    return name.removesuffix(".").strip()


VOCABULARIES = {
    "vg3000": Vocabulary("The 3000 synsets published with HKRM, in their order."),
    "vg1000": Vocabulary(
        "The synsets with most boxes in the training images. The papers' list is not published and "
        "counts all images, so it may differ.",
        at_most=1000,
    ),
    "vg3993": Vocabulary(
        "The synsets with at least 5 boxes in the training images; every synset of an object is a "
        "box. The counts of the paper, by which it has 3,993 classes, are not published.",
        min_count=MIN_COUNT,
    ),
    "vg150": Vocabulary(
        "The 150 names of scene-graph papers. Boxes are Visual Genome's own: the papers merge "
        "those that overlap, and drop small ones.",
        label="names",
        clean=without_punctuation,
        all_names=True,
    ),
    "vg1600": Vocabulary(
        "The 1,600 names of bottom-up attention, with their synonyms.",
        label="names",
        clean=without_adjectives,
    ),
}


def published(name: str) -> tuple[list[str], dict[str, str]] | None:
    """The classes of a published vocabulary, and the class of every name; None if there is no list.

    Raises:
        ValueError: the file in this package is not the published one.
    """
    if name not in VOCABULARY_FILES:
        return None
    lines = [line.split(",") for line in published_lines(name)]
    return [line[0] for line in lines], {one: line[0] for line in lines for one in line}


def read_aliases(path: Path) -> tuple[dict[str, str], bool]:
    """Name -> the name that stands for it, and whether the file is the published one.

    Args:
        path: a name per line and its aliases, separated by commas.
    """
    content = path.read_bytes()
    aliases: dict[str, str] = {}
    for line in content.decode("utf-8", errors="replace").splitlines():
        target, *others = line.split(",")
        target = aliases.get(target, target)
        aliases.update(dict.fromkeys([line.split(",")[0], *others], target))
    return aliases, hashlib.sha256(content).hexdigest() == ALIASES_SHA256


def read_classes(path: Path) -> list[str]:
    """The classes in a file, a line each: `bag.n.04`, or `bag.n.04:12` with its count.

    Raises:
        ValueError: a line is repeated or has another count, or no class has `MIN_COUNT`.
    """
    classes = []
    for number, line in enumerate(read_text(path).splitlines(), start=1):
        name, _, count = line.strip().partition(":")
        if not name or (count and not count.isdecimal()) or name in classes:
            raise ValueError(
                f"{path}, line {number} must be a class, or class:count, and not of an earlier "
                f"line, but it is {line!r}."
            )
        if not count or int(count) >= MIN_COUNT:
            classes.append(name)
    if not classes:
        raise ValueError(f"{path} has no class with {MIN_COUNT} boxes.")
    return classes


def parts_of(vocabulary: Vocabulary, known: Mapping[str, str]) -> Parts | None:
    """How an object becomes objects with one label each; None if it stays as it is.

    Args:
        vocabulary: of the labels.
        known: name -> class, aliases too.
    """
    if vocabulary.clean:
        return partial(_with_one_name, vocabulary=vocabulary, known=known)
    return _with_each_synset if vocabulary is VOCABULARIES["vg3993"] else None


def _with_one_name(item: Any, vocabulary: Vocabulary, known: Mapping[str, str]) -> list[Any]:
    names = item.get("names") if isinstance(item, Mapping) else None
    if not isinstance(names, list) or not names or not all(isinstance(n, str) for n in names):
        return [item]
    assert vocabulary.clean
    cleaned = [vocabulary.clean(name) for name in (names if vocabulary.all_names else names[:1])]
    label = next((known[name] for name in cleaned if name in known), cleaned[0])
    return [{**item, "names": [label]}]


def _with_each_synset(item: Any) -> list[Any]:
    synsets = item.get("synsets") if isinstance(item, Mapping) else None
    if not isinstance(synsets, list) or len(synsets) < 2:
        return [item]
    return [{**item, "synsets": [synset]} for synset in synsets]


def class_of_names(known: Mapping[str, str], aliases: Mapping[str, str]) -> dict[str, str]:
    """Name -> class, where an alias stands for what it is an alias of."""
    chosen = set(known.values())
    by_alias = {name: target for name, target in aliases.items() if target in chosen}
    return {**known, **by_alias}
