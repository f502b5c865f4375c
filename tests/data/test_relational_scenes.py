"""Relational Scenes: what the generator promises about scenes, pixels and files."""

from __future__ import annotations

import importlib.util
import json
import re
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest

from relation_heads.data.scenes import scenes as rs


def names_of(scene: rs.Scene) -> list[str]:
    return [rs.CLASSES[label] for label in scene.classes]


def gap(a: np.ndarray, b: np.ndarray) -> float:
    """Chebyshev distance between box edges."""
    return float(max(*(a[:2] - b[2:]), *(b[:2] - a[2:])))


def iou(a: np.ndarray, b: np.ndarray) -> float:
    grid = np.zeros((2, 192, 192), bool)
    for mask, (x0, y0, x1, y1) in zip(grid, (a.astype(int), b.astype(int)), strict=True):
        mask[y0:y1, x0:x1] = True
    return float((grid[0] & grid[1]).sum() / (grid[0] | grid[1]).sum())


def pairs(scene: rs.Scene) -> list[tuple[str, np.ndarray, np.ndarray]]:
    """(class, box, box of its partner) of all objects whose partner is in the scene."""
    where = {name: box for name, box in zip(names_of(scene), scene.boxes, strict=True)}
    return [
        (name, box, where[rs.DEPENDENCIES[name][1]])
        for name, box in zip(names_of(scene), scene.boxes, strict=True)
        if name in rs.DEPENDENCIES and rs.DEPENDENCIES[name][1] in where
    ]


@pytest.fixture(scope="module")
def scenes() -> list[rs.Scene]:
    return rs.compose_scenes(600, seed=11)


def test_every_class_has_a_group_and_every_group_a_class():
    assert len(set(rs.CLASSES)) == 22
    assert tuple(rs.CLASS_GROUPS) == rs.CLASSES
    assert set(rs.CLASS_GROUPS.values()) == set(rs.GROUPS)
    assert set(rs.MIX) == set(rs.GROUPS) - {"partner"}
    assert sum(rs.MIX.values()) == pytest.approx(1)


def test_class_graph_is_json_and_names_only_known_things():
    graph = json.loads(json.dumps(rs.class_graph()))
    assert graph["classes"] == list(rs.CLASSES)
    assert len(graph["edges"]) == 10
    for edge in graph["edges"]:
        assert edge["class"] in rs.CLASSES
        assert edge["relation"] in graph["relations"]
        assert rs.CLASS_GROUPS[edge["partner"]] == "partner"
    for left, right in rs.HFLIP_PAIRS:
        assert (rs.DEPENDENCIES[left][0], rs.DEPENDENCIES[right][0]) == ("left_of", "right_of")


# ---- composition ----


def test_same_seed_same_scenes():
    first, second, other = (rs.compose_scenes(30, seed) for seed in (3, 3, 4))
    for a, b in zip(first, second, strict=True):
        assert (a.group, a.seed, a.size) == (b.group, b.seed, b.size)
        np.testing.assert_array_equal(a.boxes, b.boxes)
        np.testing.assert_array_equal(a.classes, b.classes)
    np.testing.assert_array_equal(rs.render(first[0]), rs.render(second[0]))
    assert not {scene.seed for scene in first} & {scene.seed for scene in other}


def test_shares_are_exact_and_no_partner_is_scarce_in_the_default_training_set():
    train = rs.compose_scenes(2000, rs.split_seed(0, "train"))
    assert Counter(scene.group for scene in train) == {k: 2000 * v for k, v in rs.MIX.items()}
    counts = Counter(name for scene in train for name in names_of(scene))
    assert counts["flag"] == 75
    assert min(counts[name] for name, group in rs.CLASS_GROUPS.items() if group == "partner") >= 60


def test_mix_and_flag_probability_make_a_larger_rare_set():
    rare = rs.compose_scenes(50, seed=0, mix={"rare": 3.0}, flag_probability=0.4)
    assert sum("flag" in names_of(scene) for scene in rare) == 20
    assert rs.compose_scenes(0, seed=0) == []


