"""The commands of docs/training.md for own data, as they stand there, from an empty folder."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("detectron2")

import torch
from detectron2.config import get_cfg as stock_cfg
from detectron2.model_zoo import get_checkpoint_url
from detectron2.modeling import build_model

from relation_heads import load
from relation_heads.config import find_config, get_cfg
from tests.helpers import tiny_cfg, tiny_coco
from tests.modeling.common import SMALL_SGRN

ROOT = Path(__file__).resolve().parents[1]
PAGE = (ROOT / "docs" / "training.md").read_text()
COMMANDS = re.search(r"<!-- run: own data -->\n\n```bash\n(.*?)```", PAGE, re.DOTALL)[1]
CONFIG = "COCO-Detection/faster_rcnn_R_50_FPN_sgrn_1x.yaml"
WEIGHTS = re.search(r"detectron2://\S+", COMMANDS)[0]
SCHEDULES = [path.stem for path in sorted((ROOT / "configs" / "schedules").glob("own_*.yaml"))]


def test_train_go_on_evaluate_and_explain(tmp_path):
    coco = tiny_coco(tmp_path / "my", num_classes=12, num_images=8)
    for name in ("train.json", "val.json"):
        shutil.copy(coco.json_file, tmp_path / "my" / name)
    small = tiny_cfg(["unset"], ["unset"], 1, "unset", SMALL_SGRN, base=get_cfg())
    heads = get_cfg()
    heads.merge_from_file(find_config(CONFIG))
    small.MODEL.ROI_HEADS.NAME = heads.MODEL.ROI_HEADS.NAME
    small.MODEL.ROI_HEADS.SCORE_THRESH_TEST = 0.0
    (tmp_path / "small.yaml").write_text(small.dump())
    # A finished stock detector of other classes, as that of COCO is.
    stock = build_model(tiny_cfg(["unset"], ["unset"], 80, "unset", base=stock_cfg()))
    torch.save({"model": stock.state_dict()}, tmp_path / "coco.pth")
    commands = COMMANDS.replace(CONFIG, "small.yaml").replace(WEIGHTS, "coco.pth")
    program = f'relation-heads() {{ "{sys.executable}" -m relation_heads "$@"; }}\n'

    done = subprocess.run(
        ["bash", "-e", "-c", program + commands], cwd=tmp_path, capture_output=True, text=True,
        env={**os.environ, "PYTHONPATH": f"{ROOT}{os.pathsep}{os.environ.get('PYTHONPATH', '')}"},
    )  # fmt: skip

    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    output = tmp_path / "output" / "mine"
    log = (output / "log.txt").read_text()
    assert (
        re.search(r"skipped by shape: +4 tensors: roi_heads.box_predictor.cls_score", log)
        and "Starting training from iteration 30" in log
    )
    assert done.stdout.count("Evaluation results for bbox") >= 3
    model = load(output / "model_final.pth")
    assert model.class_names == coco.class_names
    assert model.cfg.MODEL.ROI_HEADS.NAME == "SGRNROIHeads"
    assert model.cfg.SOLVER.BASE_LR == 0.005  # of the schedule
    drawn = {path.name for path in (output / "why").iterdir()}
    assert "kernels_layer1.png" in drawn and any(name.startswith("000001") for name in drawn)


def test_the_weights_are_those_of_the_model_zoo():
    assert get_checkpoint_url("COCO-Detection/faster_rcnn_R_50_FPN_1x.yaml").endswith(
        WEIGHTS.removeprefix("detectron2://")
    )


@pytest.mark.parametrize("name", SCHEDULES)
def test_schedules_are_as_the_page_says_and_follow_the_linear_rule(name):
    cfg, reference = get_cfg(), get_cfg()
    cfg.merge_from_file(find_config(f"schedules/{name}.yaml"))
    reference.merge_from_file(find_config("schedules/1x.yaml"))
    solver, images = cfg.SOLVER, int(name.removeprefix("own_"))
    epochs = solver.MAX_ITER * solver.IMS_PER_BATCH / images
    drops = ", ".join(f"{step:,}" for step in solver.STEPS)
    assert (
        f"| {images:,} | `schedules/{name}.yaml` | {solver.MAX_ITER:,} | {epochs:g} | {drops} "
        f"| {cfg.TEST.EVAL_PERIOD:,} |"
    ) in PAGE
    factor = solver.IMS_PER_BATCH / reference.SOLVER.IMS_PER_BATCH
    assert solver.BASE_LR == pytest.approx(factor * reference.SOLVER.BASE_LR)
    assert solver.STEPS == tuple(round(solver.MAX_ITER * s / 9) for s in (6, 8))
    assert solver.WARMUP_ITERS <= solver.MAX_ITER / 10
    assert solver.MAX_ITER % cfg.TEST.EVAL_PERIOD == 0
    assert solver.CHECKPOINT_PERIOD == cfg.TEST.EVAL_PERIOD
    # What Detectron2 makes of it on 4 GPUs is the published batch and rate.
    from detectron2.engine import DefaultTrainer

    many = DefaultTrainer.auto_scale_workers(cfg, 4).SOLVER
    assert many.IMS_PER_BATCH == reference.SOLVER.IMS_PER_BATCH
    assert many.BASE_LR == pytest.approx(reference.SOLVER.BASE_LR)
    assert many.MAX_ITER == solver.MAX_ITER // 4
