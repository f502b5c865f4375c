"""What is the same in every run of the benchmark holds: errors and peak memory of every case."""

import pytest

from benchmarks.cases import find_cases
from benchmarks.run import run_deterministic

CASES, LEFT_OUT = find_cases()


@pytest.mark.parametrize("name", CASES)
def test_errors_and_memory(name):
    case = CASES[name]("cpu")
    if case.target is None:
        pytest.skip("without a target")
    result = run_deterministic(case)
    assert result.checks
    assert not [str(check) for check in result.checks if not check.met]


@pytest.mark.parametrize("name", LEFT_OUT)
def test_what_needs_detectron2(name):
    pytest.importorskip("detectron2")