def test_labels_are_true(scenes):
    for scene in scenes:
        names = set(names_of(scene))
        assert len(names & {n for n, group in rs.CLASS_GROUPS.items() if group == "partner"}) <= 1
        assert {rs.CLASS_GROUPS[name] for name in names} <= {"plain", "partner", scene.group}
        for name in names & set(rs.DEPENDENCIES):
            relation, partner = rs.DEPENDENCIES[name]
            assert (partner in names) == (relation != "absent")
        for name, box, partner in pairs(scene):
            relation = rs.DEPENDENCIES[name][0]
            to_the_right = (box[0] + box[2] - partner[0] - partner[2]) / 2
            ratio = (box[2] - box[0]) / (partner[2] - partner[0])
            assert relation != "left_of" or to_the_right <= -15
            assert relation != "right_of" or to_the_right >= 15
            assert relation != "smaller_than" or ratio < 1 / 1.2
            assert relation != "larger_than" or ratio > 1.2


@pytest.mark.parametrize("min_gap", [4, 32, 48])
def test_partners_are_out_of_reach(min_gap):
    found = [
        gap(box, partner)
        for scene in rs.compose_scenes(300, seed=5, min_gap=min_gap)
        for _, box, partner in pairs(scene)
    ]
    assert len(found) > 300
    assert min_gap <= min(found) < min_gap + 4


def test_a_crop_holds_no_object_of_the_opposite_class():
    """Two look-alikes side by side would tell which is the left one, or the larger one."""
    count = 0
    for scene in rs.compose_scenes(300, seed=6, mix={"direction": 1, "size": 1}):
        boxes = {name: [] for name in names_of(scene)}
        for name, box in zip(names_of(scene), scene.boxes, strict=True):
            boxes[name].append(box)
        for one, other in (rs.LOOK_ALIKES[1], rs.LOOK_ALIKES[2]):
            gaps = [gap(a, b) for a in boxes.get(one, []) for b in boxes.get(other, [])]
            assert min(gaps, default=32) >= 32
            count += len(gaps)
    assert count > 50


def test_objects_are_inside_and_apart(scenes):
    for scene in scenes:
        assert scene.boxes.dtype == np.float32 and scene.classes.dtype == np.int64
        assert scene.boxes.min() >= 0 and scene.boxes.max() <= scene.size
        names = names_of(scene)
        for i, a in enumerate(scene.boxes):
            for j in range(i):
                both_ovals = names[i] == names[j] == "oval"
                assert both_ovals or gap(a, scene.boxes[j]) >= 3


@pytest.mark.parametrize("low, high", [(0.5, 0.7), (0.55, 0.85)])
def test_crowds_overlap_within_the_range(low, high):
    found = []
    for scene in rs.compose_scenes(60, seed=2, mix={"crowd": 1}, crowd_iou=(low, high)):
        ovals = [b for n, b in zip(names_of(scene), scene.boxes, strict=True) if n == "oval"]
        ious = np.array([[iou(a, b) for b in ovals] for a in ovals])
        np.fill_diagonal(ious, 0)
        assert ious.max() <= high
        assert (ious.max(axis=1) >= low).all()
        apart = np.array([[gap(a, b) >= 3 for b in ovals] for a in ovals])
        assert (apart | (ious > 0.1) | np.eye(len(ovals), dtype=bool)).all()  # clusters are apart
        found.extend(ious.max(axis=1))
    assert max(found) - min(found) > 0.8 * (high - low)


def test_impossible_requests_are_refused():
    rng = np.random.default_rng(0)
    with pytest.raises(ValueError, match="group is 'partner'; a scene is of one of the groups"):
        rs.compose_scene(rng, "partner")
    with pytest.raises(ValueError, match="no scene of group 'direction' fits size=90"):
        rs.compose_scene(rng, "direction", size=90)
    with pytest.raises(ValueError, match="num is -1"):
        rs.compose_scenes(-1, seed=0)
    for mix in ({"cooc": 1.0}, {"size": -1.0, "rare": 2.0}, {"size": 0.0}, {}):
        with pytest.raises(ValueError, match=re.escape(f"mix is {mix}; it gives weights >= 0")):
            rs.compose_scenes(1, seed=0, mix=mix)


# ---- what one object gives away about its class ----


def best_guess(values: np.ndarray, answers: np.ndarray, bins: int = 16) -> float:
    """Accuracy of the best guess of a yes/no answer from one number, by histogram."""
    edges = np.quantile(values, np.linspace(0, 1, bins + 1)[1:-1])
    which = np.digitize(values, edges)
    right = [max(answers[which == k].sum(), (~answers[which == k]).sum()) for k in range(bins)]
    return sum(right) / len(answers)


