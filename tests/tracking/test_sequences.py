"""Folders of MOTChallenge, and tracking by motion alone beside SORT."""

import numpy as np
import pytest
import torch

from relation_heads.tracking.mot_files import MotRows, write_mot

pytest.importorskip("trackers")

from relation_heads.tracking.methods import METHODS, THRESHOLD, untrained
from relation_heads.tracking.metrics import evaluate
from relation_heads.tracking.sequences import find_sequences, follow
from relation_heads.tracking.tracker import Tracker

SIZE = (480, 640)


def made(seed=0, frames=30, objects=5):
    """Ground truth and detections of objects that go straight on, in shuffled rows."""
    rng = np.random.default_rng(seed)
    start, speed = rng.uniform(50, 400, (objects, 2)), rng.uniform(-4, 4, (objects, 2))
    frame, k = (x.ravel() for x in np.meshgrid(np.arange(1, frames + 1), np.arange(objects)))
    corner = start[k] + speed[k] * frame[:, None]
    boxes = np.concatenate([corner, corner + [30.0, 60.0]], axis=1)
    truth = MotRows(frame, k + 1, boxes, np.ones(len(k)))
    shown = rng.permutation(np.flatnonzero(rng.random(len(k)) > 0.1))
    found = MotRows(
        frame[shown],
        np.full(len(shown), -1),
        boxes[shown] + rng.normal(size=(len(shown), 4)),
        rng.uniform(0.7, 1, len(shown)),
    )
    return truth, found


def folder_of(path, name, size=SIZE):
    path.mkdir(parents=True)
    text = f"[Sequence]\nname={name}\nimHeight={size[0]}\nimWidth={size[1]}\n"
    (path / "seqinfo.ini").write_text(text)
    return path


def test_sequences_are_found(tmp_path):
    truth, found = made()
    for name in ("b", "a"):
        folder_of(tmp_path / "all" / name, name)
    write_mot(truth, tmp_path / "all" / "a" / "gt" / "gt.txt")
    write_mot(found, tmp_path / "all" / "a" / "det" / "det.txt")
    alone = folder_of(tmp_path / "alone", "c", (10, 20))
    a, b, c = find_sequences([tmp_path / "all", alone])
    assert [s.name for s in (a, b, c)] == ["a", "b", "c"]
    assert a.image_size == SIZE and c.image_size == (10, 20)
    assert a.truth() is not None and len(a.detections()) == len(found) and b.truth() is None
    with pytest.raises(FileNotFoundError, match=r"det\.txt"):
        b.detections()


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("name=x", "section"),
        ("[Other]\nname=x", "Sequence"),
        ("[Sequence]\nname=x\nimHeight=5", "imWidth"),
        ("[Sequence]\nname=x\nimHeight=wide\nimWidth=5", "wide"),
        ("[Sequence]\nname=x\nimHeight=0\nimWidth=5", r"\(0, 5\)"),
    ],
)
def test_damaged_descriptions_are_named(tmp_path, text, named):
    (tmp_path / "seqinfo.ini").write_text(text)
    with pytest.raises(ValueError, match=f"seqinfo.ini.*{named}"):
        find_sequences([tmp_path])


def test_folders_without_or_with_the_same_sequence_are_named(tmp_path):
    with pytest.raises(ValueError, match=tmp_path.name):
        find_sequences([tmp_path])
    for folder in ("one", "two"):
        folder_of(tmp_path / folder, "same")
    with pytest.raises(ValueError, match=r"one and .*two .*same"):
        find_sequences([tmp_path])


@pytest.mark.parametrize("method", METHODS)
def test_what_goes_straight_on_is_followed(method):
    truth, found = made()
    tracks = follow(found, METHODS[method](1, SIZE))
    assert (tracks.ids >= 1).all() and (np.diff(tracks.frames) >= 0).all()
    scores = evaluate({"s": truth}, {"s": tracks})["s"]
    assert scores["IDF1"] > 0.85 and scores["MOTA"] > 0.75 and scores["IDSW"] <= 1


def test_equals_sort_where_nothing_is_doubtful():
    """Objects far from each other: the same tracks in the same frames, whatever is predicted."""
    _, found = made(seed=2, objects=3)
    ours, theirs = (follow(found, METHODS[name](1, SIZE)) for name in ("association", "sort"))
    np.testing.assert_array_equal(ours.frames, theirs.frames)
    np.testing.assert_array_equal(ours.ids, theirs.ids)
    np.testing.assert_array_equal(ours.boxes, theirs.boxes)


def test_the_threshold_is_an_overlap_of_three_tenths():
    """A box that moves by a part of its width, in the frame after its birth."""
    for width, same in ((0.53, True), (0.55, False)):  # IoU (1 - d) / (1 + d): 0.307 and 0.290
        boxes = np.array([[0, 0, 100, 50], [100 * width, 0, 100 * (1 + width), 50]], dtype=float)
        boxes, one = torch.tensor(boxes), torch.ones(1)
        tracker = Tracker(
            untrained(1, SIZE).association, image_size=SIZE, threshold=THRESHOLD, confirm=1
        )
        ids = [tracker.update(box[None], torch.ones(1, 1), one).item() for box in boxes]
        assert ids == ([-1, 1] if same else [-1, -1])
    assert THRESHOLD == pytest.approx(0.7685, abs=1e-4)


def test_nothing_to_follow():
    nothing = MotRows(np.empty(0, np.int64), np.empty(0, np.int64), np.empty((0, 4)), np.empty(0))
    for method in METHODS.values():
        assert len(follow(nothing, method(1, SIZE))) == 0


def test_bytetrack_returns_another_order():
    """And identities stay with their boxes."""
    _, found = made(seed=3, objects=3)
    found.scores[::2] = 0.3  # it takes sure boxes first
    tracks = follow(found, METHODS["bytetrack"](1, SIZE))
    for identity in np.unique(tracks.ids):
        boxes = tracks.boxes[tracks.ids == identity]
        assert len(boxes) > 10 and np.abs(np.diff(boxes, axis=0)).max() < 25
