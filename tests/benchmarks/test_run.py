import json
import time

import pytest
import torch

from benchmarks import cases
from benchmarks.case import Case, Target, Variant
from benchmarks.computation import Computation, errors, relative_error, variants
from benchmarks.report import as_json, table
from benchmarks.run import (
    NOISE,
    Check,
    Cost,
    Result,
    checks,
    run,
    run_deterministic,
)

MIB = 2**20


@pytest.fixture(autouse=True)
def quick_peaks(monkeypatch):
    """The profiler takes a second each time; here a function keeps what it takes."""

    def size(function, device):
        kept = function()
        return 0 if kept is None else kept.nbytes

    monkeypatch.setattr("benchmarks.run.peak_bytes", size)


def costing(seconds: float, mib: int):
    """A function of known cost."""

    def function():
        scratch = torch.empty(mib * MIB, dtype=torch.uint8)
        end = time.process_time() + seconds / 4
        while time.process_time() < end:
            pass
        return scratch

    return function


def variant(seconds: float, mib: int, **kwargs) -> Variant:
    return Variant(costing(seconds, mib), costing(2 * seconds, 2 * mib), **kwargs)


def fake(target: Target | None, **found: float) -> Case:
    """Ours: 2.5 ms, 2 MiB; the fastest peer 10 ms, the leanest 8 MiB; one that is no peer: less."""
    return Case(
        {
            "ours": variant(0.01, 2),
            "fast": variant(0.04, 40),
            "lean": variant(0.08, 8),
            "for information": variant(0.001, 1, is_peer=False),
        },
        target,
        (lambda: found) if found else None,
    )


def verdicts(result):
    return {c.quantity: c.met for c in result.checks}


def test_ours_is_compared_with_the_best_peer_of_each_quantity():
    result = run(fake(Target(forward=3, backward=3, forward_memory=1 / 4)), rounds=3)
    checks = {c.quantity: c for c in result.checks}
    assert 3 < checks["forward"].reached < 5 and checks["forward"].peer == "fast"
    assert 3 < checks["backward"].reached < 5 and checks["backward"].met
    memory = checks["forward_memory"]
    assert memory.peer == "lean" and memory.met and memory.reached == pytest.approx(1 / 4)
    assert len(result.costs["forward"]["ours"].seconds) == 3
    assert result.costs["backward"]["fast"].peak_mib == pytest.approx(80, abs=0.01)


def test_ratios_are_of_rounds():
    # of a machine that slows down twofold after the first round
    assert Cost([4.0, 8.0, 8.0]).times(Cost([1.0, 2.0, 2.0])) == 4
    # one round in which something else ran does not count
    assert Cost([4.0, 8.0, 8.0, 8.0, 80.0]).times(Cost([1.0, 2.0, 2.0, 2.0, 2.0])) == 4
    assert Cost([9.0]).times(Cost([3.0, 1.0])) == 3  # the slow one has sat out the second
    first, second = [2.0, 1.0] * 3, [1.0, 2.0] * 3  # who goes first takes twice as long
    assert Cost(first[:5]).times(Cost(second[:5])) == 1


def test_targets_that_are_missed():
    target = Target(
        forward=6, backward_memory=1 / 5, forward_mib=1.9, backward_mib=4.1, errors={"a": 1, "b": 1}
    )
    result = run(fake(target, a=2.0), rounds=1)
    assert verdicts(result) == {
        "forward": False,
        "backward_memory": False,
        "forward_mib": False,
        "backward_mib": True,
        "error of a": False,
        "error of b": False,  # it is not measured at all
    }
    assert "wanted at least 6" in str(result.checks[0]) and "(to fast)" in str(result.checks[0])


def test_a_number_that_is_none_meets_nothing():
    for at_least in (True, False):
        assert not Check("error", float("nan"), 1.0, at_least).met


@pytest.mark.parametrize(("seconds", "is_met"), [(1 - NOISE / 2, True), (1 - 2 * NOISE, False)])
def test_only_times_may_miss_by_their_noise(seconds, is_met):
    cost, peer = Cost([1.0], peak_mib=1.0), Cost([seconds], peak_mib=1 - NOISE / 2)
    case = Case({}, Target(forward=1.0, forward_memory=1.0))
    costs = {"forward": {"ours": cost, "peer": peer}, "backward": {}}
    found = checks(case, Result(costs, {}, frozenset({"peer"})))
    assert [c.met for c in found] == [is_met, False]
    assert ["less 3%" in str(c) for c in found] == [True, False]


