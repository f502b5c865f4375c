"""A data set of four pictures and a detector of a few channels, for tests that train for real.

    coco = tiny_coco(tmp_path)
    with registered(coco) as name:
        cfg = tiny_cfg([name], [name], num_classes=3, output_dir=tmp_path / "out")

Detectron2 is imported inside the functions, so that importing this module needs none.
"""

from __future__ import annotations

import json
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

WIDTH, HEIGHT = 96, 64
# Of processes: a fork imports nothing anew, but autograd cannot be forked where there is a GPU.
START_METHOD = "spawn" if torch.cuda.is_available() else "fork"
# One colour and one size (width, height) in pixels per class, repeated after the sixth.
COLOURS = [
    (220, 40, 40),
    (40, 200, 60),
    (50, 80, 230),
    (230, 210, 40),
    (200, 60, 210),
    (60, 210, 210),
]
SIZES = [(18, 18), (26, 14), (14, 26), (30, 22), (22, 30), (20, 20)]


@dataclass(frozen=True)
class TinyCoco:
    """A data set on disk: its JSON file, the folder of its images, and what the JSON says."""

    json_file: Path
    image_root: Path
    dataset: dict[str, Any]

    @property
    def class_names(self) -> list[str]:
        """Names in the order of the category ids."""
        return [c["name"] for c in sorted(self.dataset["categories"], key=lambda c: c["id"])]


def tiny_coco(
    folder: Path,
    *,
    num_classes: int = 3,
    num_images: int = 4,
    category_ids: Sequence[int] | None = None,
    empty_image: bool = False,
    crowd: bool = False,
) -> TinyCoco:
    """Writes images of 96 x 64 pixels, each with three coloured rectangles, and their COCO JSON.

    Args:
        folder: gets `annotations.json` and `images/`; made if it does not exist.
        num_classes: length of the category list; the boxes go through it one after the other.
        num_images: image ids are 1..`num_images`.
        category_ids: ids of the categories, 1..`num_classes` by default.
        empty_image: the last image has no annotation.
        crowd: the first annotation is a crowd.

    Returns:
        the paths and the content of the JSON; annotation ids start at 1.
    """
    image_root = Path(folder) / "images"
    image_root.mkdir(parents=True, exist_ok=True)
    ids = list(category_ids or range(1, num_classes + 1))
    rng = np.random.default_rng(0)
    images, annotations = [], []
    for i in range(num_images):
        picture = rng.integers(90, 130, (HEIGHT, WIDTH, 3), dtype=np.uint8)
        blank = empty_image and i == num_images - 1
        for column in range(0 if blank else 3):
            k = len(annotations) % num_classes
            w, h = SIZES[k % len(SIZES)]
            x = 32 * column + int(rng.integers(0, 33 - w))
            y = int(rng.integers(0, HEIGHT - h + 1))
            picture[y : y + h, x : x + w] = COLOURS[k % len(COLOURS)]
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": i + 1,
                    "category_id": ids[k],
                    "bbox": [x, y, w, h],
                    "area": w * h,
                    "iscrowd": int(crowd and not annotations),
                }
            )
        Image.fromarray(picture).save(image_root / f"{i + 1:06d}.png")
        images.append(
            {"id": i + 1, "file_name": f"{i + 1:06d}.png", "width": WIDTH, "height": HEIGHT}
        )
    dataset = {
        "images": images,
        "annotations": annotations,
        "categories": [{"id": c, "name": f"class{k}"} for k, c in enumerate(ids)],
    }
    return TinyCoco(write_json(Path(folder) / "annotations.json", dataset), image_root, dataset)


def write_json(path: Path, content: Any) -> Path:
    """Writes `content` as JSON and returns `path`."""
    path.write_text(json.dumps(content))
    return path


@contextmanager
def registered(coco: TinyCoco, **metadata: Any) -> Iterator[str]:
    """Registers a data set with Detectron2 under a new name and removes it again.

    Args:
        coco: the data set.
        metadata: more metadata, for example `class_groups`.

    Yields:
        the name.
    """
    from detectron2.data.datasets import register_coco_instances

    name = f"tiny_{uuid.uuid4().hex}"
    metadata = {"thing_classes": coco.class_names, **metadata}
    try:
        register_coco_instances(name, metadata, str(coco.json_file), str(coco.image_root))
        yield name
    finally:
        unregister(name)


@contextmanager
def registered_labels(coco: TinyCoco, **metadata: Any) -> Iterator[str]:
    """Registers the images of a data set with labels of their pixels, and removes that again.

    A pixel has the class of its box, elsewhere the last class, `ground`; the top four rows are not
    labelled (255). Written to `labels/` beside `images/`.

    Args:
        coco: the data set; boxes of whole pixels.
        metadata: more metadata, or another `evaluator_type`.

    Yields:
        the name.
    """
    from detectron2.data import DatasetCatalog, MetadataCatalog

    folder = coco.image_root.parent / "labels"
    folder.mkdir()
    index = {c["id"]: k for k, c in enumerate(coco.dataset["categories"])}
    records = []
    for image in coco.dataset["images"]:
        labels = np.full((image["height"], image["width"]), len(index), dtype=np.uint8)
        for a in coco.dataset["annotations"]:
            x, y, w, h = a["bbox"]
            if a["image_id"] == image["id"]:
                labels[y : y + h, x : x + w] = index[a["category_id"]]
        labels[:4] = 255
        Image.fromarray(labels).save(folder / image["file_name"])
        record = {"image_id": image["id"], "height": image["height"], "width": image["width"]}
        record["file_name"] = str(coco.image_root / image["file_name"])
        record["sem_seg_file_name"] = str(folder / image["file_name"])
        records.append(record)
    name = f"labels_{uuid.uuid4().hex}"
    known = {"stuff_classes": [*coco.class_names, "ground"], "ignore_label": 255}
    try:
        DatasetCatalog.register(name, lambda: records)
        MetadataCatalog.get(name).set(**{"evaluator_type": "sem_seg", **known, **metadata})
        yield name
    finally:
        unregister(name)


