"""Against loops over detections, regions and pairs of classes."""

from __future__ import annotations

import json

import numpy as np
import pytest

pytest.importorskip("detectron2")

from relation_heads.analysis.co_occurrence import Tally, correlations, seen_together
from relation_heads.analysis.labelled import Objects, objects_shown
from tests.helpers import registered, tiny_coco, untrained
from tests.tools.test_train_net import load_tool

K = 4


def random_image(seed):
    """weights (Q, R), asking (Q,), shown (R,), classes (M,)."""
    rng = np.random.default_rng(seed)
    classes = rng.integers(K, size=5)
    weights = rng.random((3, 7))
    return weights, rng.integers(-1, 5, size=3), rng.integers(-1, 5, size=7), classes


def counted(images):
    """A, U and C by loops."""
    found = np.full((3, K, K), np.nan)
    for a in range(K):
        asking = [
            (weights[q], asks[q], shown, classes)
            for weights, asks, shown, classes in images
            for q in range(len(asks))
            if asks[q] >= 0 and classes[asks[q]] == a
        ]
        for b in range(K):
            heard, alike, there = [], [], []
            for weights, own, shown, classes in asking:
                regions = [m for m, o in enumerate(shown) if o not in (-1, own) and classes[o] == b]
                heard.append(sum(weights[m] for m in regions))
                alike.append(len(regions) / len(shown))
                there.append(any(c == b for o, c in enumerate(classes) if o != own))
            if asking:
                found[:2, a, b] = np.mean(heard), np.mean(alike)
            if any(there):
                found[2, a, b] = sum(heard) / sum(there)
    return found


def test_means_of_weights_by_pairs_of_classes():
    images = [random_image(seed) for seed in range(6)]
    tally = Tally(K)
    for image in images:
        tally.add(*image)
    for actual, expected in zip(tally.means().values(), counted(images), strict=True):
        np.testing.assert_allclose(actual, expected, atol=1e-12)


def test_weights_that_hear_all_regions_alike_are_the_control():
    tally = Tally(K)
    for seed in range(5):
        weights, *rest = random_image(seed)
        tally.add(np.full(weights.shape, 1 / weights.shape[1]), *rest)
    means = tally.means()
    np.testing.assert_allclose(means["A"], means["U"], atol=1e-12)


def test_what_is_seen_together():
    images = [np.array(classes) for classes in ([0, 1], [0, 0, 2], [1], [0, 1, 1])]
    nan = np.nan
    # Of three images with class 0, one has another 0, two have a 1, one has a 2.
    expected = [[1 / 3, 2 / 3, 1 / 3, 0], [2 / 3, 1 / 3, 0, 0], [1, 0, 0, 0], [nan] * 4]
    together, frequency = seen_together(images, K)
    np.testing.assert_allclose(together, expected)
    np.testing.assert_allclose(frequency, [3 / 4, 3 / 4, 1 / 4, 0])


def test_correlations_by_hand():
    rng = np.random.default_rng(0)
    frequency, noise = rng.random(K), rng.random((K, K))
    together = frequency + noise
    found = correlations(2 * together + 1, together, frequency)
    assert found == {name: pytest.approx(1) for name in found} and len(found) == 3
    # The frequency of b alone gives a correlation, which goes away where it is taken out.
    found = correlations(frequency + np.zeros((K, K)), together, frequency)
    assert found["different classes"] > 0.3 and found["frequency taken out"] is None
    hidden = np.where(np.eye(K, dtype=bool), np.nan, together)
    assert correlations(hidden, together, frequency)["all pairs"] == pytest.approx(1)
    assert correlations(np.full((K, K), np.nan), together, frequency)["all pairs"] is None


def test_a_region_shows_the_object_that_it_covers_most():
    objects = Objects(np.array([[0, 0, 10, 10.0], [0, 0, 10, 16]]), np.array([0, 1]))
    boxes = np.array([[0, 0, 10, 11.0], [0, 0, 10, 15], [50, 50, 60, 60]])
    assert objects_shown(boxes, objects).tolist() == [0, 1, -1]
    nothing = Objects(np.zeros((0, 4)), np.zeros(0, dtype=np.int64))
    assert objects_shown(boxes, nothing).tolist() == [-1, -1, -1]


@pytest.fixture
def model(tmp_path):
    """A relational detector, and its data set."""
    with registered(tiny_coco(tmp_path)) as name:
        yield untrained("RelationROIHeads", name, tmp_path / "model"), name


def test_the_tool(model, tmp_path, capsys):
    config, name = model
    tool, output = load_tool("compare_co_occurrence"), tmp_path / "made" / "out.json"
    tool.main([str(config), "--output", str(output)])
    printed, written = capsys.readouterr().out, json.loads(output.read_text())
    modules = written["co_occurrence"]
    assert list(modules) == [f"roi_heads.box_head.relation{k}.0" for k in (1, 2)]
    assert all(f"| `{module}` | heard | " in printed for module in modules)
    assert written["setting"]["test"] == name and written["made_by"].keys() >= {"commit"}


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--dataset", "nowhere"], "The data set 'nowhere' is not registered"),
        (["--train", "relational_scenes_train"], "relational_scenes_train has other classes"),
        (["MODEL.ROI_HEADS.NAME", "StandardROIHeads"], "StandardROIHeads"),
    ],
)
def test_what_does_not_fit(model, arguments, said, capsys):
    with pytest.raises(SystemExit) as stop:
        load_tool("compare_co_occurrence").main([str(model[0]), *arguments])
    assert stop.value.code == 2 and said in capsys.readouterr().err
