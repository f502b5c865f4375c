"""The processes of a training: those that this command starts, or those that a launcher started.

`torchrun` and `srun` start one process per GPU themselves and tell each its place in the
environment. Such a process joins the others; without them Detectron2's own launcher starts
`--num-gpus` processes.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import signal
import subprocess
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from types import FrameType
from typing import Any

import torch
import torch.distributed as dist
from detectron2.engine import launch
from detectron2.utils import comm
from torch.multiprocessing import ProcessExitedException

from ..layers.arguments import at_least, require, within
from .signals import SIGNALS

OF_TORCHRUN = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE")
# Only `srun` sets all of them; in the batch script itself the names of a step are missing.
OF_SRUN = ("SLURM_PROCID", "SLURM_STEP_NUM_TASKS", "SLURM_LOCALID", "SLURM_STEP_TASKS_PER_NODE")
SLURM_PORTS = range(20000, 30000)


@dataclass(frozen=True)
class Place:
    """Of one process among those of a launcher.

    Attributes:
        rank, world_size: among all processes.
        local_rank, local_size: among those of this machine.
        restarted: whether the launcher starts it again after a failure.
    """

    rank: int
    world_size: int
    local_rank: int
    local_size: int
    restarted: bool = False


def place_of(environment: Mapping[str, str]) -> Place | None:
    """What `torchrun` or `srun` says; None without a launcher, or with one process."""
    for names in (OF_TORCHRUN, OF_SRUN):
        if all(name in environment for name in names):
            rank, world_size, local_rank, local_size = (environment[name] for name in names)
            if int(world_size) == 1:
                return None
            return Place(
                int(rank),
                int(world_size),
                int(local_rank),
                int(local_size.partition("(")[0]),  # srun: 8(x2), on each of two machines
                restarted=int(environment.get("TORCHELASTIC_RESTART_COUNT", 0)) > 0,
            )
    return None


def run_everywhere(run: Callable[[argparse.Namespace], Any], args: argparse.Namespace) -> None:
    """Calls `run(args)` in every process of the training.

    Args:
        run: a function of a module.
        args: of `tools/train_net.py`. Where a launcher starts the processes again after a failure,
            they resume.

    Raises:
        ValueError: numbers of processes or machines that cannot be.
    """
    place = place_of(os.environ)
    if place is None:
        _check(args)
        several = args.num_gpus * args.num_machines > 1
        with _signals_for_the_children() if several else nullcontext():
            launch(
                run,
                args.num_gpus,
                num_machines=args.num_machines,
                machine_rank=args.machine_rank,
                dist_url=args.dist_url,
                args=(args,),
            )
        return
    args.resume = args.resume or place.restarted
    _join(place)
    try:
        run(args)
    finally:
        dist.destroy_process_group()


@contextmanager
def _signals_for_the_children() -> Iterator[None]:
    """While open, signals that stop a training go on to the processes that this one started, and
    it ends with their exit code."""

    def pass_on(number: int, frame: FrameType | None) -> None:
        for child in multiprocessing.active_children():
            os.kill(child.pid, number)  # type: ignore[arg-type]

    before = {number: signal.signal(number, pass_on) for number in SIGNALS}
    try:
        yield
    except ProcessExitedException as error:
        if error.exit_code in [128 + number for number in SIGNALS]:
            raise SystemExit(error.exit_code) from None
        raise
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _check(args: argparse.Namespace) -> None:
    """The numbers of processes and machines."""
    require(
        at_least("--num-gpus", args.num_gpus, 1),
        at_least("--num-machines", args.num_machines, 1),
        within("--machine-rank", args.machine_rank, f"[0, {max(args.num_machines, 1) - 1}]"),
    )
    there = torch.cuda.device_count() if torch.cuda.is_available() else None
    if there is not None and args.num_gpus > there:
        raise ValueError(f"--num-gpus is {args.num_gpus}, and this machine has {there}.")


def _join(place: Place) -> None:
    """Meets the other processes."""
    if "MASTER_ADDR" not in os.environ:
        os.environ.update(_slurm_meeting_point(os.environ))
    on_gpus = torch.cuda.is_available()
    dist.init_process_group(
        "nccl" if on_gpus else "gloo", rank=place.rank, world_size=place.world_size
    )
    comm.create_local_process_group(place.local_size)
    if on_gpus:
        torch.cuda.set_device(place.local_rank)
    comm.synchronize()


def _slurm_meeting_point(environment: Mapping[str, str]) -> dict[str, str]:
    """The first machine of the job, and a port that is the job's own."""
    hosts = subprocess.run(
        ["scontrol", "show", "hostnames", environment["SLURM_JOB_NODELIST"]],
        check=True,
        capture_output=True,
        text=True,
    ).stdout.split()
    port = SLURM_PORTS[int(environment["SLURM_JOB_ID"]) % len(SLURM_PORTS)]
    return {"MASTER_ADDR": hosts[0], "MASTER_PORT": str(port)}
