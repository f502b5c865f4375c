#!/usr/bin/env python
"""Relational layers without Detectron2: classify given boxes, with and without relations.

    examples/without_detectron2.py
    examples/without_detectron2.py --output output/quick --iterations 100

torch, torchvision's RoIAlign, OpenCV and `relation_heads.layers`, nothing else. The boxes of
Relational Scenes are given (the true ones, jittered), so it asks one question: what can a head say
about a box whose class depends on another box? Three heads train on the same scenes with the same
schedule, two at a time: two fc layers; the same with object relation modules (published geometry);
the same with signed geometry. Prints the accuracy per group, and leaves it in the output folder
with pictures of what a box listened to.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import sys
import time
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.ops import roi_align

from relation_heads.data.scenes.scenes import (
    CLASS_GROUPS,
    CLASSES,
    GROUPS,
    MIX,
    Scene,
    compose_scenes,
    render,
)
from relation_heads.layers import ObjectRelation, Regions
from relation_heads.visualization import draw_relations, side_by_side, upscale

HEADS = {
    "stock": None,
    "relation": dict(geometry="relation", num_heads=16, key_dim=16, init="xavier"),
    "relation, signed": dict(geometry="signed", num_heads=16, key_dim=16, init="xavier"),
}
WIDTH, POOL, STRIDE, BATCH = 128, 5, 8, 16
JITTER = 0.08  # standard deviation of the boxes, in box sizes
ASKED = ("left_of_pole", "square_with_sun", "smaller_than_castle")
SCENES: dict[str, list[tuple[Scene, np.ndarray]]] = {}  # filled before the processes fork


class Classifier(nn.Module):
    """Four convolutions (receptive field 31 px), RoIAlign, two fc layers, each followed by a
    relation module or not."""

    def __init__(self, relation: dict | None) -> None:
        super().__init__()
        layers, channels = [], 3
        for width, stride in ((24, 2), (48, 2), (64, 2), (64, 1)):
            layers += [
                nn.Conv2d(channels, width, 3, stride, 1, bias=False),
                nn.BatchNorm2d(width),
                nn.ReLU(),
            ]
            channels = width
        self.backbone = nn.Sequential(*layers)
        self.fc = nn.ModuleList([nn.Linear(channels * POOL * POOL, WIDTH), nn.Linear(WIDTH, WIDTH)])
        self.relation = nn.ModuleList(
            ObjectRelation(WIDTH, **relation) for _ in self.fc if relation
        )
        self.scores = nn.Linear(WIDTH, len(CLASSES))

    def forward(self, images: Tensor, regions: Regions) -> tuple[Tensor, list[Tensor]]:
        """(B, 3, H, W) images and N regions to (N, K) class scores, and the last module's weights
        per image."""
        maps = self.backbone(images)
        x = roi_align(
            maps, list(regions.split(regions.boxes)), POOL, 1 / STRIDE, 2, aligned=True
        ).flatten(1)
        weights: list[Tensor] = []
        for k, fc in enumerate(self.fc):
            x = fc(x)
            if len(self.relation):
                if not self.training and k == 1:
                    weights = self.relation[k].weights(x, regions)
                x = self.relation[k](x, regions)
            x = F.relu(x)
        return self.scores(x), weights


def batch(pairs: list[tuple[Scene, np.ndarray]], jitter: float) -> tuple[Tensor, Regions, Tensor]:
    """Images (B, 3, H, W), jittered boxes, classes (N,)."""
    images = torch.as_tensor(np.stack([image for _, image in pairs])).permute(0, 3, 1, 2).float()
    boxes = [torch.as_tensor(scene.boxes) for scene, _ in pairs]
    boxes = [b + jitter * torch.randn_like(b) * (b[:, 2:] - b[:, :2]).repeat(1, 2) for b in boxes]
    regions = Regions.from_boxes(boxes, [(s.size, s.size) for s, _ in pairs])
    classes = torch.cat([torch.as_tensor(scene.classes) for scene, _ in pairs])
    return (images - 128) / 60, regions, classes


def accuracy(model: Classifier) -> dict[str, float]:
    """Mean over the classes of a group of the share of boxes classified correctly, in percent."""
    model.eval()
    correct, classes = [], []
    with torch.no_grad():
        for i in range(0, len(SCENES["val"]), 20):
            images, regions, truth = batch(SCENES["val"][i : i + 20], jitter=0.0)
            correct.append(model(images, regions)[0].argmax(1) == truth)
            classes.append(truth)
    correct, classes = torch.cat(correct).float(), torch.cat(classes)
    per_class = {c: correct[classes == c].mean().item() for c in classes.unique().tolist()}
    result = {}
    for group in GROUPS:
        members = [v for c, v in per_class.items() if CLASS_GROUPS[CLASSES[c]] == group]
        result[group] = 100 * sum(members) / max(len(members), 1)
    return result


def draw(model: Classifier, folder: Path) -> None:
    """For a box of each class in ASKED: the scene, and what the box listened to."""
    model.eval()
    folder.mkdir(parents=True, exist_ok=True)
    for name in ASKED:
        scene, image = next(p for p in SCENES["val"] if CLASSES.index(name) in p[0].classes)
        with torch.no_grad():
            scores, weights = model(*batch([(scene, image)], jitter=0.0)[:2])
        query = scene.classes.tolist().index(CLASSES.index(name))
        labels = [CLASSES[c] for c in scores.argmax(1).tolist()]
        big, boxes = upscale(image, scene.boxes, 640)
        drawn = draw_relations(
            big, boxes[query], labels[query], boxes, labels, weights[0][:, query].mean(0).numpy()
        )
        picture = side_by_side(
            [big, drawn], ["scene", f"{labels[query]} listens to (true class: {name})"]
        )
        cv2.imwrite(str(folder / f"{name}.png"), picture)


def train(job: tuple[str, int, str]) -> tuple[str, dict[str, float]]:
    """Trains one head and evaluates it."""
    name, iterations, output = job
    torch.set_num_threads(1)
    torch.manual_seed(0)
    model, began = Classifier(HEADS[name]), time.time()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.02, momentum=0.9, weight_decay=1e-4)
    rng = np.random.default_rng(0)
    for i in range(iterations):
        lr = 0.02 * min(1, (i + 1) / 50) * (1 if i < 0.7 * iterations else 0.1)
        for group in optimizer.param_groups:
            group["lr"] = lr
        chosen = rng.integers(len(SCENES["train"]), size=BATCH)
        images, regions, classes = batch([SCENES["train"][k] for k in chosen], JITTER)
        loss = F.cross_entropy(model(images, regions)[0], classes)
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 5.0)
        optimizer.step()
        if (i + 1) % 100 == 0:
            done = f"{i + 1}/{iterations} loss {loss.item():.2f}"
            print(f"[{time.time() - began:4.0f} s] {name}: {done}", flush=True)
    if name == "relation, signed":
        draw(model, Path(output) / "pictures")
    return name, accuracy(model)


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--output", type=Path, default=Path("output/without_detectron2"))
    parser.add_argument("--iterations", type=int, default=600)
    return parser.parse_args(argv)


def main() -> None:
    """Runs the example."""
    args = parse_args()
    args.output.mkdir(parents=True, exist_ok=True)
    print("Drawing 2,300 scenes ...", flush=True)
    for split, count, seed in (("train", 2000, 0), ("val", 300, 1)):
        SCENES[split] = [(scene, render(scene)) for scene in compose_scenes(count, seed, mix=MIX)]
    print(
        f"Training {len(HEADS)} heads on given boxes, {args.iterations} iterations each:",
        flush=True,
    )
    jobs = [(name, args.iterations, str(args.output)) for name in HEADS]
    with multiprocessing.get_context("fork").Pool(2) as pool:
        results = dict(pool.map(train, jobs, chunksize=1))
    rows = ["| group | " + " | ".join(HEADS) + " |", "|:--|" + "--:|" * len(HEADS)]
    for group in GROUPS:
        rows.append(
            f"| {group} | " + " | ".join(f"{results[name][group]:.1f}" for name in HEADS) + " |"
        )
    table = "\n".join(rows)
    (args.output / "table.md").write_text(table + "\n")
    print(f"\nAccuracy by group of classes, boxes given, 300 scenes not seen before:\n\n{table}\n")
    print(f"What the boxes listened to: {args.output / 'pictures'}")


if __name__ == "__main__":
    main()
