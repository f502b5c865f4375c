"""The data sets that `import relation_heads` registers.

- `relational_scenes_{train,val}`, `relational_scenes_crowded_{train,val}`: the synthetic benchmark,
  in folders of these names under `datasets_root()`, made by `datasets/make_relational_scenes.py`.
- `VOCABULARY_{train,val,test}` of vg3000, vg1000, vg3993, vg150, vg1600: in
  `<datasets_root()>/visual_genome`, made by `datasets/prepare_vg.py`.
- `ade_{train,val}` (merged names), `ade_regions_{train,val,mval,mtest}` (1,484 names): in
  `<datasets_root()>/ade20k`, made by `datasets/prepare_ade.py`.
- `photos_voc_animals_{train,val}`, `photos_camvid_{train,val,test}`, `photos_vg500_{train,val}`: in
  `<datasets_root()>/photos`, made by `datasets/prepare_photos.py`.
- `imagenet_{train,val}`, `cub200_{train,test}`: images with a class each, see `image_classes`.
- those of the environment variable `RELATION_HEADS_DATASETS`, see `coco_format`.

Registering reads no annotations. Names of classes are constants (Relational Scenes, VG3000) or in
the small file of names that the converters write; where that is not there yet, they are known when
the annotations are read.
"""

from __future__ import annotations

import os
from functools import cache, partial
from typing import Any

from detectron2.data import DatasetCatalog, MetadataCatalog

from .coco_format import datasets_root, load_coco, register_from_env
from .image_classes import register_image_classes
from .photos import COUNTS, METADATA
from .scenes.scenes import CLASS_GROUPS, CLASSES, HFLIP_PAIRS
from .visual_genome.images import published_classes

# Name -> folder below the root, file of annotations, converter.
CONVERTED = {
    **{
        f"{vocabulary}_{split}": ("visual_genome", f"{vocabulary}_{split}", "prepare_vg.py")
        for vocabulary in ("vg3000", "vg1000", "vg3993", "vg150", "vg1600")
        for split in ("train", "val", "test")
    },
    **{
        f"{name}_{split}": ("ade20k", f"{labels}_{split}", "prepare_ade.py")
        for name, labels, splits in (
            ("ade", "ade_sgrn", ("train", "val")),
            ("ade_regions", "ade_reasoning", ("train", "val", "mval", "mtest")),
        )
        for split in splits
    },
}


def register_builtin() -> None:
    """Registers all data sets of this package; calling it again changes nothing."""
    for scenes, tool in (
        ("relational_scenes", "make_relational_scenes.py"),
        ("relational_scenes_crowded", "make_relational_scenes.py --crowded"),
    ):
        for split in ("train", "val"):
            _register_relational_scenes(scenes, split, tool)
    class_names = cache(_class_names)  # read once for all splits
    photos = os.path.join(datasets_root(), "photos")
    for name in COUNTS:
        json_file = os.path.join(photos, "annotations", f"{name}.json")
        kind = name.rsplit("_", 1)[0]
        images = os.path.join(photos, "voc" if kind == "voc_animals" else kind)
        metadata = METADATA[kind] or class_names(photos, kind)
        _register(f"photos_{name}", json_file, images, "prepare_photos.py", **metadata)
    for name, (folder, file, tool) in CONVERTED.items():
        folder = os.path.join(datasets_root(), folder)
        json_file = os.path.join(folder, "annotations", f"{file}.json")
        _register(name, json_file, folder, tool, **class_names(folder, file.rsplit("_", 1)[0]))
    register_image_classes()
    register_from_env()


def _register_relational_scenes(scenes: str, split: str, tool: str) -> None:
    folder = os.path.join(datasets_root(), scenes)
    _register(
        f"{scenes}_{split}",
        os.path.join(folder, "annotations", f"{split}.json"),
        os.path.join(folder, split),
        tool,
        thing_classes=list(CLASSES),
        class_groups=dict(CLASS_GROUPS),
        hflip_pairs=HFLIP_PAIRS,
    )


def _class_names(folder: str, vocabulary: str) -> dict[str, list[str]]:
    """`thing_classes` of a vocabulary, if its names are known without the annotations."""
    if vocabulary == "vg3000":
        return {"thing_classes": published_classes()}
    names = os.path.join(folder, f"{vocabulary}_classes.txt")
    if not os.path.isfile(names):
        return {}
    with open(names, encoding="utf-8") as lines:
        return {"thing_classes": lines.read().splitlines()}


def _register(name: str, json_file: str, image_root: str, tool: str, **metadata: Any) -> None:
    if name in DatasetCatalog:
        return
    MetadataCatalog.get(name).set(
        json_file=json_file, image_root=image_root, evaluator_type="coco", **metadata
    )
    DatasetCatalog.register(name, partial(_load, name, json_file, image_root, tool))


def _load(name: str, json_file: str, image_root: str, tool: str) -> list[dict[str, Any]]:
    if not os.path.isfile(json_file):
        raise FileNotFoundError(
            f"The data set {name!r} is not there, {json_file} is missing: "
            f"make it with `python datasets/{tool}`."
        )
    return load_coco(json_file, image_root, name)
