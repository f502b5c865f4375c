"""The numbers of the page: by hand, and against a slow reference."""

import base64
from dataclasses import replace

import pytest

pytest.importorskip("detectron2")

import cv2
import numpy as np

from relation_heads.viewer.data import apportion, jpeg_uri, page_data
from tests.viewer.common import BOXES, at_random, by_hand
from tests.visualization.test_objects import slow_heard


def data_of(detections, *, min_score=0.3, top=12, kernels=None):
    if not isinstance(detections, dict):
        detections = {"mine": [detections]}
    return page_data(detections, min_score=min_score, top=top, kernels=kernels or {})


def decoded(uri, kind="image/jpeg"):
    start = f"data:{kind};base64,"
    assert uri.startswith(start)
    code = base64.b64decode(uri[len(start) :])
    return cv2.imdecode(np.frombuffer(code, np.uint8), cv2.IMREAD_COLOR), len(code)


def test_by_hand():
    data = data_of(by_hand())
    assert data["detectors"] == ["mine"] and data["units"] == 1000
    (image,) = data["images"]
    assert (image["name"], image["width"], image["height"]) == ("farm.jpg", 200, 100)
    (found,) = image["found"]
    assert found["boxes"] == [[0, 0, 10, 10], [50, 50, 60, 60]]
    assert [data["names"][k] for k in found["classes"]] == ["cat", "cow"]
    assert found["scores"] == [0.9, 0.4]
    assert found["attention"] == {"names": ["plain", "local1"], "rows": [[250, 750], [500, 500]]}
    (relations,) = found["relations"]
    assert relations["heads"] == 2
    cat, cow = relations["rows"]
    dog, pig = cat[1][2], cat[1][6]
    told = [(data["names"][relations["classes"][-1 - k]], relations["boxes"][-1 - k])
            for k in (dog, pig)]  # fmt: skip
    # The dog is the first of two regions; no detection shows it. The cow is detection 1.
    assert told == [("dog", [20, 0, 30, 10]), ("pig", [80, 0, 90, 10])]
    # itself 0.1 + 0.1, the dog 0.2 + 0.25, the cow 0.3
    assert cat[1] == [200, 0, dog, 450, 1, 300, pig, 50]
    assert cat[2] == [0, 0, 1, 1000]
    assert cat[0] == [100, 0, 1, 650, dog, 225, pig, 25]  # their mean
    assert cow == [[1000, 0]] * 3  # it heard itself alone
    (image,) = data_of(by_hand(), top=1)["images"]
    assert image["found"][0]["relations"][0]["rows"][0][1] == [200, 350, -1, 450]
    (image,) = data_of(by_hand(), min_score=0.5)["images"]  # the cow is no detection
    (relations,) = image["found"][0]["relations"]
    assert all(k < 0 for row in relations["rows"][0] for k in row[2::2])


def test_objects_are_detections_and_lines_end_at_their_boxes():
    """The second region of the cat became no detection, and the box of the cow was moved."""
    moved = BOXES[[0, 4, 3]] + np.array([[0, 0, 0, 0], [20, 20, 30, 30], [0, 0, 0, 0]])
    one = by_hand(boxes=moved, names=["cat", "cow", "wolf"], classes=np.arange(3),
                  scores=np.array([0.9, 0.8, 0.7]), attention={})  # fmt: skip
    (relations,) = one.relations
    weights = np.repeat(relations.weights[:, :1], 3, axis=1)
    one = replace(one, relations=(replace(relations, region=np.array([0, 4, 3]), weights=weights),))
    (image,) = data_of(one, top=2)["images"]
    (found,) = image["found"]
    cat, cow, wolf = (rows[1] for rows in found["relations"][0]["rows"])
    assert cat == [200, 50, 2, 450, 1, 300]  # the wolf, the cow, and the pig in the rest
    assert cow == [300, 50, 2, 450, 0, 200] and wolf == [450, 50, 1, 300, 0, 200]
    assert found["boxes"][1] == [70, 70, 90, 90]
    assert data_of(one)["images"][0]["found"][0]["relations"][0]["boxes"] == [[80, 0, 90, 10]]


def test_a_large_image_is_made_smaller_and_its_boxes_with_it():
    image = np.zeros((500, 2000, 3), np.uint8)
    data = data_of(by_hand(image=image))
    (one,) = data["images"]
    assert (one["width"], one["height"]) == (1000, 250)
    assert decoded(one["src"])[0].shape == (250, 1000, 3)
    assert one["found"][0]["boxes"] == [[0, 0, 5, 5], [25, 25, 30, 30]]
    assert [10, 0, 15, 5] in one["found"][0]["relations"][0]["boxes"]


