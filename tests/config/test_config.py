import pytest

pytest.importorskip("detectron2")

import os
import re
from functools import cache
from pathlib import Path

import detectron2
from detectron2.config import get_cfg as get_detectron2_cfg
from detectron2.modeling import build_model
from detectron2.projects.deeplab import add_deeplab_config

from relation_heads.analysis.report import OURS
from relation_heads.config import add_relation_heads_config, find_config, get_cfg, node
from relation_heads.config.defaults import NODES
from relation_heads.modeling.without_memory import without_memory

CONFIGS = Path(__file__).resolve().parents[2] / "configs"
AXES = {"heads", "blocks", "data", "schedules"}
LEAVES = sorted(
    str(p.relative_to(CONFIGS)) for p in CONFIGS.glob("*/*.yaml") if p.parent.name not in AXES
)


def load(name):
    cfg = get_cfg()
    cfg.merge_from_file(find_config(name))
    return cfg


def build_without_memory(cfg):
    cfg.MODEL.DEVICE = "meta"
    with without_memory():
        return build_model(cfg)


@cache
def parameters(leaf):
    return {name: tuple(p.shape) for name, p in build_without_memory(load(leaf)).named_parameters()}


def test_adding_the_config_twice_changes_nothing():
    cfg = get_cfg()
    cfg.MODEL.RELATION.NUM_HEADS = 3
    add_relation_heads_config(cfg)
    assert cfg.MODEL.RELATION.NUM_HEADS == 3


def test_a_config_of_detectron2_has_the_defaults_of_our_keys():
    ours, stock = get_cfg(), get_detectron2_cfg()
    for name in NODES:
        assert node(stock, name) == node(ours, name) == ours.MODEL[name]
    ours.MODEL.SGRN.NUM_KERNELS = 3
    assert node(ours, "SGRN").NUM_KERNELS == 3 != node(stock, "SGRN").NUM_KERNELS
    assert "SGRN" not in stock.MODEL


def test_a_key_of_the_user_is_kept():
    cfg = get_detectron2_cfg()
    add_deeplab_config(cfg)
    cfg.MODEL.RESNETS.STEM_TYPE, cfg.SOLVER.POLY_LR_POWER = "basic", 1.0
    add_relation_heads_config(cfg)
    assert (cfg.MODEL.RESNETS.STEM_TYPE, cfg.SOLVER.POLY_LR_POWER) == ("basic", 1.0)


def test_the_rest_is_detectron2s_default():
    ours, stock = get_cfg(), get_detectron2_cfg()
    ours_alone = ("RELATION", "SGRN", "REASONING", "REASONING_RCNN", "CONTEXT_BLOCKS")
    others = ("DUPLICATE_REMOVAL", "EFFICIENTNET_LITE", "TORCHVISION", "LR_NET", "TRAIN_ONLY")
    for name in (*ours_alone, "GLORE_HEAD", "REGION_FEATURES", "CLASSIFIER", *others):
        del ours.MODEL[name]
    for name in ("MAX_BROKEN", "CACHE_MAPS"):
        del ours.DATALOADER[name]
    assert ours != stock
    add_deeplab_config(stock)
    assert ours == stock


# What is trained on a frozen twin has a schedule of its own.
WITH_A_TWIN = [n for n in LEAVES if OURS.search(n) and "frozen" not in n]


@pytest.mark.parametrize("leaf", [n for n in LEAVES if n not in WITH_A_TWIN])
def test_every_other_config_builds(leaf):
    model = build_without_memory(load(leaf))
    assert sum(p.numel() for p in model.parameters()) > 1e5


@pytest.mark.parametrize("leaf", WITH_A_TWIN)
def test_every_relational_config_is_its_stock_twin_and_more(leaf):
    stock, ours = load(OURS.sub("", leaf)), load(leaf)
    assert stock.SOLVER == ours.SOLVER and stock.INPUT == ours.INPUT
    assert stock.DATASETS == ours.DATASETS and stock.TEST == ours.TEST
    stock, ours = dict(parameters(OURS.sub("", leaf))), parameters(leaf)
    # The second classifier of SGRN reads more than its twin of two stages.
    for name in ("cls_score.weight", "bbox_pred.weight"):
        stock.pop(f"roi_heads.mechanism.predictor.{name}", None)
    assert stock.items() <= ours.items()
    where = {"sgrn": ".mechanism.", "reasoning": ".mechanism.", "reasoning-rcnn": ".mechanism."}
    where |= {"learn-nms": ".end.", "learned-regions": ".box_pooler.layer."}
    parts = re.sub(
        "(learn|learned|reasoning)_(nms|regions|rcnn)", r"\1-\2", OURS.search(leaf)[1]
    ).split("_")
    new = [where.get(part, f".{part}") for part in parts]
    assert all(any(n in name for n in new) for name in ours.keys() - stock.keys())


