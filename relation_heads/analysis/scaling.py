"""What more processes cost: the gradients that travel, measured on a CPU and simulated beyond.

After the backward pass every process needs the mean of the gradients of all n. A ring all-reduce
sends 2 (n - 1) / n times their bytes through every link (Patarasuk and Yuan, 2009): nearly the same
for 8 processes and for 64, so a step gets longer by a constant, and the slowest link decides.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from detectron2.config import CfgNode
from detectron2.utils import comm
from torch.multiprocessing import start_processes

from ..config import get_cfg, merge_file
from ..data.coco_format import register_coco_folder
from .detectors import build_shapes
from .measuring_trainer import MeasuringTrainer
from .provenance import provenance

CONFIG = "COCO-Detection/faster_rcnn_R_50_FPN_1x.yaml"
HEADS = {
    "stock": "StandardROIHeads", "relation modules": "RelationROIHeads", "SGRN": "SGRNROIHeads",
    "iterative reasoning": "ReasoningROIHeads",
}  # fmt: skip
SIZES = (1, 2, 4, 8, 16, 32, 64)
PER_NODE = 8


def gradient_bytes(cfg: CfgNode) -> int:
    """Bytes of the gradients of a model, float32; it is built without memory."""
    return sum(4 * p.numel() for p in build_shapes(cfg).parameters() if p.requires_grad)


def ring_bytes(processes: int, gradients: int) -> float:
    """That every process sends in a ring all-reduce."""
    return 2 * (processes - 1) / processes * gradients


def simulated(
    processes: int, gradients: int, *, step: float, inside: float, between: float
) -> dict[str, float]:
    """A step of several processes.

    Args:
        processes: in all, `PER_NODE` on a machine.
        gradients: bytes.
        step: seconds that one process computes.
        inside: bytes per second between the GPUs of a machine.
        between: bytes per second from one machine to the next.

    Returns:
        `seconds` of the all-reduce; `worst` and `best`, the images per second of one
        process in percent of those without others, with nothing and with everything of it hidden
        behind the backward pass.
    """
    seconds = ring_bytes(processes, gradients) / (inside if processes <= PER_NODE else between)
    return {
        "seconds": seconds,
        "worst": 100 * step / (step + seconds),
        "best": 100 * step / max(step, seconds),
    }


def measured(processes: int, cfg: CfgNode, coco: tuple[str, str], steps: int) -> dict[str, float]:
    """Processes of this machine train with gloo, an image each in a step.

    Returns:
        `processes`; medians of `step`, seconds of an iteration, and `reduce`, of an all-reduce of
        as many bytes as its gradients have; and these, `bytes`.
    """
    with tempfile.TemporaryDirectory() as folder:
        arguments = (processes, folder, cfg, coco, steps)
        start_processes(_train, arguments, nprocs=processes, start_method="fork")
        return json.loads(Path(folder, "result.json").read_text())


def _train(
    rank: int, processes: int, folder: str, cfg: CfgNode, coco: tuple[str, str], steps: int
) -> None:
    torch.set_num_threads(1)
    dist.init_process_group(
        "gloo", init_method=f"file://{folder}/store", rank=rank, world_size=processes
    )
    comm.create_local_process_group(processes)
    register_coco_folder(cfg.DATASETS.TRAIN[0], *coco)
    cfg = cfg.clone()
    cfg.merge_from_list(["SOLVER.IMS_PER_BATCH", processes, "SOLVER.MAX_ITER", steps])
    trainer = MeasuringTrainer(cfg)
    trainer.train()
    times = list(trainer.history()["time"].values())
    gradients = torch.cat(
        [p.grad.flatten() for p in trainer.model.parameters() if p.grad is not None]
    )
    waits = []
    for _ in range(steps):
        began = time.perf_counter()
        dist.all_reduce(gradients)
        waits.append(time.perf_counter() - began)
    if rank == 0:
        result = {
            "processes": processes, "bytes": 4 * gradients.numel(),
            "step": statistics.median(times), "reduce": statistics.median(waits),
        }  # fmt: skip
        Path(folder, "result.json").write_text(json.dumps(result))
    dist.destroy_process_group()


def estimate(args: argparse.Namespace) -> dict[str, Any]:
    """What `tools/estimate_scaling.py` writes."""
    gradients = {}
    for name, heads in HEADS.items():
        cfg = get_cfg()
        merge_file(cfg, CONFIG)
        cfg.MODEL.ROI_HEADS.NAME = heads
        gradients[name] = gradient_bytes(cfg)
    small = get_cfg()
    merge_file(small, args.config_file)
    small.merge_from_list(["MODEL.DEVICE", "cpu", "DATALOADER.NUM_WORKERS", 0, *args.opts])
    small.DATASETS.TRAIN, small.DATASETS.TEST = ("scaling",), ()
    coco = (str(args.dataset[0]), str(args.dataset[1]))
    links = {"step": args.step, "inside": args.inside * 1e9, "between": args.between * 1e9}
    return {
        **provenance(0, "tools/estimate_scaling.py"),
        **links,
        "config": CONFIG,
        "gradients": gradients,
        "measured": [measured(n, small, coco, args.steps) for n in (1, 2)],
    }


def table(results: Mapping[str, Any]) -> str:
    """Markdown: what was measured, then what is simulated, and of what."""
    lines = [
        f"Measured on a CPU ({results['machine']}, commit {results['commit']}), a small detector, "
        "one image per process, gloo:",
        "",
        "| processes | gradients, MB | seconds of an iteration | of an all-reduce alone |",
        "|--:|--:|--:|--:|",
    ]
    for row in results["measured"]:
        cells = [row["processes"], f"{row['bytes'] / 1e6:.1f}", f"{row['step']:.3f}",
                 f"{row['reduce']:.4f}"]  # fmt: skip
        lines.append(f"| {' | '.join(map(str, cells))} |")
    lines += [
        "",
        f"**Simulated**, not measured: R50-FPN, {PER_NODE} GPUs on a machine, "
        f"{results['inside'] / 1e9:g} GB/s between them, {results['between'] / 1e9:g} GB/s from a "
        f"machine to the next, {results['step']:g} s of computing in an iteration. A cell is the "
        "time of the all-reduce, and the images per second of a GPU in percent of those of a GPU "
        "alone: nothing of it hidden behind the backward pass, and all of it:",
        "",
        "| GPUs | machines | " + " | ".join(
            f"{name}, {size / 1e6:.0f} MB" for name, size in results["gradients"].items()
        ) + " |",
        "|--:|--:|" + "--:|" * len(results["gradients"]),
    ]  # fmt: skip
    links = {key: results[key] for key in ("step", "inside", "between")}
    for n in SIZES:
        rows = [simulated(n, size, **links) for size in results["gradients"].values()]
        cells = [
            f"{1e3 * row['seconds']:.1f} ms, {row['worst']:.1f} to {row['best']:.0f} %"
            for row in rows
        ]
        lines.append(f"| {n} | {-(-n // PER_NODE)} | {' | '.join(cells)} |")
    return "\n".join(lines)
