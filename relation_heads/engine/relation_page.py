"""What `relation-heads view` does: images in, one HTML page out."""

from __future__ import annotations

import argparse

import numpy as np

from ..layers import SGRN
from ..modeling.roi_heads.heads import Relational
from ..viewer import write_page
from ..visualization.detections import Detections
from ..visualization.kernels import kernel_maps
from .image_files import find_images
from .predictor import Predictor, load, relation_modules

KERNEL_SIDE = 96  # pixels of the map of a kernel


def write_relation_page(args: argparse.Namespace) -> None:
    """See `relation_heads.commands.view`.

    Raises:
        OSError, ValueError: a file, key or value is wrong.
    """
    files, videos = find_images(args.images)
    if videos:
        raise ValueError(f"{videos[0].source} is a video: the page is of images.")
    files = files[: args.num]
    models = {name: model for name, model in args.beside}
    if len(models) < len(args.beside):
        raise ValueError("Two detectors of --beside have the same name.")
    first = load(args.model, device=args.device, half=args.half, opts=args.opts)
    name = args.name or first.cfg.MODEL.ROI_HEADS.NAME
    if name in models:
        raise ValueError(f"Two detectors have the name {name}: give another --name.")
    predictors = {name: first}
    for other, model in models.items():
        predictors[other] = load(model, device=args.device, half=args.half)
    write_page(
        args.output,
        {name: detect(predictor, files) for name, predictor in predictors.items()},
        min_score=args.min_score,
        top=args.top,
        kernels={name: maps for name, p in predictors.items() if (maps := kernels_of(p))},
    )
    print(f"{args.output} written: {len(files)} images. Open it in a browser.")


def kernels_of(predictor: Predictor) -> list[np.ndarray]:
    """The spatial kernels of an SGRN, of every graph layer (K, side, side); [] without one."""
    modules = relation_modules(predictor.model).values()
    convs = [conv for module in modules if isinstance(module, SGRN) for conv in module.convs]
    return [kernel_maps(conv.kernels, KERNEL_SIDE) for conv in convs]


def detect(predictor: Predictor, files: list[str]) -> list[Detections]:
    """With relations, where the heads have any, and with the nodes of GloRe units."""
    relations = isinstance(predictor.model.roi_heads, Relational)
    return list(predictor.stream(files, relations=relations, nodes=True))
