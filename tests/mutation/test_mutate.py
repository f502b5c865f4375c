"""The mutation tool, on a package of two files."""

from __future__ import annotations

import importlib.util
import json
import sys
from pathlib import Path

import pytest

PATH = Path(__file__).with_name("mutate.py")
SOURCE = '''"""Two numbers: 1 + 1."""


def larger(a: "1 + 1", b: int = 3) -> int:
    """a or b."""
    if a < 0:
        raise ValueError(f"{a + 1} is less than {0}")
    return max(a, b) - 0.5


def unused(x: int) -> int:
    return x * 2
'''
TESTS = """from toy import larger


def test_larger():
    assert larger(1) == 2.5
    assert larger(7, 2) == 6.5
"""


@pytest.fixture(scope="module")
def tool():
    spec = importlib.util.spec_from_file_location("mutate", PATH)
    module = importlib.util.module_from_spec(spec)
    sys.modules["mutate"] = module  # its dataclasses look there
    spec.loader.exec_module(module)
    yield module
    del sys.modules["mutate"]


@pytest.fixture
def tree(tmp_path):
    root = tmp_path / "tree"
    for name, text in {
        "toy/__init__.py": "from .numbers import larger as larger\n",
        "toy/numbers.py": SOURCE,
        "toy/alone.py": "X = 1\n",
        "tests/test_toy.py": TESTS,
        "tests/test_other.py": "def test_nothing():\n    assert False\n",
    }.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    return root


def test_the_changes_of_a_file(tool):
    mutants = list(tool.changes(SOURCE.encode(), "a.py"))
    changed = sorted((m.line, m.old, m.new) for m in mutants)
    assert changed == [
        (4, "3", "(3 + 1)"),
        (6, "0", "(0 + 1)"),
        (6, "<", "<="),
        (6, "a < 0", "(not (a < 0))"),
        (8, "-", "+"),
        (8, "0.5", "(0.5 * 2)"),
        (8, "max", "min"),
        (12, "*", "/"),
        (12, "2", "(2 + 1)"),
    ]
    for mutant in mutants:  # each is one line, and still Python
        new = mutant.apply(SOURCE.encode()).decode()
        compile(new, "a.py", "exec")
        lines = zip(SOURCE.splitlines(), new.splitlines(), strict=True)
        assert [n for n, (a, b) in enumerate(lines, 1) if a != b] == [mutant.line]


@pytest.mark.parametrize(
    ("code", "new"),
    [
        ("a and b", "a or b"), ("a is not b", "a is b"), ("not a", "a"), ("-a", "a"),
        ("(a) @ b", "(a) + b"), ("a.sum(0)", "a.mean(0)"), ("f(True)", "f(False)"),
        ("σ + 1", "σ - 1"), ("a ** b", "a * b"), ("a // b", "a / b"), ("a not in b", "a in b"),
    ],
)  # fmt: skip
def test_one_change_of_each_kind(tool, code, new):
    mutants = tool.changes(code.encode(), "a.py")
    assert new in [mutant.apply(code.encode()).decode() for mutant in mutants]


def test_the_sample_is_that_of_the_seed(tool, tree):
    first, again, other = (tool.sample(tree, ["toy"], 5, seed) for seed in (0, 0, 1))
    assert first == again != other and len(first) == 5
    assert len(tool.sample(tree, ["toy"], 200, 0)) == 10


def test_tests_of_a_file(tool, tree):
    coverage = tool.Coverage(tree, ["toy"], "tests")
    assert coverage.covering_tests("toy/numbers.py") == ["tests/test_toy.py"]
    assert coverage.covering_tests("toy/alone.py") == []


def run(tool, tree, capsys, *more):
    file = tree.parent / "out.json"
    tool.main(["--root", str(tree), "--sources", "toy", "--json", str(file), *more])
    return json.loads(file.read_text()), capsys.readouterr().out.splitlines()[-1]


def test_what_survives_and_that_a_run_goes_on(tool, tree, capsys, monkeypatch):
    real, ran = tool.run_tests, []

    def run_tests(root, tests, limit):
        """The toy's own test, in this process; once each without a change, then with it."""
        ran.append(tests)
        names: dict = {}
        try:
            exec(compile((root / "toy/numbers.py").read_text(), "toy", "exec"), names)
            assert names["larger"](1) == 2.5 and names["larger"](7, 2) == 6.5
        except (AssertionError, ValueError):
            return tool.KILLED, 0.0
        return tool.SURVIVED, 0.0

    monkeypatch.setattr(tool, "run_tests", run_tests)
    results, said = run(tool, tree, capsys, "--run", "4")
    assert len(results["mutants"]) == 4 and said.startswith("4 of 200 mutants were run: ")
    results["mutants"][0]["note"] = "kept"
    (tree.parent / "out.json").write_text(json.dumps(results))
    results, _ = run(tool, tree, capsys)
    assert results["mutants"][0]["note"] == "kept"
    survivors = sorted(
        (m["line"], m["old"]) for m in results["mutants"] if m["status"] == "survived"
    )
    # No test is at 0, none is of `unused` or of alone.py.
    assert survivors == [(1, "1"), (6, "0"), (6, "<"), (12, "*"), (12, "2")]
    assert (tree / "toy/numbers.py").read_text() == SOURCE
    assert len(results["mutants"]) == 10
    before = len(ran)
    run(tool, tree, capsys)
    assert len(ran) == before  # nothing is left
    run(tool, tree, capsys, "--again", "survived")
    assert len(ran) == before + 1 + 4
    monkeypatch.setattr(tool, "run_tests", real)


def test_pytest_itself_runs_on_a_copy(tool, tree):
    tests = ["tests/test_toy.py"]
    assert tool.run_tests(tree, tests, 100)[0] == tool.SURVIVED
    (tree / "toy/numbers.py").write_text(SOURCE.replace("max", "min"))
    assert tool.run_tests(tree, tests, 100)[0] == tool.KILLED
    assert tool.run_tests(tree, tests, 0.001)[0] == tool.TOO_LONG


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--seed", "1"], "has results of seed 0, not 1"),
        (["--count", "3"], "has results of count 200, not 3"),
    ],
)
def test_results_of_another_sample(tool, tree, capsys, more, message):
    first = ["--root", str(tree), "--sources", "toy", "--json", str(tree.parent / "out.json")]
    results = tool.read_results(tool.parse_args(first))
    (tree.parent / "out.json").write_text(json.dumps(results))
    with pytest.raises(SystemExit) as stop:
        tool.main([*first, *more])
    assert stop.value.code == 2 and message in capsys.readouterr().err


def test_a_test_that_fails_without_a_change(tool, tree, capsys):
    (tree / "tests/test_toy.py").write_text(TESTS.replace("2.5", "2"))
    with pytest.raises(SystemExit):
        run(tool, tree, capsys)
    assert "Without any change one of these tests fails" in capsys.readouterr().err
