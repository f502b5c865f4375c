"""Values of Detectron2's keys that cannot work are named before anything is built."""

from __future__ import annotations

import math

import pytest

pytest.importorskip("detectron2")

from relation_heads.config import get_cfg, merge_file
from relation_heads.config.defaults import value_problems
from relation_heads.config.files import all_configs
from relation_heads.config.problems import raise_fatal
from relation_heads.engine.checks import check_cfg
from relation_heads.engine.model_config import merge_overrides
from relation_heads.engine.stock_checks import stock_problems, stock_values
from relation_heads.engine.stock_types import ALWAYS, IN_TRAINING
from tests.helpers import registered, tiny_cfg, tiny_coco

BAD = [-2, math.nan, 1e400, "bogus", [], (), None]
CASES = [
    ("DATASETS.TRAIN", ()),
    ("SOLVER.STEPS", (-1,)),
    ("SOLVER.STEPS", (0, 2)),
    ("MODEL.ANCHOR_GENERATOR.SIZES", [[8], [-16]]),
    ("MODEL.ANCHOR_GENERATOR.SIZES", [[]]),
    ("MODEL.ROI_BOX_HEAD.BBOX_REG_WEIGHTS", (0.0, 1.0, 1.0, 1.0)),
    ("MODEL.ROI_BOX_HEAD.BBOX_REG_WEIGHTS", (1.0, 1.0, 1.0)),
    ("MODEL.ROI_HEADS.SCORE_THRESH_TEST", 2.0),
    ("INPUT.MIN_SIZE_TRAIN", ()),
    ("SOLVER.MAX_ITER", 0),
    ("SOLVER.CHECKPOINT_PERIOD", 0),
    ("MODEL.ROI_HEADS.BATCH_SIZE_PER_IMAGE", 0),
    ("MODEL.ROI_BOX_HEAD.POOLER_RESOLUTION", 0),
    ("DATALOADER.SAMPLER_TRAIN", "X"),
]


# Of BAD, what is right for a key, or for a model that does not read it.
NO_ITEMS = [
    "SOLVER.STEPS", "DATASETS.TEST", "MODEL.RETINANET.IN_FEATURES",
    "MODEL.SEM_SEG_HEAD.IN_FEATURES", "TEST.EXPECTED_RESULTS", "TEST.KEYPOINT_OKS_SIGMAS",
]  # fmt: skip
RIGHT = [
    *((key, value) for key in NO_ITEMS for value in ([], ())),
    ("OUTPUT_DIR", "bogus"), ("MODEL.SEM_SEG_HEAD.NAME", "bogus"),
    ("SOLVER.CLIP_GRADIENTS.NORM_TYPE", math.inf),
]  # fmt: skip


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data")
    with registered(tiny_coco(folder)) as name:
        yield tiny_cfg([name], [name], 3, folder / "out", base=get_cfg())


def said_of(base, key, value, **how):
    cfg = base.clone()
    try:
        merge_overrides(cfg, [key, value])
        raise_fatal(stock_values(cfg, how.get("eval_only", False)))  # quick; most end here
        check_cfg(cfg, **how)
    except ValueError as error:
        return str(error)
    return ""


@pytest.mark.parametrize("key", [*ALWAYS, *IN_TRAINING])
def test_a_bad_value_is_named(base, key):
    assert not list(stock_problems(base, eval_only=False))
    for value in BAD:
        assert key in said_of(base, key, value) or (key, value) in RIGHT, value


@pytest.mark.parametrize(("key", "value"), CASES)
def test_more_of_them(base, key, value):
    assert key in said_of(base, key, value)


