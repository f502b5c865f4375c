"""The search for the largest stable learning rate: its order, its verdicts, its table."""

from __future__ import annotations

import math
import threading

import pytest

pytest.importorskip("detectron2")

from relation_heads.analysis.stable_lr import (
    HEADS,
    Outcome,
    TrainingFailed,
    choose_heads,
    largest_stable,
    next_rate,
    search,
    table,
    verdict,
)
from relation_heads.analysis.stable_lr_files import check_heads

SETTING = {"config": "a.yaml", "iterations": "300", "overrides": "", "common": ""}
MADE_BY = {"commit": "abc", "machine": "m", "torch": "2"}


def outcome(head, seed, lr, diverged=False, *, loss=1.0, seconds=0.5, **changed):
    setting = SETTING | {k: v for k, v in changed.items() if k in SETTING}
    made_by = MADE_BY | {k: v for k, v in changed.items() if k in MADE_BY}
    reason = "Training diverged at iteration 7." if diverged else ""
    return Outcome(head, seed, lr, diverged, 300, reason, loss, seconds, setting, made_by)


class FakeTrainer:
    """Trainings that diverge above a threshold by head; remembers what it was asked to do."""

    def __init__(self, **thresholds):
        self.thresholds, self.done = thresholds, []

    def __call__(self, training):
        self.done.append((training.head, training.seed, training.lr))
        threshold = self.thresholds[training.head]
        if threshold is None:
            raise TrainingFailed("no such data set")
        return outcome(training.head, training.seed, training.lr, training.lr > threshold)


@pytest.mark.parametrize(
    ("threshold", "at_most", "tried", "said"),
    [
        (0.03, 1, [0.02, 0.04], "0.02"),
        (0.05, 1, [0.02, 0.04], "≥ 0.04"),
        (0.05, 4, [0.02, 0.04, 0.08], "0.04"),
        (0.012, 1, [0.02, 0.01], "0.01"),
        (0.003, 1, [0.02, 0.01], "< 0.01"),
        (0.003, 9, [0.02, 0.01, 0.005, 0.0025], "0.0025"),
        (0.03, 0, [0.02], "≥ 0.02"),
        (0.01, 0, [0.02], "< 0.02"),
    ],
)
def test_doubles_what_is_stable_and_halves_what_diverged(threshold, at_most, tried, said):
    diverged = {}
    while (rate := next_rate(diverged, 0.02, at_most)) is not None:
        assert rate not in diverged
        diverged[rate] = rate > threshold
    assert list(diverged) == tried
    assert largest_stable(diverged) == said


def test_a_gap_in_the_grid_and_a_lucky_rate_are_not_hidden():
    assert largest_stable({0.01: False, 0.04: True}) == "≥ 0.01, < 0.04"
    assert largest_stable({0.01: False, 0.02: True, 0.04: False}) == "0.01"
    assert largest_stable({}) == ""


def test_all_heads_at_the_start_come_first():
    trainer = FakeTrainer(stock=0.03, sgrn=0.01)
    pairs = [("stock", 0), ("sgrn", 0), ("stock", 1), ("sgrn", 1)]
    assert search(pairs, trainer, start=0.02, at_most=1, say=lambda line: None) == 0
    assert trainer.done == [
        *((head, seed, 0.02) for head, seed in pairs),
        ("stock", 0, 0.04), ("sgrn", 0, 0.01), ("stock", 1, 0.04), ("sgrn", 1, 0.01),
    ]  # fmt: skip


def test_so_many_trainings_at_a_time():
    together = threading.Barrier(2, timeout=10)  # broken unless two are there at once
    trainer = FakeTrainer(stock=1.0)

    def train(training):
        together.wait()
        return trainer(training)

    pairs = [("stock", seed) for seed in range(4)]
    assert search(pairs, train, start=0.02, at_most=0, parallel=2, say=lambda line: None) == 0
    assert sorted(trainer.done) == [("stock", seed, 0.02) for seed in range(4)]


def test_what_failed_is_said_and_the_others_go_on():
    trainer, said = FakeTrainer(stock=0.03, broken=None), []
    pairs = [("broken", 0), ("stock", 0)]
    assert search(pairs, trainer, start=0.02, at_most=1, say=said.append) == 1
    assert trainer.done == [("broken", 0, 0.02), ("stock", 0, 0.02), ("stock", 0, 0.04)]
    assert said[0] == "broken, seed 0, learning rate 0.02: FAILED. no such data set"
    assert said[1:] == [
        "stock, seed 0, learning rate 0.02: stable, last loss 1",
        "stock, seed 0, learning rate 0.04: Training diverged at iteration 7.",
    ]


