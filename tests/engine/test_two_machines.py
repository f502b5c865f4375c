"""Two machines of two processes each, on one address, train one model by the real command."""

from __future__ import annotations

import argparse
import functools
import multiprocessing

import pytest

pytest.importorskip("detectron2")

import torch
from detectron2.engine import HookBase
from detectron2.utils import comm

from relation_heads.config import get_cfg
from relation_heads.engine import RelationTrainer, processes
from relation_heads.engine.train import train_or_evaluate
from tests.helpers import START_METHOD, tiny_cfg, tiny_coco

STEPS = 2


class Compare(HookBase):
    """At the end all processes have the same parameters, of gradients of different images."""

    def after_train(self) -> None:
        parameters = [p.detach().double() for p in self.trainer.model.parameters()]
        mine = tuple(float(p.sum()) for p in parameters)
        images = [record["file_name"] for record in self.trainer.data_loader.batch]
        told = (comm.get_rank(), comm.get_local_rank(), comm.get_local_size(), mine, images)
        everybody = comm.all_gather(told)
        ranks, local_ranks, local_sizes, sums, images = zip(*everybody, strict=True)
        assert ranks == (0, 1, 2, 3) and local_ranks == (0, 1, 0, 1) and set(local_sizes) == {2}
        assert len(set(sums)) == 1 and self.trainer.iter == STEPS
        assert len({name for names in images for name in names}) == 4, images
        comm.synchronize()


class Trainer(RelationTrainer):
    def build_hooks(self):
        return [*super().build_hooks(), Compare()]


def machine(rank: int, args: argparse.Namespace) -> None:
    """What is typed on one machine."""
    from relation_heads.engine import train

    torch.set_num_threads(1)
    train.RelationTrainer = Trainer
    processes.start_processes = functools.partial(
        torch.multiprocessing.start_processes, start_method=START_METHOD
    )
    args.machine_rank = rank
    processes.run_everywhere(train_or_evaluate, args)


def test_four_processes_on_two_machines_train_one_model(tmp_path, monkeypatch):
    for name in (*processes.OF_TORCHRUN, *processes.OF_SRUN):
        monkeypatch.delenv(name, raising=False)
    coco = tiny_coco(tmp_path / "data")
    opts = ["SOLVER.MAX_ITER", STEPS, "SOLVER.IMS_PER_BATCH", 4]
    config = tmp_path / "tiny.yaml"
    config.write_text(tiny_cfg(["pictures"], [], 3, tmp_path / "out", opts, base=get_cfg()).dump())
    args = argparse.Namespace(
        config_file=str(config), schedule="", opts=[], resume=False, overwrite=False,
        eval_only=False, image_folder=[], num_gpus=2, num_machines=2, machine_rank=0,
        dist_url=f"tcp://127.0.0.1:{processes._free_port()}",
        dataset=[("pictures", str(coco.json_file), str(coco.image_root))],
    )  # fmt: skip
    context = multiprocessing.get_context(START_METHOD)
    machines = [context.Process(target=machine, args=(rank, args)) for rank in (0, 1)]
    for process in machines:
        process.start()
    for process in machines:
        process.join(timeout=120)
    assert [process.exitcode for process in machines] == [0, 0]
    log = (tmp_path / "out" / "log.txt").read_text()
    assert "World size: 4" in log
    assert {path.name for path in (tmp_path / "out").glob("log.txt.rank*")} == {
        "log.txt.rank1", "log.txt.rank2", "log.txt.rank3",
    }  # fmt: skip
    saved = torch.load(tmp_path / "out" / "model_final.pth", weights_only=True)
    assert saved["iteration"] == STEPS - 1
