"""`DefaultTrainer` with the evaluators, mappers and reports of this package.

It trains any Detectron2 model, stock or relational, on GPUs or on several processes of a CPU.
"""

from __future__ import annotations

import logging
import os
import weakref
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

from detectron2.config import CfgNode
from detectron2.data import DatasetMapper, build_detection_test_loader
from detectron2.engine import DefaultTrainer, HookBase
from detectron2.engine import defaults as detectron2_defaults
from detectron2.evaluation import DatasetEvaluator
from detectron2.modeling import GeneralizedRCNNWithTTA
from detectron2.projects.deeplab import build_lr_scheduler
from detectron2.solver import LRScheduler
from detectron2.utils import comm
from torch import nn
from torch.optim import Optimizer

from ..evaluation import build_evaluator
from .build import build_mapper, building
from .checkpoint import ReportingCheckpointer
from .federated import provide_class_image_count
from .freeze import train_only
from .growth import Growth
from .map_cache import cache_maps
from .model_config import about_model
from .nan_report import RememberBatch, divergence_report
from .optimizer import build_optimizer
from .resumable_loader import (
    NamedSamples,
    ResumableLoader,
    WithoutBroken,
    build_train_loader,
    seed_everything,
)
from .signals import StopOnSignal

logger = logging.getLogger(__name__)


