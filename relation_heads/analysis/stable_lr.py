"""The largest learning rate at which a head trains: what is tried, in which order, and the table.

A head is a name and overrides of one stock config, such as a Faster R-CNN. It is trained at a start
rate; if that is stable, at the double, else at the half, until the largest stable rate of the grid
`start * 2^k` is known or `at_most` steps are taken. Example: stable at 0.02, diverged at 0.04, so
the largest stable rate is 0.02.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from statistics import mean

from .marks import spread

# Widths fit box features of 128 channels and more. Keys and values are as on a command line.
_RELATION = ["MODEL.ROI_HEADS.NAME", "RelationROIHeads", "MODEL.RELATION.KEY_DIM", "16"]
_SGRN = ["MODEL.ROI_HEADS.NAME", "SGRNROIHeads", "MODEL.SGRN.LATENT_DIM", "64"]
_GRAPH = ["MODEL.SGRN.GRAPH_DIMS", "[128, 64]"]
_REASONING = [
    "MODEL.ROI_HEADS.NAME", "ReasoningROIHeads",
    "MODEL.REASONING.LOCAL.CHANNELS", "32",
    "MODEL.REASONING.LOCAL.FC_DIM", "128",
    "MODEL.REASONING.LOCAL.INIT_SIZE", "[12, 12]",
    "MODEL.REASONING.GLOBAL.CHANNELS", "64",
]  # fmt: skip
_LEARNED = [
    "MODEL.ROI_HEADS.NAME", "DuplicateRemovalROIHeads",
    "MODEL.DUPLICATE_REMOVAL.LEARN", "True",
    "MODEL.DUPLICATE_REMOVAL.TEST_METHOD", "learned",
]  # fmt: skip
_REASONING_RCNN = ["MODEL.ROI_HEADS.NAME", "ReasoningRCNNROIHeads"]
# Name -> overrides of the stock config.
HEADS: dict[str, list[str]] = {
    "stock": [],
    "relation": _RELATION,
    "relation_signed": [*_RELATION, "MODEL.RELATION.GEOMETRY", "signed"],
    "relation_published": [*_RELATION, "MODEL.RELATION.NORM", ""],
    "sgrn": [*_SGRN, *_GRAPH],
    "sgrn_published": [*_SGRN, *_GRAPH, "MODEL.SGRN.MEAN_GRADIENT", "False"],
    # The stock twin of the next: the same two stages without a graph.
    "two_stage": [*_SGRN, "MODEL.SGRN.GRAPH_DIMS", "[]", "MODEL.SGRN.REFINE", "True"],
    "sgrn_two_stage": [*_SGRN, *_GRAPH, "MODEL.SGRN.REFINE", "True"],
    "reasoning": _REASONING,
    "reasoning_rcnn": _REASONING_RCNN,
    "reasoning_rcnn_published": [*_REASONING_RCNN, "MODEL.REASONING_RCNN.MEAN_GRADIENT", "False"],
    "learned_duplicates": _LEARNED,
    "learned_duplicates_published": [*_LEARNED, "MODEL.DUPLICATE_REMOVAL.END_TO_END", "True"],
}

FIRST, LAST = 10, 50  # iterations whose mean losses are compared


class TrainingFailed(Exception):
    """A training ended by something else than divergence: no result."""


@dataclass(frozen=True)
class Training:
    """One training that is to be done."""

    head: str
    seed: int
    lr: float


@dataclass(frozen=True)
class Outcome:
    """What a training showed.

    Args:
        head, seed, lr: of the training.
        diverged: whether it did.
        iterations: that were done; of a training that diverged, the number of the failed one.
        reason: one sentence about the divergence, else empty.
        loss: mean total loss of the last `LAST` iterations; None if it is not finite.
        seconds: per iteration, median; None if there were too few.
        setting: config, iterations and overrides; trainings of one setting can be compared.
        made_by: commit, machine and torch.
    """

    head: str
    seed: int
    lr: float
    diverged: bool
    iterations: int
    reason: str
    loss: float | None
    seconds: float | None
    setting: dict[str, str]
    made_by: dict[str, str]


def choose_heads(
    names: Sequence[str] | None, own: Iterable[Sequence[str]] = ()
) -> dict[str, list[str]]:
    """Name -> overrides.

    Args:
        names: of `HEADS`; None: all of them, or with heads of one's own the stock head.
        own: heads of one's own, each a name and its keys and values.

    Raises:
        ValueError: a name is not known, or taken, or a head has a key without a value.
    """
    mine = {name: list(overrides) for name, *overrides in own}
    known = HEADS | mine
    if taken := [name for name in mine if name in HEADS]:
        raise ValueError(f"--head {taken[0]}: a head of the table has this name; choose another.")
    if odd := [name for name, overrides in mine.items() if len(overrides) % 2]:
        raise ValueError(f"--head {odd[0]}: a key has no value.")
    if names is None:
        names = ["stock"] if mine else list(HEADS)
    if unknown := [name for name in names if name not in known]:
        raise ValueError(f"There is no head {unknown[0]!r}; there are {', '.join(known)}.")
    return {name: known[name] for name in dict.fromkeys([*names, *mine])}


def verdict(losses: Sequence[float], error: str = "") -> tuple[bool, str, float | None]:
    """Whether a training diverged.

    Args:
        losses: total loss of every iteration.
        error: the trainer's report of divergence, empty if it reached the end.

    Returns:
        whether it diverged, one sentence why, and the mean of the last losses (None: not finite).
    """
    first, last = (mean(part) if part else math.nan for part in (losses[:FIRST], losses[-LAST:]))
    loss = last if math.isfinite(last) else None
    if error:
        return True, _first_sentence(error), loss
    if loss is None:
        return True, f"The mean loss of the last {LAST} iterations is not finite.", None
    if not loss <= first:
        return True, (
            f"The mean loss of the last {LAST} iterations, {last:.4g}, is above that of the first "
            f"{FIRST}, {first:.4g}."
        ), loss  # fmt: skip
    return False, "", loss


def _first_sentence(text: str) -> str:
    """Up to the first full stop before a space: that of `0.02` is none."""
    end = text.find(". ")
    return text if end < 0 else text[: end + 1]


def next_rate(diverged: Mapping[float, bool], start: float, at_most: int) -> float | None:
    """The rate to try next, None if the search is over.

    Args:
        diverged: rate -> whether the training diverged.
        start: the first rate.
        at_most: so many doublings, or halvings.
    """
    if start not in diverged:
        return start
    rate, factor = start, 0.5 if diverged[start] else 2.0
    for _ in range(at_most):
        rate *= factor  # exact, so that a rate read from a file is the same
        if rate not in diverged:
            return rate
        if diverged[rate] != diverged[start]:
            return None
    return None


def search(
    pairs: Sequence[tuple[str, int]],
    train: Callable[[Training], Outcome],
    *,
    start: float,
    at_most: int,
    parallel: int = 1,
    say: Callable[[str], None] = print,
) -> int:
    """Trains until the largest stable rate of every head and seed is known.

    First every pair at the start rate, in the order of `pairs`, then the second step, and so on:
    what matters most is known first.

    Args:
        pairs: (head, seed).
        train: does a training, or returns what it showed before.
        start: the first rate.
        at_most: doublings or halvings of a pair.
        parallel: trainings at a time.
        say: gets a line about every training that ended.

    Returns:
        the number of trainings that failed; their heads and seeds are not tried at other rates.
    """
    tried: dict[tuple[str, int], dict[float, bool]] = {pair: {} for pair in pairs}
    running: dict[Future[Outcome], Training] = {}
    failed: set[tuple[str, int]] = set()
    with ThreadPoolExecutor(parallel) as pool:
        while True:
            busy = failed | {(t.head, t.seed) for t in running.values()}
            waiting = sorted((p for p in tried if p not in busy), key=lambda p: len(tried[p]))
            for head, seed in waiting:
                rate = next_rate(tried[head, seed], start, at_most)
                if rate is not None and len(running) < parallel:
                    training = Training(head, seed, rate)
                    running[pool.submit(train, training)] = training
            if not running:
                return len(failed)
            for done in wait(running, return_when=FIRST_COMPLETED).done:
                training = running.pop(done)
                what = f"{training.head}, seed {training.seed}, learning rate {training.lr:g}"
                try:
                    outcome = done.result()
                except TrainingFailed as error:
                    failed.add((training.head, training.seed))
                    say(f"{what}: FAILED. {error}")
                    continue
                tried[training.head, training.seed][training.lr] = outcome.diverged
                say(f"{what}: {outcome.reason or f'stable, last loss {outcome.loss:.4g}'}")


def largest_stable(diverged: Mapping[float, bool]) -> str:
    """What is known of the largest stable rate: "0.02", "≥ 0.04", "< 0.01", or "" of nothing."""
    if not diverged:
        return ""
    bad = min((rate for rate, it_did in diverged.items() if it_did), default=math.inf)
    good = max((r for r, it_did in diverged.items() if not it_did and r < bad), default=0.0)
    if not good:
        return f"< {bad:g}"
    if bad == math.inf:
        return f"≥ {good:g}"
    return f"{good:g}" if bad == 2 * good else f"≥ {good:g}, < {bad:g}"


def table(outcomes: Sequence[Outcome], start: float) -> str:
    """Markdown: heads down, seeds across, then time and loss at the start rate; what it was
    measured with follows.

    Args:
        outcomes: of any heads and seeds.
        start: the rate at which time and loss are compared.
    """
    seeds = sorted({o.seed for o in outcomes})
    found = {o.head for o in outcomes}
    heads = [name for name in HEADS if name in found] + sorted(found - HEADS.keys())
    titles = ["head", *(f"seed {seed}" for seed in seeds), f"s / iteration at {start:g}",
              f"mean loss of the last {LAST} at {start:g}"]  # fmt: skip
    lines = ["| " + " | ".join(titles) + " |", "|:--" * len(titles) + "|"]
    for head in heads:
        ours = [o for o in outcomes if o.head == head]
        cells = [largest_stable({o.lr: o.diverged for o in ours if o.seed == s}) for s in seeds]
        at_start = [o for o in ours if o.lr == start]
        cells += [spread([o.seconds for o in at_start], 3), _losses(at_start)]
        lines.append("| " + " | ".join([head, *cells]) + " |")
    notes = [
        "Largest stable learning rate by seed, of rates that are factors of 2 apart. Time and loss "
        "are means (lowest–highest) over the seeds, the loss over those that were stable.",
        *(_mix(key, [o.setting[key] for o in outcomes]) for key in ("config", "iterations")),
        _mix("overrides of all heads", [o.setting["common"] for o in outcomes]),
        *(_mix(key, [o.made_by[key] for o in outcomes]) for key in ("commit", "machine", "torch")),
    ]
    return "\n".join([*lines, "", *(f"- {note}" for note in notes)])


def _losses(outcomes: Sequence[Outcome]) -> str:
    stable = [o.loss for o in outcomes if not o.diverged]
    diverged = len(outcomes) - len(stable)
    parts = [spread(stable, 3), f"{diverged} of {len(outcomes)} diverged" if diverged else ""]
    return ", ".join(part for part in parts if part)


def _mix(what: str, values: Iterable[str]) -> str:
    """What outcomes have in common, or "mixed" and all there is."""
    different = sorted(set(values))
    text = "; ".join(value or "none" for value in different)
    return f"{what}: {text}" if len(different) == 1 else f"{what}, MIXED: {text}"
