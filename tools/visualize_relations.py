#!/usr/bin/env python
"""Draw what a trained relational detector listened to: for a detection, the strongest regions in
its relation weights, or in the learned graph of SGRN.

    tools/visualize_relations.py --config-file
    RelationalScenes/faster_rcnn_shallow_relation_signed.yaml \\
        --output pictures MODEL.WEIGHTS output/relational_scenes/relation_signed/model_final.pth

One picture per image: the detections on the left; on the right one of them (the surest, or the
surest of --class) and lines to what it listened to, thicker for more weight. Images are the first
of DATASETS.TEST, or those given by --image. For SGRN also kernels_layer1.png, kernels_layer2.png:
where each spatial kernel of a graph layer looks, the region that asks in the middle of its disc.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from pathlib import Path

try:
    import relation_heads
except ModuleNotFoundError:  # a checkout that is not installed
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
    import relation_heads

try:
    from detectron2.data import DatasetCatalog, DatasetMapper, MetadataCatalog
except ModuleNotFoundError as error:
    if error.name != "detectron2":
        raise
    sys.exit(relation_heads.DETECTRON2_HELP)

import cv2
import torch
from detectron2.config import CfgNode
from detectron2.data.detection_utils import read_image
from detectron2.utils.logger import setup_logger

from relation_heads.config import find_config, get_cfg
from relation_heads.engine import RelationTrainer
from relation_heads.engine.checkpoint import ReportingCheckpointer
from relation_heads.layers import SGRN
from relation_heads.visualization import draw_kernels
from relation_heads.visualization.inspect import inspect_image, picture, relation_modules


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--config-file", required=True, metavar="FILE")
    parser.add_argument("--output", type=Path, required=True, help="folder for the pictures")
    parser.add_argument("--image", action="append", default=[], metavar="FILE", help="repeatable")
    parser.add_argument("--num", type=int, default=8, help="images at most")
    parser.add_argument(
        "--class",
        dest="class_name",
        help="ask a detection of this class; images without are left out",
    )
    parser.add_argument(
        "--module", help="name of the relation module or graph; default: the last of the model"
    )
    parser.add_argument(
        "--head", type=int, help="one head of a relation module; default: their mean"
    )
    parser.add_argument("--top", type=int, default=5, help="objects to draw lines to")
    parser.add_argument("--min-score", type=float, default=0.5, help="of the detections drawn")
    parser.add_argument(
        "opts", nargs=argparse.REMAINDER, metavar="KEY VALUE", help="config overrides"
    )
    return parser.parse_args(argv)


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


def main(args: argparse.Namespace) -> int:
    """Writes the pictures; returns of how many images."""
    setup_logger(name="fvcore")
    cfg = get_cfg()
    cfg.merge_from_file(find_config(args.config_file))
    cfg.merge_from_list(args.opts)
    model = RelationTrainer.build_model(cfg).eval()
    if not relation_modules(model):
        sys.exit(
            f"{args.config_file} has no relation module and no SGRN graph: "
            f"MODEL.ROI_HEADS.NAME is {cfg.MODEL.ROI_HEADS.NAME}."
        )
    ReportingCheckpointer(model, complete=True).load(cfg.MODEL.WEIGHTS)
    class_names = MetadataCatalog.get(cfg.DATASETS.TEST[0]).thing_classes
    if args.class_name and args.class_name not in class_names:
        sys.exit(f"--class {args.class_name} is none of: {', '.join(class_names)}.")
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


if __name__ == "__main__":
    main(parse_args())
