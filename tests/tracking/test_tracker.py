"""The tracker against a slow one of lists, and what it is for."""

import numpy as np
import pytest
import torch

from relation_heads.layers import Association, ObjectRelation, Regions, Tracklets
from relation_heads.layers.arguments import ArgumentError

pytest.importorskip("trackers")

from scipy.optimize import linear_sum_assignment

from relation_heads.tracking.tracker import Tracker

D, SIZE = 4, (200, 300)


def make(relation=False, seed=0):
    """An association after some training."""
    torch.manual_seed(seed)
    spatial = ObjectRelation(D, num_heads=2, key_dim=2) if relation else None
    module = Association(D, spatial=spatial, relation_channels=5, place_channels=3, hidden=7)
    for parameter in module.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    torch.nn.init.constant_(module.gain, 4.0)
    return module.eval()


def video(seed, frames=25, objects=4):
    """Frames (boxes, features, scores) of objects that walk, hide, and have false ones beside."""
    rng = np.random.default_rng(seed)
    place = rng.uniform(20, 250, (objects, 2))
    looks = rng.normal(size=(objects, D))
    made = []
    for _ in range(frames):
        place += rng.uniform(-3, 4, place.shape)
        shown = rng.random(objects) > 0.25
        corner = np.concatenate([place[shown], rng.uniform(0, 250, (rng.integers(3), 2))])
        n = 0 if rng.random() < 0.1 else len(corner)
        phi = np.concatenate([looks[shown], rng.normal(size=(2, D))])[:n]
        phi += 0.2 * rng.normal(size=phi.shape)
        boxes = np.concatenate([corner, corner + 30], axis=1)[:n]
        arrays = (boxes, phi, rng.uniform(0.1, 1, n))
        made.append([torch.tensor(x, dtype=torch.float32) for x in arrays])
    return made


class Slow:
    """The same rule, object by object."""

    def __init__(self, association, threshold, birth_score, confirm, patience, memory):
        self.association, self.memory = association, memory
        self.threshold, self.birth_score = threshold, birth_score
        self.confirm, self.patience = confirm, patience
        self.tracks, self.frame, self.count = [], 0, 0

    def similarity(self, track, phi, boxes):
        alone = Tracklets.empty(D, self.memory)
        for number, (frame, feature, box) in enumerate(track["seen"]):
            entry = feature[None], box[None], frame
            alone = alone.extended(torch.tensor([0]), *entry) if number else alone.born(*entry)
        score = self.association(alone, phi, boxes, frame=self.frame, image_size=SIZE)
        return score[0].sigmoid().numpy()

    @torch.no_grad()
    def update(self, boxes, features, scores):
        self.frame += 1
        phi = self.association.relate(features, Regions(boxes, (len(boxes),), (SIZE,)))
        taken, ids = {}, [-1] * len(boxes)
        if self.tracks and len(boxes):
            table = np.stack([self.similarity(t, phi, boxes) for t in self.tracks])
            for row, n in zip(*linear_sum_assignment(table, maximize=True), strict=True):
                if table[row, n] >= self.threshold:
                    taken[n] = self.tracks[row]
        for n, track in taken.items():
            track["seen"] = [*track["seen"], (self.frame, phi[n], boxes[n])][-self.memory :]
            track["hits"] += 1
        for n in sorted(taken):  # identities go by the assignment's order, which is the tracks'
            track = taken[n]
            if track["hits"] >= self.confirm:
                track["wants"] = n
        for track in self.tracks:
            n = track.pop("wants", None)
            if n is not None:
                if track["id"] < 0:
                    self.count += 1
                    track["id"] = self.count
                ids[n] = track["id"]
        for n in range(len(boxes)):
            if n not in taken and scores[n] >= self.birth_score:
                seen = [(self.frame, phi[n], boxes[n])]
                self.tracks.append({"seen": seen, "hits": 1, "id": -1})
        alive = []
        for track in self.tracks:
            hidden = self.frame - track["seen"][-1][0]
            if hidden == 0 or (track["hits"] >= self.confirm and hidden <= self.patience):
                alive.append(track)
        self.tracks = alive
        return ids


