"""A sample of the audit, and that the audit notices what is bad."""

from __future__ import annotations

import random
import sys
import time
from functools import partial
from pathlib import Path

import pytest

pytest.importorskip("detectron2")

from relation_heads.analysis import reliability
from relation_heads.command_line import run_or_explain
from tests.robustness.audit import GOOD, all_cases, as_json, audit, judge
from tests.robustness.case import ACCEPTED, SENTENCE, Case, Workshop
from tests.robustness.families import FAMILIES

REAL = ("trained", "weights", "images", "divergence")  # something is trained, or read by a model


@pytest.fixture(scope="module")
def shop(tmp_path_factory):
    return Workshop(tmp_path_factory.mktemp("audit"))


@pytest.mark.parametrize("name", FAMILIES)
def test_a_sample_has_no_bad_case(shop, name):
    cases = all_cases(shop, [name])
    assert len(cases) > 10
    chosen = random.Random(7).sample(cases, 1 if name in REAL else 10)
    bad = [(c.subject, c.value, *rest) for c, *rest in audit(chosen, shop.canary)
           if rest[0] not in GOOD]  # fmt: skip
    assert bad == []


def test_there_are_many_cases(shop):
    assert len(all_cases(shop)) >= 1400


def raising(error):
    def run(args):
        raise error

    return partial(run_or_explain, run, None, "program")


def ending(code, text=""):
    def run():
        print(text, file=sys.stderr)
        raise SystemExit(code)

    return run


@pytest.mark.parametrize(
    ("expected", "run", "outcome"),
    [
        (SENTENCE, ending(2, "--size 0 is wrong."), SENTENCE),
        (SENTENCE, ending(2, "--size is wrong."), "NO VALUE"),
        (SENTENCE, ending(1, "--size 0 is wrong."), "CODE"),
        (ACCEPTED, ending(0), ACCEPTED),
        (ACCEPTED, lambda: None, ACCEPTED),
        (SENTENCE, lambda: None, "SILENT"),
        (ACCEPTED, ending(2, "--size 0 is wrong."), "REFUSED"),
        (SENTENCE, ending(2, "Something is wrong."), "UNNAMED"),
        (SENTENCE, raising(RuntimeError("--size")), "TRACEBACK"),
        (ACCEPTED, raising(RuntimeError("--size")), "TRACEBACK"),
        (SENTENCE, ending(1, "Traceback (most recent call last): --size"), "TRACEBACK"),
        (SENTENCE, lambda: 1 / 0, "TRACEBACK"),
        (SENTENCE, lambda: time.sleep(60), "HANG"),
    ],
)
def test_what_comes_out_is_told_apart(tmp_path, expected, run, outcome):
    case = Case("family", "--size", "0", expected, run, ("--size",), ("0",))
    assert judge(case, tmp_path / "canary", limit=0.2)[0] == outcome


def test_code_that_ran_is_noticed(tmp_path):
    canary = tmp_path / "canary"
    case = Case("files", "a.pkl", "runs", SENTENCE, canary.touch, ("a.pkl",))
    assert judge(case, canary)[0] == "EXECUTED"


@pytest.mark.parametrize("write", [Path.touch, Path.mkdir, lambda path: path.write_text("")])
def test_what_is_written_elsewhere_is_noticed(tmp_path, write):
    folder = tmp_path / "audit"
    folder.mkdir()
    for path, outcome in ((folder / "a", ACCEPTED), (tmp_path / "b", "OUTSIDE")):
        case = Case("files", "a", "", ACCEPTED, partial(write, path), ())
        assert judge(case, folder / "canary")[0] == outcome


def test_the_page_counts_outcomes_and_lists_what_is_bad():
    def case(family, subject, value):
        return Case(family, subject, value, SENTENCE, print, ())

    results = [
        (case("keys", "A.B", "-1"), SENTENCE, ""),
        (case("keys", "A.B", "x|y"), "NO VALUE", ""),
        (case("keys", "A.B", "3"), ACCEPTED, ""),
        (case("files", "a.pth", "cut\0"), "HANG", ""),
    ]
    content = {"seed": 5, "commit": "abc", "cpu_seconds": 2, "of": 9, **as_json(results)}
    lines = reliability.matrix(content).splitlines()
    assert lines[0].startswith("4 of 9 cases, 2 bad (seed 5, commit abc")
    assert "| family | cases | sentence | accepted | HANG | NO VALUE |" in lines
    assert "| keys | 3 | 1 | 1 | 0 | 1 |" in lines and "| all | 4 | 1 | 1 | 1 | 1 |" in lines
    assert "| NO VALUE | keys | `A.B` | `x\\|y` |" in lines
    assert "| HANG | files | `a.pth` | `cut\\x00` |" in lines


def test_the_page_of_a_long_training():
    notes = {"memory_mib": [10, 12.5, 12, 12.25], "files": [5, 6, 6, 6], "iterations": 99,
             "minutes": 2, "workers": 1, "commit": "abc", "machine": "m",
             "memory_mib_per_hour": [0.5, 0.25], "files_per_hour": [0.0, 0.0]}  # fmt: skip
    lines = reliability.soak(notes).splitlines()
    assert "| memory, MiB | 10 | 12.5 | 12.25 | 12.5 | 0.5 ± 0.25 |" in lines
    assert "| open files | 5 | 6 | 6 | 6 | 0 ± 0 |" in lines
