"""The notebook runs from top to bottom, and its story is true."""

import json
from pathlib import Path

import pytest

pytest.importorskip("detectron2")

NOTEBOOK = Path(__file__).resolve().parents[2] / "examples" / "relations.ipynb"
CELLS = json.loads(NOTEBOOK.read_text())["cells"]


def test_it_runs_and_the_square_follows_its_partner(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    names: dict = {}
    for cell in CELLS:
        if cell["cell_type"] == "code":
            exec("".join(cell["source"]), names)
    assert names["answers"] == {p: f"square_with_{p}" for p in ("sun", "moon", "heart", "leaf")}
    partner = names["found"].names[names["square"]].removeprefix("square_with_")
    labels = names["relations"].labels
    objects = [labels[k] for k in names["heard"].argsort()[::-1] if labels[k] != "background"]
    assert objects[0] == partner
    assert (tmp_path / "relations.html").stat().st_size > 10_000
    assert "square_with_" in capsys.readouterr().out


def test_it_is_saved_without_outputs():
    code = [cell for cell in CELLS if cell["cell_type"] == "code"]
    assert len(code) >= 5 and not any(cell["outputs"] or cell["execution_count"] for cell in code)
