"""LazyConfigs build the models of their YAML twins, and train with Detectron2's own trainer."""

from pathlib import Path

import pytest

pytest.importorskip("detectron2")

import torch
from detectron2.config import LazyConfig, instantiate
from detectron2.engine import SimpleTrainer
from detectron2.modeling import build_model
from detectron2.utils.events import EventStorage

from relation_heads.config import find_config, get_cfg
from relation_heads.modeling.without_memory import without_memory
from tests.modeling.common import batch

FOLDER = Path(__file__).resolve().parents[2] / "configs" / "lazy"
TWINS = {
    "mask_rcnn_R_50_FPN_relation_1x": (
        "COCO-InstanceSegmentation/mask_rcnn_R_50_FPN_1x.yaml",
        "RelationROIHeads",
    ),
    "cascade_mask_rcnn_R_50_FPN_sgrn_1x": (
        "Misc/cascade_mask_rcnn_R_50_FPN_1x.yaml",
        "CascadeSGRNROIHeads",
    ),
}


def test_every_lazy_config_has_a_twin():
    assert {path.stem for path in FOLDER.glob("*.py")} == TWINS.keys()


@pytest.mark.parametrize("name", TWINS)
def test_the_parameters_are_those_of_the_yaml(name):
    yaml, heads = TWINS[name]
    cfg = get_cfg()
    cfg.merge_from_file(find_config(yaml))
    cfg.MODEL.ROI_HEADS.NAME, cfg.MODEL.DEVICE = heads, "meta"
    with without_memory():
        ours = instantiate(LazyConfig.load(str(FOLDER / f"{name}.py")).model)
        theirs = build_model(cfg)
    assert {n: p.shape for n, p in ours.named_parameters()} == {
        n: p.shape for n, p in theirs.named_parameters()
    }
    for part in ("sampling", "gt_as_keys"):
        assert getattr(ours.roi_heads, part) == getattr(theirs.roi_heads, part)


@pytest.mark.parametrize("name", TWINS)
def test_detectron2s_trainer_trains_it(name):
    cfg = LazyConfig.load(str(FOLDER / f"{name}.py"))
    cfg.model.backbone.bottom_up.stages.norm = cfg.model.backbone.bottom_up.stem.norm = "BN"
    cfg.model.proposal_generator.post_nms_topk = (40, 40)
    torch.manual_seed(0)
    model = instantiate(cfg.model).train()
    cfg.optimizer.params.model = model
    trainer = SimpleTrainer(model, [batch()], instantiate(cfg.optimizer))
    with EventStorage() as storage:
        trainer.storage = storage
        before = {n: p.clone() for n, p in model.roi_heads.named_parameters()}
        trainer.run_step()
    after = dict(model.roi_heads.named_parameters())
    new = [n for n in after if "relation" in n or n.startswith("mechanism.")]
    assert new and any(not torch.equal(after[n], before[n]) for n in new)
    assert all(p.isfinite().all() for p in after.values())
