"""Whole detectors in turns: what runs, what is timed, and the table."""

import json
import time

import pytest
import torch

pytest.importorskip("detectron2")

from benchmarks import whole
from benchmarks.run import Cost
from benchmarks.whole import PASSES, Detector, GivenProposals, build, table, timed
from tests.tools.test_train_net import load_tool

STOCK = "RelationalScenes/faster_rcnn_shallow.yaml"
OURS = "RelationalScenes/faster_rcnn_shallow_sgrn.yaml"


@pytest.fixture(autouse=True)
def small_images(monkeypatch):
    monkeypatch.setattr(whole, "SIZE", (96, 128))


def test_it_trains_and_infers_with_the_given_boxes(tmp_path, capsys):
    file = tmp_path / "whole.json"
    command = f"--whole {STOCK} {OURS} --rounds 2 --batch 2 --json {file} --opts "
    tool = load_tool("benchmark")
    tool.main((command + "MODEL.RPN.POST_NMS_TOPK_TEST 7").split())
    said = capsys.readouterr().out
    first, second = json.loads(file.read_text())["detectors"]
    assert (first["name"], second["name"]) == (STOCK, OURS)
    assert second["parameters"] > first["parameters"]
    assert first["costs"]["training"]["ratio"] == 1.0
    for detector in (first, second):
        for which in PASSES:
            assert len(detector["costs"][which]["seconds"]) == 2
            assert detector["costs"][which]["peak_mib"] > 0
            assert detector["stages"][which]["ROI heads"] > 0
    assert f"| {OURS} | " in said and "| ROI heads: box_head | " in said


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ([STOCK, "--opts", "MODEL.ROI_HEADS.NUM_CLASS", "3"], "NUM_CLASS"),
        ([f"{STOCK} SOLVER.BASE_LR"], "BASE_LR"),
        (["none.yaml"], "none.yaml"),
    ],
)
def test_what_does_not_fit_is_said_in_a_sentence(words, said, capsys):
    with pytest.raises(SystemExit) as stop:
        load_tool("benchmark").main(["--whole", *words])
    assert stop.value.code == 2 and said in capsys.readouterr().err


def test_the_number_of_regions_is_the_configs():
    name = f"{STOCK} MODEL.RPN.POST_NMS_TOPK_TEST 7"
    model, images = build(name, 2, ["MODEL.DEVICE", "cpu"])
    rpn = model.proposal_generator
    assert isinstance(rpn, GivenProposals)
    inputs = model.preprocess_image(images)
    maps = model.backbone(inputs.tensor)
    with torch.no_grad():
        given, losses = rpn.eval()(inputs, maps)
        assert [len(boxes) for boxes in given] == [7, 7] and not losses
    boxes = given[0].proposal_boxes.tensor
    assert (boxes[:, 2:] - boxes[:, :2]).min() >= whole.SIDE
    assert boxes.min() >= 0 and boxes[:, 2].max() <= 128 and boxes[:, 3].max() <= 96
    objects = [image["instances"] for image in images]
    with whole.EventStorage():
        given, losses = rpn.train()(inputs, maps, objects)
    assert [len(boxes) for boxes in given] == [50, 50] and len(losses) == 2


def test_stages_are_timed_while_they_are_watched():
    model, images = build(STOCK, 1, ["MODEL.DEVICE", "cpu"])
    model.eval()
    with torch.no_grad(), timed(model, time.perf_counter) as seconds:
        model(images)
    once = dict(seconds)
    assert once["ROI heads"] > once["ROI heads: box_head"] > 0
    with torch.no_grad():
        model(images)
    assert seconds == once


def test_table():
    slow, quick = Detector("slow", 2_000_000), Detector("quick", 1_000_000)
    for detector, seconds in ((slow, 2.0), (quick, 1.0)):
        for which in PASSES:
            detector.costs[which] = Cost([seconds] * 3, 10.0)
            detector.stages[which] = {"RPN": seconds / 4}
    lines = table([slow, quick], batch=2).splitlines()
    assert lines[3] == "| quick | 1.0 | 1.00 | 0.50 | 2.00 | 10 | 1.00 | 0.50 | 2.00 | 10 |"
    assert lines.count("| RPN | 0.500 | 0.250 |") == 2


@pytest.mark.parametrize(
    "wrong", ["--whole --targets", "--whole --list", "--batch 2", "--opts A 1"]
)
def test_options_that_do_not_fit(wrong, capsys):
    with pytest.raises(SystemExit) as stop:
        load_tool("benchmark").parse_args(wrong.split())
    assert stop.value.code == 2 and "--whole" in capsys.readouterr().err
