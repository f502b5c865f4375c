"""A trained detector as a file of the zoo: half precision, no optimizer, config and names inside.

What the entry says of the detector's quality is an evaluation of exactly this file.
"""

from __future__ import annotations

import argparse
import datetime
import json
from typing import Any

import torch
from detectron2.utils.logger import setup_logger

from ..engine.model_config import (
    CLASS_NAMES,
    about_model,
    config_of,
    merge_overrides,
    names_of_classes,
    read_checkpoint,
)
from ..engine.trainer import RelationTrainer
from ..zoo import FOLDER, INDEX, entries, sha256_of
from .provenance import provenance

TOOL = "tools/publish_weights.py"
HEADER = """# Model zoo

Detectors that come with the package. `relation_heads.load("NAME")` and
`relation-heads predict NAME photo.jpg` use them; nothing is downloaded. Numbers are of exactly
these files (half precision), as Detectron2 evaluates them.

"""


def publish(args: argparse.Namespace) -> None:
    """What `tools/publish_weights.py` does with its arguments.

    Raises:
        OSError, ValueError: a file or a key is wrong.
    """
    setup_logger(name="relation_heads")
    cfg = config_of(args.config_file or args.checkpoint)
    merge_overrides(cfg, args.opts)
    cfg.MODEL.WEIGHTS = args.checkpoint
    content = read_checkpoint(args.checkpoint)
    names = content.get(CLASS_NAMES) or names_of_classes(cfg)
    state = content.get("model", content)
    half = {k: v.half() if v.is_floating_point() else v for k, v in state.items()}
    path = FOLDER / f"{args.name}.pth"
    test_sets = cfg.DATASETS.TEST
    inside = cfg.clone()
    # Nothing of the machine, and nothing that is only there once something was prepared.
    inside.MODEL.WEIGHTS, inside.OUTPUT_DIR, inside.MODEL.DEVICE = "", "output", "cuda"
    torch.save({"model": half, **about_model(inside), CLASS_NAMES: list(names)}, path)
    cfg.MODEL.WEIGHTS = str(path)
    results = RelationTrainer.evaluate(cfg)
    all_entries = entries()
    all_entries[args.name] = {
        "file": path.name,
        "bytes": path.stat().st_size,
        "sha256": sha256_of(path),
        "date": datetime.date.today().isoformat(),
        "config": args.config_file or "inside the checkpoint",
        "heads": cfg.MODEL.ROI_HEADS.NAME,
        "test_set": ", ".join(test_sets),
        **{key: getattr(args, key) for key in ("what", "data", "licence", "not_for")},
        "results": _plain(results),
        "provenance": provenance(cfg.SEED, TOOL),
    }
    INDEX.write_text(json.dumps(all_entries, indent=1) + "\n", encoding="utf-8")
    print(f"{INDEX} written; tools/write_docs.py writes MODEL_ZOO.md.")


def _plain(results: dict[str, Any]) -> dict[str, Any]:
    """With Python's numbers, of two digits."""
    return {
        key: _plain(value) if isinstance(value, dict) else round(float(value), 2)
        for key, value in results.items()
    }


def page(zoo: dict[str, dict[str, Any]]) -> str:
    """The text of MODEL_ZOO.md."""
    lines = [
        "| name | heads | test set | AP | AP50 | MB |", "|:--|:--|:--|--:|--:|--:|",
        *(
            f"| `{name}` | {e['heads']} | {e['test_set']} | {e['results']['bbox']['AP']:.1f} | "
            f"{e['results']['bbox']['AP50']:.1f} | {e['bytes'] / 1e6:.1f} |"
            for name, e in zoo.items()
        ),
    ]  # fmt: skip
    for name, e in zoo.items():
        groups = {
            key.removeprefix("AP50/"): value
            for key, value in e["results"]["bbox"].items()
            if key.startswith("AP50/")
        }
        lines += [
            "", f"## {name}", "", e["what"], "",
            f"- Data: {e['data']}", f"- Licence: {e['licence']}", f"- Not for: {e['not_for']}",
            f"- Config: {e['config']}; seed {e['provenance']['seed']}",
        ]  # fmt: skip
        if groups:
            values = ", ".join(f"{group} {value:.1f}" for group, value in groups.items())
            lines.append(f"- AP50 by group: {values}")
        made = e["provenance"]
        lines += [
            f"- Published {e['date']} from commit {made['commit']}, evaluated on "
            f"{made['machine']}, torch {made['versions']['torch']}",
            f"- SHA-256 `{e['sha256']}`",
        ]
    return HEADER + "\n".join(lines) + "\n"
