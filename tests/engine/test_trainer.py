"""`RelationTrainer` trains, evaluates and resumes."""

from __future__ import annotations

import math
import os
from contextlib import contextmanager
from pathlib import Path

import pytest

pytest.importorskip("detectron2")

import torch
from detectron2.data import DatasetMapper, MetadataCatalog
from detectron2.engine import DefaultTrainer, defaults

from relation_heads.data.mapper import FlipAwareMapper
from relation_heads.engine import RelationTrainer, ReportingCheckpointer
from tests.helpers import registered, tiny_cfg, tiny_coco

METADATA = {
    "class_groups": {"class0": "round", "class1": "square", "class2": "square"},
    "hflip_pairs": (("class0", "class1"),),
}


@pytest.fixture(scope="module")
def name(tmp_path_factory):
    with registered(tiny_coco(tmp_path_factory.mktemp("data")), **METADATA) as name:
        yield name


@pytest.fixture(scope="module")
def trained(name, tmp_path_factory):
    """A trainer after two iterations and an evaluation."""
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("out")
    # Low enough that the untrained model has something to say.
    cfg = tiny_cfg([name], [name], 3, folder, ["MODEL.ROI_HEADS.SCORE_THRESH_TEST", 1e-6])
    trainer = RelationTrainer(cfg)
    trainer.train()
    return trainer


@pytest.fixture
def cfg(trained, tmp_path):
    cfg = trained.cfg.clone()
    cfg.OUTPUT_DIR = str(tmp_path / "out")
    return cfg


def test_trains_and_evaluates_by_group(trained):
    results = trained._last_eval_results["bbox"]
    assert {"AP", "AP-class0", "AP/round", "AP50/square", "AR/square"} <= results.keys()
    assert results["AP/round"] == pytest.approx(results["AP-class0"])
    square = (results["AP-class1"] + results["AP-class2"]) / 2
    assert results["AP/square"] == pytest.approx(square)


def test_results_reach_the_metrics_file(trained):
    metrics = Path(trained.cfg.OUTPUT_DIR, "metrics.json").read_text()
    assert '"bbox/AP50/square"' in metrics


def test_the_trainer_can_be_resumed_from_what_its_hooks_saved(trained, cfg):
    assert isinstance(trained.checkpointer, ReportingCheckpointer)
    cfg.OUTPUT_DIR = trained.cfg.OUTPUT_DIR
    resumed = RelationTrainer(cfg)
    resumed.resume_or_load(resume=True)
    assert resumed.start_iter == 2
    assert len(resumed.checkpointer.report.loaded) == len(resumed.model.state_dict())
    for mine, theirs in zip(resumed.model.parameters(), trained.model.parameters(), strict=True):
        assert torch.equal(mine, theirs)
    momentum = resumed.optimizer.state_dict()["state"][0]["momentum_buffer"]
    assert torch.equal(momentum, trained.optimizer.state_dict()["state"][0]["momentum_buffer"])


def test_what_grows_is_recorded_in_training_and_not_in_evaluation(trained):
    assert trained.growth.iterations == [0, 1]
    series = {str(s): s.values for s in trained.growth.series()}
    for name in ("backbone[p6]", "proposal_generator.rpn_head.conv", "roi_heads.box_head.fc1",
                 "roi_heads.box_predictor.cls_score"):  # fmt: skip
        assert list(series[name]) == [0, 1]  # and not of the evaluation that followed
        assert list(series[f"the gradient of {name}"]) == [0, 1]
    assert not any(m._forward_hooks for m in trained.model.modules())


def test_gradients_are_recorded_without_the_scale_of_the_loss(trained, monkeypatch):
    seen = []

    class Scaler:
        def get_scale(self):
            return 512.0

    @contextmanager
    def iteration(number, *, loss_scale):
        seen.append(loss_scale)
        yield

    monkeypatch.setattr(trained.growth, "iteration", iteration)
    monkeypatch.setattr(DefaultTrainer, "run_step", lambda self: None)
    trained.run_step()
    monkeypatch.setattr(trained._trainer, "grad_scaler", Scaler(), raising=False)
    trained.run_step()
    assert seen == [1.0, 512.0]


def test_evaluate_loads_and_evaluates(trained, cfg):
    cfg.MODEL.WEIGHTS = os.path.join(trained.cfg.OUTPUT_DIR, "model_final.pth")
    results = RelationTrainer.evaluate(cfg)["bbox"]
    expected = trained._last_eval_results["bbox"]
    assert results.keys() == expected.keys()
    for key, value in expected.items():
        assert results[key] == pytest.approx(value, nan_ok=True)
    cfg.OUTPUT_DIR, cfg.MODEL.WEIGHTS = trained.cfg.OUTPUT_DIR, ""
    assert RelationTrainer.evaluate(cfg, resume=True)["bbox"]["AP"] == expected["AP"]


def test_evaluate_refuses_an_untrained_part(trained, cfg):
    with pytest.raises(ValueError, match="nothing to evaluate"):
        RelationTrainer.evaluate(cfg)
    cfg.MODEL.WEIGHTS = os.path.join(trained.cfg.OUTPUT_DIR, "model_final.pth")
    cfg.MODEL.ROI_BOX_HEAD.NUM_FC = 3
    with pytest.raises(ValueError, match=r"lacks 2 tensors .*roi_heads.box_head \(2\)"):
        RelationTrainer.evaluate(cfg)


def test_test_time_augmentation_has_results_of_its_own(trained, cfg):
    cfg.TEST.AUG.MIN_SIZES, cfg.TEST.AUG.FLIP = (64,), True
    results = RelationTrainer.test_with_TTA(cfg, trained.model)
    assert list(results) == ["bbox_TTA"]
    assert math.isfinite(results["bbox_TTA"]["AP/round"])
    assert os.path.isdir(os.path.join(cfg.OUTPUT_DIR, "inference_TTA"))


def test_the_loader_has_the_mapper_of_the_data_set(cfg, tmp_path):
    loader = RelationTrainer.build_train_loader(cfg)
    assert isinstance(loader.dataset.mapper, FlipAwareMapper)
    with registered(tiny_coco(tmp_path)) as plain:
        cfg.DATASETS.TRAIN = (plain,)
        loader = RelationTrainer.build_train_loader(cfg)
    assert type(loader.dataset.mapper) is DatasetMapper
    batch = next(iter(loader))
    assert len(batch) == 2 and len(batch[0]["instances"]) == 3


def test_a_data_set_without_an_evaluator_is_passed_over_aloud(trained, cfg, tmp_path, caplog):
    with registered(tiny_coco(tmp_path)) as name:
        vars(MetadataCatalog.get(name))["evaluator_type"] = "mine"
        cfg.DATASETS.TEST = (name,)
        assert RelationTrainer.test(cfg, trained.model) == {}
    assert any("evaluator_type 'mine'" in r.getMessage() for r in caplog.records)


def test_detectron2_is_left_as_it_was(trained):
    assert defaults.create_ddp_model.__module__ == "detectron2.engine.defaults"
