"""Relational Scenes: looks of the classes."""

from __future__ import annotations

import numpy as np
import pytest

from relation_heads.data.scenes import scenes as rs


def test_classes_look_alike_exactly_where_a_partner_decides():
    assert {name for names in rs.LOOK_ALIKES for name in names} == set(rs.DEPENDENCIES)
    for names in rs.LOOK_ALIKES:
        assert len({rs.CLASS_GROUPS[name] for name in names}) == 1
        assert len({rs.DEPENDENCIES[name] for name in names}) == len(names)


@pytest.mark.parametrize("names", rs.LOOK_ALIKES, ids=lambda names: names[0])
def test_look_alikes_are_drawn_alike(names):
    labels = [rs.CLASSES.index(name) for name in names]
    scene = rs.compose_scene(np.random.default_rng(1), rs.CLASS_GROUPS[names[0]])
    assert set(scene.classes) & set(labels)
    image = rs.render(scene)
    for label in labels:
        classes = np.where(np.isin(scene.classes, labels), label, scene.classes)
        other = rs.Scene(scene.boxes, classes, scene.group, scene.seed, scene.size)
        np.testing.assert_array_equal(rs.render(other), image)


def test_classes_of_different_looks_are_drawn_differently():
    first_of_look = {names[0]: names for names in rs.LOOK_ALIKES}
    hidden = {name for names in first_of_look.values() for name in names[1:]}
    images = set()
    for label, name in enumerate(rs.CLASSES):
        if name not in hidden:
            scene = rs.Scene(np.array([[4, 4, 24, 24]]), np.array([label]), "plain", 0, 28)
            images.add(rs.render(scene).tobytes())
    assert len(images) == len(rs.CLASSES) - len(hidden)


def test_every_object_fills_its_box():
    for label in range(len(rs.CLASSES)):
        box = np.array([[10, 12, 30, 36]], np.float32)
        with_object = rs.render(rs.Scene(box, np.array([label]), "plain", 7, 48))
        without = rs.render(rs.Scene(box[:0], np.zeros(0, np.int64), "plain", 7, 48))
        y, x = np.nonzero((with_object != without).any(axis=2))
        assert (x.min(), y.min(), x.max() + 1, y.max() + 1) == (10, 12, 30, 36)
