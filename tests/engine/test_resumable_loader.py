"""Which images a batch has, and what happens to them, depends on the iteration alone."""

from __future__ import annotations

import os
import random
from itertools import islice

import numpy as np
import pytest

pytest.importorskip("detectron2")

import torch
from detectron2.data.common import AspectRatioGroupedDataset, MapDataset
from detectron2.data.samplers import TrainingSampler
from detectron2.structures import Boxes, Instances
from torch.utils.data import DataLoader

from relation_heads.engine.resumable_loader import (
    BROKEN,
    MAX_REFUSED,
    Batches,
    NamedSamples,
    ResumableLoader,
    Samples,
    WithoutBroken,
    check_objects,
    seed_everything,
    seeded,
)

RECORDS = [{"number": n, "width": 4 + n % 3, "height": 5} for n in range(11)]
WIDE = [r["width"] > r["height"] for r in RECORDS]


def augmented(record):
    """A record with random numbers of all three kinds."""
    drawn = (np.random.rand(), random.random(), torch.rand(()).item())
    return {**record, "drawn": drawn}


def loader(workers=0, start=0, seed=3, mapper=augmented):
    made = ResumableLoader(Samples(RECORDS, mapper), TrainingSampler(11, seed=5), 2, WIDE, workers)
    made.seed, made.start = seed, start
    return made


def test_batches_are_those_of_detectron2():
    stream = (RECORDS[i] for i in TrainingSampler(11, seed=5))
    theirs = islice(AspectRatioGroupedDataset(stream, 2), 40)
    ours = islice(Batches(TrainingSampler(11, seed=5), 2, WIDE), 40)
    for batch, places in zip(theirs, ours, strict=True):
        assert [r["number"] for r in batch] == [index for _, index in places]


def test_without_groups_batches_follow_the_sampler():
    places = [p for batch in islice(Batches(TrainingSampler(11, seed=5), 3), 9) for p in batch]
    assert [index for _, index in places] == list(islice(TrainingSampler(11, seed=5), 27))
    assert [place for place, _ in places] == list(range(27))


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("start", [0, 1, 7])
def test_batch_i_is_the_same_from_any_start_and_with_any_workers(workers, start):
    whole = list(islice(loader(), 12))
    assert list(islice(loader(workers, start), 12 - start)) == whole[start:]
    drawn = [sample["drawn"] for batch in whole for sample in batch]
    assert len(set(drawn)) == len(drawn) == 24  # the same image is augmented anew each time


def test_another_seed_augments_otherwise():
    (first,), (other,) = (list(islice(loader(seed=s), 1)) for s in (3, 4))
    assert [s["number"] for s in first] == [s["number"] for s in other]
    assert all(a["drawn"] != b["drawn"] for a, b in zip(first, other, strict=True))


def test_random_numbers_of_the_process_go_on_as_if_no_image_had_been_loaded():
    def draw():
        return np.random.rand(), random.random(), torch.rand(()).item()

    seed_everything(1, 2)
    expected = draw(), draw()
    seed_everything(1, 2)
    first = draw()
    with seeded(9):
        inside = draw()
    assert (first, draw()) == expected
    with seeded(9):
        assert draw() == inside


def test_a_refused_record_gives_its_place_to_another():
    def not_odd(record):
        return None if record["number"] % 2 else augmented(record)

    batches = list(islice(loader(mapper=not_odd), 10))
    assert all(sample["number"] % 2 == 0 for batch in batches for sample in batch)
    assert list(islice(loader(2, 4, mapper=not_odd), 6)) == batches[4:]


def test_a_mapper_that_refuses_everything_is_named():
    with pytest.raises(ValueError, match=str(MAX_REFUSED)):
        next(iter(loader(mapper=lambda _: None)))


def reads(record):
    """As a mapper whose third, sixth and ninth image are broken."""
    if record["number"] in (2, 5, 8):
        raise OSError(f"image {record['number']} is cut")
    return augmented(record)


