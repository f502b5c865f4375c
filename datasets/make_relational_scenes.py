#!/usr/bin/env python
"""Writes the synthetic benchmark Relational Scenes, or a labelled picture of it.

    python datasets/make_relational_scenes.py
    python datasets/make_relational_scenes.py --crowded
    python datasets/make_relational_scenes.py --preview relational_scenes.png

Needs numpy and OpenCV only. A data set that is complete already is left as it is.
"""

from __future__ import annotations

import argparse
import importlib.util
import os
import sys
import time
from pathlib import Path

import cv2
import numpy as np

if importlib.util.find_spec("relation_heads") is None:  # a checkout that is not installed
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from relation_heads.data.relational_scenes import (
    CLASSES,
    CROWDED,
    MIX,
    Scene,
    compose_scenes,
    render,
    write_dataset,
)

_SCENES_PER_GROUP = 4
_ZOOM = 3
_FONT, _FONT_SCALE = cv2.FONT_HERSHEY_SIMPLEX, 0.42


def default_output(crowded: bool) -> Path:
    root = Path(os.environ.get("DETECTRON2_DATASETS", "datasets")).expanduser()
    return root / ("relational_scenes_crowded" if crowded else "relational_scenes")


def _write_label(image: np.ndarray, text: str, x: int, y: int, scale: float = _FONT_SCALE) -> None:
    """White text on black with its lower left corner at (x, y), moved into the image."""
    (width, height), base = cv2.getTextSize(text, _FONT, scale, 1)
    x = max(0, min(x, image.shape[1] - width))
    y = max(height + base, min(y, image.shape[0]))
    cv2.rectangle(image, (x, y - height - base), (x + width, y), (0, 0, 0), -1)
    cv2.putText(image, text, (x, y - base + 1), _FONT, scale, (255, 255, 255), 1, cv2.LINE_AA)


def labelled(scene: Scene) -> np.ndarray:
    """The scene enlarged, with its boxes and class names; ``(H, W, 3)`` uint8 BGR."""
    image = cv2.resize(render(scene), None, fx=_ZOOM, fy=_ZOOM, interpolation=cv2.INTER_NEAREST)
    boxes = (scene.boxes * _ZOOM).astype(int).tolist()
    for x0, y0, x1, y1 in boxes:
        cv2.rectangle(image, (x0, y0), (x1 - 1, y1 - 1), (255, 255, 255), 1)
    shown: list[tuple[int, int, int]] = []
    for (x, _, _, y), label in zip(boxes, scene.classes.tolist(), strict=True):
        # The labels of overlapping ovals would cover each other; one is enough.
        if not any(k == label and abs(x - a) < 60 and abs(y - b) < 30 for k, a, b in shown):
            _write_label(image, CLASSES[label], x, y + 14)
            shown.append((label, x, y))
    return image


def contact_sheet(seed: int) -> np.ndarray:
    """One row per group; half of the scenes of group `rare` have the flag."""
    rows = []
    for group in MIX:
        scenes = compose_scenes(_SCENES_PER_GROUP, seed, mix={group: 1}, flag_probability=0.5)
        row = np.hstack([cv2.copyMakeBorder(labelled(s), 2, 2, 2, 2, 0) for s in scenes])
        _write_label(row, group, 6, 26, scale=0.8)
        rows.append(row)
    return np.vstack(rows)


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument(
        "--output",
        type=Path,
        default=None,
        help="folder to write (default: $DETECTRON2_DATASETS/relational_scenes, or "
        "datasets/relational_scenes; ..._crowded for the crowded scenes)",
    )
    parser.add_argument(
        "--crowded",
        action="store_true",
        help="scenes of the groups plain and crowd only, whose neighbours overlap by 0.55 to 0.85",
    )
    parser.add_argument("--num-train", type=int, default=2000, help="training images (%(default)s)")
    parser.add_argument("--num-val", type=int, default=300, help="validation images (%(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="seed of everything (%(default)s)")
    parser.add_argument(
        "--preview", type=Path, metavar="FILE.png", help="write a labelled picture of it instead"
    )
    args = parser.parse_args()
    if min(args.num_train, args.num_val, args.seed) < 0:
        parser.error("--num-train, --num-val and --seed must not be negative")
    return args


def main() -> None:
    args = parse_args()
    if args.preview is not None:
        args.preview.expanduser().parent.mkdir(parents=True, exist_ok=True)
        if not cv2.imwrite(str(args.preview.expanduser()), contact_sheet(args.seed)):
            raise SystemExit(f"cannot write {args.preview}")
        print(f"wrote {args.preview}")
        return

    def report(done: int, total: int) -> None:
        if done % 500 == 0 or done == total:
            print(f"{done} of {total} images", flush=True)

    output = default_output(args.crowded) if args.output is None else args.output.expanduser()
    start = time.perf_counter()
    written = write_dataset(
        output,
        num_train=args.num_train,
        num_val=args.num_val,
        seed=args.seed,
        progress=report,
        **(CROWDED if args.crowded else {}),
    )
    seconds = time.perf_counter() - start
    print(f"wrote {output} in {seconds:.0f} s" if written else f"{output} is complete already")


if __name__ == "__main__":
    main()
