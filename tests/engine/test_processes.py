"""Processes of a launcher join one training; a killed one is started again and goes on."""

from __future__ import annotations

import argparse
import os
import re
import signal
import socket
import threading
import time
from datetime import timedelta
from functools import partial

import pytest

pytest.importorskip("detectron2")

import torch
from detectron2.engine import HookBase
from detectron2.utils import comm
from torch.distributed.launcher.api import elastic_launch
from torch.distributed.run import config_from_args, parse_args
from torch.multiprocessing import start_processes

from relation_heads.commands import main
from relation_heads.config import get_cfg
from relation_heads.engine import RelationTrainer, processes
from relation_heads.engine.processes import Place, place_of, run_everywhere
from relation_heads.engine.train import prepare_folder
from tests.helpers import START_METHOD, tiny_cfg, tiny_coco

HOST = re.escape(socket.gethostname())
TORCHRUN = {"RANK": "3", "WORLD_SIZE": "4", "LOCAL_RANK": "1", "LOCAL_WORLD_SIZE": "2"}
SLURM = {
    "SLURM_PROCID": "3",
    "SLURM_STEP_NUM_TASKS": "4",
    "SLURM_LOCALID": "1",
    "SLURM_STEP_TASKS_PER_NODE": "2(x2)",
}


@pytest.mark.parametrize(
    ("environment", "place"),
    [
        ({}, None),
        (TORCHRUN, Place(3, 4, 1, 2)),
        (SLURM, Place(3, 4, 1, 2)),
        ({**TORCHRUN, "TORCHELASTIC_RESTART_COUNT": "0"}, Place(3, 4, 1, 2)),
        ({**TORCHRUN, "TORCHELASTIC_RESTART_COUNT": "2"}, Place(3, 4, 1, 2, attempt=2)),
        ({**SLURM, **TORCHRUN, "RANK": "2"}, Place(2, 4, 1, 2)),  # torchrun inside a SLURM job
        ({"SLURM_PROCID": "0", "SLURM_NTASKS": "4", "SLURM_LOCALID": "0"}, None),  # a batch script
        ({**SLURM, "SLURM_STEP_NUM_TASKS": "1"}, None),
        ({**TORCHRUN, "RANK": "0", "WORLD_SIZE": "1"}, None),
    ],
)
def test_the_place_of_a_process_is_in_its_environment(environment, place):
    assert place_of(environment) == place


@pytest.mark.parametrize(
    "change",
    [{"num_gpus": 0}, {"num_gpus": -1}, {"num_machines": 0}, {"machine_rank": 5}],
    ids=str,
)
def test_wrong_numbers_of_processes_are_named(tmp_path, monkeypatch, change):
    args = of_this_command(tmp_path, monkeypatch, **{"num_machines": 2, **change})
    (name,) = change
    with pytest.raises(ValueError, match=f"--{name.replace('_', '-')}"):
        run_everywhere(print, args)


def wait_for_signal(args):
    """A process of a training that ends as `StopOnSignal` ends it."""
    got = []
    signal.signal(signal.SIGTERM, lambda number, _: got.append(number))
    (args.folder / f"ready{comm.get_rank()}").touch()
    while not got:
        time.sleep(0.02)
    raise SystemExit(128 + got[0])


def test_a_signal_reaches_the_processes_that_were_started(tmp_path, monkeypatch):
    before = signal.getsignal(signal.SIGTERM)

    def send():
        while len(list(tmp_path.glob("ready*"))) < 2:
            time.sleep(0.02)
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=send, daemon=True).start()
    args = of_this_command(tmp_path, monkeypatch)
    fork = partial(start_processes, start_method=START_METHOD)
    monkeypatch.setattr(processes, "start_processes", fork)
    with pytest.raises(SystemExit) as ended:
        run_everywhere(wait_for_signal, args)
    assert ended.value.code == 128 + signal.SIGTERM
    assert signal.getsignal(signal.SIGTERM) is before


def of_this_command(tmp_path, monkeypatch, **numbers):
    for name in (*TORCHRUN, *SLURM):
        monkeypatch.delenv(name, raising=False)
    usual = {"num_gpus": 2, "num_machines": 1, "machine_rank": 0, "dist_url": "auto"}
    return argparse.Namespace(**{**usual, "folder": tmp_path, **numbers})


def kill_one(args):
    """The other process would wait for ever."""
    assert comm.get_world_size() == 2 and comm.get_local_size() == 2
    if comm.get_rank() == 1:
        os.kill(os.getpid(), signal.SIGKILL)
    time.sleep(600)


def test_a_process_that_is_killed_is_named(tmp_path, monkeypatch):
    with pytest.raises(ChildProcessError, match=f"^Process 1 of 2, on {HOST}, .* SIGKILL"):
        run_everywhere(kill_one, of_this_command(tmp_path, monkeypatch))


def test_what_goes_wrong_in_a_process_is_said_there(tmp_path, monkeypatch, capsys):
    def run(args):
        raise FileNotFoundError(2, "Not there", "a.jpg")

    joined = []
    monkeypatch.setattr(processes, "_join", lambda place, url: joined.append(place))
    monkeypatch.setattr(torch.distributed, "destroy_process_group", lambda: joined.append("left"))
    with pytest.raises(SystemExit) as ended:
        processes._start(1, run, of_this_command(tmp_path, monkeypatch, num_machines=2))
    assert ended.value.code == 2 and joined == [Place(1, 4, 1, 2), "left"]
    assert capsys.readouterr().err == "process 1: a.jpg: Not there.\n"


