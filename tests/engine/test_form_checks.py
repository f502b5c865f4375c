"""Heads that do not fit the rest of a config are said, with the name that would fit."""

from __future__ import annotations

import pytest

pytest.importorskip("detectron2")

from detectron2.modeling import ROI_HEADS_REGISTRY
from detectron2.modeling.roi_heads import StandardROIHeads

from relation_heads import get_cfg
from relation_heads.config import find_config
from relation_heads.engine.form_checks import form_problems, head_names, unread_problems
from tests.config.test_config import LEAVES
from tests.helpers import tiny_cfg
from tests.modeling.common import C4, RELATION, SGRN

HEADS = "MODEL.ROI_HEADS.NAME"
FPN_YAML = "COCO-InstanceSegmentation/mask_rcnn_R_50_FPN_3x.yaml"
C4_YAML = "COCO-InstanceSegmentation/mask_rcnn_R_50_C4_3x.yaml"
DC5_YAML = "COCO-InstanceSegmentation/mask_rcnn_R_50_DC5_3x.yaml"
CASCADE_YAML = "Misc/cascade_mask_rcnn_R_50_FPN_3x.yaml"
PANOPTIC_YAML = "COCO-PanopticSegmentation/panoptic_fpn_R_50_3x.yaml"


def problems(cfg, earlier=()):
    found = list(form_problems(cfg, earlier)) or list(unread_problems(cfg))
    assert all(p.fatal and p.message.endswith(".") for p in found)
    return [p.message for p in found]


def tiny(*opts):
    """Problems of a tiny model."""
    return problems(tiny_cfg([], [], 3, "unused", opts, base=get_cfg()))


def stock(name, *opts):
    """Problems of a YAML of Detectron2 with overrides."""
    cfg = get_cfg()
    file = find_config(name)
    cfg.merge_from_file(file)
    cfg.merge_from_list(list(opts))
    return problems(cfg, head_names(file, opts))


def assert_only_problem(found, *parts):
    assert len(found) == 1, found
    assert all(part in found[0] for part in parts), found


# ---- what works ----


@pytest.mark.parametrize("leaf", LEAVES)
def test_our_configs_fit(leaf):
    cfg = get_cfg()
    cfg.merge_from_file(find_config(leaf))
    assert problems(cfg, head_names(find_config(leaf), [])) == []


@pytest.mark.parametrize("yaml", [FPN_YAML, C4_YAML, DC5_YAML, CASCADE_YAML, PANOPTIC_YAML,
                                  "COCO-Detection/retinanet_R_50_FPN_1x.yaml"])  # fmt: skip
def test_stock_configs_fit(yaml):
    assert stock(yaml) == []


@pytest.mark.parametrize("heads", [
    "RelationROIHeads", "SGRNROIHeads", "ReasoningROIHeads", "ReasoningRCNNROIHeads",
])  # fmt: skip
def test_heads_in_their_own_form_fit(heads):
    for yaml in (FPN_YAML, DC5_YAML, PANOPTIC_YAML):
        assert stock(yaml, HEADS, heads) == []
    assert stock(C4_YAML, HEADS, f"Res5{heads}") == []


# ---- what does not ----


@pytest.mark.parametrize(
    ("yaml", "arch"),
    [
        ("COCO-Detection/retinanet_R_50_FPN_1x.yaml", "RetinaNet"),
        ("COCO-Detection/rpn_R_50_FPN_1x.yaml", "ProposalNetwork"),
        ("Misc/semantic_R_50_FPN_1x.yaml", "SemanticSegmentor"),
    ],
)
def test_models_without_roi_heads(yaml, arch):
    found = stock(yaml, HEADS, "SGRNROIHeads", "MODEL.SGRN.REFINE", True)
    assert_only_problem(found, f"MODEL.META_ARCHITECTURE {arch} has no ROI heads", "SGRNROIHeads",
                        "GeneralizedRCNN")  # fmt: skip
    found = stock(yaml, "MODEL.SGRN.REFINE", True)
    assert_only_problem(
        found, f"MODEL.SGRN has REFINE True, which MODEL.META_ARCHITECTURE {arch} does not read"
    )