# What looks wrong, and Detectron2 trains it: mostly nothing reads the key.
ODD = [
    ["INPUT.FORMAT", "L"],
    ["INPUT.FORMAT", "L", "MODEL.PIXEL_MEAN", [90.0], "MODEL.PIXEL_STD", [60.0]],
    ["SOLVER.LR_SCHEDULER_NAME", "WarmupCosineLR", "SOLVER.STEPS", (9, 4)],
    ["MODEL.RETINANET.IOU_THRESHOLDS", [0.6, 0.4]],
    ["MODEL.ROI_BOX_CASCADE_HEAD.IOUS", (0.6, 0.7)],
    ["MODEL.ROI_BOX_HEAD.NORM", "GN", "MODEL.ROI_BOX_HEAD.CONV_DIM", 50],
    ["MODEL.ROI_MASK_HEAD.NAME", "none"],
    ["MODEL.KEYPOINT_ON", True, "MODEL.ROI_KEYPOINT_HEAD.NUM_KEYPOINTS", 17],
    ["MODEL.KEYPOINT_ON", True, "MODEL.ROI_KEYPOINT_HEAD.NUM_KEYPOINTS", 5,
     "TEST.KEYPOINT_OKS_SIGMAS", [0.1] * 5],
    ["MODEL.KEYPOINT_ON", True, "MODEL.ROI_KEYPOINT_HEAD.NUM_KEYPOINTS", 5, "DATASETS.TEST", ()],
    ["MODEL.META_ARCHITECTURE", "RetinaNet", "MODEL.RPN.HEAD_NAME", "none",
     "MODEL.ROI_HEADS.IOU_LABELS", [0]],
    ["MODEL.META_ARCHITECTURE", "ProposalNetwork", "MODEL.ROI_BOX_HEAD.NUM_FC", 0],
    ["MODEL.LOAD_PROPOSALS", True, "DATASETS.PROPOSAL_FILES_TRAIN", ("a.pkl",),
     "DATASETS.TEST", (), "DATASETS.PROPOSAL_FILES_TEST", ("b.pkl",)],
    ["MODEL.PROPOSAL_GENERATOR.NAME", "RRPN", "MODEL.ROI_HEADS.NAME", "RROIHeads",
     "MODEL.ANCHOR_GENERATOR.NAME", "RotatedAnchorGenerator",
     "MODEL.RPN.BBOX_REG_WEIGHTS", (1.0,) * 5, "MODEL.ROI_BOX_HEAD.BBOX_REG_WEIGHTS", (1.0,) * 5],
]  # fmt: skip


@pytest.mark.parametrize("opts", ODD, ids=lambda opts: opts[0])
def test_what_detectron2_trains_is_not_refused(base, opts):
    cfg = base.clone()
    merge_overrides(cfg, opts)
    assert [problem.message for problem in stock_problems(cfg, eval_only=False)] == []


@pytest.mark.parametrize(
    ("opts", "parts"),
    [
        (["INPUT.FORMAT", "RGBA"], ["MODEL.PIXEL_MEAN [103.5", "4 values", "RGBA"]),
        (["MODEL.RPN.HEAD_NAME", "StandardRPNHeads"], ["MODEL.RPN.HEAD_NAME 'StandardRPNHeads'"]),
        (["MODEL.META_ARCHITECTURE", "ProposalNetwork", "MODEL.ANCHOR_GENERATOR.NAME", "none"],
         ["MODEL.ANCHOR_GENERATOR.NAME 'none'"]),
        (["MODEL.PROPOSAL_GENERATOR.NAME", "RRPN"],
         ["MODEL.RPN.BBOX_REG_WEIGHTS must have 4 values, or 5", "(1.0, 1.0, 1.0, 1.0) for RRPN"]),
        (["MODEL.LOAD_PROPOSALS", True, "DATASETS.TEST", ()],
         ["DATASETS.TRAIN has 1, DATASETS.PROPOSAL_FILES_TRAIN 0"]),
        (["MODEL.META_ARCHITECTURE", "RetinaNet", "MODEL.RETINANET.IOU_THRESHOLDS", [0.6, 0.4]],
         ["MODEL.RETINANET.IOU_THRESHOLDS", "[0.6, 0.4]"]),
        (["MODEL.KEYPOINT_ON", True, "MODEL.ROI_KEYPOINT_HEAD.NUM_KEYPOINTS", 5],
         ["TEST.KEYPOINT_OKS_SIGMAS", "NUM_KEYPOINTS, got 0", "the 17 of COCO"]),
        (["MODEL.KEYPOINT_ON", True, "TEST.KEYPOINT_OKS_SIGMAS", [0.1] * 5],
         ["TEST.KEYPOINT_OKS_SIGMAS", "each of the 17 points", "got 5."]),
    ],
)  # fmt: skip
def test_values_that_do_not_fit_each_other_are_named(base, opts, parts):
    cfg = base.clone()
    merge_overrides(cfg, opts)
    (problem,) = stock_problems(cfg, eval_only=False)
    assert all(part in problem.message for part in parts), problem.message


def test_the_same_data_set_twice(base):
    (name,) = base.DATASETS.TRAIN
    said = said_of(base, "DATASETS.TRAIN", (name, name))
    assert "DATASETS.TRAIN" in said and name in said


def test_an_evaluation_asks_for_what_it_needs(base):
    assert said_of(base, "SOLVER.MAX_ITER", 0, eval_only=True) == ""
    assert "NUM_WORKERS" in said_of(base, "DATALOADER.NUM_WORKERS", -1, eval_only=True)


@pytest.mark.parametrize("name", [name for name, _ in all_configs(with_detectron2=True)])
def test_configs_that_exist_are_right(name):
    cfg = get_cfg()
    merge_file(cfg, name)
    said = [p.message for p in (*value_problems(cfg), *stock_problems(cfg, eval_only=False))]
    if not cfg.DATASETS.TRAIN:  # given on the command line
        assert said and "DATASETS.TRAIN" in said.pop()
    assert said == []
