"""Detectors trained beside each other: reading, tables, and a training that is resumed."""

import json
from argparse import Namespace

import pytest

from relation_heads.analysis import trainings_files
from relation_heads.analysis.marks import spread
from relation_heads.analysis.trainings import (
    Trained,
    evaluations,
    reached,
    table,
)
from relation_heads.analysis.trainings_files import compare_trainings, read_all, runs_of

MADE_BY = {"commit": "abc", "machine": "a machine", "torch": "2"}


def trained(name, seed, *values):
    """Evaluated after 200, 400, ... iterations."""
    found = {str(200 * (i + 1)): {"AP50": value} for i, value in enumerate(values)}
    return Trained(name, seed, f"{name}.yaml", "", found, MADE_BY)


def test_evaluations_of_a_log(tmp_path):
    lines = [
        {"iteration": 19, "total_loss": 1.0},
        {"iteration": 199, "bbox/AP": 12.34567, "bbox/AP-cat": 3.0, "bbox/AP50/rare": float("nan")},
        {"iteration": 399, "bbox/AP": 20.0, "total_loss": 0.5},
        {"iteration": 399, "bbox/AP": 21.0, "total_loss": 0.5},  # done again after an interruption
    ]
    path = tmp_path / "metrics.json"
    path.write_text("\n".join(json.dumps(line) for line in lines))
    first = {"AP": 12.346, "AP50/rare": None}
    assert evaluations(path, 1000) == {"200": first, "400": {"AP": 21.0}}
    assert evaluations(path, 399) == {"200": first, "399": {"AP": 21.0}}  # the one at its end


def test_a_log_without_evaluation(tmp_path):
    path = tmp_path / "metrics.json"
    path.write_text('{"iteration": 19, "total_loss": 1.0}\n')
    with pytest.raises(ValueError, match=r"metrics\.json.*evaluation"):
        evaluations(path, 10)


def test_final_and_reached_count_iterations_as_numbers():
    of = trained("sgrn", 0, 50.0, 89.9, 90.0, 95.0, 80.0)
    assert of.final == {"AP50": 80.0}  # of 1000, which as text is before 200
    assert reached(of, "AP50") == 600
    assert reached(trained("stock", 0, 50.0, None), "AP50") is None
    assert reached(of, "AP75") is None


@pytest.mark.parametrize(
    ("values", "digits", "text"),
    [
        ([10.0], 1, "10.0"),
        ([10.0, 20.0, 60.0], 1, "30.0 (10.0–60.0)"),
        ([0.125, None, 0.375], 3, "0.250 (0.125–0.375)"),
        ([10.0, None], 1, "10.0"),
        ([], 1, ""),
    ],
)
def test_spread(values, digits, text):
    assert spread(values, digits) == text


def test_table():
    text = table([trained("stock", 0, 30.0), trained("sgrn", 0, 90.0), trained("sgrn", 1, 80.0)])
    assert text.splitlines()[:3] == [
        "|  | stock | sgrn |",
        "|:--|--:|--:|",
        "| AP50 | 30.0 | 85.0 (80.0–90.0) |",
    ]
    assert "| AP50 | never | 200, never |" in text
    assert "- sgrn: `sgrn.yaml`, seeds 0, 1, 200 iterations" in text


def test_without_90_percent_there_is_no_second_table():
    assert "first evaluation" not in table([trained("stock", 0, 89.0)])


@pytest.mark.parametrize(
    ("named", "words"),
    [
        ([["sgrn"]], ("sgrn", "config")),
        ([["sgrn", "a.yaml", "SEED"]], ("sgrn", "KEY VALUE")),
        ([["sgrn", "a.yaml"], ["sgrn", "b.yaml"]], ("sgrn", "twice")),
    ],
)
def test_runs_that_do_not_fit(named, words):
    with pytest.raises(ValueError) as error:
        runs_of(named, [])
    assert all(word in str(error.value) for word in words)


def test_trains_resumes_and_reads(tmp_path, monkeypatch):
    """The process is a stand-in: what it is told, and what it leaves."""
    commands = []
    codes = [1, 0, 0]

    def train_process(command, log):
        commands.append(command)
        (log.parent / "model_0000009.pth").touch()
        (log.parent / "metrics.json").write_text('{"iteration": 9, "bbox/AP50": 40.0}\n')
        return codes[len(commands) - 1]

    monkeypatch.setattr(trainings_files, "run_process", train_process)
    config = "RelationalScenes/faster_rcnn_shallow_sgrn.yaml"
    args = Namespace(
        run=[["sgrn", config, "MODEL.WEIGHTS", "seed_{seed}.pth"]], opts=["SOLVER.MAX_ITER", "10"],
        seeds=[3, 4], results=tmp_path / "results", output=tmp_path / "out",
    )  # fmt: skip
    with pytest.raises(ValueError, match=r"sgrn, seed 3.*1.*stdout\.txt"):
        compare_trainings(args)
    assert not list((tmp_path / "results").rglob("*.json"))
    compare_trainings(args)
    compare_trainings(args)  # everything is there: no process
    assert len(commands) == 3
    assert ["--resume" in command for command in commands] == [False, True, False]
    assert commands[2][commands[2].index("MODEL.WEIGHTS") + 1] == "seed_4.pth"
    assert [(t.name, t.seed, t.final) for t in read_all(args.results)] == [
        ("sgrn", 3, {"AP50": 40.0}),
        ("sgrn", 4, {"AP50": 40.0}),
    ]
    args.opts = ["SOLVER.MAX_ITER", "20"]
    with pytest.raises(ValueError, match=r"seed_3\.json.*MAX_ITER 10.*MAX_ITER 20"):
        compare_trainings(args)
