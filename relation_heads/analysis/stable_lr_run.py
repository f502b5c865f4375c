"""One training of the search for the largest stable learning rate, in a process of its own.

    python -m relation_heads.analysis.stable_lr_run --config-file FILE KEY VALUE ...

It is the training of `tools/train_net.py`, without checkpoints and evaluation. The loss of every
iteration is kept: in the files of a training it is smoothed, and of every 20th iteration.
OUTPUT_DIR gets `measured.json`, also if the training diverged; after any other error there is none,
and the exit code is not 0.
"""

from __future__ import annotations

import argparse
import importlib
import json
from collections.abc import Sequence
from pathlib import Path
from statistics import median

from detectron2.engine import HookBase, hooks
from detectron2.utils.events import CommonMetricPrinter, EventWriter

from ..engine.setup import setup_cfg
from ..engine.trainer import RelationTrainer

MEASURED = "measured.json"


class LossTrainer(RelationTrainer):
    """The trainer, without what a training leaves behind."""

    def build_hooks(self) -> list[HookBase]:
        """Those of the trainer, but of checkpoints and evaluation."""
        left_out = (hooks.PeriodicCheckpointer, hooks.EvalHook)
        return [hook for hook in super().build_hooks() if not isinstance(hook, left_out)]

    def build_writers(self) -> list[EventWriter]:
        """Only lines of the log."""
        return [CommonMetricPrinter(self.max_iter)]


def measure(config: str, opts: Sequence[str]) -> None:
    """Trains, and writes losses, error, iterations and seconds per iteration to `OUTPUT_DIR`.

    Args:
        config: name or path.
        opts: keys and values.
    """
    cfg = setup_cfg(
        argparse.Namespace(
            config_file=config, opts=list(opts), dataset=[], eval_only=False, resume=False
        )
    )
    trainer, error = LossTrainer(cfg), ""
    trainer.resume_or_load(resume=False)
    try:
        trainer.train()
    except FloatingPointError as divergence:
        error = str(divergence)
    histories = trainer.storage.histories()
    losses, seconds = (
        [float(value) for value, _ in histories[name].values()] if name in histories else []
        for name in ("total_loss", "time")
    )
    measured = {
        "losses": losses,
        "error": error,
        "iterations": trainer.iter,
        "seconds": median(seconds) if seconds else None,
    }
    Path(cfg.OUTPUT_DIR, MEASURED).write_text(json.dumps(measured))


def main() -> None:
    """Command line of the process."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--import", dest="modules", nargs="+", default=[], metavar="MODULE")
    parser.add_argument("--config-file", required=True, metavar="FILE")
    parser.add_argument("opts", nargs=argparse.REMAINDER, metavar="KEY VALUE")
    args = parser.parse_args()
    for module in args.modules:
        importlib.import_module(module)
    measure(args.config_file, args.opts)


if __name__ == "__main__":
    main()
