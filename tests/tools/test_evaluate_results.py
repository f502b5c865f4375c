"""Saved predictions are evaluated again without a model."""

from __future__ import annotations

import json

import pytest

pytest.importorskip("detectron2")

from tests.helpers import registered, tiny_coco, write_json
from tests.tools.test_train_net import load_tool


@pytest.fixture
def coco(tmp_path):
    return tiny_coco(tmp_path)


@pytest.fixture
def results(coco, tmp_path):
    """All objects but those of the first class, which are at the wrong place."""
    found = [
        {
            **{key: a[key] for key in ("image_id", "category_id")},
            "bbox": [0, 0, 1, 1] if a["category_id"] == 1 else a["bbox"],
            "score": 0.9,
        }
        for a in coco.dataset["annotations"]
    ]
    return str(write_json(tmp_path / "results.json", found))


def evaluate(capsys, *arguments):
    load_tool("evaluate_results").main([str(a) for a in arguments])
    return json.loads(capsys.readouterr().out.splitlines()[-1])


def test_by_file_with_counts_and_a_table(coco, results, tmp_path, capsys):
    out = tmp_path / "tables"
    found = evaluate(capsys, coco.json_file, results, "--train", coco.json_file, "--output", out)[
        "bbox"
    ]
    assert found["AP"] == pytest.approx(200 / 3) and found["AR100"] == pytest.approx(200 / 3)
    assert found["APr"] == pytest.approx(200 / 3)  # all classes are in four images
    (table,) = out.iterdir()
    assert len(table.read_text().splitlines()) == 4


def test_by_name(coco, results, capsys):
    with registered(coco) as name:
        found = evaluate(capsys, name, results, "--train", name)["bbox"]
    assert found["AP50"] == pytest.approx(200 / 3)


def test_masks(coco, tmp_path, capsys):
    runs = {"size": [64, 96], "counts": "0PP6"}  # the whole image
    for annotation in coco.dataset["annotations"]:
        annotation["segmentation"] = runs
    write_json(coco.json_file, coco.dataset)
    keys = ("image_id", "category_id", "bbox", "segmentation")
    found = [{k: a[k] for k in keys} | {"score": 0.9} for a in coco.dataset["annotations"]]
    path = str(write_json(tmp_path / "results.json", found))
    assert list(evaluate(capsys, coco.json_file, path)) == ["bbox"]
    results = evaluate(capsys, coco.json_file, path, "--masks")
    assert results["segm"]["AP"] == pytest.approx(100)


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["nothing_there", "results.json"], "neither a data set nor a file called 'nothing_there'"),
        (["annotations.json", "none.json"], "none.json: No such file"),
        (["annotations.json", "results.json", "--max-detections", "10"], "more than 10"),
    ],
)
def test_errors_are_one_sentence(results, tmp_path, monkeypatch, capsys, arguments, sentence):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as stopped:
        load_tool("evaluate_results").main(arguments)
    assert stopped.value.code == 2
    assert sentence in capsys.readouterr().err