@pytest.mark.parametrize(
    ("ours", "stock", "depth"),
    [
        ("COCO-Detection/faster_rcnn_R_50_FPN_1x", "faster_rcnn_R_50_FPN_1x", 50),
        # stock has no 1x for it
        ("COCO-Detection/faster_rcnn_R_101_FPN_1x", "faster_rcnn_R_50_FPN_1x", 101),
        ("COCO-Detection/faster_rcnn_R_50_C4_1x", "faster_rcnn_R_50_C4_1x", 50),
        ("COCO-InstanceSegmentation/mask_rcnn_R_50_FPN_1x", "mask_rcnn_R_50_FPN_1x", 50),
        ("VOC-Detection/faster_rcnn_R_50_FPN", "../PascalVOC-Detection/faster_rcnn_R_50_FPN", 50),
        (
            "LVIS-Detection/faster_rcnn_R_50_FPN_2x",
            "../LVISv1-InstanceSegmentation/mask_rcnn_R_50_FPN_1x",
            50,
        ),
    ],
)
def test_twins_are_detectron2s_own(ours, stock, depth):
    folder = Path(detectron2.__file__).parent / "model_zoo" / "configs" / Path(ours).parent
    ours = load(f"{ours}.yaml")
    expected = get_cfg()
    expected.merge_from_file(os.path.normpath(folder / f"{stock}.yaml"))
    expected.MODEL.MASK_ON = ours.MODEL.MASK_ON
    expected.MODEL.WEIGHTS = ours.MODEL.WEIGHTS
    expected.MODEL.RESNETS.DEPTH = depth
    assert ours == expected


def test_a_config_is_found_by_name_and_a_missing_one_is_named():
    assert Path(find_config("RelationalScenes/faster_rcnn_shallow.yaml")).is_file()
    assert "detectron2" in find_config("COCO-Keypoints/keypoint_rcnn_R_50_FPN_1x.yaml")
    with pytest.raises(
        FileNotFoundError, match=r"'none.yaml' was not found; looked for .*none.yaml"
    ):
        find_config("none.yaml")


# ---- what is called released has what the release has ----


@pytest.mark.parametrize("leaf", [n for n in LEAVES if "learn_nms" in n])
def test_duplicate_removal_alone_starts_at_a_bias_of_0(leaf):
    assert load(leaf).MODEL.DUPLICATE_REMOVAL.LOGIT_BIAS == (0.0 if "frozen" in leaf else -3.0)


@pytest.mark.parametrize("leaf", [n for n in LEAVES if "_C5_" in n])
def test_the_released_relation_network(leaf):
    cfg = load(leaf)
    assert cfg.SOLVER.WARMUP_ITERS == 0 and cfg.SOLVER.WEIGHT_DECAY_BIAS == 0.0
    assert cfg.SOLVER.WEIGHT_DECAY == 1e-4
    shapes = parameters(leaf)
    rpn = "proposal_generator.rpn_head."
    assert shapes[f"{rpn}conv.weight"] == (512, 1024, 3, 3)
    assert shapes[f"{rpn}objectness_logits.weight"] == (12, 512, 1, 1)
    pruned = 0.01 if "relation_learn_nms" in leaf else 0.0
    assert cfg.MODEL.DUPLICATE_REMOVAL.CLASS_THRESH_TEST == pruned


@pytest.mark.parametrize("data", ["COCO", "VG3000"])
@pytest.mark.parametrize("name", ["sgrn_official", "official"])
def test_the_released_sgrn(data, name):
    cfg = load(f"{data}-Detection/faster_rcnn_R_101_FPN_{name}_two_stage_1x.yaml")
    heads, rpn, clip = cfg.MODEL.ROI_HEADS, cfg.MODEL.RPN, cfg.SOLVER.CLIP_GRADIENTS
    assert (heads.NMS_THRESH_TEST, heads.SCORE_THRESH_TEST) == (0.55, 0.001)
    assert cfg.TEST.DETECTIONS_PER_IMAGE == 150
    assert (clip.ENABLED, clip.CLIP_TYPE, clip.CLIP_VALUE, clip.NORM_TYPE) == (
        *(True, "full_model", 35.0, 2.0),
    )
    assert rpn.POST_NMS_TOPK_TRAIN == rpn.POST_NMS_TOPK_TEST == 2000
    assert not heads.PROPOSAL_APPEND_GT
    assert cfg.MODEL.SGRN.REFINE and bool(cfg.MODEL.SGRN.GRAPH_DIMS) == ("sgrn" in name)


@pytest.mark.parametrize("leaf", ["ade_R_50_C4", "ade_R_50_C4_reasoning"])
def test_the_released_iterative_reasoning(leaf):
    cfg = load(f"RegionClassification/{leaf}.yaml")
    assert cfg.SOLVER.WARMUP_ITERS == 0 and cfg.SOLVER.WEIGHT_DECAY_BIAS == 0.0
    assert cfg.MODEL.REASONING.LOCAL.HALF_PIXEL == ("reasoning" not in leaf)
