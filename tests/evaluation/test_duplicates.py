"""What is left of duplicates, against loops over boxes; a small scene whose answer is known."""

from __future__ import annotations

import numpy as np
import pytest

pytest.importorskip("detectron2")

import torch
from torchvision.ops import box_iou

from relation_heads.evaluation.duplicates import (
    LIMIT,
    compare,
    decayed,
    limited,
    nms,
    operating_point,
    oracle,
)
from relation_heads.evaluation.sparse_matching import Detections, Objects
from tests.layers.test_soft_suppression import reference as soft_nms_reference

IMAGES, CLASSES = 3, 2


def detections(rows):
    """(image, class, box, score) each."""
    image, label, boxes, scores = zip(*rows, strict=True)
    return Detections(
        np.array(image),
        np.array(label),
        np.array(boxes, dtype=float),
        np.array(scores),
        np.full(len(rows), None),
    )


def objects(rows, crowds=()):
    """(image, class, box) each."""
    image, label, boxes = zip(*rows, strict=True)
    count = len(rows)
    is_crowd = np.isin(np.arange(count), crowds)
    boxes = np.array(boxes, dtype=float)
    areas = boxes[:, 2] * boxes[:, 3]
    zero_ids, masks = np.zeros(count, dtype=bool), np.full(count, None)
    return Objects(np.array(image), np.array(label), boxes, areas, is_crowd, zero_ids, masks)


def random_case(seed):
    rng = np.random.default_rng(seed)
    things = [
        (int(rng.integers(IMAGES)), int(rng.integers(CLASSES)), [*rng.uniform(0, 60, 2), 20, 20])
        for _ in range(8)
    ]
    found = []
    for _ in range(60):
        image, label, box = things[rng.integers(len(things))]
        box = (np.array(box) + rng.normal(scale=4, size=4)).tolist()
        found.append((image, label, box, float(round(rng.random(), 1))))
    return detections(found), objects(things, crowds=(0,))


def iou(a, b):
    corners = [torch.tensor([[x, y, x + w, y + h]]) for x, y, w, h in (a, b)]
    return float(box_iou(*corners))


def cells():
    return [(i, k) for i in range(IMAGES) for k in range(CLASSES)]


def of_cell(table, image, label):
    return np.flatnonzero((table.images == image) & (table.classes == label)).tolist()


SCENE = objects([(0, 0, [0, 0, 10, 10]), (0, 0, [6, 0, 10, 10]), (1, 1, [0, 0, 10, 10])])
FOUND = detections(
    [
        (0, 0, [0, 0, 10, 10], 0.9),  # the first object
        (0, 0, [1, 0, 10, 10], 0.8),  # its duplicate
        (0, 0, [6, 0, 10, 10], 0.7),  # the second object
        (0, 0, [50, 50, 10, 10], 0.6),  # nothing is there
        (1, 1, [0, 0, 10, 9], 0.5),  # the third object
        (2, 1, [0, 0, 10, 10], 0.1),  # an image without objects
    ]
)


def test_operating_point_of_a_known_scene():
    point = operating_point(FOUND, SCENE, IMAGES, [0, 1])
    assert point.f1 == pytest.approx(2 * 3 / (5 + 3)) and point.score == 0.5
    assert point.false_positives == pytest.approx(2 / 2)  # two images have an object
    assert point.duplicates == pytest.approx(1 / 2)
    alone = operating_point(FOUND, SCENE, IMAGES, [1])
    assert alone == (0.5, 1.0, 0.0, 0.0)


def test_nothing_found_and_nothing_to_be_found():
    nothing = Detections(*(field[:0] for field in FOUND))
    assert operating_point(nothing, SCENE, IMAGES, [0])[1:] == (0.0, 0.0, 0.0)
    assert np.isnan(operating_point(FOUND, SCENE, IMAGES, [7])).all()


def test_oracle_of_a_known_scene():
    kept = oracle(FOUND, SCENE)
    assert kept.scores.tolist() == [0.9, 0.7, 0.5]
    point = operating_point(kept, SCENE, IMAGES, [0, 1])
    assert point.f1 == 1 and point.false_positives == 0


