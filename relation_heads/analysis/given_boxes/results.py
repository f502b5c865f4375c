"""Results of trainings on box features: one JSON each, which is read and not made again."""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch

from ...data.files import write_whole
from ..provenance import provenance, read_result
from .classifiers import METHODS
from .data import BoxFeatures, check_alike, joined
from .feature_files import feature_cfg, load_or_extract
from .table import tables
from .training import ALL, Recipe, Task, check_sizes, run, setting

TOOL = "tools/compare_given_boxes.py"


@dataclass(frozen=True)
class Result:
    """What a training showed.

    Args:
        method, seed, train_images: of the `Task`.
        setting: see `training.setting`.
        measured: see `training.run`.
        made_by: see `provenance`.
    """

    method: str
    seed: int
    train_images: int
    setting: dict[str, str]
    measured: dict[str, Any]
    made_by: dict[str, Any]


def path_of(output: Path, task: Task) -> Path:
    """`relation/images_all_seed_0.json`."""
    size = "all" if task.train_images == ALL else task.train_images
    return output / task.method / f"images_{size}_seed_{task.seed}.json"


def read_all(output: Path) -> list[Result]:
    """All results of a folder.

    Raises:
        ValueError: a file is not one.
    """
    paths = sorted(output.glob("*/images_*_seed_*.json"))
    return [read_result(path, Result, TOOL) for path in paths]


def check_settings(output: Path, asked: dict[str, str], results: Iterable[Result]) -> None:
    """Refuses results that were made otherwise.

    Raises:
        ValueError: there is one; says how it differs.
    """
    for result in results:
        path = path_of(output, Task(result.method, result.seed, result.train_images))
        for key, value in asked.items():
            if result.setting.get(key) != value:
                raise ValueError(
                    f"{path} was made with {key} {result.setting.get(key)!r}, not {value!r}: give "
                    "another --output, or remove it."
                )


def train_all(
    tasks: Sequence[Task],
    recipe: Recipe,
    features: BoxFeatures,
    test: BoxFeatures | None,
    output: Path,
    say: Callable[[str], None] = print,
) -> None:
    """Does the trainings whose results are not there, and writes them.

    Args:
        tasks: in this order.
        recipe: of all of them.
        features, test: see `training.split`.
        output: folder of the results.
        say: gets a line about each training.

    Raises:
        ValueError: there are results of another setting, or a task is not possible.
    """
    asked = setting(recipe, features, test)
    check_settings(output, asked, read_all(output))
    check_sizes(tasks, recipe, features, test)
    # Of the code as it was when it was imported, not as it is hours later.
    made_by = provenance(0, TOOL)
    del made_by["seed"]  # each result has its own
    for task in tasks:
        path = path_of(output, task)
        if path.is_file():
            continue
        measured = run(task, recipe, features, test, say)
        result = Result(**asdict(task), setting=asked, measured=measured, made_by=made_by)
        write_whole(path, json.dumps(asdict(result)) + "\n")


def choose_tasks(methods: list[str], seeds: list[int], train_images: list[int]) -> list[Task]:
    """All combinations: those with all images first, and of these all methods of one seed first.

    Raises:
        ValueError: a method is not known, or a number of images is not positive.
    """
    if unknown := [name for name in methods if name not in METHODS]:
        raise ValueError(f"There is no method {unknown[0]!r}; there are {', '.join(METHODS)}.")
    if wrong := [number for number in train_images if number < 1]:
        raise ValueError(f"--train-images must be at least 1, got {wrong[0]}.")
    return [
        Task(method, seed, size)
        for size in [ALL, *sorted(set(train_images), reverse=True)]
        for seed in dict.fromkeys(seeds)
        for method in dict.fromkeys(methods)
    ]


def compare(args: argparse.Namespace) -> None:
    """What `tools/compare_given_boxes.py` does with its arguments.

    Raises:
        OSError, ValueError, ImportError: a data set, weights, a method or a number does not fit.
    """
    if not args.table:
        torch.set_num_threads(args.threads)
        say = partial(print, flush=True)
        tasks = choose_tasks(args.methods or list(METHODS), args.seeds, args.train_images)
        recipe = Recipe(args.epochs, args.batch_size, args.min_boxes)
        cfg = feature_cfg(args.config_file, args.opts)
        found = load_or_extract([*args.datasets, *args.test], cfg, args.features)
        features = joined([found[name] for name in args.datasets])
        test = joined([found[name] for name in args.test]) if args.test else None
        check_alike([features, *([test] if test else [])])
        train_all(tasks, recipe, features, test, args.output, say)
    results = read_all(args.output)
    if not results:
        raise ValueError(f"{args.output} has no results.")
    print(tables([asdict(result) for result in results]))
