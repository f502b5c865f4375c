"""How programs end when something does not fit, and what their `--help` needs."""

from __future__ import annotations

import argparse
import json
import logging
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from relation_heads import DETECTRON2_HELP, command_line
from relation_heads.command_line import run_or_explain

ROOT = Path(__file__).resolve().parents[1]
PROGRAMS = sorted([*(ROOT / "tools").glob("*.py"), *(ROOT / "datasets").glob("*.py")])


def raising(error, file=ROOT / "tools" / "thing.py"):
    """A function of a file of ours that raises `error`."""
    names = {"error": error}
    exec(compile("def run(args):\n    raise error\n", str(file), "exec"), names)
    return names["run"]


@pytest.mark.parametrize(
    ("error", "sentence"),
    [
        (ValueError("The width must be even."), "The width must be even."),
        (KeyError("There is no key A."), "There is no key A."),
        (FileNotFoundError("There is no config a."), "There is no config a."),
        (FileNotFoundError(2, "No such file", "a.json"), "a.json: No such file."),
        (ImportError("It needs b."), "It needs b."),
        (FloatingPointError("Training diverged at 3."), "Training diverged at 3."),
    ],
)
def test_a_known_fault_is_a_sentence(capsys, error, sentence):
    with pytest.raises(SystemExit) as stop:
        run_or_explain(raising(error), None)
    assert stop.value.code == 2
    assert capsys.readouterr().err == f"thing.py: {sentence}\n"


@pytest.mark.parametrize(
    ("run", "error"),
    [
        (raising(ValueError("of a package"), "/usr/lib/package.py"), ValueError),
        (raising(ValueError("of a package"), ROOT / ".venv" / "package.py"), ValueError),
        (raising(RuntimeError("A sentence.")), RuntimeError),
        (raising(ValueError()), ValueError),
        (raising(ModuleNotFoundError("ours", name="relation_heads.none")), ModuleNotFoundError),
    ],
)
def test_what_may_be_a_bug_says_where_it_was(run, error, capsys):
    with pytest.raises(SystemExit) as stop:
        run_or_explain(run, None)
    assert stop.value.code == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert error.__name__ in line and "--debug" in line
    assert re.search(r"\((/.*\.py), line \d+\)", line)
    with pytest.raises(error):
        run_or_explain(run, argparse.Namespace(debug=True))


def test_a_look_up_that_fails_in_our_code_may_be_a_bug(capsys):
    names = {}
    exec(compile("def run(args): return {}['a']", str(ROOT / "tools" / "x.py"), "exec"), names)
    with pytest.raises(SystemExit) as stop:
        run_or_explain(names["run"], None)
    assert stop.value.code == 1
    assert f"KeyError: 'a' ({ROOT / 'tools' / 'x.py'}, line 1)" in capsys.readouterr().err


def test_a_long_message_is_cut(capsys):
    with pytest.raises(SystemExit):
        run_or_explain(raising(RuntimeError("many\nwords " * 500)), None)
    (line,) = capsys.readouterr().err.splitlines()
    assert "many words many words" in line and len(line) < 600


def test_ctrl_c_ends_without_a_traceback(capsys):
    with pytest.raises(SystemExit) as stop:
        run_or_explain(raising(KeyboardInterrupt()), None)
    assert stop.value.code == 130
    assert capsys.readouterr().err == "thing.py: stopped.\n"


@pytest.mark.parametrize("error", [ValueError("A sentence."), RuntimeError("no sentence")])
def test_the_traceback_goes_to_the_log_file_alone(tmp_path, error, capsys):
    logger, file = logging.getLogger("relation_heads"), tmp_path / "log.txt"
    handlers = [logging.FileHandler(file), logging.StreamHandler(sys.stdout)]
    for handler in handlers:
        logger.addHandler(handler)
    try:
        with pytest.raises(SystemExit):
            run_or_explain(raising(error), None)
    finally:
        for handler in handlers:
            logger.removeHandler(handler)
    assert "Traceback" in file.read_text() and str(error) in file.read_text()
    said = capsys.readouterr()
    assert said.out == "" and "Traceback" not in said.err


def test_too_little_memory_of_a_gpu_says_what_needs_less(capsys):
    class OutOfMemoryError(RuntimeError):
        pass

    with pytest.raises(SystemExit) as stop:
        run_or_explain(raising(OutOfMemoryError("CUDA out of memory")), None)
    assert stop.value.code == 2
    assert "SOLVER.IMS_PER_BATCH" in capsys.readouterr().err


def test_the_result_comes_back():
    assert run_or_explain(lambda args: args + 1, 1) == 2


def test_a_package_that_is_missing(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(command_line, "_ROOT", tmp_path)

    def said(package):
        with pytest.raises(SystemExit) as stop:
            error = ModuleNotFoundError(f"No module named {package!r}", name=f"{package}.part")
            run_or_explain(raising(error), None)
        assert stop.value.code == 2
        return capsys.readouterr().err

    assert said("detectron2") == f"thing.py: {DETECTRON2_HELP}\n"
    assert "cv2 is not installed in " in (text := said("cv2")) and "`make setup`" in text
    python = tmp_path / ".venv" / "bin" / "python"
    python.parent.mkdir(parents=True)
    python.touch()
    for package in ("detectron2", "cv2"):
        assert f"{package} is not installed in {sys.executable}" in (text := said(package))
        assert f"run the program with {python}, or `source {python.parent}/activate`" in text
    monkeypatch.setattr(sys, "prefix", str(tmp_path / ".venv"))  # it is not in there either
    assert said("detectron2") == f"thing.py: {DETECTRON2_HELP}\n"


def run_program(path, *arguments, cwd, **variables):
    """Runs it without site-packages: there is no torch, so that it takes a tenth of a second."""
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
    return subprocess.run(
        [sys.executable, "-S", str(path), *arguments],
        cwd=cwd,
        env={**environment, **variables},
        capture_output=True,
        text=True,
    )


@pytest.mark.parametrize(
    "path",
    PROGRAMS,
    ids=lambda path: path.name,
)
def test_help_needs_the_standard_library_alone(path, tmp_path):
    done = run_program(path, "--help", cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith(f"usage: {path.name}") and "--debug" in done.stdout


def test_a_python_without_torch_is_told_what_to_do(tmp_path):
    done = run_program(ROOT / "tools" / "train_net.py", "--eval-only", cwd=tmp_path)
    assert done.returncode == 2
    (line,) = done.stderr.splitlines()
    assert re.match(
        r"train_net.py: (numpy|torch|detectron2) is not installed in |.*needs Detect", line
    )


def test_a_program_runs_its_own_checkout_from_any_folder(tmp_path):
    other = tmp_path / "other" / "relation_heads"
    other.mkdir(parents=True)
    (other / "__init__.py").write_text("raise RuntimeError('the wrong one')")
    (tmp_path / "a.json").write_text('{"images": [{"id": 7}, {"id": 8}], "annotations": []}')
    arguments = (ROOT / "datasets" / "take_images.py", "a.json", "b.json", "--ids")
    done = run_program(*arguments, "7", cwd=tmp_path, PYTHONPATH=str(other.parent))
    assert (done.returncode, done.stderr) == (0, "")
    assert json.loads((tmp_path / "b.json").read_text())["images"] == [{"id": 7}]
    done = run_program(*arguments, "9", cwd=tmp_path)
    sentence = "take_images.py: a.json: image ids [9] are not among the 2 images.\n"
    assert (done.returncode, done.stderr) == (2, sentence)
