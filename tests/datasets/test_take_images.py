"""The command line of datasets/take_images.py: which images, how fast, and what is refused."""

from __future__ import annotations

import importlib.util
import json
import time
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "datasets" / "take_images.py"


@pytest.fixture
def tool(tmp_path, monkeypatch):
    """The script, in a folder with a small data set: images 5 .. 9, and none on image 5."""
    spec = importlib.util.spec_from_file_location("take_images", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    monkeypatch.chdir(tmp_path)
    images = [{"id": k} for k in range(5, 10)]
    annotations = [{"id": k, "image_id": 5 + k} for k in range(1, 5)]
    Path("a.json").write_text(json.dumps({"images": images, "annotations": annotations}))
    return module


@pytest.mark.parametrize(
    "arguments, ids", [("--num 2", [6, 7]), ("--num 99", [6, 7, 8, 9]), ("--ids 9 5", [9, 5])]
)
def test_images_are_taken_in_order(tool, arguments, ids):
    tool.main(["a.json", "b.json", *arguments.split()])
    small = json.loads(Path("b.json").read_text())
    assert [image["id"] for image in small["images"]] == ids
    assert {a["image_id"] for a in small["annotations"]} == set(ids) - {5}


def test_time_grows_with_the_file(tool):
    """Many ids of many annotations: a set made again for each of them took minutes."""
    ids = list(range(20_000))
    images = [{"id": k} for k in ids]
    dataset = {"images": images, "annotations": [{"image_id": k} for k in ids]}
    start = time.process_time()
    assert tool.take_images(dataset, ids) == dataset
    assert time.process_time() - start < 1


@pytest.mark.parametrize(
    "arguments, sentence",
    [
        ("a.json b.json --ids 9 8 9", "a.json: image ids [9] are given twice."),
        ("a.json b.json --ids 4 9", "a.json: image ids [4] are not among the 5 images."),
        ("a.json b.json --num 0", "--num: must be at least 1"),
        ("a.json b.json --num -5", "--num: must be at least 1"),
        ("none.json b.json", "none.json: No such file or directory."),
        ("list.json b.json", "list.json is not a JSON file in COCO format"),
        ("cut.json b.json", "cut.json is not a JSON file in COCO format"),
        ("deep.json b.json", "deep.json is not a JSON file in COCO format"),
        ("ids.json b.json", "ids.json is not a JSON file in COCO format"),
        ("a.json no/b.json", "no/b.json: No such file or directory."),
    ],
)
def test_what_does_not_fit_is_a_sentence(tool, capsys, arguments, sentence):
    Path("list.json").write_text("[]")
    Path("cut.json").write_text('{"images": [')
    Path("deep.json").write_text("[" * 100_000)
    Path("ids.json").write_text('{"images": [{"id": []}], "annotations": []}')
    with pytest.raises(SystemExit) as stopped:
        tool.main(arguments.split())
    last = capsys.readouterr().err.splitlines()[-1]
    assert stopped.value.code == 2 and sentence in last
    assert not Path("b.json").exists()
