"""One run of `tools/train_net.py`, in one process or several."""

from __future__ import annotations

import argparse
from typing import Any

from detectron2.engine import hooks
from detectron2.evaluation import verify_results
from detectron2.utils import comm

from .setup import setup_cfg
from .trainer import RelationTrainer


def train_or_evaluate(args: argparse.Namespace) -> dict[str, Any] | None:
    """What one process does.

    Args:
        args: Detectron2's, and `dataset`, a list of (name, JSON file, image folder).

    Returns:
        the evaluation results; None after a training without evaluation.

    Raises:
        FileNotFoundError, KeyError, ValueError: of `setup_cfg`, or weights do not fit the model.
    """
    cfg = setup_cfg(args)
    if args.eval_only:
        results = RelationTrainer.evaluate(cfg, resume=args.resume)
        if comm.is_main_process():
            verify_results(cfg, results)
        return results
    trainer = RelationTrainer(cfg)
    trainer.resume_or_load(resume=args.resume)
    if cfg.TEST.AUG.ENABLED:
        trainer.register_hooks(
            [hooks.EvalHook(0, lambda: trainer.test_with_TTA(cfg, trainer.model))]
        )
    return trainer.train()
