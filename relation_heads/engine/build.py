"""What turns the records of a data set into the input of the model of a config."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from detectron2.config import CfgNode
from detectron2.data import DatasetMapper
from detectron2.data.detection_utils import build_augmentation
from detectron2.data.transforms import Augmentation, RandomCrop_CategoryAreaConstraint

from ..command_line import explain, of_a_package, told
from ..data.image_classes import ImageClassMapper
from ..data.mapper import FlipAwareMapper, mirror_classes
from ..data.region_mapper import RegionClassificationMapper
from ..modeling.registered import classifies_given_boxes


@contextmanager
def building(what: str) -> Iterator[None]:
    """While open, what a package raises is said as a fault of the config. Detectron2 asserts what
    does not fit, mostly without words.

    Args:
        what: is built, such as "model".

    Raises:
        ValueError: a package raised an error; says which, and where.
    """
    try:
        yield
    except Exception as error:
        if explain(error) is not None or not of_a_package(error):
            raise
        raise ValueError(
            f"The {what} of this config cannot be built: {told(error)}; --debug shows the "
            "traceback."
        ) from error


def build_mapper(cfg: CfgNode, is_train: bool) -> Callable[[dict[str, Any]], dict] | None:
    """The mapper of a loader.

    Args:
        cfg: the config.
        is_train: of the training loader, or of a test loader.

    Returns:
        `ImageClassMapper` where images are classified, `RegionClassificationMapper` where boxes
        are given, in training `FlipAwareMapper` where
        classes have mirror images or pixels are classified, None where Detectron2's own mapper
        will do.
    """
    if cfg.MODEL.META_ARCHITECTURE == "ImageClassifier":
        return ImageClassMapper(cfg, is_train)
    if classifies_given_boxes(cfg):
        return RegionClassificationMapper(cfg, is_train)
    if is_train and mirror_classes(cfg.DATASETS.TRAIN):
        return FlipAwareMapper(cfg, is_train=True)
    if is_train and cfg.MODEL.META_ARCHITECTURE == "SemanticSegmentor":
        return DatasetMapper(cfg, is_train=True, augmentations=semantic_augmentations(cfg))
    return None


def semantic_augmentations(cfg: CfgNode) -> list[Augmentation]:
    """Resize, crop, flip, in the order of Detectron2's DeepLab project.

    Detectron2's own mapper crops first, so that batches of crops would have all sizes again.
    """
    resize, *flip = build_augmentation(cfg, is_train=True)
    crop = cfg.INPUT.CROP
    if not crop.ENABLED:
        return [resize, *flip]
    # DeepLab's key, which Detectron2's own `get_cfg()` does not have; 1.0 allows any crop.
    max_area = crop.get("SINGLE_CATEGORY_MAX_AREA", 1.0)
    ignored = cfg.MODEL.SEM_SEG_HEAD.IGNORE_VALUE
    cut = RandomCrop_CategoryAreaConstraint(crop.TYPE, crop.SIZE, max_area, ignored)
    return [resize, cut, *flip]