def unregister(*names: str) -> None:
    """Removes data sets and their metadata from the catalogs; unknown names are passed over."""
    from detectron2.data import DatasetCatalog, MetadataCatalog

    for name in names:
        for catalog in (DatasetCatalog, MetadataCatalog):
            if name in catalog:
                catalog.remove(name)


def tiny_cfg(
    train: Sequence[str],
    test: Sequence[str],
    num_classes: int,
    output_dir: str | Path,
    opts: Sequence[Any] = (),
    *,
    base: Any = None,
) -> Any:
    """A Faster R-CNN on a narrow R50-FPN that trains from scratch on the CPU, about 0.1 s a step.

    Args:
        train: names of the training sets.
        test: names of the test sets.
        num_classes: K.
        output_dir: where checkpoints and results go.
        opts: more keys and values, as on the command line; merged last.
        base: the config to start from, `detectron2.config.get_cfg()` by default.

    Returns:
        an unfrozen config.
    """
    from detectron2.config import get_cfg

    cfg = get_cfg() if base is None else base.clone()
    cfg.merge_from_list(["DATASETS.TRAIN", tuple(train), "DATASETS.TEST", tuple(test)])
    cfg.merge_from_list(["MODEL.ROI_HEADS.NUM_CLASSES", num_classes, "OUTPUT_DIR", str(output_dir)])
    cfg.merge_from_list([x for pair in _TINY.items() for x in pair])
    cfg.merge_from_list(list(opts))
    return cfg


def untrained(heads: str, name: str, folder: Path) -> Path:
    """The config, as a file, of a tiny detector whose weights are random, and in a file.

    Args:
        heads: `MODEL.ROI_HEADS.NAME`.
        name: of its data set of three classes.
        folder: gets both files.
    """
    from detectron2.checkpoint import DetectionCheckpointer
    from detectron2.modeling import build_model

    from relation_heads import get_cfg

    folder.mkdir(exist_ok=True)
    cfg = tiny_cfg([name], [name], 3, folder, base=get_cfg())
    cfg.MODEL.ROI_HEADS.NAME = heads
    cfg.MODEL.ROI_HEADS.SCORE_THRESH_TEST = 0.0
    cfg.MODEL.WEIGHTS = str(folder / "model.pth")
    DetectionCheckpointer(build_model(cfg), str(folder)).save("model")
    path = folder / "tiny.yaml"
    path.write_text(cfg.dump())
    return path


_TINY = {
    "MODEL.DEVICE": "cpu",
    "MODEL.WEIGHTS": "",
    "MODEL.META_ARCHITECTURE": "GeneralizedRCNN",
    "MODEL.BACKBONE.NAME": "build_resnet_fpn_backbone",
    # Frozen statistics and layers would stay random: such a model diverges at once.
    "MODEL.BACKBONE.FREEZE_AT": 0,
    "MODEL.RESNETS.NORM": "BN",
    # Narrow bottlenecks: half the time and a twentieth of the parameters of an R18.
    "MODEL.RESNETS.DEPTH": 50,
    "MODEL.RESNETS.STEM_OUT_CHANNELS": 16,
    "MODEL.RESNETS.WIDTH_PER_GROUP": 8,
    "MODEL.RESNETS.RES2_OUT_CHANNELS": 32,
    "MODEL.RESNETS.OUT_FEATURES": ["res2", "res3", "res4", "res5"],
    "MODEL.FPN.IN_FEATURES": ["res2", "res3", "res4", "res5"],
    "MODEL.FPN.OUT_CHANNELS": 32,
    "MODEL.ANCHOR_GENERATOR.SIZES": [[8], [16], [32], [64], [128]],
    "MODEL.RPN.IN_FEATURES": ["p2", "p3", "p4", "p5", "p6"],
    "MODEL.RPN.PRE_NMS_TOPK_TRAIN": 100,
    "MODEL.RPN.PRE_NMS_TOPK_TEST": 100,
    "MODEL.RPN.POST_NMS_TOPK_TRAIN": 50,
    "MODEL.RPN.POST_NMS_TOPK_TEST": 50,
    "MODEL.ROI_HEADS.NAME": "StandardROIHeads",
    "MODEL.ROI_HEADS.IN_FEATURES": ["p2", "p3", "p4", "p5"],
    "MODEL.ROI_HEADS.BATCH_SIZE_PER_IMAGE": 32,
    "MODEL.ROI_BOX_HEAD.NAME": "FastRCNNConvFCHead",
    "MODEL.ROI_BOX_HEAD.NUM_FC": 2,
    "MODEL.ROI_BOX_HEAD.FC_DIM": 64,
    "MODEL.ROI_BOX_HEAD.POOLER_RESOLUTION": 7,
    "INPUT.MIN_SIZE_TRAIN": (64,),
    "INPUT.MIN_SIZE_TEST": 64,
    "DATALOADER.NUM_WORKERS": 0,
    "SOLVER.IMS_PER_BATCH": 2,
    "SOLVER.BASE_LR": 0.01,
    "SOLVER.WARMUP_ITERS": 2,
    "SOLVER.STEPS": (),
    "SOLVER.MAX_ITER": 2,
    "TEST.EVAL_PERIOD": 0,
    "SEED": 0,
}
