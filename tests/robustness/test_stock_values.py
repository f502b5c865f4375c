"""Values of Detectron2's keys that cannot work are named before anything is built."""

from __future__ import annotations

import math

import pytest

pytest.importorskip("detectron2")

from relation_heads.config import get_cfg, merge_file
from relation_heads.config.defaults import value_problems
from relation_heads.config.files import all_configs
from relation_heads.engine.checks import check_cfg
from relation_heads.engine.model_config import merge_overrides
from relation_heads.engine.stock_checks import ALWAYS, IN_TRAINING, stock_problems
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


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data")
    with registered(tiny_coco(folder)) as name:
        yield tiny_cfg([name], [name], 3, folder / "out", base=get_cfg())


def said_of(base, key, value, **how):
    cfg = base.clone()
    try:
        merge_overrides(cfg, [key, value])
        check_cfg(cfg, **how)
    except ValueError as error:
        return str(error)
    return ""


@pytest.mark.parametrize("key", [*ALWAYS, *IN_TRAINING])
def test_a_bad_value_is_named(base, key):
    assert not list(stock_problems(base, eval_only=False))
    for value in BAD:
        allowed = key == "SOLVER.STEPS" and value in ([], ())
        assert key in said_of(base, key, value) or allowed, value


@pytest.mark.parametrize(("key", "value"), CASES)
def test_more_of_them(base, key, value):
    assert key in said_of(base, key, value)


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
