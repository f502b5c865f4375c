"""The processes of a training: those that this command starts, or those that a launcher started.

`torchrun` and `srun` start one process per GPU themselves and tell each its place in the
environment. Without them this command starts `--num-gpus` processes, as Detectron2's launcher does.
All of them meet in the same way (`_join`).
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import signal
import socket
import subprocess
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from functools import partial
from types import FrameType
from typing import Any

import torch
import torch.distributed as dist
from detectron2.utils import comm
from torch.distributed.rendezvous import rendezvous
from torch.multiprocessing import ProcessExitedException, start_processes

from ..command_line import run_or_explain
from ..layers.arguments import at_least, require, within
from .signals import SIGNALS

OF_TORCHRUN = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE")
# Only `srun` sets all of them; in the batch script itself the names of a step are missing.
OF_SRUN = ("SLURM_PROCID", "SLURM_STEP_NUM_TASKS", "SLURM_LOCALID", "SLURM_STEP_TASKS_PER_NODE")
SLURM_PORTS = range(20000, 30000)
MEETING = timedelta(minutes=10)  # how long a process waits for the others to come


@dataclass(frozen=True)
class Place:
    """Of one process among those of a launcher.

    Attributes:
        rank, world_size: among all processes.
        local_rank, local_size: among those of this machine.
        attempt: so many times the launcher has started all of them again after a failure.
    """

    rank: int
    world_size: int
    local_rank: int
    local_size: int
    attempt: int = 0

    def __str__(self) -> str:
        return f"Process {self.rank} of {self.world_size}, on {socket.gethostname()},"


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
                attempt=int(environment.get("TORCHELASTIC_RESTART_COUNT", 0)),
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
        TimeoutError: other processes did not come within `MEETING`.
        ChildProcessError: a process that this one started was killed; says which.
        SystemExit: such a process said on its own what was wrong, or stopped on a signal.
    """
    place = place_of(os.environ)
    if place is not None:
        args.resume = args.resume or place.attempt > 0
        _run_at(place, "env://", run, args)
        return
    _check(args)
    if args.num_gpus * args.num_machines == 1:
        run(args)
        return
    if args.dist_url == "auto":
        args.dist_url = f"tcp://127.0.0.1:{_free_port()}"
    with _signals_for_the_children():
        try:
            start_processes(_start, (run, args), nprocs=args.num_gpus)
        except ProcessExitedException as error:
            if error.exit_code > 0:
                raise SystemExit(error.exit_code) from None
            place = _place(args, error.error_index)
            raise ChildProcessError(
                f"{place} was ended by {error.signal_name}; the others were stopped. SIGKILL often "
                "means that the machine had too little memory. --resume goes on from the last "
                "checkpoint."
            ) from None


def _start(local_rank: int, run: Callable[[argparse.Namespace], Any], args: Any) -> None:
    """In a process of its own: what goes wrong is said here."""
    place = _place(args, local_rank)
    run_or_explain(partial(_run_at, place, args.dist_url, run), args, f"process {place.rank}")


def _place(args: argparse.Namespace, local_rank: int) -> Place:
    """Of a process that this command starts."""
    rank = args.machine_rank * args.num_gpus + local_rank
    return Place(rank, args.num_machines * args.num_gpus, local_rank, args.num_gpus)


def _run_at(
    place: Place, url: str, run: Callable[[argparse.Namespace], Any], args: argparse.Namespace
) -> None:
    _join(place, url)
    try:
        run(args)
    finally:
        dist.destroy_process_group()


@contextmanager
def _signals_for_the_children() -> Iterator[None]:
    """While open, signals that stop a training go on to the processes that this one started."""

    def pass_on(number: int, frame: FrameType | None) -> None:
        for child in multiprocessing.active_children():
            os.kill(child.pid, number)  # type: ignore[arg-type]

    before = {number: signal.signal(number, pass_on) for number in SIGNALS}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return server.getsockname()[1]


def _check(args: argparse.Namespace) -> None:
    """The numbers of processes and machines."""
    require(
        at_least("--num-gpus", args.num_gpus, 1),
        at_least("--num-machines", args.num_machines, 1),
        within("--machine-rank", args.machine_rank, f"[0, {max(args.num_machines, 1) - 1}]"),
    )
    if args.num_machines > 1 and not args.dist_url.startswith(("tcp://", "file://")):
        raise ValueError(
            f"--dist-url is {args.dist_url!r}; several machines meet at tcp://FIRST:PORT, an "
            "address of the first of them."
        )
    there = torch.cuda.device_count() if torch.cuda.is_available() else None
    if there is not None and args.num_gpus > there:
        raise ValueError(f"--num-gpus is {args.num_gpus}, and this machine has {there}.")


def _join(place: Place, url: str) -> None:
    """Meets the other processes.

    Args:
        place: of this one.
        url: `tcp://HOST:PORT`, or `env://` for the variables of a launcher.

    Raises:
        TimeoutError: not all came within `MEETING`.
    """
    if url == "env://":
        if "MASTER_ADDR" not in os.environ:
            os.environ.update(_slurm_meeting_point(os.environ))
        where = f"{os.environ['MASTER_ADDR']}:{os.environ['MASTER_PORT']}"
    else:
        where = url
    try:
        store, rank, size = next(rendezvous(url, place.rank, place.world_size, timeout=MEETING))
    except dist.DistError as error:
        raise TimeoutError(
            f"{place} waited {MEETING.total_seconds():g} seconds at {where} for the others "
            f"({str(error).splitlines()[0]}). Start the command on every machine, each with its "
            "own --machine-rank, and check that all of them can reach this address."
        ) from error
    # torchrun keeps one store; what an earlier attempt wrote there are addresses of dead processes.
    store = dist.PrefixStore(f"attempt_{place.attempt}", store)
    on_gpus = torch.cuda.is_available()
    dist.init_process_group("nccl" if on_gpus else "gloo", store=store, rank=rank, world_size=size)
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
