"""Gradients are counted, two processes are measured, more are simulated."""

from __future__ import annotations

import json

import pytest

pytest.importorskip("detectron2")

from detectron2.modeling import build_model

from relation_heads.analysis import scaling
from relation_heads.config import get_cfg
from tests.helpers import tiny_cfg, tiny_coco
from tests.robustness.case import tool


def test_bytes_of_the_gradients_are_those_of_the_model():
    cfg = tiny_cfg([], [], 3, "", base=get_cfg())
    parameters = [p for p in build_model(cfg).parameters() if p.requires_grad]
    assert scaling.gradient_bytes(cfg) == sum(4 * p.numel() for p in parameters)
    assert cfg.MODEL.DEVICE == "cpu"


def test_a_ring_sends_every_part_twice_but_for_its_own():
    """By counting: n parts, n - 1 rounds of sums and n - 1 of copies."""
    for n in (1, 2, 5, 8):
        parts, sent = n, 0
        for _ in range(2 * (n - 1)):
            sent += 1 / parts
        assert scaling.ring_bytes(n, 1000) == pytest.approx(1000 * sent)


def test_the_slow_link_counts_from_the_second_machine_on():
    links = {"step": 0.5, "inside": 1e9, "between": 1e7}
    one, two = (scaling.simulated(n, 10**7, **links) for n in (8, 16))
    assert one["seconds"] == pytest.approx(0.0175) and two["seconds"] == pytest.approx(1.875)
    assert one["worst"] == pytest.approx(100 * 0.5 / 0.5175) and one["best"] == 100
    assert two["best"] == pytest.approx(100 * 0.5 / 1.875)
    alone = scaling.simulated(1, 10**7, **links)
    assert (alone["seconds"], alone["worst"], alone["best"]) == (0, 100, 100)


def test_the_tool_measures_one_and_two_processes(tmp_path, monkeypatch, capsys):
    coco = tiny_coco(tmp_path / "data")
    config = tmp_path / "tiny.yaml"
    config.write_text(tiny_cfg([], [], 3, tmp_path / "out", base=get_cfg()).dump())
    monkeypatch.setattr(scaling, "CONFIG", str(config))
    output = tmp_path / "scaling.json"
    tool("estimate_scaling", "--dataset", coco.json_file, coco.image_root, "--steps", 3,
         "--config-file", config, "--json", output)  # fmt: skip
    content = json.loads(output.read_text())
    assert [row["processes"] for row in content["measured"]] == [1, 2]
    sizes = {row["bytes"] for row in content["measured"]}
    assert len(sizes) == 1 and sizes <= {content["gradients"]["stock"]}
    assert all(row["step"] > 0 and row["reduce"] > 0 for row in content["measured"])
    assert "**Simulated**, not measured" in capsys.readouterr().out
