"""A config beside its stock twin, as a table."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from detectron2.config import CfgNode

from ..config import find_config, get_cfg
from ..engine.checks import check_cfg
from ..engine.form_checks import head_names
from ..engine.model_config import merge_config, merge_overrides
from .detectors import Cost, Costs, analyze, build_shapes, padded_size
from .roi_heads import RegionCounts

# What a config's name has and the name of its stock twin has not.
OURS = re.compile(
    r"_(relation_learn_nms|relation|sgrn|reasoning_rcnn|reasoning|learned_regions|learn_nms|soft_nms"
    r"|gc_glore|gc|glore|lr|nl|se)"
    r"(_signed|_paper|_student|_frozen)?(?=_|\.)"
)
SMALLEST_SIDE = 64
# Title, number of a cost, decimals, whether its parts are listed.
ROWS: tuple[tuple[str, Callable[[Cost], float], int, bool], ...] = (
    ("parameters", lambda cost: cost.parameters, 0, True),
    ("with norm statistics", lambda cost: cost.with_statistics, 0, False),
    ("trained (not frozen)", lambda cost: cost.trained, 0, False),
    ("multiply-adds, G", lambda cost: cost.multiply_adds / 1e9, 2, True),
    ("kept for backward, MiB", lambda cost: cost.kept_bytes / 2**20, 1, True),
)
NOTE = """\
Multiply-adds (what papers call FLOPs): convolutions and products of matrices at test time, as the
layers compute them. GloRe here takes about half of its published order.
Kept for backward: distinct tensors that one training step saves, without parameters. New blocks
make their neighbours keep more, too."""


def twin_name(config: str) -> str | None:
    """The name of the stock twin, whether there is one or not; None if `config` is stock itself."""
    path = Path(config)
    name = OURS.sub("", path.name)
    return None if name == path.name else str(path.with_name(name))


def load(name: str, overrides: Sequence[str]) -> CfgNode:
    """The config of a name or path.

    Raises:
        FileNotFoundError, ValueError: a file, key or value is wrong; says which.
    """
    cfg = get_cfg()
    merge_config(cfg, name)
    merge_overrides(cfg, overrides)
    checked = cfg.clone()
    checked.DATASETS.TRAIN = checked.DATASETS.TEST = ()
    checked.MODEL.WEIGHTS, checked.MODEL.DEVICE = "", "cpu"
    heads = head_names(find_config(name), overrides)
    check_cfg(checked, eval_only=True, earlier_heads=heads)
    return cfg


def report(
    config: str,
    overrides: Sequence[str] = (),
    twin: str | None = None,
    size: tuple[int, int] = (800, 1333),
    device: str = "cpu",
) -> str:
    """The table.

    Args:
        config: name or path.
        overrides: keys and values, for the twin too.
        twin: name or path; by default `twin_name`, or, of a stock config with overrides, the same
            without them.
        size: height and width of the image in pixels.
        device: where the ROI heads run.

    Raises:
        FileNotFoundError, ValueError: something is wrong; says what.
    """
    if min(size) < SMALLEST_SIDE:
        raise ValueError(
            f"The image must have sides of at least {SMALLEST_SIDE} pixels, got {size}."
        )
    if device != "cpu" and not torch.cuda.is_available():
        raise ValueError(f"The device is {device}, but there is no GPU here: use cpu.")
    cfg = load(config, overrides)
    stock, beside = _twin(config, overrides, twin)
    regions = RegionCounts.of(cfg)
    ours = analyze(cfg, size, regions, device, stock)
    theirs = analyze(stock, size, regions, device) if stock else None
    height, width = padded_size(build_shapes(cfg), size)
    lines = [
        f"{config}, {beside}",
        f"One image of {size[0]} x {size[1]} pixels, padded to {height} x {width}.",
    ]
    if "ROI heads" in ours:
        lines[-1] += (
            f" ROI heads: {regions.test} proposals at test time, {regions.training} in training "
            f"before sampling; {regions.detections} boxes for masks and keypoints, or given to "
            "classify."
        )
    return "\n".join([*lines, "", *_table(ours, theirs), "", NOTE])


def _twin(config: str, overrides: Sequence[str], twin: str | None) -> tuple[CfgNode | None, str]:
    """The config to compare with, if there is one, and a phrase that names it."""
    if twin:
        return load(twin, overrides), f"beside {twin}"
    name = twin_name(config)
    if name is None and overrides:
        return load(config, []), "beside the same without the overrides"
    if name is None:
        return None, "a stock config, which has no twin"
    try:
        find_config(name)
    except FileNotFoundError:
        return None, f"alone: there is no stock twin {name}"
    return load(name, overrides), f"beside its stock twin {name}"


def _table(ours: Costs, stock: Costs | None) -> list[str]:
    titles = ["stock", "this config", "difference", "ratio"] if stock else ["this config"]
    lines = ["| | " + " | ".join(titles) + " |", "|:--|" + "--:|" * len(titles)]
    parts = list(dict.fromkeys([*ours, *(stock or ())]))
    for title, number, digits, listed in ROWS:
        rows = [(title, parts)] + ([(f"- {part}", [part]) for part in parts] if listed else [])
        for name, summed in rows:
            values = [
                sum(number(costs.get(part, Cost())) for part in summed)
                for costs in ((stock, ours) if stock else (ours,))
            ]
            lines.append(f"| {name} | " + " | ".join(_cells(values, digits)) + " |")
    return lines


def _cells(values: Sequence[float], digits: int) -> list[str]:
    cells = [f"{value:,.{digits}f}" for value in values]
    if len(values) == 2:
        stock, ours = values
        cells += [f"{ours - stock:+,.{digits}f}", f"{ours / stock:.3f}" if stock else "–"]
    return cells