def test_without_time_only_memory_and_errors_are_checked():
    target = Target(forward=1e9, forward_memory=1 / 4, errors={"a": 1})
    for result in (run(fake(target, a=0.5), rounds=0), run_deterministic(fake(target, a=0.5))):
        assert verdicts(result) == {"forward_memory": True, "error of a": True}


def test_the_deterministic_part_runs_no_more_than_it_needs():
    def never():
        raise AssertionError

    ours = Variant(costing(0, 2), never)
    case = Case({"ours": ours, "peer": Variant(never, never)}, Target(forward_mib=3, backward=2))
    assert verdicts(run_deterministic(case)) == {"forward_mib": True}


def test_without_peers_there_is_no_ratio():
    case = Case({"ours": variant(0, 2)}, Target(forward=2, forward_memory=1, forward_mib=3))
    assert verdicts(run(case, rounds=1)) == {"forward_mib": True}


def test_forward_is_without_gradients():
    leaf = torch.ones(3, requires_grad=True)
    seen = []
    forward = lambda: seen.append((leaf * 2).requires_grad)  # noqa: E731
    backward = lambda: seen.append((leaf * 2).requires_grad)  # noqa: E731
    run(Case({"ours": Variant(forward, backward)}), rounds=1)
    assert set(seen[:3]) == {False} and set(seen[3:]) == {True}


def test_json_and_table_have_every_number():
    result = run(fake(Target(forward=1), a=1e-7), rounds=3)
    found = json.loads(json.dumps(as_json({"fake": result}, "cpu")))
    assert found["threads"] == 1 and found["time"] == "process CPU time" and found["device"]
    assert found["versions"]["torch"] == torch.__version__
    case = found["cases"]["fake"]
    seconds = case["costs"]["forward"]["ours"]["seconds"]
    assert seconds["lowest"] <= seconds["median"] <= seconds["highest"] and seconds["rounds"] == 3
    assert case["costs"]["backward"]["lean"]["peak_mib"] == pytest.approx(16, abs=0.01)
    assert case["errors"] == {"a": 1e-7}
    assert case["targets"][0]["quantity"] == "forward" and case["targets"][0]["met"]
    rows = table("fake", result).splitlines()
    assert len({row.count("|") for row in rows[:6]}) == 1
    assert rows[5].startswith("| (for information) |") and "a 1.0e-07" in rows[-1]


def test_errors_against_float64():
    def power(dtype, exponent):
        leaf = torch.linspace(1, 2, 10, dtype=dtype, requires_grad=True)
        constant = torch.ones(10, dtype=dtype, requires_grad=True)  # its gradient vanishes
        return Computation(lambda: leaf**exponent + 0 * constant, [leaf, constant])

    right = {d: power(d, 2) for d in (torch.float32, torch.float64)}
    found = errors(right, power(torch.float64, 2))
    assert 0 < found["float32 output"] < 1e-6 and found["float64 gradients"] == 0
    wrong = errors({torch.float32: power(torch.float32, 2.01)}, power(torch.float64, 2))
    assert min(wrong.values()) > 1e-3
    assert relative_error(torch.tensor([3.0, 4.5]), torch.tensor([3.0, 4.0])) == pytest.approx(0.1)


def test_variants_share_one_upstream_gradient():
    leaf = torch.linspace(1, 2, 10, requires_grad=True)
    forms = {n: Computation(lambda: leaf**2, [leaf]) for n in ("ours", "peer")}
    made = variants(forms)
    assert torch.equal(made["ours"].backward()[0], made["peer"].backward()[0])


def test_two_cases_of_one_name_are_an_error(monkeypatch):
    monkeypatch.setattr(cases, "MODULES", ("glore", "glore"))
    with pytest.raises(ValueError, match="Two cases are called 'GloRe unit, res2'"):
        cases.find_cases()


def test_files_that_need_detectron2_are_left_out(monkeypatch):
    def missing(name):
        raise ModuleNotFoundError("No module named 'detectron2'", name="detectron2.layers")

    monkeypatch.setattr(cases.importlib, "import_module", missing)
    assert cases.find_cases() == ({}, list(cases.MODULES))
