"""From a command line to a config: what is logged, and where."""

from __future__ import annotations

import argparse
import logging

import pytest

pytest.importorskip("detectron2")

from relation_heads import get_cfg
from relation_heads.engine.setup import said_later, setup_cfg
from tests.helpers import registered, tiny_cfg, tiny_coco


def test_warnings_about_a_config_are_in_the_log_file(tmp_path):
    with registered(tiny_coco(tmp_path / "data")) as name:
        config = tmp_path / "config.yaml"
        cfg = tiny_cfg([name], [], 3, tmp_path / "out", base=get_cfg())
        config.write_text(cfg.dump())
        setup_cfg(
            argparse.Namespace(
                config_file=str(config), schedule="", opts=["SOLVER.STEPS", "(2, 7)"],
                dataset=[], eval_only=False, resume=False,
            )
        )  # fmt: skip
    lines = (tmp_path / "out" / "log.txt").read_text().splitlines()
    assert sum("SOLVER.STEPS [7]" in line or "SOLVER.STEPS (7" in line for line in lines) == 1


def test_what_was_kept_is_said_though_the_check_fails(caplog):
    logger = logging.getLogger("relation_heads.said_later")
    with pytest.raises(ValueError), said_later(logger):
        logger.warning("odd key")
        raise ValueError
    assert not logger.handlers and logger.propagate
    assert caplog.messages == ["odd key"]
