"""How many steps a second an association and its tracker make, and whether a long video fills the
memory."""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Iterator

import torch
from torch import Tensor

from relation_heads.analysis.provenance import provenance
from relation_heads.analysis.tracker_speed import table
from relation_heads.data.files import write_whole
from relation_heads.layers import Association, ObjectRelation, Regions, Tracklets
from relation_heads.tracking.tracker import Tracker

from .measure import seconds_in_turns

SIZE = (720, 1280)
FRAMES, OBJECTS, LENGTH = 100, 30, 10
Detections = tuple[Tensor, Tensor, Tensor]  # boxes (N, 4), features (N, D), scores (N,)


def video(frames: int, dim: int, shown: float, seed: int) -> Iterator[Detections]:
    """Objects that stand still and shake; each is detected with the probability `shown`."""
    generator = torch.Generator().manual_seed(seed)
    column, row = torch.arange(OBJECTS) % 6, torch.arange(OBJECTS) // 6
    place, looks = torch.stack([200.0 * column, 140.0 * row], dim=1), torch.randn(OBJECTS, dim)
    for _ in range(frames):
        here = torch.rand(OBJECTS, generator=generator) < shown
        corner = place + 3 * torch.randn(OBJECTS, 2, generator=generator)
        features = looks + 0.2 * torch.randn(OBJECTS, dim, generator=generator)
        boxes = torch.cat([corner, corner + 60], dim=1)
        yield boxes[here], features[here], torch.ones(int(here.sum()))


def steps_per_second(dim: int, rounds: int) -> dict[str, float]:
    """Of `relate` and `forward` alone, of 30 tracklets with all their frames, and of a tracker."""
    torch.manual_seed(0)
    association = Association(dim, spatial=ObjectRelation(dim)).eval()
    frames = list(video(FRAMES, dim, shown=1.0, seed=0))
    tracklets = Tracklets.empty(dim, LENGTH).born(frames[0][1], frames[0][0], 1)
    for frame in range(1, LENGTH):
        boxes, features, _ = frames[frame]
        tracklets = tracklets.extended(torch.arange(OBJECTS), features, boxes, frame + 1)

    @torch.no_grad()
    def associate() -> None:
        for boxes, features, _ in frames:
            phi_s = association.relate(features, Regions(boxes, (OBJECTS,), (SIZE,)))
            association(tracklets, phi_s, boxes, frame=LENGTH + 1, image_size=SIZE)

    def track() -> None:
        tracker = Tracker(association, image_size=SIZE)
        for frame in frames:
            tracker.update(*frame)

    functions = {"association": associate, "tracker": track}
    seconds = seconds_in_turns(functions, rounds, clock=time.process_time)
    return {name: round(FRAMES / statistics.median(s), 1) for name, s in seconds.items()}


def memory(frames: int, dim: int, notes: int) -> list[tuple[int, float, int]]:
    """Frame, memory of this process in MiB and tracks, noted `notes` times."""
    tracker = Tracker(Association(dim, spatial=ObjectRelation(dim)).eval(), image_size=SIZE)
    noted = []
    for frame, detections in enumerate(video(frames, dim, shown=0.8, seed=1), start=1):
        tracker.update(*detections)
        if frame % max(1, frames // notes) == 0:
            noted.append((frame, round(resident_mib(), 1), len(tracker)))
    return noted


def resident_mib() -> float:
    """Memory of this process that is not swapped out (Linux)."""
    with open("/proc/self/status", encoding="ascii") as file:
        line = next(line for line in file if line.startswith("VmRSS"))
    return int(line.split()[1]) / 1024


def time_tracker(args: argparse.Namespace) -> None:
    """See `tools/time_tracker.py`."""
    torch.set_num_threads(1)
    result = {
        **provenance(0, "tools/time_tracker.py"),
        "steps": {str(dim): steps_per_second(dim, args.rounds) for dim in args.dims},
        "memory": memory(args.frames, min(args.dims), notes=5),
    }
    print(table(result))
    if args.json:
        write_whole(args.json, json.dumps(result, indent=1) + "\n")
