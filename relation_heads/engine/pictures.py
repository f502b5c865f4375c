"""Files with pictures of what a trained detector listened to, one per image."""

from __future__ import annotations

import argparse
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path

from detectron2.config import CfgNode
from detectron2.data import DatasetCatalog
from detectron2.data.detection_utils import read_image
from torch import nn

from ..layers import SGRN, ObjectRelation
from ..visualization import draw_kernels
from ..visualization.detections import write_image
from .image_files import find_images, names_in_one_folder
from .predictor import load, relation_modules


def records(cfg: CfgNode, images: list[str]) -> Iterator[dict]:
    """Dataset records: of the given files, or of the test set."""
    if not images:
        yield from DatasetCatalog.get(cfg.DATASETS.TEST[0])
    for file_name in images:
        height, width = read_image(file_name).shape[:2]
        yield {"file_name": file_name, "height": height, "width": width}


def write_kernels(model: nn.Module, folder: Path) -> None:
    """One picture per graph layer of an SGRN."""
    graphs = [module for module in relation_modules(model).values() if isinstance(module, SGRN)]
    for k, conv in enumerate((conv for graph in graphs for conv in graph.convs), start=1):
        print(write_image(folder / f"kernels_layer{k}.png", draw_kernels(conv.kernels)))


def _check_module(
    modules: Mapping[str, ObjectRelation | SGRN], name: str | None, head: int | None
) -> None:
    """`--module` and `--head`, before an image is read."""
    if name is not None and name not in modules:
        raise ValueError(f"--module {name} is none of: {', '.join(modules)}.")
    asked = modules[name] if name is not None else list(modules.values())[-1]
    heads = asked.num_heads if isinstance(asked, ObjectRelation) else 1
    if head is not None and not 0 <= head < heads:
        raise ValueError(f"--head must be in 0 to {heads - 1}, got {head}.")


def write_pictures(args: argparse.Namespace) -> int:
    """What `relation-heads explain` and `tools/visualize_relations.py` do.

    Returns:
        of how many images.

    Raises:
        OSError, ValueError: a file, a key, the class or the module is not there.
    """
    files, videos = find_images(args.images)
    if videos:
        raise ValueError(f"{videos[0].source} is a video: pictures are of images.")
    predictor = load(args.model, device=args.device, half=args.half, opts=args.opts)
    modules = relation_modules(predictor.model)
    if not modules:
        raise ValueError(
            f"{args.model} has no relation module and no SGRN graph: "
            f"MODEL.ROI_HEADS.NAME is {predictor.cfg.MODEL.ROI_HEADS.NAME}."
        )
    _check_module(modules, args.module, args.head)
    names = predictor.class_names
    if args.class_name and args.class_name not in names:
        raise ValueError(f"--class {args.class_name} is none of: {', '.join(names)}.")
    write_kernels(predictor.model, args.output)
    if not args.images:
        files = [
            record["file_name"] for record in DatasetCatalog.get(predictor.cfg.DATASETS.TEST[0])
        ]
    written, stems = 0, names_in_one_folder(files)
    times: Counter[str] = Counter()  # how often a class was asked
    for found in predictor.stream(files, relations=True):
        can_ask = [
            d
            for d, name in enumerate(found.names)
            if args.class_name in (None, name) and found.scores[d] >= args.min_score
        ]
        if can_ask:
            asked = min(can_ask, key=lambda d: times[found.names[d]])  # of equals the surest
            times[found.names[asked]] += 1
            path = args.output / f"{stems[found.file_name]}_{found.names[asked]}.png"
            drawn = found.picture_of_relations(
                asked, module=args.module, head=args.head, top=args.top,
                min_score=args.min_score,
            )  # fmt: skip
            print(write_image(path, drawn))
            written += 1
        if written == args.num:
            break
    if not written:
        wanted = f" of {args.class_name}" if args.class_name else ""
        print(f"No detection{wanted} has a score of {args.min_score}.")
    return written
