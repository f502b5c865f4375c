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

from ..engine.setup import setup_cfg
from .measuring_trainer import MeasuringTrainer

MEASURED = "measured.json"


def measure(config: str, opts: Sequence[str]) -> None:
    """Trains, and writes losses, error, iterations and seconds per iteration to `OUTPUT_DIR`.

    Args:
        config: name or path.
        opts: keys and values.
    """
    cfg = setup_cfg(
        argparse.Namespace(
            config_file=config,
            schedule="",
            opts=list(opts),
            dataset=[],
            eval_only=False,
            resume=False,
        )
    )
    trainer = MeasuringTrainer(cfg)
    error, history = trainer.diverged(), trainer.history()
    losses, seconds = ([*history.get(name, {}).values()] for name in ("total_loss", "time"))
    measured = {
        "losses": losses,
        "error": error or "",
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
