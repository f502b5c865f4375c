"""One training on box features, and what is counted on the test images."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from math import ceil
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ...data.graphs.sources import graph_from_cooccurrence
from .classifiers import METHODS, MLP, WITH_CLASS_GRAPH
from .data import TEST_SHARE, BoxFeatures, Scale, split

TEST_BATCH = 64  # images
ALL = 0  # stands for all training images


@dataclass(frozen=True)
class Recipe:
    """How a network is trained: AdamW, one cycle of the learning rate.

    Args:
        epochs: over all training images. A training with fewer images has as many steps.
        batch_size: images of a step.
        min_boxes: images with fewer boxes are left out, in training and test.
        lr, weight_decay: of AdamW.
        clip: largest norm of the gradient.
    """

    epochs: int
    batch_size: int
    min_boxes: int = 1
    lr: float = 1e-3
    weight_decay: float = 0.02
    clip: float = 5.0


@dataclass(frozen=True)
class Task:
    """One training that is to be done.

    Args:
        method: of `METHODS`.
        seed: of weights, order, dropout, and of the choice of images.
        train_images: how many; `ALL` for all.
    """

    method: str
    seed: int
    train_images: int = ALL


def check_sizes(
    tasks: Sequence[Task], recipe: Recipe, features: BoxFeatures, test: BoxFeatures | None
) -> None:
    """Refuses trainings with more images than there are; arguments as in `run`.

    Raises:
        ValueError: there is one, or there are too few images at all.
    """
    most = max(task.train_images for task in tasks)
    available = len(split(features, test, 0, recipe.min_boxes)[0].names)
    if most > available:
        raise ValueError(f"There are {available} training images, not {most}: ask for fewer.")


def run(
    task: Task,
    recipe: Recipe,
    features: BoxFeatures,
    test: BoxFeatures | None,
    say: Callable[[str], None] = print,
) -> dict[str, Any]:
    """Trains a network and counts what is right; the same numbers whenever it is called.

    Args:
        task, recipe: what is trained, and how.
        features, test: see `split`.
        say: gets a line at the end.

    Returns:
        what `count` gives, and `train_images`, `train_boxes`, `train_loss` (of the last step),
        `parameters` and `seconds`.

    Raises:
        ValueError: there is no class graph between the classes of the training images.
    """
    start = time.perf_counter()
    train, test = split(features, test, task.seed, recipe.min_boxes)
    steps = recipe.epochs * ceil(len(train.names) / recipe.batch_size)
    if task.train_images:
        train = train.images(range(task.train_images))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(task.seed)
        network = build(task.method, train)
        scale = Scale(train)
        loss = fit(network, scale, train, recipe, steps, task.seed)
        logits = predict(network, scale, test)
    result = {
        **count(logits, test),
        "train_images": len(train.names),
        "train_boxes": len(train.labels),
        "train_loss": loss,
        "parameters": sum(p.numel() for p in network.parameters()),
        "seconds": round(time.perf_counter() - start, 1),
    }
    right, number = result["all"]
    say(
        f"{task.method}, seed {task.seed}, {len(train.names)} images: {100 * right / number:.2f} % "
        f"of {number} boxes, {result['seconds']:.0f} s"
    )
    return result


def build(method: str, train: BoxFeatures) -> MLP:
    """The network of a method, for these training images.

    Raises:
        ValueError: the method needs a class graph, and no two classes share images by more than
            chance.
    """
    sizes = train.features.shape[1], len(train.class_names)
    if method not in WITH_CLASS_GRAPH:
        return METHODS[method](*sizes)
    knowledge = class_graph(train)
    if not knowledge:
        raise ValueError(f"{method}: no two classes share training images by more than chance.")
    return METHODS[method](*sizes, knowledge=knowledge)


def class_graph(train: BoxFeatures) -> list[Tensor]:
    """Adjacencies between the classes, from what is seen together in the training images."""
    image = torch.repeat_interleave(train.counts)  # (N,)
    coco = {
        "images": [{"id": i, "file_name": name} for i, name in enumerate(train.names)],
        "categories": [{"id": k, "name": name} for k, name in enumerate(train.class_names)],
        "annotations": [
            {"image_id": i, "category_id": k}
            for i, k in zip(image.tolist(), train.labels.tolist(), strict=True)
        ],
    }
    return [adjacency for _, adjacency in graph_from_cooccurrence(coco).adjacencies()]


def fit(
    network: MLP, scale: Scale, train: BoxFeatures, recipe: Recipe, steps: int, seed: int
) -> float:
    """Trains the network; returns the loss of the last step."""
    optimizer = torch.optim.AdamW(
        network.parameters(), lr=recipe.lr, weight_decay=recipe.weight_decay
    )
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, recipe.lr, total_steps=steps, pct_start=0.1
    )
    network.train()
    batches = _batches(len(train.names), recipe.batch_size, seed)
    for _ in range(steps):
        loss = network.loss(scale(train.images(next(batches))))
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(network.parameters(), recipe.clip)
        optimizer.step()
        schedule.step()
    return loss.item()


def _batches(number: int, size: int, seed: int) -> Iterator[Sequence[int]]:
    """Images of one step after the other, for ever; an epoch has each of them once."""
    generator = torch.Generator().manual_seed(seed)
    while True:
        order = torch.randperm(number, generator=generator).tolist()
        yield from (order[k : k + size] for k in range(0, number, size))


@torch.no_grad()
def predict(network: MLP, scale: Scale, test: BoxFeatures) -> Tensor:
    """Logits (N, C) of the test boxes."""
    network.eval()
    images = range(len(test.names))
    return torch.cat(
        [
            network(scale(test.images(images[k : k + TEST_BATCH])))
            for k in range(0, len(images), TEST_BATCH)
        ]
    )


def count(logits: Tensor, test: BoxFeatures) -> dict[str, Any]:
    """How many boxes are right, as pairs [right, boxes].

    Args:
        logits: (N, C).
        test: images of the N boxes.

    Returns:
        `all`; `several_classes`, of images with two classes and more; `by_class`, by name; and
        `by_boxes`, by the number of boxes in the image; `nll`, the mean cross-entropy.
    """
    right = logits.argmax(dim=1) == test.labels  # (N,)
    boxes = torch.repeat_interleave(test.counts, test.counts)  # (N,) in the image of each box
    several = torch.cat(
        [
            torch.full((len(labels),), len(labels.unique()) > 1)
            for labels in test.labels.split(test.counts.tolist())
        ]
    )

    def pair(chosen: Tensor) -> list[int]:
        return [int(right[chosen].sum()), int(chosen.sum())]

    return {
        "all": pair(torch.ones_like(right)),
        "several_classes": pair(several),
        "by_class": {name: pair(test.labels == k) for k, name in enumerate(test.class_names)},
        "by_boxes": {str(n): pair(boxes == n) for n in boxes.unique().tolist()},
        "nll": F.cross_entropy(logits, test.labels).item(),
    }


def setting(recipe: Recipe, features: BoxFeatures, test: BoxFeatures | None) -> dict[str, str]:
    """What trainings must have in common to be compared."""
    return {
        "train": features.made_from["dataset"],
        "test": test.made_from["dataset"] if test else f"1 of {TEST_SHARE} images, by seed",
        "features": features.fingerprint + (f", {test.fingerprint}" if test else ""),
        **{name: str(value) for name, value in asdict(recipe).items()},
    }
