"""The data sets that `import relation_heads` registers.

- `relational_scenes_train`, `relational_scenes_val`: the synthetic benchmark, under
  `<datasets_root()>/relational_scenes`, made by `datasets/make_relational_scenes.py`.
- those of the environment variable `RELATION_HEADS_DATASETS`, see `coco_format`.

Registering reads no file of the benchmark: its classes are constants of `relational_scenes`.
"""

from __future__ import annotations

import os
from functools import partial
from typing import Any

from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data.datasets import load_coco_json

from .coco_format import datasets_root, register_from_env
from .relational_scenes import CLASS_GROUPS, CLASSES, HFLIP_PAIRS


def register_builtin() -> None:
    """Registers all data sets of this package; calling it again changes nothing.

    Raises:
        ValueError: `RELATION_HEADS_DATASETS` has a bad entry.
    """
    for split in ("train", "val"):
        _register_relational_scenes(f"relational_scenes_{split}", split)
    register_from_env()


def _register_relational_scenes(name: str, split: str) -> None:
    if name in DatasetCatalog:
        return
    folder = os.path.join(datasets_root(), "relational_scenes")
    json_file = os.path.join(folder, "annotations", f"{split}.json")
    image_root = os.path.join(folder, split)
    MetadataCatalog.get(name).set(
        json_file=json_file,
        image_root=image_root,
        evaluator_type="coco",
        thing_classes=list(CLASSES),
        class_groups=dict(CLASS_GROUPS),
        hflip_pairs=HFLIP_PAIRS,
    )
    DatasetCatalog.register(name, partial(_load_relational_scenes, name, json_file, image_root))


def _load_relational_scenes(name: str, json_file: str, image_root: str) -> list[dict[str, Any]]:
    if not os.path.isfile(json_file):
        raise FileNotFoundError(
            f"The data set {name!r} is not there, {json_file} is missing: "
            "make it with `python datasets/make_relational_scenes.py`."
        )
    return load_coco_json(json_file, image_root, name)