def test_only_what_is_sure_enough_is_shown():
    (image,) = data_of(by_hand(), min_score=0.5)["images"]
    (found,) = image["found"]
    assert found["scores"] == [0.9] and len(found["boxes"]) == 1
    assert len(found["relations"][0]["rows"]) == len(found["attention"]["rows"]) == 1
    (image,) = data_of(by_hand(), min_score=1.0)["images"]
    assert image["found"][0]["boxes"] == [] == image["found"][0]["relations"][0]["rows"]


@pytest.mark.parametrize("seed", range(3))
def test_equals_a_slow_reference_and_adds_up(seed):
    found = at_random(np.random.default_rng(seed), number=6)
    shown = [d for d in range(6) if found.scores[d] >= 0.2]
    data = data_of(found, min_score=0.2, top=5)
    for page, relations in zip(
        data["images"][0]["found"][0]["relations"], found.relations, strict=True
    ):
        assert len(page["rows"]) == len(shown)
        for d, rows in zip(shown, page["rows"], strict=True):
            assert len(rows) == 5  # the mean and four heads
            for row, weights in zip(
                rows, [relations.weights[:, d].mean(0), *relations.weights[:, d]], strict=True
            ):
                own, heard = slow_heard(
                    relations.boxes, relations.region, found.boxes, shown, weights.tolist(), d
                )
                assert row[0] / 1000 == pytest.approx(own, abs=0.001)
                assert row[1] / 1000 == pytest.approx(sum(w for *_, w in heard[5:]), abs=0.001)
                assert [w / 1000 for w in row[3::2]] == pytest.approx(
                    [w for *_, w in heard[:5]], abs=0.001
                )
                for place, (detected, number, _) in zip(row[2::2], heard, strict=False):
                    assert (place >= 0) == detected
                    if detected:
                        assert shown[place] == number
                    else:
                        box = page["boxes"][-1 - place]
                        assert box == pytest.approx(relations.boxes[number], abs=0.06)
                        name = data["names"][page["classes"][-1 - place]]
                        assert name == relations.labels[number]
                assert row[0] + row[1] + sum(row[3::2]) == 1000


def test_rounding_keeps_the_sum():
    assert apportion(np.array([0.3333, 0.3333, 0.3334])) == [333, 333, 334]
    assert apportion(np.array([0.9996, 0.0004])) == [1000, 0]
    assert apportion(np.array([0.0, 0.0])) == [0, 0]
    weights = np.random.default_rng(0).dirichlet(np.ones(50))
    rounded = apportion(weights)
    assert sum(rounded) == 1000 and max(abs(np.array(rounded) / 1000 - weights)) < 0.001


def test_no_neighbours_no_area_and_no_relations():
    one = by_hand()
    (relations,) = one.relations
    silent = replace(relations, weights=np.zeros_like(relations.weights))
    (image,) = data_of(replace(one, relations=(silent,)))["images"]
    assert image["found"][0]["relations"][0]["rows"] == [[[0, 0]] * 3] * 2
    points = replace(relations, boxes=np.repeat(relations.boxes[:, :2], 2, axis=0).reshape(6, 4))
    (image,) = data_of(replace(one, relations=(points,)))["images"]
    assert all(sum(row[:2]) + sum(row[3::2]) == 1000
               for rows in image["found"][0]["relations"][0]["rows"] for row in rows)  # fmt: skip
    (image,) = data_of(replace(one, relations=(), attention={}))["images"]
    assert image["found"][0]["relations"] == []
    assert image["found"][0]["attention"] == {"names": [], "rows": []}


def test_one_head_is_its_own_mean():
    one = by_hand()
    graph = replace(one.relations[0], kind="SGRN", weights=one.relations[0].weights[:1])
    (image,) = data_of(replace(one, relations=(graph,)), top=2)["images"]
    (cat, _) = image["found"][0]["relations"][0]["rows"]
    assert len(cat) == 1 and cat[0][:2] == [200, 50]