@pytest.mark.parametrize("name", ["RRPN", "RotatedRPN"])
def test_rotated_boxes(name, monkeypatch):
    key = "MODEL.PROPOSAL_GENERATOR.NAME"
    anchors = "MODEL.ANCHOR_GENERATOR.NAME"
    assert_only_problem(
        tiny(key, "RRPN", HEADS, "RROIHeads"), f"{anchors} DefaultAnchorGenerator", "must all be"
    )
    assert tiny(key, "RRPN", HEADS, "RROIHeads", anchors, "RotatedAnchorGenerator") == []
    if name == "RotatedRPN":  # somebody's own
        from detectron2.modeling.proposal_generator import PROPOSAL_GENERATOR_REGISTRY, rrpn

        own = type(name, (rrpn.RRPN,), {})
        monkeypatch.setitem(PROPOSAL_GENERATOR_REGISTRY._obj_map, name, own)
    assert_only_problem(
        tiny(*RELATION, key, name), f"{key} {name} gives rotated boxes",
        "RelationROIHeads", f"set {key} RPN, or {HEADS} RROIHeads",
    )  # fmt: skip
    assert_only_problem(
        tiny(*SGRN, anchors, "RotatedAnchorGenerator"),
        f"set {anchors} DefaultAnchorGenerator",
    )


@pytest.mark.parametrize("mechanism", [
    "Relation", "SGRN", "Reasoning", "ReasoningRCNN", "DuplicateRemoval",
])  # fmt: skip
def test_heads_in_another_form(mechanism):
    heads = f"{mechanism}ROIHeads"
    found = stock(C4_YAML, HEADS, heads)
    assert_only_problem(found, f"{HEADS} {heads} embeds", f"set {HEADS} Res5{heads}, or give it")
    for yaml, maps in ((FPN_YAML, "['p2', 'p3', 'p4', 'p5']"), (DC5_YAML, "['res5']")):
        found = stock(yaml, HEADS, f"Res5{heads}")
        assert_only_problem(found, f"IN_FEATURES is {maps}: set {HEADS} {heads}.")


def test_tiny_models_in_another_form():
    assert_only_problem(tiny(*C4, *SGRN), f"set {HEADS} Res5SGRNROIHeads")
    found = tiny(HEADS, "Res5RelationROIHeads")
    assert_only_problem(found, f"set {HEADS} RelationROIHeads")
    own = ("MODEL.ROI_BOX_HEAD.NAME", "FastRCNNConvFCHead", "MODEL.ROI_BOX_HEAD.NUM_FC", 2)
    assert tiny(*C4, *SGRN, *own) == []  # a box head on res4


def test_a_form_that_does_not_exist_is_not_proposed(monkeypatch):
    monkeypatch.delitem(ROI_HEADS_REGISTRY._obj_map, "Res5SGRNROIHeads")
    (found,) = stock(C4_YAML, HEADS, "SGRNROIHeads")
    assert "set MODEL.ROI_HEADS.NAME" not in found and "FastRCNNConvFCHead" in found


def test_a_cascade_that_would_be_lost():
    for heads in ("SGRNROIHeads", "Res5SGRNROIHeads"):
        assert_only_problem(
            stock(CASCADE_YAML, HEADS, heads),
            "This is a config of CascadeROIHeads", f"{HEADS} {heads} has one stage",
            f"set {HEADS} CascadeSGRNROIHeads.",
        )  # fmt: skip
    assert stock(CASCADE_YAML, HEADS, "CascadeSGRNROIHeads") == []
    assert stock(CASCADE_YAML, HEADS, "StandardROIHeads") == []  # Detectron2's own business
    agnostic = "MODEL.ROI_BOX_HEAD.CLS_AGNOSTIC_BBOX_REG"
    for yaml in (FPN_YAML, "Misc/mask_rcnn_R_50_FPN_1x_cls_agnostic.yaml"):
        assert_only_problem(
            stock(yaml, HEADS, "CascadeSGRNROIHeads"),
            "This is a config of StandardROIHeads", f"{HEADS} SGRNROIHeads", f"set {agnostic} True",
        )  # fmt: skip
        assert stock(yaml, HEADS, "CascadeSGRNROIHeads", agnostic, True) == []
    assert_only_problem(
        stock(C4_YAML, HEADS, "CascadeSGRNROIHeads"), f"set {HEADS} Res5SGRNROIHeads"
    )


