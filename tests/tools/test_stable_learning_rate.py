"""The command: trainings in processes, one JSON each, resumed; then the table."""

from __future__ import annotations

import json

import pytest

pytest.importorskip("detectron2")

from relation_heads import get_cfg
from relation_heads.analysis import provenance, stable_lr_files
from tests.helpers import tiny_cfg, tiny_coco
from tests.tools.test_train_net import load_tool


@pytest.fixture
def tiny(tmp_path, monkeypatch):
    """Arguments of tiny trainings, and the folder of the results."""
    coco = tiny_coco(tmp_path)
    sets = f"tiny_stable={coco.json_file},{coco.image_root}"
    monkeypatch.setenv("RELATION_HEADS_DATASETS", sets)  # of the processes of the trainings
    config = tmp_path / "tiny.yaml"
    config.write_text(tiny_cfg(["tiny_stable"], [], 3, tmp_path / "out", base=get_cfg()).dump())
    output = tmp_path / "stable"
    return ["--config-file", str(config), "--iterations", "3", "--output", str(output)], output


@pytest.fixture
def tool():
    return load_tool("stable_learning_rate")


class FakeProcess:
    """In place of `run_process`: writes what a training measures, or fails."""

    def __init__(self):
        self.commands = []
        self.losses, self.error, self.code = [3.0, 2.0, 1.0], "", 0

    def __call__(self, command, log):
        self.commands.append(command)
        if self.code:
            log.write_text("a first line\nKeyError: 'a last line'\n")
        else:
            folder = command[command.index("OUTPUT_DIR") + 1]
            measured = {"losses": self.losses, "error": self.error, "iterations": 3, "seconds": 0.5}
            stable_lr_files.Path(folder, "measured.json").write_text(json.dumps(measured))
        return self.code

    @property
    def rates(self):
        return [c[c.index("SOLVER.BASE_LR") + 1] for c in self.commands]


@pytest.fixture
def process(monkeypatch):
    process = FakeProcess()
    monkeypatch.setattr(provenance, "commit", lambda: "abc")
    monkeypatch.setattr(stable_lr_files, "run_process", process)
    return process


def test_a_real_training_and_one_that_diverges(tiny, tool, capsys):
    arguments, output = tiny
    hot = ["--head", "hot", "MODEL.RPN.LOSS_WEIGHT", "1e30"]
    tool.main([*arguments, "--heads", "relation", *hot, "--start", "0.001", "--at-most", "0",
               "--parallel", "2"])  # fmt: skip
    printed = capsys.readouterr().out
    assert "| relation | ≥ 0.001 | " in printed and "| hot | < 0.001 | " in printed
    stable = json.loads((output / "relation" / "lr_0.001_seed_0.json").read_text())
    assert not stable["diverged"] and stable["iterations"] == 3 and 0 < stable["loss"] < 20
    assert stable["seconds"] > 0 and stable["made_by"].keys() == {"commit", "machine", "torch"}
    assert "MODEL.RELATION.KEY_DIM 16" in stable["setting"]["overrides"]
    diverged = json.loads((output / "hot" / "lr_0.001_seed_0.json").read_text())
    assert diverged["diverged"] and diverged["iterations"] < 3
    assert diverged["reason"].startswith(
        f"Training diverged at iteration {diverged['iterations']} with learning rate 0.0"
    )
    names = {p.suffix for p in output.rglob("*") if p.is_file()}
    assert names == {".json", ".log"}  # no checkpoint
    tool.main(["--table", "--output", str(output), "--start", "0.001"])
    assert printed.endswith(capsys.readouterr().out)


