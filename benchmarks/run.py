"""Runs a case: what each variant costs, how far ours is from the truth, which targets are missed.

Time is of this process on its processor ("cpu" with one thread), since others may share the
machine, else wall time. Ratios compare ours with the best peer of each quantity; those of times are
medians of the ratios in every two rounds, so that a machine that slows down slows both.
"""

from __future__ import annotations

import itertools
import statistics
import time
from collections.abc import Mapping
from dataclasses import dataclass, field

import torch

from .case import OURS, Case
from .measure import Function, peak_bytes, seconds_in_turns

PASSES = ("forward", "backward")
MIB = 2**20
# Of a ratio of times: one of some 20 rounds is seen again within 2 % (standard deviation, object
# relation, N = 300), one of 80 rounds within 1 % (a variant beside itself, global context).
NOISE = 0.03
PATIENCE = 30.0  # seconds in all, after which a slow variant is not timed again


@dataclass
class Cost:
    """Of one pass of one variant.

    Attributes:
        seconds: of all rounds; empty if not measured.
        peak_mib: None if not measured.
    """

    seconds: list[float] = field(default_factory=list)
    peak_mib: float | None = None

    @property
    def median(self) -> float:
        """Of the seconds."""
        return statistics.median(self.seconds)

    def times(self, other: Cost) -> float:
        """How many times the seconds of the other, measured in turns with it.

        Of two rounds in a row one is in reverse. They count together: who follows whom is worth up
        to 3 %, and the median of single rounds would fall to one side of it or the other.
        """
        rounds = list(zip(self.seconds, other.seconds, strict=False))
        if len(rounds) > 1:
            rounds = [(a + c, b + d) for (a, b), (c, d) in itertools.pairwise(rounds)]
        return statistics.median(mine / others for mine, others in rounds)


@dataclass(frozen=True)
class Check:
    """One quantity of a target.

    Attributes:
        quantity: as in `Target`; errors as "error of <name>".
        reached, wanted: the numbers.
        at_least: whether `wanted` is the least or the greatest.
        peer: that ours was compared with, if any.
        noise: of ratios of times, relative; what is missed by less is met.
    """

    quantity: str
    reached: float
    wanted: float
    at_least: bool
    peer: str | None = None
    noise: float = 0.0

    @property
    def met(self) -> bool:
        """NaN does not meet anything."""
        least = self.wanted * (1 - self.noise)
        return self.reached >= least if self.at_least else self.reached <= self.wanted

    def __str__(self) -> str:
        than = "at least" if self.at_least else "at most"
        peer = f" (to {self.peer})" if self.peer else ""
        noise = f" less {self.noise:.0%}" if self.noise else ""
        return f"{self.quantity} {self.reached:.3g}{peer}, wanted {than} {self.wanted:.3g}{noise}"


@dataclass
class Result:
    """All that was measured of a case.

    Attributes:
        costs: by pass and variant.
        errors: see `Case`.
        checks: of the quantities that have a target and were measured.
    """

    costs: dict[str, dict[str, Cost]]
    errors: Mapping[str, float]
    peers: frozenset[str]
    checks: list[Check] = field(default_factory=list)

    def best_peer(self, which: str, quantity: str) -> tuple[str, float] | None:
        """Name and number of the peer with the least `quantity`, "median" or "peak_mib"."""
        costs = {
            name: getattr(cost, quantity)
            for name, cost in self.costs[which].items()
            if name in self.peers and (cost.seconds if quantity == "median" else cost.peak_mib)
        }
        return min(costs.items(), key=lambda item: item[1]) if costs else None


def functions(case: Case, which: str) -> dict[str, Function]:
    """The variants that have the pass, ready to be called; forward ones without gradients."""
    chosen: dict[str, Function] = {}
    for name, variant in case.variants.items():
        function = variant.forward if which == "forward" else variant.backward
        if function is not None:
            chosen[name] = torch.no_grad()(function) if which == "forward" else function
    return chosen


def run(case: Case, device: str = "cpu", rounds: int = 5, least: float = 0.0) -> Result:
    """Measures everything; `rounds` = 0 leaves the times out, `least` is of `seconds_in_turns`."""
    costs: dict[str, dict[str, Cost]] = {}
    for which in PASSES:
        chosen = functions(case, which)
        costs[which] = {name: Cost() for name in chosen}
        for name, function in chosen.items():
            costs[which][name].peak_mib = peak_bytes(function, device) / MIB
        if rounds:
            one_thread = device == "cpu" and torch.get_num_threads() == 1
            clock = time.process_time if one_thread else time.perf_counter
            seconds = seconds_in_turns(chosen, rounds, device, clock, PATIENCE, least)
            for name, values in seconds.items():
                costs[which][name].seconds = values
    return finish(case, costs)


def run_deterministic(case: Case, device: str = "cpu") -> Result:
    """Only what the targets say of errors and memory, which is the same in every run."""
    costs: dict[str, dict[str, Cost]] = {}
    for which in PASSES:
        costs[which] = {}
        with_peers = getattr(case.target, f"{which}_memory", None) is not None
        if with_peers or getattr(case.target, f"{which}_mib", None) is not None:
            for name, function in functions(case, which).items():
                if name == OURS or (with_peers and case.variants[name].is_peer):
                    costs[which][name] = Cost(peak_mib=peak_bytes(function, device) / MIB)
    return finish(case, costs)


def finish(case: Case, costs: dict[str, dict[str, Cost]]) -> Result:
    """Adds errors and checks."""
    peers = frozenset(n for n, v in case.variants.items() if v.is_peer and n != OURS)
    result = Result(costs, case.errors() if case.errors else {}, peers)
    result.checks = checks(case, result)
    return result


def checks(case: Case, result: Result) -> list[Check]:
    """Every quantity that has a target and was measured; an error that is missing is not met."""
    target, found = case.target, []
    if target is None:
        return []
    for which in PASSES:
        cost = result.costs[which].get(OURS, Cost())
        wanted = getattr(target, which)
        peer = result.best_peer(which, "median")
        if wanted is not None and cost.seconds and peer is not None:
            reached = result.costs[which][peer[0]].times(cost)
            found.append(Check(which, reached, wanted, True, peer[0], NOISE))
        wanted = getattr(target, f"{which}_memory")
        peer = result.best_peer(which, "peak_mib")
        if wanted is not None and cost.peak_mib is not None and peer is not None:
            found.append(Check(f"{which}_memory", cost.peak_mib / peer[1], wanted, False, peer[0]))
        wanted = getattr(target, f"{which}_mib")
        if wanted is not None and cost.peak_mib is not None:
            found.append(Check(f"{which}_mib", cost.peak_mib, wanted, False))
    for name, most in target.errors.items():
        reached = result.errors.get(name, float("nan"))
        found.append(Check(f"error of {name}", reached, most, False))
    return found
