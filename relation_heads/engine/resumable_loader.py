"""A training loader that goes on where another process stopped, image by image.

The batch of iteration i, and every random number that augments its images, depend on the config,
the seed and i alone: not on what was loaded before, nor on the number of workers. Example: with
`start = 500` the first batch is the one that an uninterrupted training has in iteration 500.

For that, images are grouped by shape before they are loaded, from width and height of their
records, in the order of Detectron2's sampler. Detectron2 groups what its workers have loaded, in
the order in which they share the work; without workers the batches are the same.
"""

from __future__ import annotations

import logging
import os
import random
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from itertools import chain
from typing import Any

import numpy as np
import torch
from detectron2.config import CfgNode
from detectron2.data import DatasetFromList, build_detection_train_loader
from detectron2.data.build import (
    _train_loader_from_config,
    trivial_batch_collator,
    worker_init_reset_seed,
)
from detectron2.utils import comm
from torch.utils.data import DataLoader, Dataset

from ..layers.regions import FARTHEST
from .dataset_checks import NUM_CLASSES

logger = logging.getLogger(__name__)

Record = dict[str, Any]
Place = tuple[int, int]  # place in this process's stream of images, index of the record
MAX_REFUSED = 100  # images in a row that a mapper may leave out
BROKEN = "broken"  # key of a sample: what could not be read in its place, as sentences


def seed_everything(*key: int) -> None:
    """Seeds torch (all devices), numpy and `random` by some numbers, such as seed, rank and
    iteration."""
    torch_seed, numpy_seed, python_seed = np.random.SeedSequence(key).generate_state(3)
    torch.manual_seed(int(torch_seed))
    np.random.seed(numpy_seed)
    random.seed(int(python_seed))


@contextmanager
def seeded(*key: int) -> Iterator[None]:
    """While open, random numbers on the CPU are those of `key`; afterwards they go on as before."""
    numpy_state, python_state = np.random.get_state(), random.getstate()
    with torch.random.fork_rng(devices=[]):
        seed_everything(*key)
        try:
            yield
        finally:
            np.random.set_state(numpy_state)
            random.setstate(python_state)


class Samples(Dataset):
    """Records, mapped with random numbers that belong to their place in this process's stream.

    Attributes:
        seed: of the training.
    """

    def __init__(
        self,
        records: Sequence[Record],
        mapper: Callable[[Record], Record | None],
        num_classes: int | None = None,
    ) -> None:
        """
        Args:
            records: of Detectron2; an item must be a new object at each access.
            mapper: None for a record that is to be left out; another one takes its place. What it
                makes of a record is checked, see `check_objects`.
            num_classes: of the model; None if it has no objects.
        """
        self.records, self.mapper, self.num_classes = records, mapper, num_classes
        self.seed, self.rank = 0, comm.get_rank()  # not known in a worker process

    def __len__(self) -> int:
        return len(self.records)

    def __getitem__(self, item: Place) -> Record:
        place, index = item
        broken: list[str] = []
        with seeded(self.seed, self.rank, place):
            for _ in range(MAX_REFUSED):
                record = self.records[index]
                try:
                    sample = self.mapper(_readable(record))
                    if sample is not None:
                        check_objects(sample, self.num_classes)
                except Exception as error:  # what reads broken files raises whatever it likes
                    broken.append(f"{record.get('file_name')}: {type(error).__name__}: {error}")
                    sample = None
                if sample is not None:
                    return {**sample, BROKEN: broken} if broken else sample
                index = random.randrange(len(self.records))
        if not broken:
            broken = [f"the mapper of the training set left out {MAX_REFUSED} images in a row"]
        return {BROKEN: broken}  # an error of a worker would come with its traceback


def check_objects(sample: Record, num_classes: int | None) -> None:
    """Boxes that are not finite end the process in compiled code; a class that the model does not
    have is background, or is left out, without a word.

    Args:
        sample: what a mapper made of a record.
        num_classes: K; None where nothing is known of it.

    Raises:
        ValueError: a box or a class of its `instances` is such.
    """
    objects = sample.get("instances")
    if objects is None or len(objects) == 0:
        return
    if objects.has("gt_boxes"):
        boxes = objects.gt_boxes.tensor
        wrong = ~(boxes.abs() <= FARTHEST).all(dim=1)  # NaN too
        if wrong.any():
            raise ValueError(f"the box {boxes[wrong][0].tolist()} is of no object")
    if objects.has("gt_classes") and num_classes is not None:
        classes = objects.gt_classes
        wrong = (classes < 0) | (classes >= num_classes)
        if wrong.any():
            raise ValueError(f"the class {int(classes[wrong][0])} is not in 0 to {num_classes - 1}")


def _readable(record: Record) -> Record:
    """The same; to open a pipe would never end.

    Raises:
        OSError: `file_name` is a folder, a pipe or the like.
    """
    path = record.get("file_name")
    if path and os.path.exists(path) and not os.path.isfile(path):
        raise OSError("it is no file")
    return record


