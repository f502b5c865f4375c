"""Boxes with their features: chosen, joined, divided into training and test, and made batches.

Shapes: I images, N boxes of all of them, C channels.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from ...layers import Regions

SMALLEST_STD = 1e-3  # of a channel, for its division
TEST_SHARE = 3  # one of so many images is for the test, where there is no test set


@dataclass(frozen=True, eq=False)
class Batch:
    """Boxes of some images.

    Attributes:
        features: (N, D) x, standardised.
        regions: of the same N rows.
        labels: (N,) classes in [0, C).
    """

    features: Tensor
    regions: Regions
    labels: Tensor


@dataclass(frozen=True, eq=False)
class BoxFeatures:
    """The boxes of a data set and their features; images without a box are left out.

    Attributes:
        names: (I,) files.
        counts: (I,) int64 boxes of each image.
        sizes: (I, 2) int64 height and width as the backbone saw the image, without padding.
        boxes: (N, 4) float32 x1, y1, x2, y2 in pixels of these sizes.
        labels: (N,) int64 classes.
        features: (N, C) half precision.
        image_features: (I, C) half precision, of whole images.
        class_names: of the data set.
        made_from: what the features depend on, as text.
    """

    names: list[str]
    counts: Tensor
    sizes: Tensor
    boxes: Tensor
    labels: Tensor
    features: Tensor
    image_features: Tensor
    class_names: list[str]
    made_from: dict[str, str]

    @property
    def fingerprint(self) -> str:
        """Short text that differs where `made_from` does."""
        return digest(json.dumps(self.made_from, sort_keys=True).encode())

    def images(self, chosen: Sequence[int]) -> BoxFeatures:
        """Some of the images, in this order."""
        starts = (self.counts.cumsum(0) - self.counts).tolist()
        counts = self.counts.tolist()
        rows = [row for i in chosen for row in range(starts[i], starts[i] + counts[i])]
        where = torch.tensor(list(chosen), dtype=torch.int64)
        boxes = torch.tensor(rows, dtype=torch.int64)
        return replace(
            self,
            names=[self.names[i] for i in chosen],
            counts=self.counts[where],
            sizes=self.sizes[where],
            image_features=self.image_features[where],
            boxes=self.boxes[boxes],
            labels=self.labels[boxes],
            features=self.features[boxes],
        )


def joined(sets: Sequence[BoxFeatures]) -> BoxFeatures:
    """The images of several data sets, see `check_alike`."""
    check_alike(sets)
    first, of_sets = sets[0], ("dataset", "annotations")
    sources = {key: ", ".join(s.made_from[key] for s in sets) for key in of_sets}
    tensors = ("counts", "sizes", "boxes", "labels", "features", "image_features")
    return replace(
        first,
        names=[name for part in sets for name in part.names],
        made_from={**first.made_from, **sources},
        **{name: torch.cat([getattr(part, name) for part in sets]) for name in tensors},
    )


def check_alike(sets: Sequence[BoxFeatures]) -> None:
    """Refuses data sets that cannot be used together.

    Raises:
        ValueError: their classes differ.
    """
    for other in sets[1:]:
        if other.class_names != sets[0].class_names:
            raise ValueError(
                f"{sets[0].made_from['dataset']} and {other.made_from['dataset']} have different "
                "classes: give data sets of the same classes."
            )


def split(
    features: BoxFeatures, test: BoxFeatures | None, seed: int, min_boxes: int = 1
) -> tuple[BoxFeatures, BoxFeatures]:
    """Training and test images, in random order.

    Args:
        features: training images, or all if there is no test set: a third of them is for the test.
        test: the test set.
        seed: of the order and the third.
        min_boxes: images with fewer boxes are left out.

    Raises:
        ValueError: too few images are left.
    """

    def chosen(part: BoxFeatures) -> list[int]:
        found = (part.counts >= min_boxes).nonzero().flatten()
        order = torch.randperm(len(found), generator=torch.Generator().manual_seed(seed))
        return found[order].tolist()

    mine = chosen(features)
    number = len(mine) // TEST_SHARE if test is None else 0
    theirs, mine = mine[:number], mine[number:]
    held_out = features.images(theirs) if test is None else test.images(chosen(test))
    parts = features.images(mine), held_out
    if not all(part.names for part in parts):
        raise ValueError(
            f"Too few images have {min_boxes} boxes or more: {len(parts[0].names)} for training "
            f"and {len(parts[1].names)} for the test."
        )
    return parts


class Scale:
    """Makes batches whose features have mean 0 and deviation 1 over the training boxes."""

    def __init__(self, train: BoxFeatures) -> None:
        features = train.features.float()
        self.mean, self.std = features.mean(dim=0), features.std(dim=0) + SMALLEST_STD

    def __call__(self, part: BoxFeatures) -> Batch:
        """All images of `part` as one batch."""
        regions = Regions(
            part.boxes,
            tuple(part.counts.tolist()),
            tuple((height, width) for height, width in part.sizes.tolist()),
        )
        return Batch((part.features.float() - self.mean) / self.std, regions, part.labels)


def digest(content: bytes) -> str:
    """Short text that differs where the content does."""
    return hashlib.sha256(content).hexdigest()[:16]
