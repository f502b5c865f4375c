import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from benchmarks import command
from benchmarks.case import Case, Target, Variant

PATH = Path(__file__).resolve().parents[2] / "tools" / "benchmark.py"


@pytest.fixture
def tool(monkeypatch):
    spec = importlib.util.spec_from_file_location("tools_benchmark", PATH)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    cases = {
        "Small thing, N=1": lambda device: fake(Target(forward_mib=2)),
        "Small thing, N=2": lambda device: fake(Target(forward_mib=0.5, errors={"a": 1})),
        "Other": lambda device: fake(None),
    }
    monkeypatch.setattr("benchmarks.run.peak_bytes", lambda f, device: f().nbytes)
    monkeypatch.setattr(command, "find_cases", lambda: (cases, ["many_classes"]))
    monkeypatch.setattr(command, "SECONDS", 0.0)
    monkeypatch.setattr(command, "alone", command.measure)
    return module


def fake(target):
    def forward():
        return torch.zeros(2**18)

    return Case({"ours": Variant(forward, forward), "peer": Variant(forward)}, target)


def test_names_select_cases(tool, capsys):
    assert command.measure_and_print(tool.parse_args(["small", "--list"])) == 0
    assert capsys.readouterr().out.splitlines() == [
        "Left out, since Detectron2 is not installed: many_classes.",
        "Small thing, N=1",
        "Small thing, N=2",
    ]


def test_table_and_json(tool, capsys, tmp_path):
    file = tmp_path / "out.json"
    args = tool.parse_args(["N=1", "--rounds", "2", "--json", str(file)])
    assert command.measure_and_print(args) == 0
    assert "| ours | " in capsys.readouterr().out
    cases = json.loads(file.read_text())["cases"]
    assert list(cases) == ["Small thing, N=1"]
    assert cases["Small thing, N=1"]["costs"]["forward"]["peer"]["seconds"]["rounds"] == 2
    assert "peer" not in cases["Small thing, N=1"]["costs"]["backward"]


def test_missed_targets_fail(tool, capsys):
    assert command.measure_and_print(tool.parse_args(["N=1", "--targets", "--no-time"])) == 0
    assert "Targets: 1 of 1 are met." in capsys.readouterr().out
    assert command.measure_and_print(tool.parse_args(["--targets", "--no-time"])) == 1
    out = capsys.readouterr().out
    assert "Targets: 1 of 3 are met." in out
    assert "Missed by Small thing, N=2: forward_mib 1, wanted at most 0.5" in out
    assert "Missed by Small thing, N=2: error of a nan, wanted at most 1" in out
    assert command.measure_and_print(tool.parse_args(["--no-time"])) == 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--rounds", "0"], "--rounds: must be at least 1, got 0"),
        (["--threads", "0"], "--threads: must be at least 1, got 0"),
        (["--json", "/no/such/folder/x.json"], "there is no folder /no/such/folder"),
        (["--device", "tpu"], "invalid choice: 'tpu'"),
    ],
)
def test_wrong_arguments(tool, capsys, arguments, message):
    with pytest.raises(SystemExit) as stop:
        tool.parse_args(arguments)
    assert stop.value.code == 2 and message in capsys.readouterr().err


def test_cuda_must_be_there(tool, capsys, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(SystemExit) as stop:
        tool.main(["--device", "cuda"])
    assert stop.value.code == 2
    assert "torch finds no CUDA device here" in capsys.readouterr().err


def test_a_name_that_fits_nothing(tool):
    with pytest.raises(ValueError, match=r"No case contains 'nothing'; there are: Small thing"):
        command.measure_and_print(tool.parse_args(["nothing"]))


def test_runs_as_a_script_from_anywhere(tmp_path):
    assert os.access(PATH, os.X_OK)
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}

    command = [sys.executable, "-W", "ignore", str(PATH), "GloRe unit, res4", "--no-time"]
    done = subprocess.run(
        [*command, "--targets"], cwd=tmp_path, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert "Targets: 6 of 6 are met." in done.stdout.splitlines()
