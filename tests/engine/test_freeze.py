"""`MODEL.SGRN.FREEZE`: what stays as it is, down to the last bit."""

import pytest

pytest.importorskip("detectron2")

import torch
from detectron2.layers import FrozenBatchNorm2d
from torch import nn

from relation_heads.engine import RelationTrainer, freeze_below_roi_heads
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


def freeze(value):
    return ("MODEL.SGRN.FREEZE", value)


def trainable(module):
    return {name for name, p in module.named_parameters() if p.requires_grad}


def state(module):
    return {name: value.clone() for name, value in module.state_dict().items()}


# ---- ROI heads ----


@forms
@pytest.mark.parametrize("value", ["base", "all"])
def test_the_base_head_is_frozen(ours, value):
    plain, heads = build_heads(*ours), build_heads(*ours, *freeze(value))
    assert trainable(plain) == {name for name, _ in plain.named_parameters()}
    assert trainable(heads) == {n for n in trainable(plain) if not n.startswith(BASE)}
    assert all(n.startswith("sgrn.") for n in trainable(heads))
    names = dict(heads.state_dict())
    assert names.keys() == plain.state_dict().keys()  # a checkpoint fits both
    assert all(torch.equal(v, names[k]) for k, v in plain.state_dict().items())


@forms
@pytest.mark.parametrize("value", ["none", "base"])
def test_a_step_trains_what_is_not_frozen_alone(ours, value):
    heads = build_heads(*ours, *freeze(value))
    before, features = state(heads), maps(requires_grad=True)
    result = head_losses(heads, features=features)
    assert ("loss_cls" in result) == ("loss_box_reg" in result) == (value == "none")
    assert {"loss_cls_sgrn", "loss_box_reg_sgrn"} <= result.keys()
    assert all(v.requires_grad for v in result.values())
    sum(result.values()).backward()
    torch.optim.SGD(heads.parameters(), lr=0.1).step()
    after = heads.state_dict()
    changed = {n for n in after if not torch.equal(after[n], before[n])}
    assert trainable(heads) <= changed
    assert any(n.startswith(BASE) for n in changed) == (value == "none")
    assert any("running_mean" in n for n in changed) == (value == "none")
    # The second stage still trains what is below the frozen head.
    assert any(f.grad is not None and f.grad.any() for f in features.values())


def test_mask_and_keypoint_branches_go_on_training():
    heads = build_heads(*SGRN, *MASK, *KEYPOINT, *freeze("base"))
    result = head_losses(heads)
    assert {"loss_mask", "loss_keypoint"} < result.keys()
    assert {n.split(".")[0] for n in trainable(heads)} == {"sgrn", "mask_head", "keypoint_head"}


def test_a_box_head_of_its_own_trains():
    heads = build_heads(*SGRN, *REFINE, "MODEL.SGRN.SHARE_FC", False, *freeze("base"))
    assert {n.split(".")[0] for n in trainable(heads)} == {"sgrn", "sgrn_box_head"}


@forms
def test_a_backbone_that_trains_beside_frozen_heads_is_named(ours):
    heads = build_heads(*ours, *freeze("all"))
    with pytest.raises(RuntimeError, match=r"FREEZE is all, but .*freeze_below_roi_heads\(model\)"):
        head_losses(heads, features=maps(requires_grad=True))
    assert head_losses(heads, features=maps()).keys() == {"loss_cls_sgrn", "loss_box_reg_sgrn"}


@pytest.mark.parametrize("value", ["base", "all"])
def test_there_must_be_something_left_to_train(value):
    """Without a second stage a frozen head is a model that cannot learn."""
    with pytest.raises(ValueError, match=r"MODEL\.SGRN\.FREEZE"):
        build_heads(*SGRN, *NO_GRAPH, *freeze(value))


# ---- models ----


def trainer_model(*opts):
    torch.manual_seed(0)
    return RelationTrainer.build_model(config(*opts))


@pytest.mark.parametrize(
    "ours", [SGRN, (*SGRN, *REFINE), (*C4_SGRN, *REFINE)], ids=["FPN", "two stages", "C4"]
)
def test_the_trainer_freezes_all_but_the_second_stage(ours):
    model = trainer_model(*ours, *freeze("all"))
    assert {".".join(n.split(".")[:2]) for n in trainable(model)} == {"roi_heads.sgrn"}
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
    result = losses(trainer_model(*SGRN, *freeze("all")))
    ours = {"loss_cls_sgrn", "loss_box_reg_sgrn"}
    assert {k for k, v in result.items() if v.requires_grad} == ours
    assert result.keys() - ours == {"loss_rpn_cls", "loss_rpn_loc"}  # logged all the same


@pytest.mark.parametrize("value", ["none", "base"])
def test_the_trainer_leaves_the_backbone_alone_otherwise(value):
    model = trainer_model(*SGRN, *freeze(value))
    below = {n for n, _ in model.named_parameters() if not n.startswith("roi_heads.")}
    assert below <= trainable(model)
    assert any(isinstance(m, nn.BatchNorm2d) for m in model.backbone.modules())


def test_the_trainer_builds_other_models_as_before():
    for opts in ((), ("MODEL.META_ARCHITECTURE", "RetinaNet", "MODEL.RETINANET.IN_FEATURES",
                      ["p2", "p3", "p4", "p5", "p6"])):  # fmt: skip
        model = trainer_model(*opts, *freeze("all"))
        assert trainable(model) == {name for name, _ in model.named_parameters()}


def test_the_trainer_needs_no_keys_of_this_package():
    cfg = tiny_cfg([], [], NUM_CLASSES, "unused", ("MODEL.ROI_HEADS.NAME", "SGRNROIHeads"))
    assert "SGRN" not in cfg.MODEL
    model = RelationTrainer.build_model(cfg)
    assert trainable(model) == {name for name, _ in model.named_parameters()}


def test_freezing_changes_neither_names_nor_detections():
    model = build(*SGRN)
    names, found = list(model.state_dict()), detections(model)
    freeze_below_roi_heads(model)
    assert set(model.state_dict()) == set(names)
    assert_same_detections(detections(model), found, rtol=0, atol=1e-5)
    assert any(isinstance(m, FrozenBatchNorm2d) for m in model.backbone.modules())
    assert all(n.startswith("roi_heads.") for n in trainable(model))
    # A checkpoint made before the freezing, with other statistics, is taken over completely.
    other = build(*SGRN, settle=False)
    losses(other)
    model.load_state_dict(other.state_dict())
    for name, value in other.state_dict().items():
        assert torch.equal(model.state_dict()[name], value), name


# ---- the detector below learned duplicate removal ----


@pytest.mark.parametrize(
    "ours",
    [SGRN, C4_SGRN, (*SGRN, *MASK, *KEYPOINT)],
    ids=["FPN", "C4", "FPN mask keypoint"],
)
def test_duplicate_removal_alone_is_trained(ours):
    keys = ("MODEL.DUPLICATE_REMOVAL.LEARN", True, "MODEL.DUPLICATE_REMOVAL.FREEZE", True)
    torch.manual_seed(0)
    model = RelationTrainer.build_model(config(*ours, *keys))
    new = {name for name, _ in model.named_parameters() if ".duplicate_removal." in name}
    assert trainable(model) == new and new
    before = state(model)
    found = losses(model)
    sum(found.values()).backward()
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.1)
    optimizer.step()
    changed = {name for name, value in state(model).items() if not torch.equal(value, before[name])}
    assert changed and changed <= new
