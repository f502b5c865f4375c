"""The results of a benchmark as a markdown table and as JSON."""

from __future__ import annotations

import importlib.metadata
import platform
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from .case import OURS
from .run import PASSES, Cost, Result

PACKAGES = ("torchvision", "detectron2", "torch_geometric")


def environment(device: str) -> dict[str, Any]:
    """Where it was measured."""
    versions = {"python": platform.python_version(), "torch": torch.__version__}
    for name in PACKAGES:
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    one_thread = device == "cpu" and torch.get_num_threads() == 1
    return {
        "versions": versions,
        "device": device_name(device),
        "threads": torch.get_num_threads(),
        "time": "process CPU time" if one_thread else "wall time",
    }


def device_name(device: str) -> str:
    """The model of the processor or GPU."""
    if device != "cpu":
        return torch.cuda.get_device_name()
    info = Path("/proc/cpuinfo")
    for line in info.read_text().splitlines() if info.is_file() else []:
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def as_json(results: Mapping[str, Result], device: str) -> dict[str, Any]:
    """Every number; times in seconds, memory in MiB."""

    def cost(c: Cost) -> dict[str, Any]:
        if not c.seconds:
            return {"peak_mib": c.peak_mib}
        seconds = {
            "median": c.median,
            "lowest": min(c.seconds),
            "highest": max(c.seconds),
            "rounds": len(c.seconds),
        }
        return {"seconds": seconds, "peak_mib": c.peak_mib}

    cases = {
        name: {
            "costs": {w: {v: cost(c) for v, c in result.costs[w].items()} for w in PASSES},
            "errors": dict(result.errors),
            "targets": [
                {
                    "quantity": c.quantity,
                    "reached": c.reached,
                    "wanted": c.wanted,
                    "at_least": c.at_least,
                    "peer": c.peer,
                    "noise": c.noise,
                    "met": c.met,
                }
                for c in result.checks
            ],
        }
        for name, result in results.items()
    }
    return {**environment(device), "cases": cases}


def table(name: str, result: Result) -> str:
    """Markdown: a row for each variant; times as median (lowest–highest), ratios are to ours."""
    titles = [name]
    for which in ("forward", "forward + backward"):
        titles += [f"{which}: ms", "x ours", "peak MiB", "x ours"]
    rows = [f"| {' | '.join(titles)} |", "|:--|" + "--:|" * 8]
    variants = dict.fromkeys(v for which in PASSES for v in result.costs[which])
    for variant in variants:
        cells = [variant if variant == OURS or variant in result.peers else f"({variant})"]
        for which in PASSES:
            costs = result.costs[which]
            cells += _cells(costs.get(variant, Cost()), costs.get(OURS, Cost()))
        rows.append(f"| {' | '.join(cells)} |")
    if result.errors:
        errors = ", ".join(f"{key} {value:.1e}" for key, value in result.errors.items())
        rows += ["", f"Errors of ours: {errors}."]
    return "\n".join(rows)


def _cells(cost: Cost, ours: Cost) -> list[str]:
    cells = ["–"] * 4
    if cost.seconds:
        low, mid, high = (1000 * s for s in (min(cost.seconds), cost.median, max(cost.seconds)))
        cells[0] = f"{mid:.1f} ({low:.1f}–{high:.1f})"
        if ours.seconds:
            cells[1] = f"{cost.times(ours):.2f}"
    if cost.peak_mib is not None:
        cells[2] = f"{cost.peak_mib:.1f}"
        if ours.peak_mib:
            cells[3] = f"{cost.peak_mib / ours.peak_mib:.2f}"
    return cells