def test_a_training_has_what_it_was_asked_for(tiny, tool, process):
    arguments, _ = tiny
    tool.main([*arguments, "--heads", "sgrn", "--seeds", "4", "--at-most", "0", "SEED", "9"])
    (command,) = process.commands
    assert command[1:5] == ["-W", "ignore", "-m", "relation_heads.analysis.stable_lr_run"]
    assert command[5:7] == arguments[:2]
    cfg = get_cfg()
    cfg.merge_from_list(command[7:])
    assert (cfg.SOLVER.BASE_LR, cfg.SOLVER.MAX_ITER, cfg.SEED) == (0.02, 3, 4)
    assert cfg.MODEL.ROI_HEADS.NAME == "SGRNROIHeads" and cfg.DATASETS.TEST == ()


def test_what_is_there_is_not_trained_again(tiny, tool, process, capsys):
    arguments, output = tiny
    tool.main([*arguments, "--heads", "stock", "--seeds", "0", "1", "--at-most", "0"])
    assert process.rates == ["0.02", "0.02"]
    lines = capsys.readouterr().out
    tool.main([*arguments, "--heads", "stock", "--seeds", "0", "1", "--at-most", "0"])
    assert len(process.commands) == 2 and capsys.readouterr().out == lines
    (output / "stock" / "lr_0.02_seed_1.json").unlink()
    process.error = "Training diverged at iteration 3. More."
    tool.main([*arguments, "--heads", "stock", "--seeds", "0", "1"])
    assert process.rates[2:] == ["0.02", "0.04", "0.01"]
    assert "| stock | 0.02 | < 0.01 |" in capsys.readouterr().out


def test_results_of_another_setting_are_refused(tiny, tool, process, capsys):
    arguments, output = tiny
    tool.main([*arguments, "--heads", "stock", "--at-most", "0"])
    for change in (["--iterations", "4"], ["--at-most", "0", "MODEL.FPN.NORM", "GN"]):
        with pytest.raises(SystemExit) as stop:
            tool.main([*arguments, "--heads", "stock", *change])
        assert stop.value.code == 2
        assert f"{output}/stock/lr_0.02_seed_0.json was trained with" in capsys.readouterr().err
    assert len(process.commands) == 1


def test_an_error_is_shown_and_is_no_result(tiny, tool, process, capsys):
    arguments, output = tiny
    process.code = 1
    with pytest.raises(SystemExit) as stop:
        tool.main([*arguments, "--heads", "stock"])
    assert stop.value.code == 2 and "has no results" in capsys.readouterr().err
    process.code = 0
    tool.main([*arguments, "--heads", "stock", "--at-most", "0"])
    process.code = 1
    with pytest.raises(SystemExit) as stop:
        tool.main([*arguments, "--heads", "stock", "relation"])
    assert stop.value.code == 1
    said = capsys.readouterr().out
    assert "relation, seed 0, learning rate 0.02: FAILED. Exit code 1; the end of" in said
    assert "KeyError: 'a last line'" in said
    assert [p.name for p in output.glob("*/*.json")] == ["lr_0.02_seed_0.json"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (["--heads", "relatoin"], "There is no head 'relatoin'"),
        (["--head", "mine", "MODEL.RELATION.NUM_HEAD", "4"], "NUM_HEAD"),
        (
            ["--heads", "relation", "--at-most", "0", "MODEL.RELATION.NUM_HEADS", "7"],
            "num_heads 7, got 64",
        ),
        (["--heads", "stock", "--at-most", "0", "MODEL.RELATION.NUM_HEADS", "4"], "does not read"),
    ],
)
def test_a_wrong_head_ends_in_one_sentence_before_any_training(
    tiny, tool, process, capsys, change, message
):
    arguments, _ = tiny
    with pytest.raises(SystemExit) as stop:
        tool.main([*arguments, *change])
    assert stop.value.code == 2 and message in capsys.readouterr().err
    assert not process.commands


@pytest.mark.parametrize("wrong", [[], ["--table", "--start", "0"], ["--table", "--parallel", "0"]])
def test_a_wrong_command_line(tool, wrong):
    with pytest.raises(SystemExit) as stop:
        tool.parse_args(wrong)
    assert stop.value.code == 2