@pytest.mark.parametrize(
    ("relation", "options"),
    [
        (True, {"threshold": 0.5, "birth_score": 0.25, "confirm": 3, "patience": 30, "memory": 10}),
        (False, {"threshold": 0.7, "birth_score": 0.5, "confirm": 1, "patience": 2, "memory": 3}),
        (False, {"threshold": 0.2, "birth_score": 0.0, "confirm": 2, "patience": 0, "memory": 1}),
    ],
)
def test_equals_the_slow_tracker(relation, options):
    association = make(relation)
    tracker = Tracker(association, image_size=SIZE, **options)
    slow, found = Slow(association, **options), set()
    for frame in video(seed=1):
        ids = tracker.update(*frame)
        assert ids.dtype == torch.int64 and ids.tolist() == slow.update(*frame)
        assert len(tracker) == len(slow.tracks)
        found.update(ids.tolist())
    assert len(found) > 4 and -1 in found


def walk(places, looks):
    """One frame of objects with these left edges and looks."""
    left = torch.tensor(places, dtype=torch.float32)
    boxes = torch.stack([left, torch.zeros_like(left), left + 20, torch.full_like(left, 40)], dim=1)
    return boxes, torch.eye(D)[looks], torch.ones(len(left))


def test_looks_tell_objects_apart_that_turn_back():
    """Two objects meet and turn back; by motion alone they would have crossed."""
    gap = [100, 80, 60, 40, 20, 5, 20, 40, 60, 80]
    frames = [[(100 - g / 2, 0), (100 + g / 2, 1)] for g in gap]

    def identities(constant):
        tracker = Tracker(Association(D), image_size=SIZE, threshold=0.3, confirm=1)
        out = []
        for frame in frames:
            places, looks = zip(*frame, strict=True)
            out.append(tracker.update(*walk(places, [0, 0] if constant else list(looks))).tolist())
        return out

    assert identities(constant=False)[1:] == [[1, 2]] * 9
    assert identities(constant=True)[-1] != [1, 2]


def test_a_confirmed_track_waits_and_ends():
    for hidden, same in ((3, True), (4, False)):
        tracker = Tracker(Association(D), image_size=SIZE, confirm=2, patience=3)
        first = [tracker.update(*walk([50], [0])).tolist() for _ in range(3)]
        assert first == [[-1], [1], [1]]
        for _ in range(hidden):
            assert tracker.update(*walk([], [])).tolist() == []
        again = [tracker.update(*walk([50], [0])).tolist()[0] for _ in range(2)]
        assert again == ([1, 1] if same else [-1, 2])


def test_memory_does_not_grow():
    tracker = Tracker(make(), image_size=SIZE, confirm=1, patience=5, memory=4)
    sizes = []
    for frame in video(3, frames=120):
        tracker.update(*frame)
        sizes.append((len(tracker), tracker._tracklets.features.shape[1]))
    assert {length for _, length in sizes} == {4}
    assert max(n for n, _ in sizes[60:]) <= max(n for n, _ in sizes[:60]) + 3


def test_sort_of_the_library_keeps_its_name():
    from trackers import SORTTracker
    from trackers.core.base import BaseTracker

    assert BaseTracker._lookup_tracker("sort").tracker_class is SORTTracker


@pytest.mark.parametrize(
    ("name", "value"), [("threshold", 1.5), ("confirm", 0), ("patience", -1), ("memory", 0)]
)
def test_wrong_arguments_are_named(name, value):
    with pytest.raises(ArgumentError) as error:
        Tracker(Association(D), image_size=SIZE, **{name: value})
    assert [(w.argument, w.value) for w in error.value.wrong] == [(name, value)]


def test_wrong_detections_are_named():
    tracker = Tracker(Association(D), image_size=SIZE)
    boxes, features, scores = walk([50, 90], [0, 1])
    with pytest.raises(ValueError, match=r"\(2, 4\) and \(1,\)"):
        tracker.update(boxes, features, scores[:1])
    with pytest.raises(ValueError, match="finite: False"):
        tracker.update(boxes / 0, features, scores)
    with pytest.raises(ValueError, match=r"\(2, 3\)"):
        tracker.update(boxes, features[:, :3], scores)
