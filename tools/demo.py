#!/usr/bin/env python
"""The main job, end to end on a CPU: make Relational Scenes, train four detectors, compare them,
draw what they listened to.

    tools/demo.py
    tools/demo.py --output output/quick --iterations 200

Trains the stock head, object relation modules with the published and with signed geometry, and,
from the trained stock detector, SGRN, on the same scenes with the same schedule; two at a time, one
thread each. Leaves checkpoints, logs, a table, pictures and a page for the browser in the folder.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import IO

ROOT = Path(__file__).resolve().parents[1]
CONFIG = "RelationalScenes/faster_rcnn_shallow{}.yaml"
RUNS = {
    "stock": CONFIG.format(""),
    "relation": CONFIG.format("_relation"),
    "relation, signed": CONFIG.format("_relation_signed"),
    "SGRN": CONFIG.format("_sgrn"),
}
STARTS_FROM = {"SGRN": "stock"}  # the run whose checkpoint a run starts from
DRAWN = ("relation, signed", "SGRN")
ASKED = ("left_of_pole", "square_with_sun", "smaller_than_castle")
PARALLEL = 2
POLL_SECONDS = 2 if sys.stdout.isatty() else 20


@dataclass
class Run:
    """A training process and where it writes."""

    name: str
    folder: Path
    process: subprocess.Popen[bytes]
    log: IO[bytes]

    def metrics(self) -> dict[str, float]:
        """The latest values of everything that was logged."""
        latest: dict[str, float] = {}
        path = self.folder / "metrics.json"
        if path.exists():
            for line in path.read_text().splitlines():
                latest.update(json.loads(line))
        return latest


def folder_of(name: str, output: Path) -> Path:
    """Where a run writes."""
    return output / name.replace(", ", "_")


def checkpoint(name: str, output: Path) -> str:
    """What a finished run leaves."""
    return str(folder_of(name, output) / "model_final.pth")


def start(name: str, output: Path, options: list[str]) -> Run:
    """Starts one training in the background."""
    folder = folder_of(name, output)
    folder.mkdir(parents=True, exist_ok=True)
    log = (folder / "stdout.txt").open("wb")
    command = [sys.executable, "-W", "ignore", str(ROOT / "tools" / "train_net.py")]
    command += ["--config-file", RUNS[name], "--overwrite", "OUTPUT_DIR", str(folder), *options]
    if name in STARTS_FROM:
        command += ["MODEL.WEIGHTS", checkpoint(STARTS_FROM[name], output)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(command, stdout=log, stderr=log, cwd=ROOT, env=environment)
    return Run(name, folder, process, log)


def show_progress(runs: list[Run], iterations: int, began: float) -> None:
    """One line: where every run is. On a terminal it replaces itself."""
    parts = []
    for run in runs:
        m = run.metrics()
        if "bbox/AP50" in m:
            state = "done"
        else:
            state = f"{int(m.get('iteration', -1)) + 1}/{iterations}"
            state += f" loss {m['total_loss']:.2f}" if "total_loss" in m else ""
        parts.append(f"{run.name}: {state}")
    line = f"[{time.time() - began:4.0f} s] " + " | ".join(parts)
    if sys.stdout.isatty():
        print(f"\r\033[K{line}", end="", flush=True)
    else:
        print(line, flush=True)


def train_all(output: Path, options: list[str], iterations: int) -> list[Run]:
    """Runs all trainings, `PARALLEL` at a time; stops with the end of the log when one fails."""
    began, waiting, runs = time.time(), list(RUNS), []
    while True:
        active = [r for r in runs if r.process.poll() is None]
        for run in runs:
            if run.process.returncode:
                for other in active:
                    other.process.terminate()
                tail = (run.folder / "stdout.txt").read_text(errors="replace").splitlines()[-15:]
                sys.exit(
                    f"\nTraining of {run.name!r} failed, see {run.folder / 'stdout.txt'}:\n"
                    + "\n".join(tail)
                )
        finished = {r.name for r in runs} - {r.name for r in active}
        for name in [n for n in waiting if STARTS_FROM.get(n, n) in {n, *finished}]:
            if len(active) < PARALLEL:
                waiting.remove(name)
                active.append(start(name, output, options))
                runs.append(active[-1])
        show_progress(runs, iterations, began)
        if not active:
            print()
            return runs
        time.sleep(POLL_SECONDS)


def table(runs: list[Run], groups: list[str]) -> str:
    """AP50 per group of classes, one column per run."""
    rows = ["| group | " + " | ".join(r.name for r in runs) + " |", "|:--|" + "--:|" * len(runs)]
    metrics = [run.metrics() for run in runs]
    for group in groups:
        values = [m.get(f"bbox/AP50/{group}", float("nan")) for m in metrics]
        rows.append(f"| {group} | " + " | ".join(f"{v:.1f}" for v in values) + " |")
    return "\n".join(rows)


def draw(name: str, asked: str, output: Path, pictures: Path) -> None:
    """Two pictures of what detections of the class `asked` listened to in a trained run."""
    command = [sys.executable, "-W", "ignore", str(ROOT / "tools" / "visualize_relations.py")]
    command += ["--config-file", RUNS[name], "--output", str(pictures), "--num", "2"]
    command += ["--class", asked]
    command += ["MODEL.WEIGHTS", checkpoint(name, output)]
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    subprocess.run(command, check=True, cwd=ROOT, **quiet)


def view(output: Path, page: Path) -> None:
    """One page of what the detections of all trained detectors listened to, in 12 scenes."""
    first, *others = DRAWN
    command = [sys.executable, "-W", "ignore", "-m", "relation_heads", "view"]
    command += [checkpoint(first, output), "--name", first, "--output", str(page)]
    for name in (*others, "stock"):
        command += ["--beside", f"{name}={checkpoint(name, output)}"]
    scenes = sorted((output / "datasets" / "relational_scenes" / "val").glob("*.png"))
    command += map(str, scenes[:12])
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    subprocess.run(command, check=True, cwd=ROOT, env=environment, **quiet)


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    """The command line."""
    from relation_heads.command_line import new_parser
    from relation_heads.commands.model import at_least_1

    parser = new_parser(__doc__)
    add = parser.add_argument
    add("--output", type=Path, default=ROOT / "output" / "demo", help="folder to write")
    add("--iterations", type=at_least_1, default=2000,
        help="fewer for a quick look; the schedule shrinks with it (%(default)s)")  # fmt: skip
    return parser.parse_args(argv)


def run(args: argparse.Namespace) -> None:
    """Runs the demo."""
    output = args.output.resolve()
    os.environ["DETECTRON2_DATASETS"] = str(output / "datasets")
    from relation_heads.data.scenes.scenes import GROUPS, write_dataset

    print("Writing 2,300 scenes ...", flush=True)
    write_dataset(output / "datasets" / "relational_scenes")
    n = args.iterations
    options = ["SOLVER.MAX_ITER", str(n), "SOLVER.STEPS", f"({int(0.7 * n)}, {int(0.9 * n)})"]
    print(f"Training {len(RUNS)} detectors, {n} iterations each:", flush=True)
    runs = train_all(output, options, n)

    result = table(runs, list(GROUPS))
    (output / "table.md").write_text(result + "\n")
    print(f"\nAP50 by group of classes, on 300 scenes the detectors have not seen:\n\n{result}\n")
    print("This is one run on one machine. Float rounding differs between CPUs, and a training")
    print("amplifies it: on yours some numbers will be others.\n")
    pictures = output / "pictures"
    for name in DRAWN:
        for asked in ASKED:
            draw(name, asked, output, folder_of(name, pictures))
    page = output / "relations.html"
    view(output, page)
    print(f"What the detections listened to: {pictures}")
    print(f"The same, to hover over:         {page}")
    print(f"Checkpoints and logs:            {output}")


def main(argv: list[str] | None = None) -> None:
    """Command line; exit code 2 and one sentence if something does not fit."""
    args = parse_args(argv)
    warnings.simplefilter("ignore", FutureWarning)  # of Detectron2 and fvcore, at import
    from relation_heads.command_line import run_or_explain

    run_or_explain(run, args)


if __name__ == "__main__":
    sys.path.insert(0, str(ROOT))  # works without installation
    main()
