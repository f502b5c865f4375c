"""Configs are read as Detectron2 reads them, and nothing in them is run."""

from __future__ import annotations

import pytest

pytest.importorskip("detectron2")

import yaml
from detectron2.config import get_cfg as get_detectron2_cfg

from relation_heads.config import find_config, get_cfg, merge_file

RETINANET = "COCO-Detection/retinanet_R_50_FPN_1x.yaml"


@pytest.mark.parametrize("name", [RETINANET, "COCO-Detection/faster_rcnn_R_50_C4_1x.yaml"])
def test_stock_configs_are_read_as_detectron2_reads_them(name):
    ours, theirs = get_detectron2_cfg(), get_detectron2_cfg()
    merge_file(ours, name)
    theirs.merge_from_file(find_config(name))
    assert ours == theirs


def test_a_tuple_is_read(tmp_path):
    path = tmp_path / "tuple.yaml"
    path.write_text("SOLVER:\n  STEPS: !!python/tuple [3, 5]\n")
    cfg = get_cfg()
    merge_file(cfg, str(path))
    assert cfg.SOLVER.STEPS == (3, 5)


@pytest.mark.parametrize("nested", [False, True])
@pytest.mark.parametrize(
    "value",
    [
        "!!python/object/apply:os.mkdir ['MADE']",
        "!!python/object/new:os.mkdir ['MADE']",
        "!!python/object/apply:eval [\"__import__('os').mkdir('MADE')\"]",
        "!!python/name:os.mkdir",
    ],
)
def test_nothing_is_run(tmp_path, value, nested):
    made, path = tmp_path / "made", tmp_path / "evil.yaml"
    path.write_text(f"OUTPUT_DIR: {value.replace('MADE', str(made))}\n")
    if nested:
        path = tmp_path / "base.yaml"
        path.write_text("_BASE_: evil.yaml\n")
    with pytest.raises(yaml.YAMLError, match=r"python|eval"):
        merge_file(get_cfg(), str(path))
    assert not made.exists()
