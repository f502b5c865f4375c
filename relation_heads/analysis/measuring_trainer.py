"""The trainer of `tools/train_net.py` for measurements: it evaluates and saves nothing."""

from __future__ import annotations

from detectron2.config import CfgNode
from detectron2.engine import HookBase, hooks
from detectron2.utils.events import CommonMetricPrinter, EventWriter

from ..engine.trainer import RelationTrainer


class MeasuringTrainer(RelationTrainer):
    """Trains to the end or to a divergence, and has every loss that it saw.

    The files of a usual training have losses of every 20th iteration, and smoothed.
    """

    def __init__(self, cfg: CfgNode) -> None:
        super().__init__(cfg)
        self.resume_or_load(resume=False)

    def build_hooks(self) -> list[HookBase]:
        """Of the usual hooks the times, the learning rate and the lines of the log."""
        kept = (hooks.IterationTimer, hooks.LRScheduler, hooks.PeriodicWriter)
        return [hook for hook in super().build_hooks() if isinstance(hook, kept)]

    def build_writers(self) -> list[EventWriter]:
        """Only lines of the log."""
        return [CommonMetricPrinter(self.max_iter)]

    def diverged(self) -> str | None:
        """Trains: the report of the divergence, None if there was none."""
        try:
            self.train()
        except FloatingPointError as report:
            return str(report)
        return None

    def history(self) -> dict[str, dict[int, float]]:
        """Name -> iteration -> value, of losses, "lr", "time" and whatever else was logged."""
        return {
            name: {iteration: float(value) for value, iteration in buffer.values()}
            for name, buffer in self.storage.histories().items()
        }