def test_a_cascade_is_seen_in_the_bases_of_a_config(tmp_path):
    middle, leaf = tmp_path / "middle.yaml", tmp_path / "leaf.yaml"
    other = tmp_path / "other.yaml"
    other.write_text("MODEL: {WEIGHTS: ''}\n")
    middle.write_text(f"_BASE_: {find_config(CASCADE_YAML)}\n")
    leaf.write_text("_BASE_: [other.yaml, middle.yaml]\nMODEL: {ROI_HEADS: {NAME: SGRNROIHeads}}\n")
    names = head_names(str(leaf), ["SEED", 1, HEADS, "RelationROIHeads"])
    assert names == [*["CascadeROIHeads"] * 2, "SGRNROIHeads"]  # the last is overridden
    cfg = get_cfg()
    cfg.merge_from_file(str(leaf))
    assert_only_problem(
        problems(cfg, head_names(str(leaf), [])), "This is a config of CascadeROIHeads"
    )
    assert head_names("", []) == []


# ---- keys that nobody reads ----


@pytest.mark.parametrize(
    ("opts", "parts"),
    [
        (("MODEL.RELATION.GEOMETRY", "none"),
         ("RELATION has GEOMETRY none", "StandardROIHeads", "RelationROIHeads, or leave it out")),
        (("MODEL.SGRN.REFINE", True, "MODEL.SGRN.NUM_KERNELS", 4, HEADS, "RelationROIHeads"),
         ("NUM_KERNELS 4, REFINE True", f"set {HEADS} SGRNROIHeads, or leave them out")),
        (("MODEL.REASONING.LOCAL.CHANNELS", 8, HEADS, "SGRNROIHeads"),
         ("REASONING has LOCAL.CHANNELS 8", f"set {HEADS} ReasoningROIHeads")),
        (("MODEL.DUPLICATE_REMOVAL.TEST_METHOD", "soft_nms"),
         ("TEST_METHOD soft_nms", f"set {HEADS} DuplicateRemovalROIHeads")),
    ],
)  # fmt: skip
def test_keys_that_nobody_reads(opts, parts):
    assert_only_problem(stock(FPN_YAML, *opts), *parts)


def test_the_proposed_reader_has_the_form_of_the_model():
    found = stock(C4_YAML, "MODEL.SGRN.REFINE", True)
    assert_only_problem(found, f"set {HEADS} Res5SGRNROIHeads, or")


def test_every_relational_head_reads_the_end_of_the_head():
    for name in ("RelationROIHeads", "SGRNROIHeads", "ReasoningROIHeads"):
        keys = ("MODEL.DUPLICATE_REMOVAL.TEST_METHOD", "soft_nms")
        assert stock(FPN_YAML, HEADS, name, *keys) == []


def test_heads_of_somebody_else_may_say_what_they_read(monkeypatch):
    reads = classmethod(lambda cls, cfg: {"SGRN"})
    heads = type("OwnROIHeads", (StandardROIHeads,), {"reads": reads})
    monkeypatch.setitem(ROI_HEADS_REGISTRY._obj_map, "OwnROIHeads", heads)
    keys = (HEADS, "OwnROIHeads", "MODEL.SGRN.REFINE", True)
    assert stock(FPN_YAML, *keys) == []
    found = stock(FPN_YAML, *keys, "MODEL.RELATION.GEOMETRY", "none")
    assert_only_problem(found, "MODEL.RELATION has GEOMETRY none")


def test_the_keys_need_not_be_there():
    """In a config that Detectron2's own `get_cfg()` made."""
    from detectron2.config import get_cfg as get_detectron2_cfg

    cfg = get_detectron2_cfg()
    cfg.merge_from_file(find_config(FPN_YAML))
    assert problems(cfg) == []
