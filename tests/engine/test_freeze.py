"""Presets of `MODEL.TRAIN_ONLY` on relational heads: what stays as it is, down to the last bit."""

import pytest

pytest.importorskip("detectron2")

import torch
from torch import nn

from relation_heads.config import find_config
from relation_heads.engine import RelationTrainer
from relation_heads.engine.freeze import train_only
from tests.helpers import tiny_cfg
from tests.modeling.common import (
    C4_SGRN,
    KEYPOINT,
    MASK,
    NO_GRAPH,
    NUM_CLASSES,
    REFINE,
    SGRN,
    SIZES,
    assert_same_detections,
    batch,
    build,
    build_heads,
    config,
    detections,
    head_losses,
    losses,
    maps,
)

CONV = ("MODEL.ROI_BOX_HEAD.NUM_CONV", 1, "MODEL.ROI_BOX_HEAD.CONV_DIM", 8,
        "MODEL.ROI_BOX_HEAD.NORM", "BN")  # fmt: skip
FORMS = {
    "FPN": (*SGRN, *CONV),
    "FPN two stages": (*SGRN, *CONV, *REFINE),
    "FPN without a graph": (*SGRN, *CONV, *REFINE, *NO_GRAPH),
    "C4": C4_SGRN,
    "C4 two stages": (*C4_SGRN, *REFINE),
}
forms = pytest.mark.parametrize("ours", FORMS.values(), ids=FORMS.keys())
BASE = ("box_head.", "box_predictor.", "res5.")
SECOND_STAGE = (
    "MODEL.TRAIN_ONLY",
    ["roi_heads.mechanism.*"],
    "MODEL.SGRN.LOSS_WEIGHTS",
    [0.0, 1.0],
)
LEARNED = ("MODEL.DUPLICATE_REMOVAL.LEARN", True, "MODEL.DUPLICATE_REMOVAL.LOGIT_BIAS", 0.0,
           "MODEL.TRAIN_ONLY", ["roi_heads.end.*"])  # fmt: skip


def trainable(module):
    return {name for name, p in module.named_parameters() if p.requires_grad}


def state(module):
    return {name: value.clone() for name, value in module.state_dict().items()}


# ---- ROI heads whose base stays as it is, above a backbone that trains ----


@forms
@pytest.mark.parametrize("frozen", [False, True])
def test_a_step_trains_what_is_not_frozen_alone(ours, frozen):
    weights = ("MODEL.SGRN.LOSS_WEIGHTS", [0.0, 1.0]) if frozen else ()
    heads = build_heads(*ours, *weights)
    if frozen:
        train_only(heads, ["mechanism.*"])
    before, features = state(heads), maps(requires_grad=True)
    result = head_losses(heads, features=features)
    assert ("loss_cls" in result) == ("loss_box_reg" in result) == (not frozen)
    assert {"loss_cls_sgrn", "loss_box_reg_sgrn"} <= result.keys()
    assert all(v.requires_grad for v in result.values())
    sum(result.values()).backward()
    torch.optim.SGD(heads.parameters(), lr=0.1).step()
    after = heads.state_dict()
    changed = {n for n in after if not torch.equal(after[n], before[n])}
    assert trainable(heads) <= changed
    assert any(n.startswith(BASE) for n in changed) == (not frozen)
    assert any("running_mean" in n for n in changed) == (not frozen)
    # The second stage still trains what is below the frozen head.
    assert any(f.grad is not None and f.grad.any() for f in features.values())


def test_mask_and_keypoint_branches_can_go_on_training():
    heads = build_heads(*SGRN, *MASK, *KEYPOINT)
    train_only(heads, ["mechanism.*", "mask_head.*", "keypoint_head.*"])
    result = head_losses(heads)
    assert {"loss_mask", "loss_keypoint"} < result.keys()
    assert {n.split(".")[0] for n in trainable(heads)} == {
        "mechanism",
        "mask_head",
        "keypoint_head",
    }


def test_a_box_head_of_its_own_trains():
    heads = build_heads(*SGRN, *REFINE, "MODEL.SGRN.SHARE_FC", False)
    train_only(heads, ["mechanism.*"])
    names = {".".join(n.split(".")[:2]) for n in trainable(heads)}
    assert names == {"mechanism.graph", "mechanism.predictor", "mechanism.box_head"}


# ---- models ----


