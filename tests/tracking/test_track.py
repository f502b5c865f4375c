"""`tools/track.py`, from files to files."""

import cv2
import numpy as np
import pytest

pytest.importorskip("detectron2")
pytest.importorskip("trackers")

from relation_heads.data.scenes.scenes import compose_scenes, render
from relation_heads.tracking.methods import METHODS
from relation_heads.tracking.mot_files import read_mot, write_mot
from relation_heads.tracking.track_files import chosen, find_footage, track_detections
from relation_heads.visualization.detections import Detections
from tests.tools.test_train_net import load_tool
from tests.tracking.test_sequences import folder_of, made

MODEL = "scenes-relation-signed"


@pytest.fixture(scope="module")
def tool():
    return load_tool("track")


def clip(folder, frames=6):
    """A scene that moves by two pixels a frame to the right."""
    folder.mkdir()
    (scene,) = compose_scenes(1, seed=4)
    image = render(scene)
    wide = cv2.copyMakeBorder(image, 0, 0, 2 * frames, 0, cv2.BORDER_REPLICATE)
    for k in range(frames):
        start = 2 * (frames - k)
        cv2.imwrite(str(folder / f"{k:03d}.png"), wide[:, start : start + image.shape[1]])
    return image.shape[:2]


def test_sequences_are_tracked_and_scored(tool, tmp_path, capsys):
    truth, found = made()
    for name in ("a", "b"):
        folder_of(tmp_path / name, name)
        write_mot(found, tmp_path / name / "det" / "det.txt")
    write_mot(truth, tmp_path / "a" / "gt" / "gt.txt")
    for tracker in METHODS:
        tool.run(tool.parse_args([str(tmp_path / "a"), str(tmp_path / "b"), "--tracker", tracker,
                                  "--output", str(tmp_path / tracker)]))  # fmt: skip
        said = capsys.readouterr().out
        assert "a: IDF1 0.9" in said and "b:" not in said and "2 sequences" in said
        rows = read_mot(tmp_path / tracker / "b.txt")
        assert rows.last == 30 and set(rows.ids) >= {1, 2, 3, 4, 5}


def test_a_model_and_a_folder_of_images(tool, tmp_path, capsys):
    size = clip(tmp_path / "clip")
    tool.run(tool.parse_args([str(tmp_path / "clip"), "--model", MODEL, "--output",
                              str(tmp_path / "out"), "--pictures", "2"]))  # fmt: skip
    assert "6 frames" in capsys.readouterr().out
    rows = read_mot(tmp_path / "out" / "clip.txt")
    assert (rows.scores >= 0.25).all() and (rows.boxes[:, 2] <= size[1] + 1).all()
    followed = [rows.take(rows.ids == k) for k in np.unique(rows.ids)]
    whole = [one for one in followed if len(one) == 4]  # from the third frame on
    assert len(whole) >= 2
    for one in whole:
        assert one.frames.tolist() == [3, 4, 5, 6]
        moved = np.diff(one.boxes[:, [0, 2]].mean(axis=1))
        assert (np.abs(moved - 2) < 1.5).all()
    picture = cv2.imread(str(tmp_path / "out" / "clip.jpg"))
    assert picture.shape[1] > 2 * picture.shape[0] * 0.8


def test_videos_folders_and_single_images(tmp_path):
    clip(tmp_path / "clip", frames=2)
    (tmp_path / "film.mp4").write_bytes(b"")
    (tmp_path / "clip" / "more.avi").write_bytes(b"")
    found = find_footage([str(tmp_path / "film.mp4"), str(tmp_path / "clip")])
    assert [one.source.rsplit("/", 1)[1] for one in found] == ["film.mp4", "clip", "more.avi"]
    assert [len(one.files) for one in found] == [0, 2, 0]
    with pytest.raises(ValueError, match=r"000\.png is no video"):
        find_footage([str(tmp_path / "clip" / "000.png")])


def detections(boxes, names, size=(60, 80)):
    return Detections(
        image=np.zeros((*size, 3), dtype=np.uint8),
        boxes=np.array(boxes, dtype=np.float32).reshape(-1, 4),
        scores=np.full(len(boxes), 0.9, dtype=np.float32),
        classes=np.zeros(len(boxes), dtype=np.int64),
        names=names,
        features=np.ones((len(boxes), 3), dtype=np.float32),
        file_name="last.png",
    )


def test_a_class_is_followed_alone():
    stream = [detections([[5, 5, 25, 35], [50, 5, 70, 35]], ["car", "dog"])] * 4
    both, _ = track_detections(stream, tracker="association")
    dogs, shown = track_detections(stream, tracker="sort", class_name="dog", pictures=[4])
    assert len(set(both.ids)) == 2 and set(dogs.ids) == {1}
    assert (dogs.boxes == [50, 5, 70, 35]).all() and dogs.frames.tolist() == [3, 4]
    assert [one.frame for one in shown] == [4] and shown[0].ids.tolist() == [1]
    nothing, _ = track_detections(stream, tracker="association", min_score=0.95)
    assert len(nothing) == 0 and len(track_detections([], tracker="sort")[0]) == 0


def test_frames_of_another_size_are_named():
    stream = [detections([], []), detections([], [], size=(60, 90))]
    with pytest.raises(ValueError, match=r"frame 2 \(last\.png\) is \(60, 90\)"):
        track_detections(stream, tracker="association")


def test_frames_that_are_shown():
    assert chosen(9, 3) == {1, 5, 9} and chosen(2, 4) == {1, 2} and chosen(1, 1) == {1}
    assert chosen(0, 3) == {1, 26, 51}


def test_unknown_classes_and_sequences_are_named(tool, tmp_path):
    clip(tmp_path / "clip", frames=1)
    with pytest.raises(ValueError, match="--class bus is none of"):
        tool.run(tool.parse_args([str(tmp_path / "clip"), "--model", MODEL, "--class", "bus"]))
    with pytest.raises(ValueError, match=r"seqinfo\.ini"):
        tool.run(tool.parse_args([str(tmp_path / "clip")]))
