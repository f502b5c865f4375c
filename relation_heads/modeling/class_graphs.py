"""Graphs between the classes of a data set, from the files that a config names."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path

from detectron2.config import CfgNode
from detectron2.data import MetadataCatalog

from ..config.problems import Problem
from ..data.files import stamp
from ..layers.reasoning.knowledge_graph import KnowledgeGraph

logger = logging.getLogger(__name__)


def load_class_graph(cfg: CfgNode, path: str) -> KnowledgeGraph:
    """The graph in a file, in the order of the data set's classes.

    Args:
        cfg: of the model.
        path: .npz or .json, see `KnowledgeGraph`.

    Raises:
        OSError: it cannot be opened.
        ValueError: it is no graph, or has other classes than the data set; begins with `path`.
    """
    graph = _read(cfg, path)
    logger.info(graph.describe())
    return graph


def _read(cfg: CfgNode, path: str) -> KnowledgeGraph:
    graph = _loaded(path, stamp([Path(path)]))
    names = None
    if cfg.DATASETS.TRAIN:
        names = MetadataCatalog.get(cfg.DATASETS.TRAIN[0]).get("thing_classes")
    if names:
        try:
            graph = graph.reordered(names)
        except ValueError as error:
            raise ValueError(f"{path}: {error}") from None
    if len(graph.classes) != cfg.MODEL.ROI_HEADS.NUM_CLASSES:
        raise ValueError(
            f"{path} has {len(graph.classes)} classes, MODEL.ROI_HEADS.NUM_CLASSES is "
            f"{cfg.MODEL.ROI_HEADS.NUM_CLASSES}: they must be equal."
        )
    return graph


@lru_cache(maxsize=1)
def _loaded(path: str, _stamp: str) -> KnowledgeGraph:
    """Read once, for the checks of a run and for its heads; a large .json takes seconds."""
    return KnowledgeGraph.load(path)


def file_problems(cfg: CfgNode, path: str, key: str) -> Iterator[Problem]:
    """What is wrong with the file of a graph, one sentence; an empty path is no file.

    Args:
        cfg: of the model.
        path: value of `key`.
        key: such as "MODEL.REASONING_RCNN.GRAPH_FILE".
    """
    if not path:
        return
    try:
        _read(cfg, path)
    except FileNotFoundError:
        yield Problem(f"{key} {path} does not exist: it must be a .npz or .json file, or empty.")
    except OSError as error:
        yield Problem(f"{key} {path} cannot be read: {error.strerror}.")
    except ValueError as error:
        yield Problem(f"{key} {error}")
