import pytest

pytest.importorskip("detectron2")

import re

import torch

from relation_heads.analysis.report import load, twin_name
from tests.config.test_config import LEAVES
from tests.tools.test_train_net import load_tool

SCENES = "RelationalScenes/faster_rcnn_shallow{}.yaml"
SIZE = "--size 64 96"
FEW = "MODEL.RPN.POST_NMS_TOPK_TRAIN 40 MODEL.RPN.POST_NMS_TOPK_TEST 30"


@pytest.fixture(scope="module")
def tool():
    return load_tool("analyze_model")


def run(tool, capsys, command):
    tool.main(command.split())
    return capsys.readouterr().out


def column(text, title, index):
    """A number of the first row with this title (of a part: its parameters), columns from 1."""
    row = next(line for line in text.splitlines() if line.startswith(f"| {title} |"))
    return float(row.split("|")[1 + index].replace(",", ""))


def test_a_config_stands_beside_its_twin(tool, capsys):
    text = run(tool, capsys, f"{SCENES.format('_relation')} {SIZE} {FEW}")
    assert f"beside its stock twin {SCENES.format('')}" in text
    assert "64 x 96 pixels, padded to 64 x 96. ROI heads: 30 proposals at test time, 40 in" in text
    stock, ours, difference, ratio = (column(text, "parameters", k) for k in (1, 2, 3, 4))
    assert ours - stock == difference == column(text, "- new blocks", 2) > 0
    assert ratio == round(ours / stock, 3)
    for title in ("multiply-adds, G", "kept for backward, MiB"):
        assert column(text, title, 2) > column(text, title, 1) > 0


def test_rows_of_parts_sum_up(tool, capsys):
    lines = run(tool, capsys, f"{SCENES.format('_sgrn')} {SIZE} {FEW}").splitlines()
    table = [[c.strip() for c in line.split("|")[1:-1]] for line in lines if line.startswith("| ")]
    for title in ("parameters", "multiply-adds, G", "kept for backward, MiB"):
        k = next(i for i, row in enumerate(table) if row[0] == title)
        parts = table[k + 1 : k + 5]
        assert [row[0] for row in parts] == ["- backbone", "- new blocks", "- RPN", "- ROI heads"]
        for j in (1, 2):
            total, *values = (float(row[j].replace(",", "")) for row in (table[k], *parts))
            assert abs(total - sum(values)) < 0.25  # each is rounded


def test_stock_configs_stand_alone_or_beside_themselves(tool, capsys):
    text = run(tool, capsys, f"{SCENES.format('')} {SIZE}")
    assert "a stock config, which has no twin" in text and "difference" not in text
    text = run(tool, capsys, f"{SCENES.format('')} {SIZE} MODEL.ROI_BOX_HEAD.FC_DIM 64")
    assert "beside the same without the overrides" in text
    assert column(text, "- ROI heads", 3) < 0 == column(text, "- backbone", 3)


def test_overrides_may_be_blocks(tool, capsys):
    plugins = "[{'name':'GC','stages':['res4'],'position':'after_add'}]"
    text = run(
        tool, capsys,
        f"RelationalScenes/faster_rcnn_R_18_FPN.yaml {SIZE} MODEL.BACKBONE.NAME "
        f"build_context_resnet_fpn_backbone MODEL.CONTEXT_BLOCKS.PLUGINS {plugins} "
        "MODEL.BACKBONE.FREEZE_AT 0",
    )  # fmt: skip
    # Two blocks of 256 channels, 8,753 parameters each.
    assert column(text, "- new blocks", 2) == 17506


def test_a_twin_that_is_missing_and_one_that_is_given(tool, capsys, tmp_path):
    config = tmp_path / "mine_sgrn.yaml"
    config.write_text(load(SCENES.format("_sgrn"), []).dump())
    text = run(tool, capsys, f"{config} {SIZE}")
    assert f"alone: there is no stock twin {tmp_path / 'mine.yaml'}" in text
    text = run(tool, capsys, f"{config} --twin {SCENES.format('')} {SIZE} {FEW}")
    assert f"beside {SCENES.format('')}" in text and column(text, "- new blocks", 2) > 0


def test_every_config_of_ours_has_its_twin():
    ours = [leaf for leaf in LEAVES if twin_name(leaf)]
    assert len(ours) > 30 and all(twin_name(leaf) in LEAVES for leaf in ours)
    assert twin_name("VG3000-Detection/a_sgrn_paper_1x.yaml") == "VG3000-Detection/a_1x.yaml"
    assert twin_name("/my_sgrn_runs/model.yaml") is None  # a folder's name does not count


@pytest.mark.parametrize(
    ("command", "message"),
    [
        ("none.yaml", r"Config file 'none.yaml' was not found; looked for .*none.yaml"),
        (SCENES.format("") + " MODEL.NOTHING 1", r"Non-existent key: MODEL.NOTHING"),
        (SCENES.format("") + " MODEL.DEVICE", r"Override list has odd length"),
        (SCENES.format("") + " MODEL.BACKBONE.NAME x", r"MODEL.BACKBONE.NAME 'x' is not regist"),
        (SCENES.format("") + " --size 32 96", r"sides of at least 64 pixels, got \(32, 96\)"),
        (SCENES.format("") + " --device cuda", r"The device is cuda, but there is no GPU here"),
        (
            SCENES.format("") + " MODEL.CONTEXT_BLOCKS.PLUGINS [{'name':'GC','stages':['res4']}]",
            r"MODEL.CONTEXT_BLOCKS.PLUGINS are given, and MODEL.BACKBONE.NAME build_shallow",
        ),
    ],
)  # fmt: skip
def test_mistakes_end_in_a_sentence(tool, capsys, monkeypatch, command, message):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(SystemExit) as stop:
        tool.main(command.split())
    assert stop.value.code == 2
    printed = capsys.readouterr()
    assert not printed.out
    assert re.search(message, printed.err) and "Traceback" not in printed.err


@pytest.mark.parametrize("command", ["", "--paper-table x.yaml"])
def test_either_a_config_or_the_paper_table(tool, capsys, command):
    with pytest.raises(SystemExit) as stop:
        tool.main(command.split())
    assert stop.value.code == 2
    assert "give either a config or --paper-table" in capsys.readouterr().err


def test_paper_table(tool, capsys, monkeypatch):
    monkeypatch.setattr("relation_heads.analysis.paper_tables.paper_tables", lambda: "the tables")
    assert run(tool, capsys, "--paper-table") == "the tables\n"
