"""Time and peak memory of functions, measured so that their ratios can be believed.

Machines are noisy: compared functions take turns in one process, and the median of the turns
counts.
"""

from __future__ import annotations

import gc
import itertools
import statistics
import time
from collections.abc import Callable, Mapping

import torch
from torch.profiler import ProfilerActivity, profile

Function = Callable[[], object]


def require_device(device: str) -> None:
    """Refuses "cuda" where there is none.

    Raises:
        ValueError: says so.
    """
    if device == "cuda" and not torch.cuda.is_available():
        raise ValueError("--device cuda: torch finds no CUDA device here.")


def seconds_in_turns(
    functions: Mapping[str, Function],
    rounds: int = 7,
    device: str = "cpu",
    clock: Callable[[], float] = time.perf_counter,
    patience: float = float("inf"),
    least: float = 0.0,
) -> dict[str, list[float]]:
    """The seconds of each function in each round; all run once per round, after one warm-up, and
    every other round in reverse, since what ran before leaves its mark in caches and heap.

    Args:
        functions: by name.
        rounds: at least 1.
        device: where they compute; "cuda" waits for its kernels.
        clock: `time.perf_counter`, or `time.process_time` for the time of this process alone, which
            other processes hardly disturb; that is without meaning on "cuda".
        patience: a function that has taken this many seconds in all sits out the other rounds. The
            warm-up counts if there is nothing else.
        least: rounds go on until the first function has taken this many seconds in all.
    """
    seconds: dict[str, list[float]] = {name: [] for name in functions}
    for turn in itertools.count() if functions else ():
        if turn > rounds and sum(next(iter(seconds.values()))) >= least:
            break
        for name, function in list(functions.items())[:: -1 if turn % 2 else 1]:
            if sum(seconds[name]) >= patience:
                continue
            began = clock()
            function()
            if device != "cpu":
                torch.cuda.synchronize()
            seconds[name].append(clock() - began)
    return {name: values[1:] or values for name, values in seconds.items()}


def median_seconds(
    functions: Mapping[str, Function], rounds: int = 7, device: str = "cpu"
) -> dict[str, float]:
    """Median wall time of each function; see `seconds_in_turns`."""
    seconds = seconds_in_turns(functions, rounds, device)
    return {name: statistics.median(values) for name, values in seconds.items()}


def peak_bytes(function: Function, device: str = "cpu") -> int:
    """The most bytes of tensors that exist at once while `function` runs, above what was there.

    On a CPU they are counted from the allocations that the profiler sees, so the number is exact
    and the same in every run.
    """
    gc.collect()
    if device != "cpu":
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        function()
        torch.cuda.synchronize()
        return torch.cuda.max_memory_allocated() - before
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as record:
        result = function()
    events = [e for e in record.profiler.kineto_results.events() if e.name() == "[memory]"]
    now = peak = 0
    for event in sorted(events, key=lambda e: e.start_ns()):
        now += event.nbytes()
        peak = max(peak, now)
    del result
    return peak
