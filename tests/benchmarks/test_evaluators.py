"""Evaluators side by side: the files, what differs, the table."""

import argparse
import importlib.util
import json

import numpy as np
import pytest

pytest.importorskip("detectron2")

from benchmarks import evaluators
from relation_heads.analysis.evaluators import OURS, table

ARGS = argparse.Namespace(images=6, objects=5, detections=20, rounds=1, seed=3)


@pytest.fixture
def files(tmp_path):
    return evaluators.random_files(tmp_path, 4, ARGS)


def test_the_files_are_those_of_the_seed(files, tmp_path):
    truth, results = (json.loads(open(f).read()) for f in files)
    assert len(truth["annotations"]) == 6 * 5 and len(results) == 6 * 20
    other = tmp_path / "other"
    other.mkdir()
    again = evaluators.random_files(other, 4, ARGS)
    assert [json.loads(open(f).read()) for f in again] == [truth, results]


def test_all_that_are_installed_agree(files):
    names, missing = evaluators.installed()
    assert names[:3] == [OURS, "pycocotools", "Detectron2 COCOeval_opt"]
    assert {*names, *missing} == set(evaluators.EVALUATORS)
    expected = evaluators.quietly(evaluators.REFERENCE, files)
    assert expected[0].max() > 0.1  # something is found
    for name in names:
        found = evaluators.differences(evaluators.quietly(name, files), expected)
        assert found["largest"] < 1e-12, name
    assert evaluators.differences(evaluators.quietly(OURS, files), expected)["different"] == 0


def test_what_is_not_installed_is_left_out(monkeypatch):
    real = importlib.util.find_spec
    monkeypatch.setattr(evaluators, "find_spec", lambda n: None if n == "hotcoco" else real(n))
    names, missing = evaluators.installed()
    assert "hotcoco" in missing and "hotcoco" not in names


def test_differences_by_hand():
    a = (np.array([[0.5, 0.25, -1.0]]), np.array([1.0]))
    b = (np.array([[0.5, 0.5, -1.0]]), np.array([0.5]))
    assert evaluators.differences(a, b) == {
        "numbers": 4, "different": 2, "largest": 0.5, "ap": 0.125
    }  # fmt: skip


def test_table():
    row = {"seconds": 2.0, "rounds": 3, "peak_mib": 5.4, "numbers": 1000, "different": 0}
    other = {**row, "seconds": 5.0, "different": 3, "largest": 2.2e-16}
    case = {"classes": 3000, "images": 7, "evaluators": {OURS: {**row, "largest": 0.0}, "b": other}}
    assert table({"cases": [case]}).splitlines()[2:] == [
        "| ours (sparse) | 3,000 | 7 | 1.00 | 5 | 0 of 1,000 | 0 |",
        "| b | 3,000 | 7 | 2.50 | 5 | 3 of 1,000 | 2e-16 |",
    ]
