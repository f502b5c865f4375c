"""The command `relation-heads`: what it takes, what it writes, and what it says of misuse."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from relation_heads import commands
from relation_heads.commands.model import take_overrides

ROOT = Path(__file__).resolve().parents[2]


def relation_heads(*words: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """A process of `python -m relation_heads`."""
    return subprocess.run(
        [sys.executable, "-X", "importtime", "-m", "relation_heads", *words],
        cwd=ROOT, capture_output=True, text=True, check=False,
        env={**os.environ, "PYTHONPATH": str(ROOT), **environment},
    )  # fmt: skip


@pytest.mark.parametrize("words", [["--help"], *([verb, "--help"] for verb in commands.VERBS)])
def test_help_imports_nothing_heavy(words):
    done = relation_heads(*words)
    assert done.returncode == 0 and "usage: relation-heads" in done.stdout
    imported = {line.rpartition("|")[2].strip() for line in done.stderr.splitlines()}
    assert not imported & {"torch", "detectron2", "numpy", "cv2"}


def test_every_verb_is_listed_with_an_example(capsys):
    with pytest.raises(SystemExit):
        commands.main(["--help"])
    listed = capsys.readouterr().out
    for verb in commands.VERBS:
        assert f"    {verb} " in listed
        with pytest.raises(SystemExit) as stop:
            commands.main([verb, "--help"])
        assert stop.value.code == 0
        assert verb == "doctor" or f"relation-heads {verb} " in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "rest", "opts"),
    [
        ("a.pth b.jpg", "a.pth b.jpg", ""),
        ("a.pth MODEL.DEVICE cpu b.jpg", "a.pth b.jpg", "MODEL.DEVICE cpu"),
        ("a.pth b.jpg --json c SEED 1 TEST.AUG.ENABLED x", "a.pth b.jpg --json c",
         "SEED 1 TEST.AUG.ENABLED x"),
        ("DSC01.JPG SOME.PNG model.DEVICE", "DSC01.JPG SOME.PNG model.DEVICE", ""),
        ("INPUT.MIN_SIZE_TEST -1", "", "INPUT.MIN_SIZE_TEST -1"),
    ],
)  # fmt: skip
def test_config_overrides_may_stand_anywhere(words, rest, opts):
    assert take_overrides(words.split()) == (rest.split(), opts.split())


def test_a_file_with_the_name_of_a_key_is_a_file(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "TEST.JPG").touch()
    assert take_overrides(["TEST.JPG", "TEST.PNG", "1"]) == (["TEST.JPG"], ["TEST.PNG", "1"])


@pytest.mark.parametrize(
    ("words", "says"),
    [
        ("", "required: VERB"),
        ("predic a b", "invalid choice: 'predic'"),
        ("predict a.pth", "required: IMAGE"),
        ("predict", "required: MODEL, IMAGE"),
        ("predict a.pth b.jpg --min-score 2", "must be in 0 to 1, got 2"),
        ("predict a.pth b.jpg --min-score nan", "must be in 0 to 1, got nan"),
        ("predict a.pth b.jpg --min-score high", "invalid share value: 'high'"),
        ("predict a.pth b.jpg --batch-size 0", "must be at least 1, got 0"),
        ("predict a.pth b.jpg --batch-size 1.5", "invalid at_least_1 value: '1.5'"),
        ("predict a.pth b.jpg --no-such", "unrecognized arguments: --no-such"),
        ("predict a.pth b.jpg MODEL.DEVICE", "MODEL.DEVICE has no value"),
        ("explain a.pth b.jpg --top 0", "must be at least 1, got 0"),
        ("explain a.pth b.jpg --head one", "invalid int value: 'one'"),
        ("evaluate", "required: MODEL"),
        ("evaluate a.pth MODEL.DEVICE", "MODEL.DEVICE has no value"),
        ("evaluate a.pth b.pth", "unrecognized arguments: b.pth"),
        ("evaluate a.pth --dataset one two", "--dataset: expected 3 arguments"),
        ("train --num-gpus many", "invalid int value: 'many'"),
        ("doctor now", "unrecognized arguments: now"),
    ],
)
def test_a_wrong_command_line_is_a_sentence(capsys, words, says):
    with pytest.raises(SystemExit) as stop:
        commands.main(words.split())
    assert stop.value.code == 2
    said = capsys.readouterr().err
    assert said.splitlines()[-1].startswith("relation-heads") and says in said