def test_the_picture_is_small_whatever_it_shows():
    noise = np.random.default_rng(0).integers(0, 256, (1000, 1000, 3), dtype=np.uint8)
    picture, size = decoded(jpeg_uri(noise))
    assert size <= 130_000 and picture.shape == noise.shape
    smooth = np.broadcast_to(np.arange(256, dtype=np.uint8)[:, None, None], (256, 256, 3)).copy()
    picture, _ = decoded(jpeg_uri(smooth))
    assert abs(picture.astype(int) - smooth).max() <= 2  # of high quality


def test_nodes_are_a_sheet_of_grey_maps():
    maps = np.zeros((18, 4, 6))
    maps[1, 0, 2], maps[1, 3, 5] = 2.0, -1.0
    maps[17] = 1.0  # not among the first 16
    (image,) = data_of(by_hand(nodes={"res4.1.glore": maps, "res4.3.glore": maps[:5]}))["images"]
    first, second = image["found"][0]["nodes"]
    assert (first["unit"], first["nodes"], first["shown"]) == ("res4.1.glore", 18, 16)
    sheet = decoded(first["src"], "image/png")[0][..., 0]
    assert sheet.shape == (16, 24)
    expected = np.full((16, 24), 128)
    expected[0, 8], expected[3, 11] = 255, 64  # of node 2, in the second column
    assert np.array_equal(sheet, expected)
    sheet, _ = decoded(second["src"], "image/png")
    assert (second["shown"], sheet.shape[:2]) == (5, (8, 24))
    (image,) = data_of(by_hand())["images"]
    assert image["found"][0]["nodes"] == []


def test_nodes_are_small_whatever_they_show():
    noise = {f"unit{k}": np.random.default_rng(k).normal(size=(64, 100, 150)) for k in range(3)}
    (image,) = data_of(by_hand(nodes=noise))["images"]
    sizes = [decoded(one["src"], "image/png") for one in image["found"][0]["nodes"]]
    assert sum(size for _, size in sizes) <= 10_000
    assert all(sheet.shape[0] >= 4 * 6 for sheet, _ in sizes)


def test_kernels():
    maps = np.zeros((3, 40, 40), np.float32)
    maps[1] = 1
    data = data_of({"a": [by_hand()], "b": [by_hand()]}, kernels={"b": [maps, maps[:1]]})
    assert data["kernels"][0] == [] and [len(layer) for layer in data["kernels"][1]] == [3, 1]
    dark, light = (decoded(uri, "image/png")[0] for uri in data["kernels"][1][0][:2])
    assert dark.shape[0] < 200 and light.mean() > dark.mean() + 50


@pytest.mark.parametrize(
    ("detections", "options", "says"),
    [
        ({}, {}, "at least one detector"),
        ({"a": []}, {}, "at least one image"),
        ({"a": [by_hand()], "b": []}, {}, "at least one image"),
        ({"a": [by_hand()], "b": [by_hand()] * 2}, {}, "'a' has 1 and 'b' has 2"),
        ({"a": [by_hand()], "b": [by_hand(file_name="x.jpg")]}, {}, r"farm\.jpg.*'x\.jpg'"),
        (
            {"a": [by_hand()], "b": [by_hand(image=np.zeros((9, 8, 3), np.uint8))]},
            {},
            r"\(9, 8, 3\) of 'b'",
        ),
        ({"a": [by_hand(nodes={"unit": np.zeros((4, 4))})]}, {}, r"unit .*got \(4, 4\) of 'a'"),
        ({"a": [by_hand()]}, {"min_score": 1.5}, "min_score must be in 0 to 1, got 1.5"),
        ({"a": [by_hand()]}, {"top": 0}, "top must be at least 1, got 0"),
        ({"a": [by_hand()]}, {"kernels": {"b": []}}, "'b', which is none of"),
        ({"a": [by_hand()]}, {"kernels": {"a": [np.zeros((4, 4))]}}, r"got \(4, 4\) of 'a'"),
    ],
)
def test_what_cannot_be_shown(detections, options, says):
    with pytest.raises(ValueError, match=says):
        data_of(detections, **options)


@pytest.mark.parametrize("bad", [np.nan, -0.1])
def test_weights_that_are_none(bad):
    one = by_hand()
    one.relations[0].weights[0, 0, 2] = bad
    with pytest.raises(ValueError, match=r"relation2\.0 must be finite and not negative"):
        data_of(one)


def test_an_image_without_detections():
    one = at_random(np.random.default_rng(0), number=0, regions=0)
    (image,) = data_of(one)["images"]
    assert image["found"][0]["boxes"] == [] == image["found"][0]["relations"][1]["rows"]
