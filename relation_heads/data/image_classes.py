"""Data sets of images that each have one class, and what a classifier sees of an image.

    relation-heads train --image-folder my_train my/train --image-folder my_val my/val ...

Two layouts: a folder with one folder of images for each class, as ImageNet has it and torchvision
reads it, and CUB-200-2011 (http://www.vision.caltech.edu/datasets/cub_200_2011). A record is
{file_name, image_id, label}, and the classes are `thing_classes` of the metadata.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from detectron2.config import CfgNode, configurable
from detectron2.data import DatasetCatalog, MetadataCatalog, detection_utils
from torchvision.datasets import ImageFolder
from torchvision.datasets.folder import find_classes
from torchvision.transforms import v2 as transforms

from ..config.defaults import node
from .coco_format import datasets_root, find_path
from .files import read_text

EVALUATOR_TYPE = "image_classes"  # of the metadata of such a data set
FLIPS: dict[str, list[type[transforms.Transform]]] = {
    "none": [],
    "horizontal": [transforms.RandomHorizontalFlip],
    "vertical": [transforms.RandomVerticalFlip],
}
Record = dict[str, Any]


def register_image_folder(name: str, folder: str) -> None:
    """Registers a folder with one folder of images for each class; the classes are in the order of
    their names.

    Args:
        name: for `DATASETS.TRAIN` and `DATASETS.TEST`.
        folder: a relative one is looked up where the program runs, then in `datasets_root()`.

    Raises:
        FileNotFoundError: there is no such folder, or it has no folders inside.
        ValueError: `name` stands for something else already.
    """
    folder = find_path(folder, os.path.isdir)
    known = MetadataCatalog.get(name).get("image_root")
    if name in DatasetCatalog and known != folder:
        raise ValueError(
            f"The data set {name!r} is registered already, with {known} instead of {folder}: "
            "choose another name."
        )
    find_classes(folder)
    _register(name, folder, partial(load_image_folder, folder), _classes_of_folder)


def register_image_classes() -> None:
    """`imagenet_{train,val}` in `<datasets_root()>/imagenet/{train,val}` and `cub200_{train,test}`
    in `<datasets_root()>/CUB_200_2011`; calling it again changes nothing."""
    for split in ("train", "val"):
        folder = os.path.join(datasets_root(), "imagenet", split)
        _register(
            f"imagenet_{split}", folder, partial(load_image_folder, folder), _classes_of_folder
        )
    folder = os.path.join(datasets_root(), "CUB_200_2011")
    for split in ("train", "test"):
        load = partial(load_cub, folder, train=split == "train")
        _register(f"cub200_{split}", folder, load, _classes_of_cub)


def _register(
    name: str,
    folder: str,
    load: Callable[[], list[Record]],
    classes: Callable[[str], list[str]],
) -> None:
    if name in DatasetCatalog:
        return
    metadata = MetadataCatalog.get(name).set(image_root=folder, evaluator_type=EVALUATOR_TYPE)
    if os.path.isdir(folder):
        metadata.set(thing_classes=classes(folder))
    DatasetCatalog.register(name, load)


def load_image_folder(folder: str) -> list[Record]:
    """The records of a folder of folders.

    Raises:
        FileNotFoundError: it is not there, has no folders, or one of them has no image.
    """
    return [
        {"file_name": file, "image_id": number, "label": label}
        for number, (file, label) in enumerate(
            ImageFolder(find_path(folder, os.path.isdir)).samples
        )
    ]


def load_cub(folder: str, *, train: bool) -> list[Record]:
    """The records of one part of CUB-200-2011.

    Args:
        folder: has images.txt, image_class_labels.txt, train_test_split.txt and images/.
        train: of the training part, else of the test part.

    Raises:
        FileNotFoundError: a file is missing.
        ValueError: a line is not an id and a value, or an image has no line in one of the files.
    """
    root = Path(find_path(folder, os.path.isdir))
    labels, parts = (_table(root / f"{f}.txt") for f in ("image_class_labels", "train_test_split"))
    records = []
    for image, file in _table(root / "images.txt").items():
        for table, path in ((labels, "image_class_labels.txt"), (parts, "train_test_split.txt")):
            if not table.get(image, "").isdecimal():
                raise ValueError(
                    f"{root / path} must have a number for image {image}, got {table.get(image)!r}."
                )
        if (parts[image] == "1") == train:
            path = str(root / "images" / file)
            records.append({"file_name": path, "image_id": image, "label": int(labels[image]) - 1})
    return records


def _classes_of_folder(folder: str) -> list[str]:
    with suppress(FileNotFoundError):  # empty
        return find_classes(folder)[0]
    return []


def _classes_of_cub(folder: str) -> list[str]:
    file = Path(folder, "classes.txt")
    return list(_table(file).values()) if file.is_file() else []


def _table(path: Path) -> dict[str, str]:
    """First word of a line -> the rest."""
    rows = [line.split(maxsplit=1) for line in read_text(path).splitlines()]
    for number, row in enumerate(rows, start=1):
        if len(row) != 2:
            raise ValueError(f"{path}, line {number}, must be an id and a value, got {row}.")
    return dict(rows)


class ImageClassMapper:
    """Turns a record into the input of an image classifier: the record, and

        image      (C, CROP_SIZE, CROP_SIZE) uint8

    In training a random part of the image, resized, flipped if `INPUT.RANDOM_FLIP` says so; else
    the centre of the image. By torchvision's transforms.
    """

    @configurable
    def __init__(
        self,
        is_train: bool,
        *,
        crop_size: int,
        resize: int,
        min_area: float,
        flip: str,
        image_format: str,
    ) -> None:
        """
        Args:
            is_train: of the training loader.
            crop_size: height and width of what the model sees, in pixels.
            resize: the short side of a test image before the crop, in pixels.
            min_area: the smallest random part, as a share of the image.
            flip: a key of `FLIPS`.
            image_format: a format of `detection_utils.read_image`, for example "BGR".
        """
        size = [crop_size, crop_size]
        self.transform = transforms.Compose(
            [transforms.RandomResizedCrop(size, (min_area, 1.0)), *(kind() for kind in FLIPS[flip])]
            if is_train
            else [transforms.Resize(resize), transforms.CenterCrop(size)]
        )
        self.image_format = image_format

    @classmethod
    def from_config(cls, cfg: CfgNode, is_train: bool = True) -> dict[str, Any]:
        """Arguments from `MODEL.CLASSIFIER` and `INPUT`."""
        keys = node(cfg, "CLASSIFIER")
        return {
            "is_train": is_train,
            "crop_size": keys.CROP_SIZE,
            "resize": keys.RESIZE,
            "min_area": keys.MIN_AREA,
            "flip": cfg.INPUT.RANDOM_FLIP,
            "image_format": cfg.INPUT.FORMAT,
        }

    def __call__(self, record: Mapping[str, Any]) -> Record:
        """See the class; the record is left as it is."""
        image = detection_utils.read_image(record["file_name"], format=self.image_format)
        image = torch.as_tensor(np.ascontiguousarray(image.transpose(2, 0, 1)))  # (C, H, W)
        return {**record, "image": self.transform(image)}