class RelationTrainer(DefaultTrainer):
    """See `DefaultTrainer`.

    What is different: an evaluator for every data set type, by group where the data set has groups;
    classes that swap in a horizontal flip; a report of what a checkpoint gave, and one of the
    circumstances when training diverges; several processes on a CPU. A training that was stopped
    and resumed ends with the weights of one that was not: the images and random numbers of an
    iteration depend on the seed and the iteration alone.

    Attributes:
        seed: `SEED`, or a random one where that is negative; kept in the checkpoints.
    """

    def __init__(self, cfg: CfgNode) -> None:
        """
        Args:
            cfg: the config.
        """
        self.seed: int = cfg.SEED if cfg.SEED >= 0 else comm.shared_random_seed()
        with _ddp_on(cfg.MODEL.DEVICE), building("training"):
            super().__init__(cfg)
        self.data_loader = RememberBatch(self.data_loader)
        self.growth = Growth(self._trainer.model)

    def build_hooks(self) -> list[HookBase]:
        """The default hooks, around a checkpointer that reports; and one that ends on a signal."""
        # Called at the end of `__init__`: the hooks are to save with the checkpointer that loads.
        self.checkpointer = ReportingCheckpointer(
            self.model,
            self.cfg.OUTPUT_DIR,
            about=about_model(self.cfg),
            trainer=weakref.proxy(self),
        )
        return [*super().build_hooks(), StopOnSignal()]

    def train(self) -> Any:
        """See `DefaultTrainer.train`; the first images are those of `start_iter`."""
        loader = self.data_loader.loader
        if isinstance(loader, ResumableLoader):
            loader.seed, loader.start = self.seed, self.start_iter
        elif self.start_iter:
            logger.warning(
                "The training set is no list of images, so its order cannot be repeated: the "
                "resumed training sees other images than an uninterrupted one."
            )
        return super().train()

    def state_dict(self) -> dict[str, Any]:
        """Of the default trainer, and the seed."""
        return {**super().state_dict(), "seed": self.seed}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Of a checkpoint of this or of the default trainer, which has no seed."""
        self.seed = state_dict.get("seed", self.seed)
        super().load_state_dict(state_dict)

    def run_step(self) -> None:
        """One iteration.

        Raises:
            FloatingPointError: training diverged; says what is known about it.
        """
        seed_everything(self.seed, comm.get_rank(), self.iter)
        # What AMP multiplies the loss by; Detectron2 has waited for the device in this step anyway.
        scaler = getattr(self._trainer, "grad_scaler", None)
        scale = scaler.get_scale() if scaler else 1.0
        try:
            with self.growth.iteration(self.iter, loss_scale=scale):
                super().run_step()
        except FloatingPointError as error:
            raise FloatingPointError(self._divergence_report(error)) from error

    def _divergence_report(self, error: FloatingPointError) -> str:
        return divergence_report(
            error,
            self._trainer.model,
            iteration=self.iter,
            lr=self.optimizer.param_groups[0]["lr"],
            losses={k: v for k, v in self.storage.latest().items() if "loss" in k},
            batch=getattr(self.data_loader, "batch", ()),
            growth=self.growth,
        )

    @classmethod
    def build_model(cls, cfg: CfgNode) -> nn.Module:
        """The model, of which `MODEL.TRAIN_ONLY` is trained, with `DATALOADER.CACHE_MAPS`."""
        if cfg.MODEL.ROI_BOX_HEAD.USE_FED_LOSS:
            provide_class_image_count(cfg.DATASETS.TRAIN)
        with building("model"):
            model = super().build_model(cfg)
        train_only(model, cfg.MODEL.get("TRAIN_ONLY", []))
        cache_maps(model, cfg.DATALOADER.get("CACHE_MAPS", 0.0))
        return model

    @classmethod
    def build_optimizer(cls, cfg: CfgNode, model: nn.Module) -> Optimizer:
        """The default optimizer, which may also clip by the norm of all gradients together."""
        return build_optimizer(cfg, model)

    @classmethod
    def build_lr_scheduler(cls, cfg: CfgNode, optimizer: Optimizer) -> LRScheduler:
        """The default schedules, and `WarmupPolyLR` of Detectron2's DeepLab project."""
        return build_lr_scheduler(cfg, optimizer)

    @classmethod
    def build_train_loader(cls, cfg: CfgNode) -> Any:
        """A loader that can be resumed, with the mapper that the config needs."""
        return build_train_loader(cfg, build_mapper(cfg, is_train=True))

    @classmethod
    def build_test_loader(cls, cfg: CfgNode, dataset_name: str) -> Any:
        """The default loader, with the mapper that the config needs."""
        mapper = build_mapper(cfg, is_train=False) or DatasetMapper(cfg, is_train=False)
        return WithoutBroken(
            build_detection_test_loader(cfg, dataset_name, mapper=NamedSamples(mapper))
        )

    @classmethod
    def build_evaluator(
        cls, cfg: CfgNode, dataset_name: str, output_folder: str | None = None
    ) -> DatasetEvaluator:
        """See `relation_heads.evaluation.build_evaluator`."""
        try:
            return build_evaluator(cfg, dataset_name, output_folder)
        except NotImplementedError as error:
            logger.warning(error)  # `DefaultTrainer.test` goes on without saying why
            raise

    @classmethod
    def evaluate(cls, cfg: CfgNode, *, resume: bool = False) -> dict[str, Any]:
        """Builds the model, loads it completely and evaluates it on `DATASETS.TEST`.

        Args:
            cfg: the config; `TEST.AUG.ENABLED` adds an evaluation with test-time augmentation.
            resume: take the last checkpoint in `OUTPUT_DIR` instead of `MODEL.WEIGHTS`.

        Returns:
            the results, empty in all processes but the main one.

        Raises:
            ValueError: the checkpoint does not have all parameters of the model.
        """
        model = cls.build_model(cfg)
        checkpointer = ReportingCheckpointer(model, cfg.OUTPUT_DIR, complete=True)
        checkpointer.resume_or_load(cfg.MODEL.WEIGHTS, resume=resume)
        results = cls.test(cfg, model)
        if cfg.TEST.AUG.ENABLED:
            results.update(cls.test_with_TTA(cfg, model))
        return results

    @classmethod
    def test_with_TTA(cls, cfg: CfgNode, model: nn.Module) -> dict[str, Any]:
        """Evaluates with test-time augmentation (`TEST.AUG`); keys end in `_TTA`."""
        folder = os.path.join(cfg.OUTPUT_DIR, "inference_TTA")
        evaluators = [cls.build_evaluator(cfg, name, folder) for name in cfg.DATASETS.TEST]
        results = cls.test(cfg, GeneralizedRCNNWithTTA(cfg, model), evaluators)
        return OrderedDict((f"{key}_TTA", value) for key, value in results.items())


@contextmanager
def _ddp_on(device: str) -> Iterator[None]:
    """While open, `DefaultTrainer` can build its model for several processes on `device`.

    `DefaultTrainer.__init__` builds `DistributedDataParallel(device_ids=[rank])`, which refuses a
    model on the CPU, and leaves no way to say otherwise. Its function is exchanged for this moment;
    the alternative would be a copy of the whole method. With one process it returns the bare model.
    """
    if device != "cpu":
        yield
        return
    create_ddp_model = detectron2_defaults.create_ddp_model
    detectron2_defaults.create_ddp_model = partial(create_ddp_model, device_ids=None)
    try:
        yield
    finally:
        detectron2_defaults.create_ddp_model = create_ddp_model
