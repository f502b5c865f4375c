"""Detectors trained beside each other: the trainings as processes, their results as files."""

from __future__ import annotations

import argparse
import json
import os
import shlex
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from ..data.files import write_whole
from ..engine.checkpoint import saved_in
from .provenance import made_by, read_result
from .report import load
from .trainings import Trained, evaluations, table

ROOT = Path(__file__).resolve().parents[2]
SEED = "{seed}"  # in a value of an override: the seed of the training
FIRST = "stock"
LOG = "stdout.txt"


@dataclass(frozen=True)
class Run:
    """A detector that is to be trained: its name, its config, and keys and values."""

    name: str
    config: str
    overrides: tuple[str, ...]

    def opts(self, seed: int) -> list[str]:
        """Keys and values of the training with this seed."""
        return [value.replace(SEED, str(seed)) for value in self.overrides]


def read_all(results: Path) -> list[Trained]:
    """All results of a folder: "stock" first, then by name, then by seed.

    Raises:
        ValueError: a file is not a result of a training.
    """
    found = [read_result(path, Trained) for path in results.glob("*/seed_*.json")]
    return sorted(found, key=lambda trained: (trained.name != FIRST, trained.name, trained.seed))


def train(run: Run, seed: int, iterations: int, results: Path, output: Path) -> None:
    """Trains one detector, or goes on with it; nothing is done if its result is there.

    Args:
        run: the detector.
        seed: of the training.
        iterations: of the training.
        results: gets `NAME/seed_N.json`.
        output: gets `NAME/seed_N`, the folder of the training.

    Raises:
        ValueError: the result that is there was trained otherwise; the training failed.
    """
    path = results / run.name / f"seed_{seed}.json"
    overrides = shlex.join(run.overrides)
    if path.is_file():
        there = read_result(path, Trained)
        if (there.config, there.overrides) != (run.config, overrides):
            raise ValueError(
                f"{path} was trained with {there.config} {there.overrides}, not with {run.config} "
                f"{overrides}: give another --results, or remove it."
            )
        return
    folder = output / run.name / f"seed_{seed}"
    folder.mkdir(parents=True, exist_ok=True)
    origin = made_by()
    command = [sys.executable, "-W", "ignore", "-m", "relation_heads", "train"]
    command += ["--config-file", run.config, *(["--resume"] if saved_in(str(folder)) else [])]
    command += [*run.opts(seed), "SEED", str(seed), "OUTPUT_DIR", str(folder)]
    if code := run_process(command, folder / LOG):
        raise ValueError(f"{run.name}, seed {seed}: exit code {code}; see {folder / LOG}.")
    found = evaluations(folder / "metrics.json", iterations)
    trained = Trained(run.name, seed, run.config, overrides, found, origin)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_whole(path, json.dumps(asdict(trained), indent=1))


def run_process(command: Sequence[str], log: Path) -> int:
    """The exit code of a command with one thread; what it prints is added to the log."""
    paths = [str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(paths)}
    with log.open("a") as file:
        return subprocess.run(
            command, stdout=file, stderr=subprocess.STDOUT, env=environment, check=False
        ).returncode


def runs_of(named: Sequence[Sequence[str]], common: Sequence[str]) -> list[Run]:
    """From a command line: of each --run its name, config and keys with values.

    Raises:
        ValueError: a run has no config, a key has no value, or a name comes twice.
    """
    runs = []
    for name, *rest in named:
        if len(rest) % 2 == 0:
            raise ValueError(f"--run {name}: give a config, then pairs of KEY VALUE.")
        runs.append(Run(name, rest[0], (*rest[1:], *common)))
    names = [run.name for run in runs]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise ValueError(f"--run {twice[0]} is given twice.")
    return runs


def compare_trainings(args: argparse.Namespace) -> None:
    """What `tools/compare_trainings.py` does with its arguments.

    Raises:
        ValueError: a run does not fit, was trained otherwise, or failed.
    """
    runs = runs_of(args.run, args.opts)
    iterations = {run.name: load(run.config, run.opts(0)).SOLVER.MAX_ITER for run in runs}
    for seed in args.seeds:
        for run in runs:
            train(run, seed, iterations[run.name], args.results, args.output)
            print(f"{run.name}, seed {seed}: done", flush=True)
    done = read_all(args.results)
    if not done:
        raise ValueError(f"{args.results} has no results.")
    print(table(done))