@pytest.mark.parametrize("workers", [0, 2])
def test_what_cannot_be_read_is_named_once_and_left_out(workers, caplog):
    made = loader(workers, mapper=reads)
    made.max_broken = 3
    batches = list(islice(made, 20))
    assert all(s["number"] % 3 != 2 and BROKEN not in s for batch in batches for s in batch)
    said = [r.getMessage() for r in caplog.records]
    assert len(said) == 3
    assert all(any(f"image {k} is cut" in one for one in said) for k in (2, 5, 8))
    resumed = loader(workers, 9, mapper=reads)
    resumed.max_broken = 3
    assert list(islice(resumed, 11)) == batches[9:]


@pytest.mark.parametrize("workers", [0, 2])
def test_too_many_end_the_training_with_their_names(workers):
    made = loader(workers, mapper=reads)
    made.max_broken = 2
    with pytest.raises(ValueError, match=r"DATALOADER\.MAX_BROKEN") as stop:
        list(islice(made, 20))
    assert all(f"image {k} is cut" in str(stop.value) for k in (2, 5, 8))


def test_a_pipe_is_no_image(tmp_path):
    """To open it would wait for ever."""
    os.mkfifo(tmp_path / "pipe.jpg")
    records = [{"file_name": str(tmp_path / "pipe.jpg")}]
    made = ResumableLoader(Samples(records, augmented), TrainingSampler(1), 1, None, 0)
    with pytest.raises(ValueError, match=r"pipe\.jpg: OSError: it is no file"):
        next(iter(made))


def sample(boxes=(), classes=(), **record):
    """What a mapper makes of a record with these objects."""
    objects = Instances((64, 96))
    objects.gt_boxes = Boxes(torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4))
    objects.gt_classes = torch.tensor(classes, dtype=torch.int64)
    return {**record, "instances": objects}


GOOD = [1.0, 2.0, 30.0, 40.0]


@pytest.mark.parametrize(
    ("boxes", "classes", "wrong"),
    [
        ([GOOD, [1.0, float("nan"), 3.0, 4.0]], [0, 1], r"the box \[1\.0, nan, 3\.0, 4\.0\]"),
        ([[1.0, 2.0, float("inf"), 4.0]], [0], "the box .*inf"),
        ([[-1e38, 2.0, 3.0, 4.0]], [0], "the box .*e\\+37|the box .*e\\+38"),
        ([GOOD], [3], "the class 3 is not in 0 to 2"),
        ([GOOD, GOOD], [0, -7], "the class -7 is not in 0 to 2"),
    ],
)
def test_objects_that_are_none_are_named(boxes, classes, wrong):
    """A box of NaN would end the process in compiled code."""
    with pytest.raises(ValueError, match=wrong):
        check_objects(sample(boxes, classes), 3)
    made = ResumableLoader(
        Samples(RECORDS, lambda record: sample(boxes, classes, file_name="a.jpg"), 3),
        TrainingSampler(11, seed=5), 2, None, 0,
    )  # fmt: skip
    with pytest.raises(ValueError, match=wrong):
        next(iter(made))


def test_objects_that_are_right_pass():
    check_objects(sample([GOOD, GOOD], [0, 2]), 3)
    check_objects(sample(), 3)
    check_objects(sample([GOOD], [99]), None)
    check_objects({"image": 3}, 3)


@pytest.mark.parametrize("workers", [0, 1])
def test_an_image_of_a_test_set_that_cannot_be_read_is_named_without_a_traceback(workers):
    def read(record):
        if record["number"] == 5:
            raise OSError("it is cut")
        return record

    records = [{**r, "file_name": f"{r['number']}.jpg"} for r in RECORDS]
    data = DataLoader(
        MapDataset(records, NamedSamples(read)), batch_size=2, num_workers=workers, collate_fn=list
    )
    made = WithoutBroken(data)
    assert len(made) == len(data) and made.batch_size == 2
    got = []
    with pytest.raises(ValueError, match=r"5\.jpg: OSError: it is cut$"):
        for batch in made:
            got += [r["number"] for r in batch]
    assert got == [0, 1, 2, 3]
