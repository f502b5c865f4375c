"""A training that is told to stop saves a checkpoint first.

SIGTERM and SIGUSR1 come from job schedulers and from machines that are taken away, SIGINT from the
keyboard. `tools/train_net.py --resume` goes on at the next iteration.
"""

from __future__ import annotations

import logging
import signal
import threading
import time
from types import FrameType
from typing import Any

import torch
import torch.distributed as dist
from detectron2.engine import HookBase
from detectron2.utils import comm

logger = logging.getLogger(__name__)

SIGNALS = [
    getattr(signal, name) for name in ("SIGTERM", "SIGINT", "SIGUSR1") if hasattr(signal, name)
]
TOGETHER = 1.0  # seconds: a terminal and a launcher may both pass on the same signal


class StopOnSignal(HookBase):
    """Finishes the iteration, saves, says so, and exits with the code that shells expect (128 and
    the number of the signal). A second signal, a second later or more, ends the process at once.
    """

    def __init__(self) -> None:
        self.received, self.at = 0, 0.0
        self._before: dict[int, Any] = {}

    def before_train(self) -> None:
        if threading.current_thread() is threading.main_thread():
            self._before = {number: signal.signal(number, self._note) for number in SIGNALS}

    def after_train(self) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
        self._before = {}

    def after_step(self) -> None:
        number = self._agree()
        if not number:
            return
        trainer = self.trainer
        finished = trainer.iter + 1
        if finished < trainer.max_iter:  # else the last checkpoint is there
            if comm.is_main_process():
                trainer.checkpointer.save(f"model_{trainer.iter:07d}", iteration=trainer.iter)
            comm.synchronize()
        logger.warning(
            f"Stopped by {signal.Signals(number).name} after {finished} of {trainer.max_iter} "
            f"iterations; the state is saved in {trainer.cfg.OUTPUT_DIR}: the same command with "
            "--resume goes on."
        )
        raise SystemExit(128 + number)

    def _note(self, number: int, frame: FrameType | None) -> None:
        now = time.monotonic()
        if not self.received:
            self.received, self.at = number, now
        elif now - self.at >= TOGETHER:
            signal.signal(number, signal.SIG_DFL)
            signal.raise_signal(number)

    def _agree(self) -> int:
        """The signal that any of the processes got, or 0."""
        if comm.get_world_size() == 1:
            return self.received
        flag = torch.tensor(self.received, device=next(self.trainer.model.parameters()).device)
        dist.all_reduce(flag, op=dist.ReduceOp.MAX)
        return int(flag)
