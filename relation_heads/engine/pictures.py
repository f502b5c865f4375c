"""Files with pictures of what a trained detector listened to, one per image."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path

import cv2
import torch
from detectron2.config import CfgNode
from detectron2.data import DatasetCatalog, DatasetMapper, MetadataCatalog
from detectron2.data.detection_utils import read_image
from detectron2.utils.logger import setup_logger

from ..config import find_config, get_cfg
from ..layers import SGRN
from ..visualization import draw_kernels
from ..visualization.inspect import inspect_image, picture, relation_modules
from .checkpoint import ReportingCheckpointer
from .trainer import RelationTrainer


def records(cfg: CfgNode, images: list[str]) -> Iterator[dict]:
    """Dataset records: of the given files, or of the test set."""
    if not images:
        yield from DatasetCatalog.get(cfg.DATASETS.TEST[0])
    for file_name in images:
        height, width = read_image(file_name).shape[:2]
        yield {"file_name": file_name, "height": height, "width": width}


def write_kernels(model: torch.nn.Module, folder: Path) -> None:
    """One picture per graph layer of an SGRN."""
    graphs = [module for module in relation_modules(model).values() if isinstance(module, SGRN)]
    for k, conv in enumerate((conv for graph in graphs for conv in graph.convs), start=1):
        path = folder / f"kernels_layer{k}.png"
        cv2.imwrite(str(path), draw_kernels(conv.kernels))
        print(path)


def write_pictures(args: argparse.Namespace) -> int:
    """Writes the pictures that the arguments of `tools/visualize_relations.py` ask for.

    Returns:
        of how many images.

    Raises:
        OSError, ValueError: a file, a key, the class or the module is not there.
    """
    setup_logger(name="fvcore")
    cfg = get_cfg()
    cfg.merge_from_file(find_config(args.config_file))
    cfg.merge_from_list(args.opts)
    model = RelationTrainer.build_model(cfg).eval()
    if not relation_modules(model):
        raise ValueError(
            f"{args.config_file} has no relation module and no SGRN graph: "
            f"MODEL.ROI_HEADS.NAME is {cfg.MODEL.ROI_HEADS.NAME}."
        )
    ReportingCheckpointer(model, complete=True).load(cfg.MODEL.WEIGHTS)
    class_names = MetadataCatalog.get(cfg.DATASETS.TEST[0]).thing_classes
    if args.class_name and args.class_name not in class_names:
        raise ValueError(f"--class {args.class_name} is none of: {', '.join(class_names)}.")
    load = DatasetMapper(cfg, is_train=False)
    args.output.mkdir(parents=True, exist_ok=True)
    write_kernels(model, args.output)
    written = 0
    for record in records(cfg, args.image):
        if written == args.num:
            break
        seen = inspect_image(model, load(record)["image"], class_names, args.module)
        asked = [
            d
            for d, name in enumerate(seen.detection_labels)
            if args.class_name in (None, name) and seen.detections.scores[d] >= args.min_score
        ]
        if not asked:
            continue
        path = (
            args.output / f"{Path(record['file_name']).stem}_{seen.detection_labels[asked[0]]}.png"
        )
        drawn = picture(seen, asked[0], head=args.head, top=args.top, min_score=args.min_score)
        cv2.imwrite(str(path), drawn)
        print(path)
        written += 1
    if not written:
        wanted = f" of {args.class_name}" if args.class_name else ""
        print(f"No detection{wanted} has a score of {args.min_score}.")
    return written
