"""What is wrong with the data sets of a config: registered, of the same classes, in good order."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from functools import lru_cache
from typing import Any

from detectron2.config import CfgNode
from detectron2.data import DatasetCatalog, MetadataCatalog

from ..config.problems import Problem, did_you_mean
from ..data.checks.format import class_findings, coco_findings
from ..data.coco_format import class_names, read_coco
from ..data.image_classes import EVALUATOR_TYPE as IMAGE_CLASSES
from ..evaluation.cityscapes import provide_cityscapes_scripts
from ..modeling.registered import classifies_given_boxes

# Meta-architecture -> where it reads its number of classes.
NUM_CLASSES = {
    "GeneralizedRCNN": "ROI_HEADS",
    "ImageClassifier": "CLASSIFIER",
    "PanopticFPN": "ROI_HEADS",
    "RetinaNet": "RETINANET",
    "SemanticSegmentor": "SEM_SEG_HEAD",
}
# JSON files of training sets above this size are not read: only a few minor problems in them are
# silent, and COCO's (450 MB) takes longer to read than a start-up should.
_MAX_TRAIN_JSON_BYTES = 100e6
Read = Callable[[str], dict[str, Any]]  # `read_coco`


def dataset_problems(cfg: CfgNode, eval_only: bool) -> Iterator[Problem]:
    """Of `DATASETS.TEST` and, unless nothing is trained, `DATASETS.TRAIN`."""
    test = list(dict.fromkeys(cfg.DATASETS.TEST))
    train = [name for name in dict.fromkeys(cfg.DATASETS.TRAIN) if name not in test]
    known = []
    for name in train + test:
        if name in DatasetCatalog:
            known.append(name)
        else:
            hint = did_you_mean(name, DatasetCatalog)
            key = f"DATASETS.{'TEST' if name in test else 'TRAIN'}"
            yield Problem(f"{key}: the data set {name!r} is not registered{hint}")
    yield from _image_classes(cfg, known)
    kind = "stuff" if cfg.MODEL.META_ARCHITECTURE == "SemanticSegmentor" else "thing"
    classes = {name: names for name in known if (names := _classes(name, kind))}
    yield from _num_classes(cfg, classes)
    yield from _same_classes(classes)
    read = lru_cache(maxsize=1)(read_coco)
    for name in known:
        if name in test or not eval_only:
            yield from _json(name, read, is_test=name in test)
        if not eval_only and name in cfg.DATASETS.TRAIN:
            yield from _labels(cfg, name, read)
    yield from _cityscapes(name for name in known if name in test)


def _cityscapes(test: Iterable[str]) -> Iterator[Problem]:
    """Data sets whose evaluation needs a package of theirs, which is missed after the training."""
    for name in test:
        if str(MetadataCatalog.get(name).get("evaluator_type")).startswith("cityscapes"):
            try:
                provide_cityscapes_scripts()
            except ModuleNotFoundError as error:
                yield Problem(f"{name}: {error}")


def _image_classes(cfg: CfgNode, names: Iterable[str]) -> Iterator[Problem]:
    """Classes of images where objects are needed, or the other way round."""
    arch = cfg.MODEL.META_ARCHITECTURE
    if arch not in NUM_CLASSES:  # somebody's own, which may learn either
        return
    classifies = arch == "ImageClassifier"
    for name in names:
        if (MetadataCatalog.get(name).get("evaluator_type") == IMAGE_CLASSES) != classifies:
            has, learns = ("objects", "classes of images")[:: 1 if classifies else -1]
            yield Problem(
                f"{name} has {has}, and MODEL.META_ARCHITECTURE {arch} learns {learns}: give "
                f"{'a folder by --image-folder' if classifies else 'a data set with boxes'}."
            )


def _labels(cfg: CfgNode, name: str, read: Read) -> Iterator[Problem]:
    """What a model learns beside boxes, and a training set in COCO format does not have."""
    metadata, model = MetadataCatalog.get(name), cfg.MODEL
    arch = model.META_ARCHITECTURE
    if arch in ("PanopticFPN", "SemanticSegmentor") and metadata.get("evaluator_type") == "coco":
        yield Problem(
            f"MODEL.META_ARCHITECTURE {arch} learns MODEL.SEM_SEG_HEAD from labels of pixels, and "
            f"{name} has boxes and masks of objects alone."
        )
    if arch not in ("GeneralizedRCNN", "PanopticFPN") or classifies_given_boxes(cfg):
        return
    if not _is_coco(metadata):
        return
    wanted = {"MASK_ON": "segmentation", "KEYPOINT_ON": "keypoints"}
    wanted = {f"MODEL.{key}": field for key, field in wanted.items() if model[key]}
    if not wanted or os.path.getsize(metadata.json_file) > _MAX_TRAIN_JSON_BYTES:
        return
    try:
        annotations = read(metadata.json_file).get("annotations", [])
    except ValueError:  # said elsewhere
        return
    for key, field in wanted.items():
        if not any(annotation.get(field) for annotation in annotations):
            yield Problem(f"{key} is True, and no annotation of {name} has '{field}'.")


def _classes(name: str, kind: str) -> list[str]:
    """Names of the "thing" or "stuff" classes of a data set, empty if they cannot be known before
    it is loaded."""
    metadata = MetadataCatalog.get(name)
    if metadata.get(f"{kind}_classes"):
        return list(metadata.get(f"{kind}_classes"))
    if kind == "thing" and _is_coco(metadata):
        try:
            return class_names(read_coco(metadata.json_file))
        except ValueError:  # `_json` says why
            pass
    return []


def _num_classes(cfg: CfgNode, classes: dict[str, list[str]]) -> Iterator[Problem]:
    node = NUM_CLASSES.get(cfg.MODEL.META_ARCHITECTURE)
    if not node:
        return
    number = cfg.MODEL[node].NUM_CLASSES
    others = [f"{name} has {len(c)}" for name, c in classes.items() if len(c) != number]
    if others:
        yield Problem(
            f"MODEL.{node}.NUM_CLASSES is {number}, but {', '.join(others)}: the numbers must be "
            "equal."
        )


def _same_classes(classes: dict[str, list[str]]) -> Iterator[Problem]:
    """Differences to the first data set. (Lists of other lengths fail `_num_classes` too.)"""
    for name, other in list(classes.items())[1:]:
        first, reference = next(iter(classes.items()))
        if other == reference:
            continue
        if len(other) != len(reference):
            yield Problem(f"{first} has {len(reference)} classes and {name} has {len(other)}.")
            continue
        k = next(k for k, (a, b) in enumerate(zip(reference, other, strict=True)) if a != b)
        yield Problem(f"Class {k} is {reference[k]!r} in {first} and {other[k]!r} in {name}.")


def _is_coco(metadata: Any) -> bool:
    return metadata.get("evaluator_type") in ("coco", "coco_panoptic_seg") and os.path.isfile(
        metadata.get("json_file", "")
    )


def _json(name: str, read: Read, *, is_test: bool) -> Iterator[Problem]:
    """Problems of a JSON file that is there; those of a training set are only odd."""
    metadata = MetadataCatalog.get(name)
    if not _is_coco(metadata):
        return
    if not is_test and os.path.getsize(metadata.json_file) > _MAX_TRAIN_JSON_BYTES:
        return
    try:
        dataset = read(metadata.json_file)
    except ValueError as error:
        yield Problem(f"{name}: {error}")
        return
    classes = metadata.get("thing_classes") or None
    for finding in class_findings(dataset, metadata.json_file, classes):
        yield Problem(f"{name}: {finding}")
    # Detectron2 lets COCO 2014's "minival" files pass, which repeat some annotation ids.
    fatal = is_test and "minival" not in metadata.json_file
    for finding in coco_findings(dataset):
        if finding.level != "fact":
            yield Problem(f"{name}: {finding}", fatal and finding.level == "problem")