@pytest.fixture(scope="module")
def ambiguous() -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Per group: (N, 8) box and partner's box, (N,) whether the class is the second of its pair."""
    found: dict[str, list] = {"direction": [], "size": []}
    for scene in rs.compose_scenes(4000, seed=21, mix={"direction": 1, "size": 1}):
        for name, box, partner in pairs(scene):
            answer = name in ("right_of_pole", "larger_than_castle")
            found[scene.group].append([*box, *partner, answer])
    tables = {group: np.array(rows) for group, rows in found.items()}
    return {group: (table[:, :8], table[:, 8] > 0) for group, table in tables.items()}


FEATURES: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "x": lambda b: b[:, 0] + b[:, 2],
    "y": lambda b: b[:, 1] + b[:, 3],
    "width": lambda b: b[:, 2] - b[:, 0],
    "height": lambda b: b[:, 3] - b[:, 1],
    "aspect": lambda b: (b[:, 2] - b[:, 0]) / (b[:, 3] - b[:, 1]),
}


@pytest.mark.parametrize("feature", FEATURES)
@pytest.mark.parametrize("group", ["direction", "size"])
def test_an_object_alone_does_not_give_its_class_away(ambiguous, group, feature):
    boxes, answers = ambiguous[group]
    assert len(answers) > 3000
    assert best_guess(FEATURES[feature](boxes), answers) <= 0.56  # a coin flip reads about 0.52


def test_object_and_partner_together_do(ambiguous):
    boxes, answers = ambiguous["direction"]
    assert best_guess(FEATURES["x"](boxes) - FEATURES["x"](boxes[:, 4:]), answers) > 0.95
    boxes, answers = ambiguous["size"]
    ratio = FEATURES["width"](boxes) / FEATURES["width"](boxes[:, 4:])
    assert best_guess(ratio, answers) > 0.95


# ---- pixels ----


def test_swapping_the_partner_touches_only_its_pixels(scenes):
    with_partner = [scene for scene in scenes if pairs(scene)][:25]
    for scene in with_partner:
        names = names_of(scene)
        (index,) = [i for i, name in enumerate(names) if rs.CLASS_GROUPS[name] == "partner"]
        new = "moon" if names[index] != "moon" else "sun"
        swapped = rs.swap_partner(scene, new)
        assert names_of(swapped)[index] == new
        assert np.array_equal(np.delete(swapped.classes, index), np.delete(scene.classes, index))
        changed = (rs.render(scene) != rs.render(swapped)).any(axis=2)
        x0, y0, x1, y1 = scene.boxes[index].astype(int)
        assert changed[y0:y1, x0:x1].any()
        changed[y0:y1, x0:x1] = False
        assert not changed.any()


def test_swap_needs_a_partner(scenes):
    plain = next(scene for scene in scenes if scene.group == "plain")
    with pytest.raises(ValueError, match="group 'plain' has no partner"):
        rs.swap_partner(plain, "sun")
    with pytest.raises(ValueError, match="new_partner is 'disc'; the partner classes are sun"):
        rs.swap_partner(plain, "disc")


# ---- files ----


def test_coco_dict_is_valid(scenes):
    dataset = rs.coco_dict(scenes, [f"{i}.png" for i in range(len(scenes))], info={"seed": 11})
    assert dataset["info"]["version"] == rs.VERSION and dataset["info"]["seed"] == 11
    assert [c["id"] for c in dataset["categories"]] == list(range(1, 23))
    assert [c["name"] for c in dataset["categories"]] == list(rs.CLASSES)
    assert [image["id"] for image in dataset["images"]] == list(range(1, len(scenes) + 1))
    assert [image["group"] for image in dataset["images"]] == [scene.group for scene in scenes]
    annotations = dataset["annotations"]
    assert [a["id"] for a in annotations] == list(range(1, len(annotations) + 1))
    assert len(annotations) == sum(len(scene.classes) for scene in scenes)
    for annotation in annotations:
        x, y, width, height = annotation["bbox"]
        assert x >= 0 and y >= 0 and x + width <= 192 and y + height <= 192
        assert annotation["area"] == width * height > 0 and annotation["iscrowd"] == 0
    first = [a for a in annotations if a["image_id"] == 1]
    np.testing.assert_array_equal([a["category_id"] - 1 for a in first], scenes[0].classes)
    corners = [[x, y, x + w, y + h] for x, y, w, h in (a["bbox"] for a in first)]
    np.testing.assert_array_equal(corners, scenes[0].boxes)
    json.dumps(dataset)
    with pytest.raises(ValueError):
        rs.coco_dict(scenes, ["1.png"])


