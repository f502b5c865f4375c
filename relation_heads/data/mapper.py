"""Horizontal flips for classes that know left from right.

Detectron2's random flip mirrors images and boxes and leaves the classes alone, so that "left of
the pole" becomes noise. A data set that has such classes names the pairs in its metadata,
`hflip_pairs = (("left_of_pole", "right_of_pole"),)`; `FlipAwareMapper` swaps them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from detectron2.config import CfgNode, configurable
from detectron2.data import DatasetMapper, MetadataCatalog
from detectron2.data.transforms import Transform


class FlipAwareMapper(DatasetMapper):
    """`DatasetMapper` that swaps classes with their mirror images when the image was mirrored."""

    @configurable
    def __init__(self, is_train: bool, *, mirror: Mapping[int, int], **kwargs: Any) -> None:
        """
        Args:
            is_train: as in `DatasetMapper`.
            mirror: class index -> class index after a horizontal flip; others keep theirs.
            kwargs: the other arguments of `DatasetMapper`.
        """
        super().__init__(is_train, **kwargs)
        self.mirror = dict(mirror)

    @classmethod
    def from_config(cls, cfg: CfgNode, is_train: bool = True) -> dict[str, Any]:
        """Arguments from a config; `mirror` comes from the metadata of `DATASETS.TRAIN`."""
        return {**super().from_config(cfg, is_train), "mirror": mirror_classes(cfg.DATASETS.TRAIN)}

    def _transform_annotations(
        self, dataset_dict: dict[str, Any], transforms: Transform, image_shape: tuple[int, int]
    ) -> None:
        if is_mirrored(transforms):
            for annotation in dataset_dict["annotations"]:  # a copy, made by `__call__`
                category = annotation["category_id"]
                annotation["category_id"] = self.mirror.get(category, category)
        super()._transform_annotations(dataset_dict, transforms, image_shape)


def is_mirrored(transforms: Transform) -> bool:
    """Whether right comes out on the left: after one horizontal flip, not after two or none.

    Two points are sent through `transforms`, which says so for any kind of transform.
    """
    points = transforms.apply_coords(np.array([[0.0, 0.0], [1.0, 0.0]]))  # (2, 2) xy
    return bool(points[1, 0] < points[0, 0])


def mirror_classes(dataset_names: Sequence[str]) -> dict[int, int]:
    """Class index -> class index after a horizontal flip, from the metadata of data sets.

    Args:
        dataset_names: registered data sets, which must have the same classes.

    Returns:
        both directions of every pair in `hflip_pairs`; empty if no data set has any.

    Raises:
        ValueError: the classes differ, a pair names no class, or a class is in two pairs.
    """
    metadata = [MetadataCatalog.get(name) for name in dataset_names]
    pairs = [(m.name, *pair) for m in metadata for pair in m.get("hflip_pairs", ())]
    if not pairs:
        return {}
    classes = [m.thing_classes for m in metadata if m.get("thing_classes")]
    if any(names != classes[0] for names in classes):
        raise ValueError(
            f"{', '.join(dataset_names)} cannot be trained on together: their classes differ."
        )
    index = {name: k for k, name in enumerate(classes[0] if classes else ())}
    mirror: dict[int, int] = {}
    for dataset, left, right in pairs:
        if left not in index or right not in index:
            raise ValueError(f"hflip_pairs of {dataset}: {left!r}, {right!r} are not both classes.")
        for a, b in ((index[left], index[right]), (index[right], index[left])):
            if mirror.setdefault(a, b) != b:
                raise ValueError(
                    f"hflip_pairs of {dataset}: {left!r} or {right!r} has two partners."
                )
    return mirror