@pytest.mark.parametrize("rank", [0, 1])
def test_a_machine_that_never_comes_is_waited_for_so_long(tmp_path, monkeypatch, rank):
    monkeypatch.setattr(processes, "MEETING", timedelta(seconds=2))
    url = f"tcp://127.0.0.1:{processes._free_port()}"
    began = time.monotonic()
    with pytest.raises(TimeoutError, match=f"^Process {rank} of 2, on {HOST}, .* 2 seconds.*{url}"):
        processes._join(Place(rank, 2, 0, 1), url)
    assert time.monotonic() - began < 30


def test_several_machines_need_an_address_where_they_meet(tmp_path, monkeypatch):
    args = of_this_command(tmp_path, monkeypatch, num_machines=2)
    with pytest.raises(ValueError, match="--dist-url is 'auto'"):
        run_everywhere(print, args)


def checkpoints(folder):
    for name in ("model_0000001.pth", "model_final.pth"):
        (folder / name).write_bytes(b"")
    (folder / "last_checkpoint").write_text("model_final.pth")
    (folder / "metrics.json").write_text("{}")
    (folder / "log.txt").write_text("kept")


def test_a_folder_that_has_a_training_is_not_written_into(tmp_path):
    prepare_folder(str(tmp_path), resume=False, overwrite=False)  # nothing there
    checkpoints(tmp_path)
    before = {p.name for p in tmp_path.iterdir()}
    with pytest.raises(ValueError, match=r"model_final.pth.*--resume.*--overwrite"):
        prepare_folder(str(tmp_path), resume=False, overwrite=False)
    prepare_folder(str(tmp_path), resume=True, overwrite=False)
    assert {p.name for p in tmp_path.iterdir()} == before
    prepare_folder(str(tmp_path), resume=False, overwrite=True)
    assert {p.name for p in tmp_path.iterdir()} == {"log.txt"}


def test_resuming_nothing_is_said_and_overwriting_what_is_resumed_refused(tmp_path, caplog):
    prepare_folder(str(tmp_path), resume=True, overwrite=False)
    assert [str(tmp_path) in r.getMessage() for r in caplog.records] == [True]
    with pytest.raises(ValueError, match=r"--resume.*--overwrite"):
        prepare_folder(str(tmp_path), resume=True, overwrite=True)


def train_unless_killed(killed, words):
    """`relation-heads train` in a process of `torchrun`; process `killed` dies in the middle, once.

    Iteration 2 is then lost: the last checkpoint is that of iteration 1.
    """

    class Kill(HookBase):
        def after_step(self):
            place = place_of(os.environ)
            if (place.rank, place.attempt, self.trainer.iter) == (killed, 0, 2):
                os.kill(os.getpid(), signal.SIGKILL)

    build_hooks = RelationTrainer.build_hooks
    RelationTrainer.build_hooks = lambda self: [*build_hooks(self), Kill()]
    with pytest.raises(SystemExit) as ended:
        main(["train", *words])
    assert ended.value.code == 0


@pytest.fixture
def handlers():
    """The launcher of `torchrun` leaves its own."""
    before = {number: signal.getsignal(number) for number in signal.valid_signals()}
    yield
    for number, handler in before.items():
        if signal.getsignal(number) is not handler:
            signal.signal(number, handler)


def test_torchrun_trains_once_and_a_killed_process_loses_nothing(tmp_path, handlers):
    coco = tiny_coco(tmp_path / "data")
    opts = ["SOLVER.MAX_ITER", 4, "SOLVER.CHECKPOINT_PERIOD", 2, "SEED", 3]
    (tmp_path / "tiny.yaml").write_text(
        tiny_cfg(["pictures"], [], 3, tmp_path / "out", opts, base=get_cfg()).dump()
    )
    words = [
        "--config-file", str(tmp_path / "tiny.yaml"),
        "--dataset", "pictures", str(coco.json_file), str(coco.image_root),
    ]  # fmt: skip
    # As `torchrun --standalone`, but for the new interpreters, which would take most of the time.
    flags = "--rdzv-backend c10d --rdzv-endpoint localhost:0 --nproc-per-node 2 --max-restarts 3"
    args = parse_args([*flags.split(), "--start-method", START_METHOD, "no script"])
    torchrun, *_ = config_from_args(args)

    def trained(folder, killed):
        launch = elastic_launch(torchrun, train_unless_killed)
        launch(killed, [*words, "OUTPUT_DIR", str(folder)])
        log = (folder / "log.txt").read_text()
        assert (folder / "log.txt.rank1").is_file() and "World size: 2" in log
        starts = re.findall(r"Starting training from iteration (\d)", log)
        return torch.load(folder / "model_final.pth")["model"], starts

    whole, starts = trained(tmp_path / "whole", None)
    assert starts == ["0"]
    again, starts = trained(tmp_path / "again", 1)
    assert starts == ["0", "2"]
    assert whole.keys() == again.keys()
    assert all(torch.equal(whole[key], again[key]) for key in whole)
