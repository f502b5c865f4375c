"""Two processes of a CPU train one model, one of them always on the image without an object."""

from __future__ import annotations

from pathlib import Path

import pytest

pytest.importorskip("detectron2")

import torch
import torch.distributed as dist
from detectron2.utils import comm

from relation_heads.engine import RelationTrainer
from tests.helpers import START_METHOD, registered, tiny_cfg, tiny_coco

WORLD_SIZE, STEPS = 2, 2


class Trainer(RelationTrainer):
    """Counts the objects that this process sees in each step."""

    def __init__(self, cfg):
        super().__init__(cfg)
        self.objects = []

    def run_step(self):
        super().run_step()
        self.objects.append(sum(len(record["instances"]) for record in self.data_loader.batch))


def train(rank: int, folder: Path) -> None:
    """One of the processes; asserts that both end with the same model."""
    torch.set_num_threads(1)
    store = f"file://{folder / 'store'}"
    dist.init_process_group("gloo", init_method=store, rank=rank, world_size=WORLD_SIZE)
    comm.create_local_process_group(WORLD_SIZE)
    with registered(tiny_coco(folder / f"rank{rank}", num_images=2, empty_image=True)) as name:
        cfg = tiny_cfg([name], [name], 3, folder / "out", ["SOLVER.MAX_ITER", STEPS])
        cfg.DATALOADER.FILTER_EMPTY_ANNOTATIONS = False
        trainer = Trainer(cfg)
        before = fingerprint(trainer.model.parameters())
        trainer.train()  # evaluates at the end

    seen = comm.all_gather(trainer.objects)
    assert [sorted(step) for step in zip(*seen, strict=True)] == [[0, 3]] * STEPS, seen
    gradients = [p.grad for p in trainer.model.parameters()]
    assert all(g is not None for g in gradients)
    after = fingerprint(trainer.model.parameters())
    assert after != before
    for mine in (fingerprint(gradients), after):
        assert len(set(comm.all_gather(mine))) == 1
    comm.synchronize()
    dist.destroy_process_group()


def fingerprint(tensors) -> tuple[float, ...]:
    """Sums that differ if a tensor does."""
    return tuple(float(t.detach().double().sum()) for t in tensors)


def test_both_end_with_the_same_gradients_and_parameters(tmp_path):
    torch.multiprocessing.start_processes(
        train, args=(tmp_path,), nprocs=WORLD_SIZE, start_method=START_METHOD
    )
