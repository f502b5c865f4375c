"""Semantic segmentation from the data set to the table, by the trainer."""

import json
from pathlib import Path

import pytest

pytest.importorskip("detectron2")

import torch
from detectron2.projects.deeplab.lr_scheduler import WarmupPolyLR

from relation_heads import get_cfg
from relation_heads.engine import RelationTrainer
from relation_heads.engine.checks import check_cfg
from tests.helpers import registered_labels, tiny_cfg, tiny_coco
from tests.modeling.common import SEM_SEG

ITERATIONS = 6
OPTS = (
    *SEM_SEG,
    "INPUT.CROP.ENABLED", True,
    "INPUT.CROP.TYPE", "absolute",
    "INPUT.CROP.SIZE", [45, 61],  # no multiple of the stride
    "SOLVER.LR_SCHEDULER_NAME", "WarmupPolyLR",
    "SOLVER.WARMUP_ITERS", 2,
    "SOLVER.WARMUP_FACTOR", 0.5,
    "SOLVER.MAX_ITER", ITERATIONS,
    "MODEL.GLORE_HEAD.DROPOUT", 0.0,
)  # fmt: skip


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    folder = tmp_path_factory.mktemp("semantic")
    with registered_labels(tiny_coco(folder)) as name:
        torch.manual_seed(0)
        cfg = tiny_cfg([name], [name], 3, folder / "out", OPTS, base=get_cfg())
        check_cfg(cfg)
        trainer = RelationTrainer(cfg)
        trainer.resume_or_load(resume=False)
        rates: list[float] = []
        run_step = trainer.run_step

        def remember():
            rates.append(trainer.optimizer.param_groups[0]["lr"])
            run_step()

        trainer.run_step = remember
        trainer.train()
        yield trainer, rates


def test_it_trains_on_crops_and_evaluates(trained):
    trainer, _ = trained
    results = trainer._last_eval_results["sem_seg"]
    assert {"mIoU", "pACC", "IoU-class0", "IoU-ground"} <= results.keys()
    assert 0 <= results["mIoU"] <= 100
    lines = Path(trainer.cfg.OUTPUT_DIR, "metrics.json").read_text().splitlines()
    losses = [loss for line in lines if (loss := json.loads(line).get("total_loss"))]
    assert losses and all(0 < loss < 3 for loss in losses)
    assert all(p.grad is not None for p in trainer.model.parameters())


def test_the_rate_is_poly_after_a_warm_up(trained):
    trainer, rates = trained
    assert isinstance(trainer.scheduler, WarmupPolyLR)
    warm = [0.5, 0.75, 1, 1, 1, 1]
    poly = [(1 - i / ITERATIONS) ** 0.9 for i in range(ITERATIONS)]
    expected = [0.01 * w * p for w, p in zip(warm, poly, strict=True)]
    assert rates == pytest.approx(expected)


def test_a_run_goes_on_and_is_evaluated_again(trained):
    trainer, _ = trained
    resumed = RelationTrainer(trainer.cfg)
    resumed.resume_or_load(resume=True)
    assert resumed.start_iter == ITERATIONS
    assert resumed.scheduler.last_epoch == trainer.scheduler.last_epoch
    results = RelationTrainer.evaluate(trainer.cfg, resume=True)["sem_seg"]
    assert results["mIoU"] == pytest.approx(trainer._last_eval_results["sem_seg"]["mIoU"])
