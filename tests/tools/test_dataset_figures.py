"""Numbers of a data set against a slow reference, and the pictures that show them."""

from __future__ import annotations

import math

import numpy as np
import pytest
from PIL import Image

pytest.importorskip("detectron2")

from relation_heads.data.statistics import statistics
from relation_heads.visualization.dataset_figures import dataset_figures
from tests.helpers import registered, tiny_coco, write_json
from tests.tools.test_train_net import load_tool


@pytest.fixture
def coco(tmp_path):
    """Five images, four classes of which one has no box; the last image is empty."""
    coco = tiny_coco(tmp_path / "set", num_classes=4, num_images=5, category_ids=(9, 4, 7, 1))
    kept = [a for a in coco.dataset["annotations"] if a["image_id"] != 5]
    rng = np.random.default_rng(0)
    for annotation in kept:
        annotation["category_id"] = int(rng.choice((9, 4, 7), p=(0.2, 0.3, 0.5)))
    kept[0]["iscrowd"] = 1
    coco.dataset["annotations"] = kept
    write_json(coco.json_file, coco.dataset)
    return coco


def test_numbers_equal_a_slow_reference(coco):
    found = statistics(coco.dataset)
    objects = [a for a in coco.dataset["annotations"] if not a["iscrowd"]]
    names = {c["id"]: c["name"] for c in coco.dataset["categories"]}
    counts = {name: 0 for name in names.values()}
    images = {name: set() for name in names.values()}
    for a in objects:
        counts[names[a["category_id"]]] += 1
        images[names[a["category_id"]]].add(a["image_id"])
    assert found.names == sorted(counts, key=lambda name: (-counts[name], name))
    assert found.class_boxes.tolist() == [counts[name] for name in found.names]
    of_image = [sum(a["image_id"] == i["id"] for a in objects) for i in coco.dataset["images"]]
    assert found.image_boxes.tolist() == of_image and of_image[-1] == 0
    sides = [math.sqrt(a["bbox"][2] * a["bbox"][3]) for a in objects]
    np.testing.assert_allclose(found.sides, sides)
    for row, a in enumerate(found.names):
        for column, b in enumerate(found.names):
            value = found.together[row, column]
            if images[a]:
                assert value == pytest.approx(len(images[a] & images[b]) / len(images[a]))
            else:
                assert math.isnan(value)
    assert ((found.together > 0) & (found.together < 1)).any()


def test_the_pictures_show_the_numbers(coco):
    numbers = statistics(coco.dataset)
    classes, boxes, sizes, together, *_ = dataset_figures([("mine", numbers)]).axes
    assert [bar.get_height() for bar in classes.patches] == numbers.class_boxes.tolist()
    assert [text.get_text() for text in classes.get_xticklabels()] == numbers.names
    heights = [bar.get_height() for bar in boxes.patches]
    assert heights == np.bincount(numbers.image_boxes).tolist()
    assert sum(bar.get_height() for bar in sizes.patches) == len(numbers.sides)
    assert "0% large" in sizes.get_title() and "mine: 4 classes" in classes.get_title()
    np.testing.assert_array_equal(together.images[0].get_array(), numbers.together)


def test_many_classes_are_a_line(tmp_path):
    coco = tiny_coco(tmp_path, num_classes=40, num_images=20)
    numbers = statistics(coco.dataset)
    classes, _, _, together, *_ = dataset_figures([("many", numbers)]).axes
    (line,) = classes.lines
    assert line.get_ydata().tolist() == numbers.class_boxes[numbers.class_boxes > 0].tolist()
    assert together.images[0].get_array().shape == (20, 20)


def test_a_data_set_without_boxes_has_pictures(coco, tmp_path):
    empty = {**coco.dataset, "annotations": []}
    dataset_figures([("empty", statistics(empty))]).savefig(tmp_path / "empty.png", dpi=20)


def test_the_tool(coco, tmp_path, capsys):
    tool = load_tool("dataset_figures")
    one, two = tmp_path / "one.png", tmp_path / "two.png"
    with registered(coco) as name:
        tool.main([name, "--output", str(one), "--dpi", "20"])
        tool.main([name, str(coco.json_file), "--output", str(two), "--dpi", "20"])
    sizes = [Image.open(path).size for path in (one, two)]
    assert sizes == [(440, 110), (440, 220)]
    assert capsys.readouterr().out == f"wrote {one}\nwrote {two}\n"


@pytest.mark.parametrize(
    "arguments, sentence",
    [
        (["none.json", "--output", "a.png"], "none.json: No such file"),
        (["nothing", "--output", "a.png"], "The data set 'nothing' is not registered"),
        (["x.json", "--output", "a.bmp"], "must end in .png, .svg or .pdf, got a.bmp"),
        (["x.json", "--output", "no/a.png"], "there is no folder no"),
        (["x.json", "--output", "a.png", "--dpi", "0"], "--dpi: must be at least 1"),
    ],
)
def test_bad_arguments_are_one_sentence(capsys, monkeypatch, tmp_path, arguments, sentence):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as stopped:
        load_tool("dataset_figures").main(arguments)
    assert stopped.value.code == 2
    assert sentence in capsys.readouterr().err.splitlines()[-1]
