"""Tables of what NMS, Soft-NMS, an oracle and another run leave of saved boxes."""

from __future__ import annotations

import pytest

pytest.importorskip("detectron2")

from tests.helpers import registered, tiny_coco, write_json
from tests.tools.test_train_net import load_tool

TOOL = "compare_duplicate_removal"


@pytest.fixture
def coco(tmp_path):
    return tiny_coco(tmp_path)


@pytest.fixture
def results(coco, tmp_path):
    """Every object, and a box beside it that overlaps it by IoU 2/3 at a lower score."""
    found = []
    for a in coco.dataset["annotations"]:
        ids = {key: a[key] for key in ("image_id", "category_id")}
        x, y, w, h = a["bbox"]
        found.append({**ids, "bbox": [x, y, w, h], "score": 0.9})
        found.append({**ids, "bbox": [x + w / 5, y, w, h], "score": 0.8})
    return str(write_json(tmp_path / "results.json", found))


def rows(capsys, *arguments):
    load_tool(TOOL).main([str(a) for a in arguments])
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("|")]
    table = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    return {name: cells for name, *cells in table}


def test_by_file(coco, results, capsys):
    table = rows(capsys, coco.json_file, results, "--results", "again", results, "--nms", 0.5, 0.8)
    assert table["NMS 0.5"][3:] == ["100.0", "0.00", "0.00", "0.90"]  # F1, false, duplicates
    assert table["oracle"] == table["NMS 0.5"]
    # The duplicates would halve the precision at 0.8; at 0.9 none is shown.
    assert table["NMS 0.8"][3] == "100.0" and table["again"] == table["all boxes"]
    assert next(iter(table)) == "all classes"


def test_by_group(coco, results, capsys):
    groups = dict(zip(coco.class_names, ("thing", "thing", "other"), strict=True))
    with registered(coco, class_groups=groups) as name:
        table = rows(capsys, name, results)
    assert "thing" in table and "other" in table


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["annotations.json", "none.json"], "none.json: No such file"),
        (["none.json", "results.json"], "none.json"),
    ],
)
def test_missing_files_are_named(coco, results, tmp_path, monkeypatch, capsys, arguments, sentence):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as exit_:
        load_tool(TOOL).main(arguments)
    assert exit_.value.code == 2 and sentence in capsys.readouterr().err
