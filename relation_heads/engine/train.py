"""One run of `tools/train_net.py`, in one process or several."""

from __future__ import annotations

import argparse
import logging
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from detectron2.config import CfgNode
from detectron2.engine import hooks
from detectron2.evaluation import verify_results
from detectron2.utils import comm

from ..data.image_classes import register_image_folder
from .checkpoint import LAST, saved_in
from .setup import setup_cfg
from .trainer import RelationTrainer

logger = logging.getLogger(__name__)


def train_or_evaluate(args: argparse.Namespace) -> dict[str, Any] | None:
    """What one process does.

    Args:
        args: Detectron2's, `dataset`, a list of (name, JSON file, image folder), and
            `image_folder`, a list of (name, folder).

    Returns:
        the evaluation results; None after a training without evaluation.

    Raises:
        FileNotFoundError, KeyError, ValueError: of `setup_cfg`; weights do not fit the model; the
            folder has another training.
    """
    for name, folder in args.image_folder:
        register_image_folder(name, folder)
    cfg = setup_cfg(args)
    if args.eval_only:
        results = RelationTrainer.evaluate(cfg, resume=args.resume)
        if comm.is_main_process():
            verify_results(cfg, results)
        return results
    prepare_folder(cfg.OUTPUT_DIR, args.resume, args.overwrite)
    trainer = RelationTrainer(cfg)
    trainer.resume_or_load(resume=args.resume)
    if cfg.TEST.AUG.ENABLED:
        trainer.register_hooks(
            [hooks.EvalHook(0, lambda: trainer.test_with_TTA(cfg, trainer.model))]
        )
    results = trainer.train()
    if comm.is_main_process():
        for line in summary(cfg, getattr(trainer, "_last_eval_results", {})):
            logger.info(line)
    return results


def prepare_folder(folder: str, resume: bool, overwrite: bool) -> None:
    """Looks what a folder has before a training writes into it.

    Args:
        folder: `OUTPUT_DIR`.
        resume: go on with the training that is there.
        overwrite: delete its checkpoints and metrics.

    Raises:
        ValueError: there is a training, and it is neither resumed nor overwritten; or both.
    """
    saved = saved_in(folder)
    comm.synchronize()  # all processes have looked before anything is deleted
    if resume and overwrite:
        raise ValueError("--resume goes on with a training, --overwrite deletes it: choose one.")
    if resume and not saved:
        logger.warning(
            f"--resume: {folder} has no checkpoint, so the training starts at iteration 0."
        )
    if resume or not saved:
        return
    if not overwrite:
        raise ValueError(
            f"OUTPUT_DIR {folder} has a training already ({saved[0].name}): --resume goes on with "
            "it, --overwrite deletes it, and another OUTPUT_DIR keeps it."
        )
    if comm.is_main_process():
        for path in (*saved, Path(folder, LAST), Path(folder, "metrics.json")):
            path.unlink(missing_ok=True)


def summary(cfg: CfgNode, results: Mapping[str, Any]) -> list[str]:
    """Where the model is, how good it is, and what can be done with it: three lines at most.

    Args:
        cfg: of the training.
        results: of its last evaluation, as Detectron2 has them: of one data set by task, of several
            by data set and task; empty without evaluation.
    """
    model = os.path.join(cfg.OUTPUT_DIR, "model_final.pth")
    names = cfg.DATASETS.TEST
    by_set = {names[0]: results} if len(names) == 1 else results
    good = [
        f"{task} {metric} {tasks[task][metric]:.1f} on {name}"
        for name, tasks in by_set.items()
        for task in tasks
        for metric in ("AP", "AP50", "mIoU", "AP-class", "top1", "top5")
        if metric in tasks[task]
    ]
    following = f"relation-heads predict {model} IMAGE, or relation-heads evaluate {model}"
    if cfg.MODEL.META_ARCHITECTURE == "ImageClassifier":
        following = f"a detector with the same MODEL.BACKBONE, and MODEL.WEIGHTS {model}"
    return [
        f"The model is {model}; its config is inside.",
        *([f"Its results: {', '.join(good)}."] if good else []),
        f"Next: {following}.",
    ]
