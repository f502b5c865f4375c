"""Time and memory of the ROI heads of configs, on random feature maps and boxes."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import Any

import torch
from detectron2.modeling import build_backbone, build_roi_heads
from detectron2.utils.events import EventStorage

from relation_heads.config import get_cfg, merge_file
from relation_heads.modeling.without_memory import without_memory

from .measure import median_seconds, peak_bytes
from .run import MIB
from .whole import SIZE, random_objects, random_proposals


def build(name: str, device: str, opts: list[str]) -> tuple[Any, dict[str, torch.Tensor], Any]:
    """ROI heads of a config, feature maps for them, and the config."""
    cfg = get_cfg()
    merge_file(cfg, name)
    cfg.merge_from_list(["MODEL.DEVICE", device, *opts])
    torch.manual_seed(0)
    with without_memory():
        shapes = build_backbone(cfg).output_shape()
    heads = build_roi_heads(cfg, shapes).to(device)
    generator = torch.Generator().manual_seed(0)
    features = {}
    for key, shape in shapes.items():
        height, width = (side // shape.stride for side in SIZE)
        features[key] = torch.randn(1, shape.channels, height, width, generator=generator).to(
            device
        )
    return heads, features, cfg


def steps(
    name: str, device: str, train_regions: int, test_regions: int, opts: list[str]
) -> tuple[Callable[[], Any], Callable[[], Any], int]:
    """A training step, an inference pass, and the number of parameters."""
    heads, features, cfg = build(name, device, opts)
    generator = torch.Generator().manual_seed(1)
    targets = random_objects(cfg.MODEL.ROI_HEADS.NUM_CLASSES, generator).to(device)
    seen = random_proposals(train_regions, generator).to(device)
    asked = random_proposals(test_regions, generator).to(device)

    def train() -> None:
        maps = {key: x.detach().requires_grad_() for key, x in features.items()}
        with EventStorage():
            _, losses = heads.train()(None, maps, [seen], [targets])
        sum(losses.values()).backward()
        heads.zero_grad(set_to_none=True)

    @torch.no_grad()
    def test() -> Any:
        return heads.eval()(None, features, [asked])

    return train, test, sum(p.numel() for p in heads.parameters())


def compare_heads(args: argparse.Namespace) -> str:
    """Measures, prints and returns the table; `args` as of `tools/compare_heads.py`."""
    runs = {
        name: steps(name, args.device, args.train_regions, args.test_regions, args.opts)
        for name in args.configs
    }
    columns = []
    for k in (0, 1):  # training, inference
        functions = {name: run[k] for name, run in runs.items()}
        columns.append(median_seconds(functions, args.rounds, args.device))
        columns.append({n: peak_bytes(f, args.device) / MIB for n, f in functions.items()})
    train, test = f"step, {args.train_regions} regions", f"inference, {args.test_regions}"
    titles = ["parameters", f"{train}: s", "peak MiB", f"{test}: s", "peak MiB"]
    rows = ["| ROI heads of | " + " | ".join(titles) + " |", "|:--|" + "--:|" * len(titles)]
    first = args.configs[0]
    for name, run in runs.items():
        cells = [f"{run[2]:,}"]
        for column, digits in zip(columns, (3, 0, 3, 0), strict=True):
            cells.append(f"{column[name]:.{digits}f} ({column[name] / column[first]:.2f}x)")
        rows.append(f"| {name} | " + " | ".join(cells) + " |")
    table = "\n".join(rows)
    print(table)
    return table
