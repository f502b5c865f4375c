"""A file is complete or not there, and damage is found."""

from __future__ import annotations

from pathlib import Path

import pytest

pytest.importorskip("detectron2")

import torch

from relation_heads.data.files import PART, replacing
from relation_heads.engine.checkpoint import ReportingCheckpointer, damage


class Killed(BaseException):
    """Stands for the end of the process; inside `torch.save` it becomes a RuntimeError."""


class Dies:
    """A file whose process ends in one of its writes.

    Args:
        file: that is written.
        after: writes that still work; half of the next one does.
    """

    def __init__(self, file, after):
        self.file, self.after = file, after

    def write(self, data):
        if not self.after:
            self.file.write(bytes(data)[: len(data) // 2])
            raise Killed
        self.after -= 1
        return self.file.write(data)

    def flush(self):
        self.file.flush()


CONTENT = {"model": {"weight": torch.arange(300.0), "bias": torch.ones(7)}, "iteration": 3}


def write(path, content=CONTENT, after=10**9):
    with replacing(path, "wb") as file:
        torch.save(content, Dies(file, after))


def test_the_old_file_stays_wherever_the_process_ends(tmp_path):
    path = tmp_path / "model.pth"
    write(path)
    old, ended = path.read_bytes(), 0
    for after in range(100):
        try:
            write(path, {"model": torch.zeros(500)}, after)
        except (Killed, RuntimeError):
            ended += 1
            assert path.read_bytes() == old
        else:
            break
    assert ended > 1  # it is written in several pieces
    assert torch.load(path)["model"].shape == (500,)
    assert [p.name for p in tmp_path.iterdir()] == ["model.pth"]


def test_a_process_that_is_killed_leaves_a_part_that_is_no_checkpoint(tmp_path, monkeypatch):
    path = tmp_path / "model.pth"
    monkeypatch.setattr(Path, "unlink", lambda *_, **__: None)  # nothing runs after kill -9
    with pytest.raises((Killed, RuntimeError)):
        write(path, after=2)
    assert [p.name for p in tmp_path.iterdir()] == [f"model.pth{PART}"]
    monkeypatch.undo()
    write(path)
    assert [p.name for p in tmp_path.iterdir()] == ["model.pth"]


def test_a_complete_file_has_no_damage_and_a_cut_or_empty_one_has(tmp_path):
    path = tmp_path / "model.pth"
    write(path)
    assert damage(path) == ""
    whole = path.read_bytes()
    for length in (0, 1, 2, 100, len(whole) // 2, len(whole) - 1):
        path.write_bytes(whole[:length])
        assert damage(path), length
    path.unlink()
    assert damage(path)


def test_a_changed_byte_is_found_or_changes_nothing(tmp_path):
    path = tmp_path / "model.pth"
    write(path)
    whole, found = path.read_bytes(), 0
    for position in range(0, len(whole), 37):
        changed = bytearray(whole)
        changed[position] ^= 0x10
        path.write_bytes(changed)
        if damage(path):
            found += 1
            continue
        try:
            loaded = torch.load(path)  # padding, dates and the like
        except Exception:
            continue  # not found before it is loaded, but not loaded either
        assert torch.equal(loaded["model"]["weight"], CONTENT["model"]["weight"])
        assert torch.equal(loaded["model"]["bias"], CONTENT["model"]["bias"])
        assert loaded["iteration"] == 3
    assert found > 300 * 4 / 37  # all of the weights


def test_files_of_before_the_archive_are_passed(tmp_path):
    path = tmp_path / "old.pth"
    torch.save(CONTENT, path, _use_new_zipfile_serialization=False)
    assert damage(path) == ""


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ([torch.zeros(2)], "no weights by name.*list"),
        (torch.zeros(2), "cannot be read safely|can be read safely"),
        ({"model": None}, "no weights by name.*NoneType"),
        ({"model": 3}, "no weights by name.*int"),
        ({"model": {"bias": 0.5}}, "has 'bias': a float"),
        ({"model": {3: torch.zeros(2)}}, "has 3: a Tensor"),
    ],
)
def test_files_that_hold_something_else_are_named(tmp_path, content, said):
    path = tmp_path / "other.pth"
    torch.save(content, path)
    with pytest.raises(ValueError, match=rf"{path} .*({said})"):
        ReportingCheckpointer(torch.nn.Linear(2, 3)).load(str(path))
