"""From a command line to a checked, frozen config."""

from __future__ import annotations

import argparse
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from logging.handlers import MemoryHandler

from detectron2.config import CfgNode
from detectron2.engine import default_setup
from detectron2.utils import comm
from detectron2.utils.logger import setup_logger

from ..config import find_config, get_cfg
from ..data.coco_format import register_coco_folder
from .checks import check_cfg
from .form_checks import head_names
from .model_config import config_of, is_yaml, merge_config, merge_overrides


def setup_cfg(args: argparse.Namespace) -> CfgNode:
    """Registers datasets, merges and checks the config, sets up logging, seed and output folder.

    Args:
        args: of `tools/train_net.py`; a config given by name becomes a path. It
            may be a checkpoint, which has its config inside. `schedule` is a
            YAML that is merged after it, or "".

    Raises:
        FileNotFoundError, ValueError: a file, key or value is wrong; says which, and
            what is allowed.
    """
    for name, json_file, images in args.dataset:
        register_coco_folder(name, json_file, images)
    cfg, made_for = get_cfg(), ""
    if args.config_file:
        cfg = config_of(args.config_file)
        if is_yaml(args.config_file):
            made_for = args.config_file = find_config(args.config_file)
    if args.schedule:
        merge_config(cfg, args.schedule)
    merge_overrides(cfg, args.opts)
    heads = head_names(made_for, args.opts)
    with said_later(logging.getLogger("relation_heads")):
        check_cfg(cfg, eval_only=args.eval_only, resume=args.resume, earlier_heads=heads)
        cfg.freeze()
        # It logs the file, which must be text.
        default_setup(cfg, argparse.Namespace(**{**vars(args), "config_file": made_for}))
        setup_logger(cfg.OUTPUT_DIR, distributed_rank=comm.get_rank(), name="relation_heads")
    return cfg


@contextmanager
def said_later(logger: logging.Logger) -> Iterator[None]:
    """Keeps what is logged until the context ends, when `setup_logger` has given it a file.

    A config is checked before its output folder is made, so that a wrong one leaves no folder.
    """
    kept = MemoryHandler(capacity=10_000, flushLevel=logging.CRITICAL + 1)
    logger.addHandler(kept)
    propagate, logger.propagate = logger.propagate, False  # `setup_logger` leaves it so
    try:
        yield
    except BaseException:
        logger.propagate = propagate
        raise
    finally:
        logger.removeHandler(kept)
        for record in kept.buffer:
            logger.handle(record)
