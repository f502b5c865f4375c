"""`tools/compare_trackers.py` and its table."""

import json

import pytest

pytest.importorskip("detectron2")
pytest.importorskip("trackers")

from relation_heads.analysis.mot import ALL, NAMES, table
from relation_heads.tracking.methods import METHODS
from relation_heads.tracking.metrics import COMBINED
from relation_heads.tracking.mot_files import read_mot, write_mot
from tests.tools.test_train_net import load_tool
from tests.tracking.test_sequences import folder_of, made


def sequences(folder):
    for seed, name in enumerate(("a", "b")):
        truth, found = made(seed)
        write_mot(truth, folder_of(folder / name, name) / "gt" / "gt.txt")
        write_mot(found, folder / name / "det" / "det.txt")


def test_every_tracker_is_scored_as_the_library_does(tmp_path, capsys):
    tool = load_tool("compare_trackers")
    sequences(tmp_path / "mot")
    path = tmp_path / "of" / "mot.json"
    tool.run(tool.parse_args([str(tmp_path / "mot"), "--json", str(path), "--output",
                              str(tmp_path / "tracks")]))  # fmt: skip
    result = json.loads(path.read_text())
    assert list(result["mot"]) == list(NAMES.values()) and "trackers" in result["versions"]
    for entry in result["mot"].values():
        assert entry["equals_the_librarys_files"] is True and entry["frames"] == 60
        assert entry["scores"].keys() == {"a", "b", COMBINED}
        assert entry["scores"]["a"]["IDF1"] > 0.85
    assert capsys.readouterr().out.strip() == table(result)
    assert len(read_mot(tmp_path / "tracks" / "sort" / "a.txt")) > 100


def test_the_table_says_what_the_scores_are():
    assert NAMES.keys() == METHODS.keys() and ALL == COMBINED
    scores = {"IDF1": 0.5, "HOTA": 0.25, "AssA": 0.125, "DetA": 1, "MOTA": -0.02, "IDSW": 7.0}
    entry = {"scores": {"x": {**scores, "IDSW": 3.0}, ALL: scores}}
    lines = table({"mot": {"one": entry, "two": entry}}).splitlines()
    assert lines[2] == "| one | 50.0 | 25.0 | 12.5 | 100.0 | -2.0 | 7 |" and lines[4] == ""
    assert lines[5] == "| IDF1 / HOTA / identity switches | one | two |"
    assert lines[7:] == ["| x | 50.0 / 25.0 / 3 | 50.0 / 25.0 / 3 |"]


def test_a_sequence_without_truth_is_named(tmp_path):
    tool = load_tool("compare_trackers")
    sequences(tmp_path)
    (tmp_path / "b" / "gt" / "gt.txt").unlink()
    with pytest.raises(ValueError, match=r"b has no ground truth"):
        tool.run(tool.parse_args([str(tmp_path)]))


def test_speed_and_memory_are_measured(tmp_path, capsys):
    tool = load_tool("time_tracker")
    path = tmp_path / "speed.json"
    tool.run(tool.parse_args(["--dims", "16", "--rounds", "1", "--frames", "20",
                              "--json", str(path)]))  # fmt: skip
    result = json.loads(path.read_text())
    assert all(rate > 1 for rate in result["steps"]["16"].values())
    assert [frame for frame, _, _ in result["memory"]] == [4, 8, 12, 16, 20]
    assert all(mib > 50 and 20 <= tracks <= 30 for _, mib, tracks in result["memory"][1:])
    said = capsys.readouterr().out
    assert "| 16 | " in said and "| after frame | 4 | 8 | 12 | 16 | 20 |" in said