def contents(folder: Path) -> dict[str, bytes]:
    files = (path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


def test_data_set_is_written_once_and_always_the_same(tmp_path):
    arguments = {"num_train": 6, "num_val": 4, "seed": 3}
    calls = []
    assert rs.write_dataset(tmp_path / "a", **arguments, progress=lambda: calls.append(1))
    assert len(calls) == 10
    written = contents(tmp_path / "a")
    names = [
        *(f"train/{i:06d}.png" for i in range(1, 7)),
        *(f"val/{i:06d}.png" for i in range(1, 5)),
    ]
    names += ["annotations/train.json", "annotations/val.json", "class_graph.json"]
    assert sorted(written) == sorted(names)
    assert len({written[name] for name in names}) == len(names)

    assert rs.write_dataset(tmp_path / "b", **arguments)
    assert contents(tmp_path / "b") == written
    assert not rs.write_dataset(tmp_path / "a", **arguments, progress=pytest.fail)
    assert contents(tmp_path / "a") == written

    annotations = json.loads(written["annotations/val.json"])
    assert {"version": rs.VERSION, "seed": 3}.items() <= annotations["info"].items()
    scenes = rs.compose_scenes(4, rs.split_seed(3, "val"))
    for image, scene in zip(annotations["images"], scenes, strict=True):
        pixels = cv2.imread(str(tmp_path / "a" / "val" / image["file_name"]))
        np.testing.assert_array_equal(pixels, rs.render(scene))


@pytest.mark.parametrize(
    "missing", ["train/000002.png", "annotations/val.json", "class_graph.json"]
)
def test_incomplete_data_set_is_written_again(tmp_path, missing):
    rs.write_dataset(tmp_path, num_train=2, num_val=1)
    written = contents(tmp_path)
    (tmp_path / missing).unlink()
    assert rs.write_dataset(tmp_path, num_train=2, num_val=1)
    assert contents(tmp_path) == written


def test_other_arguments_replace_a_data_set_and_strangers_are_kept(tmp_path):
    rs.write_dataset(tmp_path, num_train=2, num_val=1)
    assert rs.write_dataset(tmp_path, num_train=2, num_val=1, seed=1)
    assert rs.write_dataset(tmp_path, num_train=2, num_val=1, seed=1, mix={"rare": 1})
    stranger = tmp_path / "annotations" / "val.json"
    for text in ('{"info": {"description": "another"}}', '{"info": "another"}', "another"):
        stranger.write_text(text)
        with pytest.raises(FileExistsError, match="is not of Relational Scenes"):
            rs.write_dataset(tmp_path, num_train=3, num_val=1)
        assert stranger.read_text() == text


def test_command_line(tmp_path, monkeypatch, capsys):
    script = Path(__file__).parents[2] / "datasets" / "make_relational_scenes.py"
    spec = importlib.util.spec_from_file_location("make_relational_scenes", script)
    make = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(make)
    monkeypatch.setenv("DETECTRON2_DATASETS", str(tmp_path))
    monkeypatch.setattr(sys, "argv", ["make", "--num-train", "2", "--num-val", "1"])
    make.main()
    assert (tmp_path / "relational_scenes" / "train" / "000002.png").exists()
    make.main()
    assert "is complete already" in capsys.readouterr().out
    monkeypatch.setattr(sys, "argv", ["make", "--crowded", "--num-train", "4", "--num-val", "0"])
    make.main()
    crowded = json.loads(
        (tmp_path / "relational_scenes_crowded/annotations/train.json").read_text()
    )
    assert [i["group"] for i in crowded["images"]].count("crowd") == 2
    scenes = rs.compose_scenes(4, rs.split_seed(0, "train"), **rs.CROWDED)
    assert len(crowded["annotations"]) == sum(len(scene.boxes) for scene in scenes)
    monkeypatch.setattr(sys, "argv", ["make", "--preview", str(tmp_path / "new" / "sheet.png")])
    make.main()
    sheet = cv2.imread(str(tmp_path / "new" / "sheet.png"))
    assert sheet.shape[0] >= 6 * 192 and sheet.shape[1] >= 2 * 192