def trainer_model(*opts):
    torch.manual_seed(0)
    return RelationTrainer.build_model(config(*opts))


@pytest.mark.parametrize(
    "ours", [SGRN, (*SGRN, *REFINE), (*C4_SGRN, *REFINE)], ids=["FPN", "two stages", "C4"]
)
def test_the_trainer_freezes_all_but_the_second_stage(ours):
    model = trainer_model(*ours, *SECOND_STAGE)
    assert {".".join(n.split(".")[:2]) for n in trainable(model)} == {"roi_heads.mechanism"}
    assert not any(isinstance(m, nn.BatchNorm2d) for m in model.modules())

    cfg = config(*ours)
    optimizer = RelationTrainer.build_optimizer(cfg, model)
    before = state(model)
    result = losses(model, batch(SIZES))
    sum(result.values()).backward()
    optimizer.step()
    after = model.state_dict()
    changed = {n for n in after if not torch.equal(after[n], before[n])}
    assert changed and changed <= trainable(model)
    assert {n for n in changed if "graph.learner" in n or "graph.convs" in n}


def test_what_is_frozen_trains_by_no_loss():
    result = losses(trainer_model(*SGRN, *SECOND_STAGE))
    ours = {"loss_cls_sgrn", "loss_box_reg_sgrn"}
    assert {k for k, v in result.items() if v.requires_grad} == ours
    assert result.keys() - ours == {"loss_rpn_cls", "loss_rpn_loc"}  # logged all the same


def test_the_trainer_needs_no_keys_of_this_package():
    cfg = tiny_cfg([], [], NUM_CLASSES, "unused", ("MODEL.ROI_HEADS.NAME", "SGRNROIHeads"))
    assert "SGRN" not in cfg.MODEL
    model = RelationTrainer.build_model(cfg)
    assert trainable(model) == {name for name, _ in model.named_parameters()}


def test_freezing_changes_neither_names_nor_detections():
    model = build(*SGRN)
    names, found = list(model.state_dict()), detections(model)
    train_only(model, ["roi_heads.*"])
    assert set(model.state_dict()) == set(names)
    assert_same_detections(detections(model), found, rtol=0, atol=1e-5)
    assert not any(isinstance(m, nn.BatchNorm2d) for m in model.backbone.modules())
    assert all(n.startswith("roi_heads.") for n in trainable(model))
    # A checkpoint made before the freezing, with other statistics, is taken over completely.
    other = build(*SGRN, settle=False)
    losses(other)
    model.load_state_dict(other.state_dict())
    for name, value in other.state_dict().items():
        assert torch.equal(model.state_dict()[name], value), name


@pytest.mark.parametrize(
    ("preset", "patterns", "others"),
    [
        ("sgrn_student", ["roi_heads.mechanism.*"], {"MODEL.SGRN.LOSS_WEIGHTS": [0.0, 1.0]}),
        ("learn_nms_frozen", ["roi_heads.end.*"], {"MODEL.DUPLICATE_REMOVAL.LOGIT_BIAS": 0.0}),
    ],
)
def test_presets_keep_their_settings(preset, patterns, others):
    cfg = config()
    cfg.merge_from_file(find_config(f"heads/{preset}.yaml"))
    assert patterns == cfg.MODEL.TRAIN_ONLY
    for key, value in others.items():
        _, node, name = key.split(".")
        assert cfg.MODEL[node][name] == value


# ---- the detector below learned duplicate removal ----


@pytest.mark.parametrize(
    "ours",
    [SGRN, C4_SGRN, (*SGRN, *MASK, *KEYPOINT)],
    ids=["FPN", "C4", "FPN mask keypoint"],
)
def test_duplicate_removal_alone_is_trained(ours):
    torch.manual_seed(0)
    model = RelationTrainer.build_model(config(*ours, *LEARNED))
    new = {name for name, _ in model.named_parameters() if name.startswith("roi_heads.end.")}
    assert trainable(model) == new and new
    for name, parameter in model.named_parameters():
        if name.endswith("cls_score.weight"):  # scores that are neither 0 nor 1
            parameter.data.mul_(1e-3)
    before = state(model)
    found = losses(model)
    sum(found.values()).backward()
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.1)
    optimizer.step()
    changed = {name for name, value in state(model).items() if not torch.equal(value, before[name])}
    assert changed and changed <= new
