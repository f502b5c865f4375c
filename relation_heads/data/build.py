"""Which mapper a config needs."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from detectron2.config import CfgNode

from ..config.defaults import reasoning_node
from .mapper import FlipAwareMapper, mirror_classes
from .region_mapper import RegionClassificationMapper


def build_mapper(cfg: CfgNode, is_train: bool) -> Callable[[dict[str, Any]], dict] | None:
    """The mapper of a loader.

    Args:
        cfg: the config.
        is_train: of the training loader, or of a test loader.

    Returns:
        `RegionClassificationMapper` where boxes are given, in training `FlipAwareMapper` where
        classes have mirror images, None where Detectron2's own mapper will do.
    """
    if reasoning_node(cfg).GIVEN_BOXES:
        return RegionClassificationMapper(cfg, is_train)
    if is_train and mirror_classes(cfg.DATASETS.TRAIN):
        return FlipAwareMapper(cfg, is_train=True)
    return None
