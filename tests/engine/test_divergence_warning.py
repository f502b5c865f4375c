"""A published form at a learning rate at which it has diverged is said, with its key and value."""

from __future__ import annotations

import logging

import pytest

pytest.importorskip("detectron2")

from relation_heads import get_cfg
from relation_heads.config import find_config
from relation_heads.engine import checks
from relation_heads.engine.checks import check_cfg
from tests.helpers import registered, tiny_cfg, tiny_coco

DUPLICATES = ("MODEL.ROI_HEADS.NAME", "DuplicateRemovalROIHeads")
CLIPPED = ("SOLVER.CLIP_GRADIENTS.ENABLED", True)
# preset -> what the warning says: key and value, and the value that is stable
NAMED = {
    "relation_paper": ("MODEL.RELATION.NORM ''", "set MODEL.RELATION.NORM max_rms"),
    "learn_nms_paper": (
        "MODEL.DUPLICATE_REMOVAL.END_TO_END True",
        "set MODEL.DUPLICATE_REMOVAL.END_TO_END False",
    ),
    "sgrn_paper": ("MODEL.SGRN.MEAN_GRADIENT False", "set MODEL.SGRN.MEAN_GRADIENT True"),
}
presets = pytest.mark.parametrize("preset", NAMED)


@pytest.fixture
def warnings(tmp_path, caplog):
    """Gives the warnings about the divergence of a preset, at a learning rate, with other keys."""
    with registered(tiny_coco(tmp_path)) as name:

        def of(preset, lr, *opts):
            cfg = tiny_cfg([name], [name], 3, tmp_path / "out", base=get_cfg())
            cfg.merge_from_file(find_config(f"heads/{preset}.yaml"))
            head = DUPLICATES if preset.startswith("learn_nms") else ()
            cfg.merge_from_list(["SOLVER.BASE_LR", lr, *head, *opts])
            caplog.clear()
            with caplog.at_level(logging.WARNING, logger=checks.logger.name):
                check_cfg(cfg)
            messages = [r.message for r in caplog.records if r.name == checks.logger.name]
            return [m for m in messages if "diverged" in m]

        yield of


@pytest.mark.parametrize("lr", [0.01, 0.02])
@presets
def test_a_published_form_at_detectron2s_learning_rates(preset, lr, warnings):
    (message,) = warnings(preset, lr)
    assert all(part in message for part in (*NAMED[preset], f"SOLVER.BASE_LR is {lr}")), message


def test_the_sum_of_gradients_of_reasoning_rcnn(warnings):  # its preset clips
    key = "MODEL.REASONING_RCNN.MEAN_GRADIENT"
    (message,) = warnings("reasoning_rcnn", 0.02, key, False)
    assert f"{key} False" in message and f"set {key} True" in message


@presets
def test_not_at_small_ones_and_not_with_clipping(preset, warnings):
    assert warnings(preset, 0.005) == []
    assert warnings(preset, 0.02, *CLIPPED) == []


@pytest.mark.parametrize(
    "preset", ["relation", "sgrn", "sgrn_two_stage", "two_stage", "learn_nms", "reasoning_rcnn"]
)
def test_not_of_what_is_stable(preset, warnings):
    assert warnings(preset, 0.02) == []


def test_not_of_what_is_not_there(warnings):
    assert warnings("relation_paper", 0.02, "MODEL.RELATION.NUM_RELATIONS", [0, 0]) == []
    assert warnings("sgrn_paper", 0.02, "MODEL.SGRN.LOSS_WEIGHTS", [0.0, 1.0]) == []
    assert warnings("sgrn_official", 0.02) == []  # it clips, as released
    off = ("MODEL.SGRN.GRAPH_DIMS", [], "MODEL.SGRN.REFINE", False)
    assert warnings("sgrn_paper", 0.02, *off) == []
