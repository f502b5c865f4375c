"""The numbers of the page: by hand, and against a slow reference."""

import base64
from dataclasses import replace

import pytest

pytest.importorskip("detectron2")

import cv2
import numpy as np

from relation_heads.viewer.data import apportion, jpeg_uri, page_data
from relation_heads.visualization import merge_overlapping
from tests.viewer.common import at_random, by_hand


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
    data = data_of(by_hand(), top=2)
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
    shown = {
        i: (data["names"][k], box)
        for i, (k, box) in enumerate(zip(relations["classes"], relations["boxes"], strict=True))
    }
    cat, cow = relations["rows"]
    dog, field = cat[1][2], cat[1][4]
    assert shown[dog] == ("dog", [21, 0, 31, 10])  # the stronger of two regions
    assert shown[field] == ("cow", [50, 50, 60, 60])
    # itself 0.1 + 0.1, the dog 0.2 + 0.25, the cow 0.3, left: the pig
    assert cat[1] == [200, 50, dog, 450, field, 300]
    assert cat[2] == [0, 0, field, 1000]
    assert cat[0] == [100, 25, field, 650, dog, 225]  # their mean
    assert cow == [[1000, 0]] * 3  # it heard itself alone


def test_a_large_image_is_made_smaller_and_its_boxes_with_it():
    image = np.zeros((500, 2000, 3), np.uint8)
    data = data_of(by_hand(image=image))
    (one,) = data["images"]
    assert (one["width"], one["height"]) == (1000, 250)
    assert decoded(one["src"])[0].shape == (250, 1000, 3)
    assert one["found"][0]["boxes"] == [[0, 0, 5, 5], [25, 25, 30, 30]]
    assert [0, 0, 5, 5] in one["found"][0]["relations"][0]["own"]


def test_only_what_is_sure_enough_is_shown():
    (image,) = data_of(by_hand(), min_score=0.5)["images"]
    (found,) = image["found"]
    assert found["scores"] == [0.9] and len(found["boxes"]) == 1
    assert len(found["relations"][0]["rows"]) == len(found["attention"]["rows"]) == 1
    (image,) = data_of(by_hand(), min_score=1.0)["images"]
    assert image["found"][0]["boxes"] == [] == image["found"][0]["relations"][0]["rows"]


def slow_shares(boxes, weights, own, top):
    """Itself, rest, and (region, weight) of objects: every overlap is computed alone."""

    def overlap(a, b):
        width = min(a[2], b[2]) - max(a[0], b[0])
        height = min(a[3], b[3]) - max(a[1], b[1])
        if width <= 0 or height <= 0:
            return 0.0
        both = width * height
        areas = (a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1])
        return both / (areas - both)

    free = set(range(len(boxes)))
    mine = {r for r in free if r == own or overlap(boxes[r], boxes[own]) > 0.3}
    about_self = sum(weights[r] for r in mine)
    free -= mine
    objects = []
    while free:
        best = max(free, key=lambda r: weights[r])
        group = {r for r in free if r == best or overlap(boxes[r], boxes[best]) > 0.3}
        objects.append((best, sum(weights[r] for r in group)))
        free -= group
    objects.sort(key=lambda pair: -pair[1])
    return about_self, sum(w for _, w in objects[top:]), objects[:top]


@pytest.mark.parametrize("seed", range(3))
def test_equals_a_slow_reference_and_adds_up(seed):
    found = at_random(np.random.default_rng(seed), number=4)
    data = data_of(found, min_score=0, top=5)
    for page, relations in zip(
        data["images"][0]["found"][0]["relations"], found.relations, strict=True
    ):
        for d, rows in enumerate(page["rows"]):
            assert len(rows) == 5  # the mean and four heads
            for row, weights in zip(
                rows, [relations.weights[:, d].mean(0), *relations.weights[:, d]], strict=True
            ):
                about_self, rest, objects = slow_shares(
                    relations.boxes.tolist(), weights.tolist(), relations.region[d], 5
                )
                assert row[0] / 1000 == pytest.approx(about_self, abs=0.001)
                assert row[1] / 1000 == pytest.approx(rest, abs=0.001)
                assert row[3::2] == sorted(row[3::2], reverse=True) and len(row[3::2]) == 5
                assert [w / 1000 for w in row[3::2]] == pytest.approx(
                    [w for _, w in objects], abs=0.001
                )
                for place, (region, _) in zip(row[2::2], objects, strict=True):
                    assert page["boxes"][place] == pytest.approx(relations.boxes[region], abs=0.06)
                    name = data["names"][page["classes"][place]]
                    assert name == relations.labels[region]
                assert row[0] + row[1] + sum(row[3::2]) == 1000


def test_objects_are_those_of_the_pictures():
    found = at_random(np.random.default_rng(9), modules=1)
    (page,) = data_of(found, min_score=0, top=40)["images"][0]["found"][0]["relations"]
    (relations,) = found.relations
    for d, rows in enumerate(page["rows"]):
        weights = relations.heard(d).astype(float)
        own = relations.boxes[relations.region[d]]
        far = [k for k, w in merge_overlapping(np.stack([own, *relations.boxes]),
                                               [1e9, *weights], 0.3)]  # fmt: skip
        assert far[0] == 0  # the detection and what overlaps it
        expected = [relations.boxes[k - 1] for k in far[1:]][: len(rows[0][2::2])]
        assert [page["boxes"][k] for k in rows[0][2::2]] == [
            pytest.approx(box, abs=0.06) for box in expected
        ]


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