class Batches:
    """Places of the images of each batch, without end.

    Args:
        sampler: indices of records, without end, the same in each iteration over it.
        batch_size: images of a batch in this process.
        wide: of each record, whether it is wider than high: such images have batches of their own;
            None: all go together.
        start: batches to leave out.
    """

    def __init__(
        self,
        sampler: Any,
        batch_size: int,
        wide: Sequence[bool] | None = None,
        start: int = 0,
    ) -> None:
        self.sampler, self.batch_size, self.wide, self.start = sampler, batch_size, wide, start

    def __iter__(self) -> Iterator[list[Place]]:
        groups: dict[bool, list[Place]] = {False: [], True: []}
        done = 0
        for place, index in enumerate(self.sampler):
            shape = self.wide is not None and self.wide[index]
            groups[shape].append((place, index))
            if len(groups[shape]) == self.batch_size:
                batch, groups[shape] = groups[shape], []
                if done >= self.start:
                    yield batch
                done += 1


class ResumableLoader:
    """Batches of mapped records, from any iteration on.

    Attributes:
        seed: of the training; random numbers of the images depend on it.
        start: the iteration of the first batch.
        max_broken: images that may be left out because they cannot be read.
    """

    def __init__(
        self,
        samples: Samples,
        sampler: Any,
        batch_size: int,
        wide: Sequence[bool] | None,
        num_workers: int,
        max_broken: int = 0,
    ) -> None:
        self.max_broken = max_broken
        self.dataset, self.sampler, self.batch_size = samples, sampler, batch_size
        self.wide, self.num_workers = wide, num_workers
        self.seed = self.start = 0

    def __iter__(self) -> Iterator[list[Record]]:
        """
        Raises:
            ValueError: more images than `max_broken` cannot be read; one sentence for each.
        """
        broken: dict[str, None] = {}  # each once
        for batch in self._batches():
            for sentence in chain.from_iterable(sample.pop(BROKEN, ()) for sample in batch):
                if sentence not in broken:
                    logger.warning(f"A training image is left out: {sentence}")
                broken[sentence] = None
            if len(broken) > self.max_broken or not all(batch):
                title = (
                    f"{len(broken)} training images cannot be read; DATALOADER.MAX_BROKEN allows "
                    f"{self.max_broken}. tools/check_dataset.py finds all of them."
                )
                raise ValueError("\n- ".join([title, *broken]))
            yield batch

    def _batches(self) -> Iterator[list[Record]]:
        self.dataset.seed = self.seed
        batches = Batches(self.sampler, self.batch_size, self.wide, self.start)
        return iter(
            DataLoader(
                self.dataset,
                batch_sampler=batches,  # type: ignore[arg-type]
                num_workers=self.num_workers,
                collate_fn=trivial_batch_collator,
                worker_init_fn=worker_init_reset_seed,
                generator=torch.Generator(),  # else it draws a number from the training's own
            )
        )


class NamedSamples:
    """A mapper of a test set: a record that cannot be read comes back with its name and why."""

    def __init__(self, mapper: Callable[[Record], Record]) -> None:
        self.mapper = mapper

    def __call__(self, record: Record) -> Record:
        try:
            return self.mapper(_readable(record))
        except Exception as error:  # see `Samples`
            return {BROKEN: [f"{record.get('file_name')}: {type(error).__name__}: {error}"]}


class WithoutBroken:
    """Batches of a test loader, whose samples come from `NamedSamples`."""

    def __init__(self, loader: Any) -> None:
        self.loader = loader

    def __len__(self) -> int:
        return len(self.loader)

    def __iter__(self) -> Iterator[list[Record]]:
        """
        Raises:
            ValueError: an image cannot be read: its results would be missing.
        """
        for batch in self.loader:
            for sentence in chain.from_iterable(sample.get(BROKEN, ()) for sample in batch):
                raise ValueError(f"An image of the test set cannot be read: {sentence}")
            yield batch

    def __getattr__(self, name: str) -> Any:
        """`dataset`, `batch_sampler` and so on are those of the loader."""
        if name == "loader":  # not set yet, while unpickling
            raise AttributeError(name)
        return getattr(self.loader, name)


def build_train_loader(
    cfg: CfgNode, mapper: Callable[[Record], Record | None] | None
) -> ResumableLoader | Any:
    """The training loader of a config.

    Args:
        cfg: the config.
        mapper: of the records; None for Detectron2's own.

    Returns:
        a `ResumableLoader`; Detectron2's loader where a data set is no list of records: only those
        have an order that can be repeated.

    Raises:
        ValueError: the processes cannot share a batch evenly.
    """
    parts = _train_loader_from_config(cfg, mapper=mapper)
    records = parts["dataset"]
    if not isinstance(records, list):
        return build_detection_train_loader(**parts)
    batch_size, rest = divmod(cfg.SOLVER.IMS_PER_BATCH, comm.get_world_size())
    if rest or batch_size < 1:
        raise ValueError(
            f"SOLVER.IMS_PER_BATCH must be a positive multiple of the number of processes, "
            f"{comm.get_world_size()}, got {cfg.SOLVER.IMS_PER_BATCH}."
        )
    wide = None
    if parts["aspect_ratio_grouping"]:
        wide = [record.get("width", 1) > record.get("height", 1) for record in records]
    node = NUM_CLASSES.get(cfg.MODEL.META_ARCHITECTURE)
    has_objects = node and cfg.MODEL.META_ARCHITECTURE != "SemanticSegmentor"
    num_classes = cfg.MODEL[node].NUM_CLASSES if has_objects else None
    samples = Samples(DatasetFromList(records, copy=False), parts["mapper"], num_classes)
    return ResumableLoader(
        samples,
        parts["sampler"],
        batch_size,
        wide,
        parts["num_workers"],
        cfg.DATALOADER.get("MAX_BROKEN", 0),
    )
