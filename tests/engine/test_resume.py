"""A training that was stopped, at any moment, ends with the weights of one that was not."""

from __future__ import annotations

import signal

import pytest

pytest.importorskip("detectron2")

import torch
from detectron2.engine import HookBase
from PIL import Image

from relation_heads.config import get_cfg
from relation_heads.engine import RelationTrainer
from tests.helpers import registered, tiny_cfg, tiny_coco, write_json

HEADS = {
    "stock": [],
    "relation and learned removal": [
        "MODEL.ROI_HEADS.NAME", "RelationROIHeads",
        "MODEL.RELATION.KEY_DIM", 4,
        "MODEL.DUPLICATE_REMOVAL.LEARN", True,
        "MODEL.DUPLICATE_REMOVAL.TEST_METHOD", "learned",
    ],
}  # fmt: skip
STEPS = 5


@pytest.fixture(scope="module")
def name(tmp_path_factory):
    """Eight images, half of them upright, so that batches are grouped."""
    coco = tiny_coco(tmp_path_factory.mktemp("data"), num_images=8)
    for image in coco.dataset["images"][::2]:
        path = coco.image_root / image["file_name"]
        Image.open(path).transpose(Image.Transpose.TRANSPOSE).save(path)
        image["width"], image["height"] = image["height"], image["width"]
        for a in coco.dataset["annotations"]:
            if a["image_id"] == image["id"]:
                x, y, w, h = a["bbox"]
                a["bbox"] = [y, x, h, w]
    write_json(coco.json_file, coco.dataset)
    with registered(coco) as name:
        yield name


def config(name, folder, head="stock", workers=0, seed=7):
    opts = [
        "SOLVER.MAX_ITER", STEPS,
        "SOLVER.CHECKPOINT_PERIOD", 2,
        "INPUT.MIN_SIZE_TRAIN", (48, 64),
        "INPUT.RANDOM_FLIP", "horizontal",
        "DATALOADER.NUM_WORKERS", workers,
        "SEED", seed,
        *HEADS[head],
    ]  # fmt: skip
    return tiny_cfg([name], [], 3, folder, opts, base=get_cfg())


def new(cfg):
    torch.manual_seed(0)
    return RelationTrainer(cfg)


def trained(cfg, hooks=(), resume=False):
    """A trainer after its training, and what it saw: image and size in each iteration."""
    trainer = new(cfg)
    trainer.resume_or_load(resume=resume)
    seen = []
    trainer.register_hooks([*hooks, Remember(seen)])
    trainer.train()
    return trainer, seen


class Remember(HookBase):
    def __init__(self, seen):
        self.seen = seen

    def after_step(self):
        batch = self.trainer.data_loader.batch
        self.seen.append([(r["image_id"], tuple(r["image"].shape)) for r in batch])


class Raise(HookBase):
    """Does something after an iteration."""

    def __init__(self, iteration, what):
        self.iteration, self.what = iteration, what

    def after_step(self):
        if self.trainer.iter == self.iteration:
            self.what()


class Killed(BaseException):
    pass


def die():
    raise Killed


@pytest.fixture(scope="module")
def whole(name, tmp_path_factory):
    """The stock model after a training that nothing stopped, and what it saw."""
    return trained(config(name, tmp_path_factory.mktemp("whole")))


def weights(trainer):
    return trainer.model.state_dict()


def same(one, other):
    assert one.keys() == other.keys()
    return all(torch.equal(one[key], other[key]) for key in one)


@pytest.mark.parametrize(("head", "workers"), [("stock", 0), ("relation and learned removal", 2)])
def test_a_resumed_training_equals_the_uninterrupted_one(name, whole, tmp_path, head, workers):
    whole, seen = whole if head == "stock" else trained(config(name, tmp_path / "whole", head))
    assert len({str(batch) for batch in seen}) > 2
    cfg = config(name, tmp_path / "parts", head, workers)
    with pytest.raises(Killed):  # after the checkpoint of iteration 1: iteration 2 is lost
        trained(cfg, [Raise(2, die)])
    resumed, later = trained(cfg, resume=True)
    assert resumed.start_iter == 2
    assert later == seen[2:]
    assert same(weights(resumed), weights(whole))


def test_another_seed_is_another_training(name, whole, tmp_path):
    other, _ = trained(config(name, tmp_path, seed=8))
    assert not same(weights(whole[0]), weights(other))


def test_a_training_without_a_seed_can_be_resumed_too(name, tmp_path):
    cfg = config(name, tmp_path, seed=-1)
    cfg.SOLVER.MAX_ITER = 1
    first, _ = trained(cfg)
    assert first.seed != new(config(name, tmp_path / "other", seed=-1)).seed
    again = RelationTrainer(cfg)
    again.resume_or_load(resume=True)
    assert again.seed == first.seed


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGUSR1])
def test_a_signal_saves_and_ends_the_training(name, whole, tmp_path, number, caplog):
    cfg = config(name, tmp_path / "parts")
    before = signal.getsignal(number)
    with pytest.raises(SystemExit) as ended:
        trained(cfg, [Raise(2, lambda: signal.raise_signal(number))])
    assert ended.value.code == 128 + number
    assert signal.getsignal(number) is before
    assert (tmp_path / "parts" / "last_checkpoint").read_text() == "model_0000003.pth"
    (said,) = [r.getMessage() for r in caplog.records if "--resume" in r.getMessage()]
    assert number.name in said and "4 of 5" in said and str(cfg.OUTPUT_DIR) in said
    if number == signal.SIGTERM:
        whole, seen = whole
        resumed, later = trained(cfg, resume=True)
        assert later == seen[4:]
        assert same(weights(resumed), weights(whole))
