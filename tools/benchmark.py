#!/usr/bin/env python
"""Time, peak memory and error of our operators beside other ways to compute the same.

    tools/benchmark.py --list
    tools/benchmark.py "non-local" GloRe --rounds 5
    tools/benchmark.py --targets --json output/benchmark.json

A name selects every case that contains it, in upper or lower case; without names all run, which
takes forty minutes. Each case has a process of its own, in which its variants take turns, quick
ones for more rounds. Time on the CPU is the time of that process on one thread, so that other
programs disturb it little; on CUDA, and with more threads, it is wall time. Variants in brackets
are shown for information: targets do not compare with them.
"""

from __future__ import annotations

import argparse
import json
import sys
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

# `benchmarks` is of the checkout: no installation has it.
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import torch

from benchmarks.cases import find_cases
from benchmarks.report import as_json, environment, table
from benchmarks.run import Result, run

SECONDS = 5.0  # that ours is at least measured for, in each pass of a case


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("names", nargs="*", metavar="NAME", help="parts of names of cases")
    parser.add_argument("--list", action="store_true", help="only print the names")
    parser.add_argument("--rounds", type=int, default=5, help="at least; one to warm up more")
    parser.add_argument("--no-time", action="store_true", help="only memory and errors")
    parser.add_argument("--targets", action="store_true", help="fail if a target is missed")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--threads", type=int, default=1, help="of torch on the CPU")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write every number there")
    args = parser.parse_args(argv)
    for name in ("rounds", "threads"):
        if getattr(args, name) < 1:
            parser.error(f"--{name} must be at least 1, got {getattr(args, name)}.")
    if args.device == "cuda" and not torch.cuda.is_available():
        parser.error("--device cuda: torch finds no CUDA device here.")
    if args.json is not None and not args.json.absolute().parent.is_dir():
        parser.error(f"--json: there is no folder {args.json.absolute().parent}.")
    return args


def select(names: list[str], available: list[str]) -> list[str]:
    """The cases that contain one of the names, all without names; exits if a name fits none."""
    for name in names:
        if not any(name.lower() in case.lower() for case in available):
            sys.exit(f"No case contains {name!r}; there are: {'; '.join(available)}.")
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


def main(args: argparse.Namespace) -> int:
    """Measures and prints; 1 if a target is missed and `--targets` is given."""
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


if __name__ == "__main__":
    sys.exit(main(parse_args()))
