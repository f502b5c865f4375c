"""The search for the largest stable learning rate with processes, files and a command line."""

from __future__ import annotations

import argparse
import importlib
import json
import shlex
import sys
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

from ..data.files import write_whole
from .provenance import made_by, read_result
from .report import load
from .stable_lr import (
    Outcome,
    Training,
    TrainingFailed,
    choose_heads,
    search,
    table,
    verdict,
)
from .stable_lr_run import MEASURED
from .trainings_files import run_process

LOG_LINES = 15  # of a training that failed, that are shown


@dataclass(frozen=True)
class Recipe:
    """What the trainings of a search have in common.

    Args:
        config: name or path.
        iterations: of a training.
        overrides: head -> keys and values.
        common: keys and values of all heads; they come after those of the head.
        modules: to import before a training.
        output: folder of the results.
    """

    config: str
    iterations: int
    overrides: dict[str, list[str]]
    common: tuple[str, ...]
    modules: tuple[str, ...]
    output: Path

    def setting(self, head: str) -> dict[str, str]:
        """What a result of the head must have been trained with."""
        return {
            "config": self.config,
            "iterations": str(self.iterations),
            "overrides": shlex.join(self.overrides[head]),
            "common": shlex.join(self.common),
        }

    def opts(self, training: Training, folder: str) -> list[str]:
        """Keys and values of a training."""
        return [
            *self.overrides[training.head], *self.common,
            "SOLVER.BASE_LR", str(training.lr),
            "SOLVER.MAX_ITER", str(self.iterations),
            "SEED", str(training.seed),
            "DATASETS.TEST", "()",
            "OUTPUT_DIR", folder,
        ]  # fmt: skip

    def path(self, training: Training, ending: str) -> Path:
        """The file of a training: `relation/lr_0.02_seed_0.json`."""
        name = f"lr_{training.lr}_seed_{training.seed}.{ending}"
        return self.output / training.head / name


def train_once(recipe: Recipe, training: Training) -> Outcome:
    """What a training showed: read from its file, or trained in a process and written there.

    Raises:
        TrainingFailed: the process ended by something else than divergence.
    """
    path = recipe.path(training, "json")
    if path.is_file():
        return read_result(path, Outcome)
    path.parent.mkdir(parents=True, exist_ok=True)
    origin = made_by()
    log_file = recipe.path(training, "log")
    with TemporaryDirectory() as folder:
        command = [sys.executable, "-W", "ignore", "-m", "relation_heads.analysis.stable_lr_run"]
        if recipe.modules:
            command += ["--import", *recipe.modules]
        command += ["--config-file", recipe.config, *recipe.opts(training, folder)]
        log_file.unlink(missing_ok=True)
        if code := run_process(command, log_file):
            end = log_file.read_text(errors="replace").splitlines()[-LOG_LINES:]
            raise TrainingFailed(f"Exit code {code}; the end of {log_file}:\n" + "\n".join(end))
        measured = json.loads(Path(folder, MEASURED).read_text())
    diverged, reason, loss = verdict(measured["losses"], measured["error"])
    outcome = Outcome(
        **asdict(training), diverged=diverged, iterations=measured["iterations"], reason=reason,
        loss=loss, seconds=measured["seconds"], setting=recipe.setting(training.head),
        made_by=origin,
    )  # fmt: skip
    write_whole(path, json.dumps(asdict(outcome), indent=1))
    return outcome


def read_all(output: Path) -> list[Outcome]:
    """All results of a folder."""
    return [read_result(path, Outcome) for path in sorted(output.glob("*/lr_*_seed_*.json"))]


def check_settings(recipe: Recipe, outcomes: Iterable[Outcome]) -> None:
    """Refuses results of the same heads that were trained otherwise.

    Raises:
        ValueError: there is one; says how it differs.
    """
    for outcome in outcomes:
        if outcome.head not in recipe.overrides:
            continue
        for key, value in recipe.setting(outcome.head).items():
            if outcome.setting[key] != value:
                path = recipe.path(Training(outcome.head, outcome.seed, outcome.lr), "json")
                raise ValueError(
                    f"{path} was trained with {key} {outcome.setting[key]!r}, not {value!r}: give "
                    "another --output, or remove it."
                )


def check_heads(config: str, overrides: Iterable[Sequence[str]]) -> None:
    """Refuses a config, a head or a key that does not fit, before anything is trained.

    Raises:
        FileNotFoundError, ValueError: says what.
    """
    for opts in overrides:
        load(config, opts)


def find_stable_rates(args: argparse.Namespace) -> int:
    """What `tools/stable_learning_rate.py` does with its arguments.

    Returns:
        the number of trainings that failed.
    """
    failed = 0
    if not args.table:
        for module in args.modules:
            importlib.import_module(module)
        heads = choose_heads(args.heads, args.head)
        recipe = Recipe(
            args.config_file, args.iterations, heads, tuple(args.opts), tuple(args.modules),
            args.output,
        )  # fmt: skip
        check_settings(recipe, read_all(args.output))
        check_heads(recipe.config, [[*own, *recipe.common] for own in heads.values()])
        failed = search(
            [(head, seed) for seed in args.seeds for head in heads],
            partial(train_once, recipe),
            start=args.start, at_most=args.at_most, parallel=args.parallel,
            say=partial(print, flush=True),
        )  # fmt: skip
    outcomes = read_all(args.output)
    if not outcomes:
        raise ValueError(f"{args.output} has no results.")
    print(table(outcomes, args.start))
    return failed