@pytest.mark.parametrize("seed", range(5))
def test_oracle_is_the_best_box_of_every_object(seed):
    found, things = random_case(seed)
    expected = []
    for g in np.flatnonzero(~things.crowds):
        best = None
        for n in of_cell(found, things.images[g], things.classes[g]):
            others = [
                o for o in of_cell(things, things.images[g], things.classes[g])
                if not things.crowds[o]
            ]  # fmt: skip
            ious = [iou(found.boxes[n], things.boxes[o]) for o in others]
            mine = others[int(np.argmax(ious))] == g and max(ious) > 0.5
            if mine and (best is None or found.scores[n] > found.scores[best]):
                best = n
        if best is not None:
            expected.append(found.boxes[best].tolist())
    kept = oracle(found, things)
    assert len(expected) > 3
    assert sorted(kept.boxes.tolist()) == sorted(expected)


@pytest.mark.parametrize("seed", range(5))
def test_operating_point_is_the_best_of_all_scores(seed):
    found, things = random_case(seed)
    best = (-1.0,)
    for score in sorted(set(found.scores.tolist()), reverse=True):
        tp = fp = copies = 0
        for image, label in cells():
            shown = [n for n in of_cell(found, image, label) if found.scores[n] >= score]
            shown.sort(key=lambda n: (-found.scores[n], n))
            here = of_cell(things, image, label)
            free = [g for g in here if not things.crowds[g]]
            for n in shown:
                ious = {g: iou(found.boxes[n], things.boxes[g]) for g in free}
                good = {g: v for g, v in ious.items() if v >= 0.5}
                crowd = [g for g in here if things.crowds[g]]
                if good:
                    tp += 1
                    free.remove(max(good, key=good.get))
                elif not any(  # a crowd's IoU is the share of the detection inside it
                    _inside(found.boxes[n], things.boxes[g]) >= 0.5 for g in crowd
                ):
                    fp += 1
                    mine = [g for g in here if not things.crowds[g]]
                    copies += any(iou(found.boxes[n], things.boxes[g]) >= 0.5 for g in mine)
        count = int((~things.crowds).sum())
        f1 = 2 * tp / (tp + fp + count)
        if f1 > best[0]:
            images = len(set(things.images.tolist()))
            best = (f1, score, fp / images, copies / images)
    point = operating_point(found, things, IMAGES, [0, 1])
    expected = (best[1], best[0], best[2], best[3])
    assert tuple(point) == pytest.approx(expected)


def _inside(box, crowd):
    (x, y, w, h), (a, b, c, d) = box, crowd
    width = max(0, min(x + w, a + c) - max(x, a))
    return width * max(0, min(y + h, b + d) - max(y, b)) / (w * h)


@pytest.mark.parametrize("seed", range(3))
def test_nms_and_soft_nms_stay_within_image_and_class(seed):
    found, _ = random_case(seed)
    hard, soft = nms(found, 0.5), decayed(found, 0.5)
    assert 0 < len(hard.scores) < len(found.scores)
    for image, label in cells():
        rows = of_cell(found, image, label)
        x, y, w, h = torch.from_numpy(found.boxes[rows]).unbind(1)
        boxes = torch.stack([x, y, x + w, y + h], dim=1)
        kept = of_cell(hard, image, label)
        for a in kept:
            for b in kept:
                assert a == b or iou(hard.boxes[a], hard.boxes[b]) <= 0.5
        scores, one_group = torch.from_numpy(found.scores[rows]), torch.zeros(len(rows)).long()
        expected = soft_nms_reference(boxes, scores, one_group)[1]
        np.testing.assert_allclose(soft.scores[of_cell(soft, image, label)], expected)


def test_an_image_has_a_limit():
    many = detections([(1, 0, [n, 0, 1, 1], n / 500) for n in range(300)])
    kept = limited(many)
    assert len(kept.scores) == LIMIT and kept.scores.min() == (300 - LIMIT) / 500
    np.testing.assert_array_equal(kept.scores, np.sort(kept.scores)[::-1])


def test_comparison_by_group():
    table = compare(
        {"oracle": lambda: oracle(FOUND, SCENE), "all": lambda: FOUND},
        SCENE,
        IMAGES,
        {"a": [0], "b": [1], "empty": [2]},
        num_classes=3,
    )
    assert table.keys() == {"oracle", "all"} and table["all"].keys() == {"a", "b"}
    assert table["oracle"]["a"].ap50 == pytest.approx(1)
    assert table["oracle"]["a"].point.f1 == 1 > table["all"]["a"].point.f1
    assert table["all"]["b"].ap50 == pytest.approx(1)
