"""The benchmark of a command line: which cases, each in a process of its own, what is missed."""

from __future__ import annotations

import argparse
import json
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context

import torch

from .cases import find_cases
from .measure import require_device
from .report import as_json, environment, table
from .run import Result, run

SECONDS = 5.0  # that ours is at least measured for, in each pass of a case


def select(names: list[str], available: list[str]) -> list[str]:
    """The cases that contain one of the names, all without names.

    Raises:
        ValueError: a name fits none.
    """
    for name in names:
        if not any(name.lower() in case.lower() for case in available):
            raise ValueError(f"No case contains {name!r}; there are: {'; '.join(available)}.")
    return [c for c in available if not names or any(n.lower() in c.lower() for n in names)]


def measure(name: str, args: argparse.Namespace) -> Result:
    """Runs one case."""
    torch.set_num_threads(args.threads)
    rounds = 0 if args.no_time else args.rounds
    return run(find_cases()[0][name](args.device), args.device, rounds, SECONDS)


def alone(name: str, args: argparse.Namespace) -> Result:
    """`measure` in a new process. After other cases, memory that is allocated can be memory that
    they freed, which is many times faster to write to than new memory."""
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        return pool.submit(measure, name, args).result()


def missed(results: dict[str, Result]) -> list[str]:
    """A line for every target that is not met."""
    return [f"{n}: {c}" for n, result in results.items() for c in result.checks if not c.met]


def measure_and_print(args: argparse.Namespace) -> int:
    """What `tools/benchmark.py` does with its arguments.

    Returns:
        1 if a target is missed and `--targets` is given, else 0.

    Raises:
        ValueError: there is no such case or device.
    """
    require_device(args.device)
    torch.set_num_threads(args.threads)
    cases, left_out = find_cases()
    for module in left_out:
        print(f"Left out, since Detectron2 is not installed: {module}.")
    chosen = select(args.names, list(cases))
    if args.list:
        print("\n".join(chosen))
        return 0
    where = environment(args.device)
    versions = ", ".join(f"{name} {version}" for name, version in where["versions"].items())
    print(f"{where['device']}, threads: {where['threads']}, {where['time']}; {versions}.")
    results = {}
    for name in chosen:
        results[name] = alone(name, args)
        print(f"\n{table(name, results[name])}", flush=True)
        if args.json is not None:  # after every case, so that an interrupted run leaves something
            args.json.write_text(json.dumps(as_json(results, args.device), indent=1) + "\n")
    misses = missed(results)
    if args.targets:
        count = sum(len(result.checks) for result in results.values())
        print(f"\nTargets: {count - len(misses)} of {count} are met.")
        print("\n".join(f"Missed by {line}" for line in misses))
    return 1 if args.targets and misses else 0