def test_a_bug_is_not_a_failed_training():
    def train(training):
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        search([("stock", 0)], train, start=0.02, at_most=1)


def test_diverged_by_the_trainer_or_by_the_loss():
    falling = [3.0] * 10 + [2.0] * 240 + [1.0] * 50
    assert verdict(falling) == (False, "", 1.0)
    sentence = "Training diverged at iteration 12 with learning rate 0.02: Loss."
    seen = verdict(falling[:12], f"{sentence} Losses logged last.")
    assert seen == (True, sentence, pytest.approx(34 / 12))
    diverged, reason, loss = verdict([3.0] * 10 + [2.0] * 240 + [3.5] * 50)
    assert diverged and loss == 3.5 and "3.5, is above that of the first 10, 3." in reason
    assert verdict([3.0] * 299 + [math.nan])[::2] == (True, None)
    assert verdict([], "Training diverged at iteration 0.")[2] is None


def test_the_table():
    outcomes = [
        outcome("mine", 0, 0.02, loss=1.25),
        outcome("relation", 0, 0.02, loss=1.0, seconds=0.5),
        outcome("relation", 0, 0.04, True, loss=9.0, seconds=9.0),
        outcome("relation", 1, 0.02, loss=3.0, seconds=0.7),
        outcome("relation", 1, 0.04),
        outcome("stock", 0, 0.02, True, loss=8.0),
        outcome("stock", 0, 0.01),
        outcome("stock", 1, 0.02, loss=2.0),
        outcome("stock", 1, 0.04, True, loss=None),
        outcome("sgrn", 1, 0.02, True, loss=None, seconds=None),
    ]
    rows = table(outcomes, 0.02).splitlines()
    assert rows[0] == (
        "| head | seed 0 | seed 1 | s / iteration at 0.02 | mean loss of the last 50 at 0.02 |"
    )
    assert rows[2:6] == [
        "| stock | 0.01 | 0.02 | 0.500 (0.500–0.500) | 2.000, 1 of 2 diverged |",
        "| relation | 0.02 | ≥ 0.04 | 0.600 (0.500–0.700) | 2.000 (1.000–3.000) |",
        "| sgrn |  | < 0.02 |  | 1 of 1 diverged |",
        "| mine | ≥ 0.02 |  | 0.500 | 1.250 |",
    ]
    assert "- commit: abc" in rows and "- overrides of all heads: none" in rows


def test_a_mix_is_named_under_the_table():
    mixed = [outcome("stock", 0, 0.02), outcome("stock", 1, 0.02, commit="def", iterations="5")]
    rows = table(mixed, 0.02).splitlines()
    assert "- commit, MIXED: abc; def" in rows and "- iterations, MIXED: 300; 5" in rows
    assert "- torch: 2" in rows


def test_heads_of_the_table_and_of_ones_own():
    assert choose_heads(None) == HEADS
    assert choose_heads(["sgrn", "stock"], []) == {"sgrn": HEADS["sgrn"], "stock": []}
    own = ["mine", "SEED", "3"]
    assert choose_heads(None, [own]) == {"stock": [], "mine": ["SEED", "3"]}
    assert list(choose_heads(["relation", "mine"], [own])) == ["relation", "mine"]
    for names, heads, message in (
        (["relatoin"], [], "no head 'relatoin'"),
        (None, [["mine", "SEED"]], "a key has no value"),
        (None, [["stock", "SEED", "3"]], "has this name"),
    ):
        with pytest.raises(ValueError, match=message):
            choose_heads(names, heads)


def test_every_head_of_the_table_fits_both_widths():
    """Box features of 128 channels on Relational Scenes, of 512 in a stock R50-FPN."""
    check_heads("RelationalScenes/faster_rcnn_R_18_FPN.yaml", HEADS.values())
    wide = ["MODEL.ROI_BOX_HEAD.FC_DIM", "512"]
    stock = "COCO-Detection/faster_rcnn_R_50_FPN_1x.yaml"
    check_heads(stock, [[*head, *wide] for head in HEADS.values()])
    with pytest.raises(ValueError, match="NUM_HEAD"):
        check_heads(stock, [["MODEL.RELATION.NUM_HEAD", "4"]])


def test_the_published_forms_differ_from_ours_by_one_key():
    keys = {
        "relation": "MODEL.RELATION.NORM",
        "sgrn": "MODEL.SGRN.MEAN_GRADIENT",
        "reasoning_rcnn": "MODEL.REASONING_RCNN.MEAN_GRADIENT",
    }
    for name, key in keys.items():
        published = HEADS[f"{name}_published"]
        assert published[:-2] == HEADS[name] and published[-2] == key
