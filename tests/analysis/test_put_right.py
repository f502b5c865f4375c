"""What two detectors call the same objects."""

from __future__ import annotations

import json

import numpy as np
import pytest

pytest.importorskip("detectron2")

from relation_heads.analysis.labelled import Objects
from relation_heads.analysis.put_right import Changed, chosen, compare_image, surest
from relation_heads.visualization.detections import Detections
from tests.helpers import registered, tiny_coco, untrained
from tests.tools.test_train_net import load_tool

BOXES = np.array([[0, 0, 10, 10.0], [20, 0, 30, 10], [40, 0, 50, 10], [60, 0, 70, 10]])
OUTCOMES = ["right in both", "put right", "put wrong", "wrong in both"]
OBJECTS = Objects(BOXES, np.array([0, 1, 2, 3]))


def found(*detections):
    """Detections from (box, score, class)."""
    boxes, scores, classes = zip(*detections, strict=True)
    return Detections(
        image=np.zeros((80, 80, 3), np.uint8),
        boxes=np.array(boxes, dtype=float),
        scores=np.array(scores),
        classes=np.array(classes),
        names=[f"c{k}" for k in classes],
    )


def test_what_a_detector_calls_an_object():
    shifted = BOXES[1] + [2, 0, 2, 0]  # IoU 2 / 3
    far = BOXES[2] + [6, 0, 6, 0]  # IoU 1 / 4
    detections = found(
        (BOXES[0], 0.3, 0),
        (BOXES[0], 0.9, 5),
        (shifted, 0.2, 1),
        (far, 0.99, 2),
        (BOXES[3], 0.1, 3),
    )
    assert surest(detections, OBJECTS).tolist() == [1, 2, -1, 4]


def test_every_outcome():
    first = found((BOXES[0], 0.9, 0), (BOXES[1], 0.8, 7), (BOXES[2], 0.7, 2), (BOXES[3], 0.6, 8))
    second = found((BOXES[0], 0.5, 0), (BOXES[1], 0.4, 1), (BOXES[2], 0.3, 9))
    assert compare_image(first, second, OBJECTS) == [
        ("right in both", 0.5), ("put right", 0.4), ("put wrong", 0.3), ("wrong in both", 0.0)
    ]  # fmt: skip
    swapped = [outcome for outcome, _ in compare_image(second, first, OBJECTS)]
    assert swapped == ["right in both", "put wrong", "put right", "wrong in both"]


def test_the_surest_of_an_image_is_shown():
    changed = [
        Changed("a", 0, "put right", 0.2),
        Changed("a", 1, "put right", 0.8),
        Changed("b", 0, "put wrong", 0.9),
        Changed("b", 1, "put right", 0.5),
        Changed("c", 0, "put right", 0.1),
    ]
    shown = [(c.file_name, c.number) for c in chosen(changed, "put right", 2)]
    assert shown == [("a", 1), ("b", 1)]


@pytest.fixture
def models(tmp_path):
    """A stock and a relational detector, and their data set."""
    with registered(tiny_coco(tmp_path)) as name:
        heads = ("StandardROIHeads", "RelationROIHeads")
        yield [str(untrained(h, name, tmp_path / h)) for h in heads], name


def test_the_tool(models, tmp_path, capsys):
    paths, name = models
    output = tmp_path / "made"
    load_tool("compare_detectors").main([*paths, "--output", str(output), "--num", "1"])
    content = json.loads((output / "objects.json").read_text())
    counts = content["objects"]
    total = [sum(row[key] for row in counts.values()) for key in OUTCOMES]
    assert sum(total) > 0 and content["setting"]["test"] == name
    last = [line for line in capsys.readouterr().out.splitlines() if line.startswith("| all |")]
    assert last == [f"| all | {sum(total):,} | {' | '.join(map(str, total))} |"]
    pictures = {path.name for path in output.glob("*.png")}
    assert pictures == {
        f"{outcome.replace(' ', '_')}_1.png"
        for outcome, number in zip(OUTCOMES[1:3], total[1:3], strict=True)
        if number
    }


def test_other_classes_are_refused(models, capsys):
    paths, _ = models
    with pytest.raises(SystemExit) as stop:
        load_tool("compare_detectors").main([paths[0], "scenes-relation-signed"])
    assert stop.value.code == 2 and "other classes" in capsys.readouterr().err
