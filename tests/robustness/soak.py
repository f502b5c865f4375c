"""Train a small detector for so many minutes: does it need more memory or files every minute?

    python -m tests.robustness.soak --minutes 60          # writes docs/soak.json

Training, data workers, checkpoints and evaluations take turns. Memory (of all its processes) and
open files are noted every few seconds; a straight line is laid through the last two thirds, since
caches fill up at first.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from detectron2.engine import HookBase

from tests.helpers import registered, tiny_cfg, tiny_coco

ROOT = Path(__file__).resolve().parents[2]
PERIOD = 100  # iterations between checkpoints, and between evaluations
PAGE = os.sysconf("SC_PAGE_SIZE")


def resources() -> tuple[float, int]:
    """MiB of memory of this process and its children, and open files of this process."""
    pids = [os.getpid()]
    for pid in pids:
        for task in Path(f"/proc/{pid}/task").glob("*/children"):
            pids += map(int, task.read_text().split())
    pages = sum(int(Path(f"/proc/{pid}/statm").read_text().split()[1]) for pid in pids)
    return pages * PAGE / 2**20, len(os.listdir("/proc/self/fd"))


class Enough(Exception):
    """The time is over."""


class Note(HookBase):
    """Notes what is used, keeps the newest checkpoint alone, and ends in time."""

    def __init__(self, minutes: float, every: float, folder: Path) -> None:
        self.began = self.last = time.monotonic()
        self.minutes, self.every, self.folder = minutes, every, folder
        self.notes: list[tuple[float, int, float, int]] = []

    def after_step(self) -> None:
        now = time.monotonic()
        if now - self.last >= self.every:
            self.last = now
            self.notes.append((now - self.began, self.trainer.iter, *resources()))
            for path in sorted(self.folder.glob("model_*.pth"))[:-1]:
                path.unlink()
        if now - self.began > 60 * self.minutes:
            raise Enough


def slope(times: list[float], values: list[float]) -> tuple[float, float]:
    """Per hour, and its standard error, over the last two thirds."""
    start = len(times) // 3
    hours, y = np.array(times[start:]) / 3600, np.array(values[start:], dtype=float)
    (a, b), cov = np.polyfit(hours, y, 1, cov="unscaled")
    error = np.sqrt(cov[0, 0] * np.sum((y - a * hours - b) ** 2) / max(len(y) - 2, 1))
    return float(a) + 0.0, float(error)  # not -0


def soak(minutes: float, every: float, workers: int) -> dict[str, Any]:
    """Trains; returns the notes and their slopes."""
    from relation_heads.config import get_cfg
    from relation_heads.engine import RelationTrainer

    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder, "out")
        with registered(tiny_coco(Path(folder, "data"))) as name:
            opts = ["SOLVER.MAX_ITER", 10**8, "SOLVER.CHECKPOINT_PERIOD", PERIOD,
                    "TEST.EVAL_PERIOD", PERIOD, "DATALOADER.NUM_WORKERS", workers,
                    "MODEL.ROI_HEADS.NAME", "RelationROIHeads",
                    "SOLVER.BASE_LR", 1e-4]  # fmt: skip
            out.mkdir()
            trainer = RelationTrainer(tiny_cfg([name], [name], 3, out, opts, base=get_cfg()))
            note = Note(minutes, every, out)
            trainer.register_hooks([note])
            try:
                trainer.train()
            except Enough:
                pass
    times, iterations, memory, files = (list(column) for column in zip(*note.notes, strict=True))
    return {
        "minutes": round(times[-1] / 60, 1), "iterations": iterations[-1],
        "memory_mib": [round(m, 1) for m in memory], "files": files,
        "seconds": [round(t) for t in times],
        "memory_mib_per_hour": [round(x, 2) for x in slope(times, memory)],
        "files_per_hour": [round(x, 3) for x in slope(times, files)],
    }  # fmt: skip


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--minutes", type=float, default=60, help="(%(default)s)")
    add("--every", type=float, default=5, help="seconds between two notes (%(default)s)")
    add("--workers", type=int, default=1, help="data workers (%(default)s)")
    add("--json", type=Path, default=ROOT / "docs" / "soak.json", help="results")
    args = parser.parse_args(argv)
    if not args.minutes * 60 > 12 * args.every > 0:
        parser.error("--minutes must leave room for a dozen notes")
    return args


def main(argv: list[str] | None = None) -> None:
    """Command line."""
    args = parse_args(argv)
    from relation_heads.analysis.provenance import provenance

    torch.set_num_threads(1)
    about = provenance(0, "python -m tests.robustness.soak")
    found = soak(args.minutes, args.every, args.workers)
    args.json.write_text(json.dumps({**about, "workers": args.workers, **found}) + "\n")
    print(
        f"{found['iterations']} iterations in {found['minutes']} minutes: "
        f"{found['memory_mib_per_hour'][0]} MiB and {found['files_per_hour'][0]} files per hour"
    )


if __name__ == "__main__":
    main()
