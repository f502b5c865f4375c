"""Trainings: the same numbers again, who is in which split, and what is counted."""

from __future__ import annotations

import pytest

pytest.importorskip("detectron2")

import torch

from relation_heads.analysis.given_boxes import training
from relation_heads.analysis.given_boxes.data import Scale, split
from relation_heads.analysis.given_boxes.training import (
    Recipe,
    Task,
    check_sizes,
    class_graph,
    count,
    run,
)
from tests.analysis.given_boxes.toys import toy

RECIPE = Recipe(epochs=3, batch_size=4)
COUNTS = [2, 3, 1, 2] * 4


def measured(*args, train=None, test=None, recipe=RECIPE):
    found = run(Task(*args), recipe, train or toy(COUNTS), test, lambda line: None)
    del found["seconds"]
    return found


def test_the_same_numbers_again_and_others_for_another_seed():
    first = measured("relation", 0)
    torch.rand(7)  # what a caller drew before does not matter
    assert measured("relation", 0) == first
    assert measured("relation", 1)["nll"] != first["nll"]


def test_it_learns():
    found = measured("mlp", 0, train=toy(COUNTS * 2), test=toy([3] * 10, seed=5, name="test"))
    right, number = found["all"]
    assert number == 30 and right >= 27
    assert found["train_images"] == 32 and found["train_boxes"] == 64
    assert found["parameters"] == 6 * 512 + 512 + 512**2 + 512 + 512 * 4 + 4


def test_a_third_of_the_images_is_for_the_test_and_the_seed_says_which():
    whole = toy(COUNTS)
    train, test = split(whole, None, seed=0, min_boxes=2)
    assert (len(train.names), len(test.names)) == (8, 4)
    large = {name for name, n in zip(whole.names, COUNTS, strict=True) if n >= 2}
    assert {*train.names} | {*test.names} == large
    again, other = split(whole, None, 0, 2), split(whole, None, 1, 2)
    assert again[1].names == test.names and {*other[1].names} != {*test.names}


def test_a_test_set_is_used_as_it_is():
    train, test = split(toy(COUNTS), toy([1, 2, 4], name="test"), seed=0, min_boxes=2)
    assert len(train.names) == 12 and {*test.names} == {"test_1.jpg", "test_2.jpg"}


def test_too_few_images_get_one_sentence():
    with pytest.raises(ValueError, match="have 9 boxes or more: 0 for training and 0 for the test"):
        split(toy(COUNTS), None, seed=0, min_boxes=9)
    tasks = [Task("mlp", 0, 11), Task("mlp", 0), Task("mlp", 0, 5)]
    check_sizes(tasks, RECIPE, toy(COUNTS), None)
    tasks[2] = Task("mlp", 0, 12)
    with pytest.raises(ValueError, match="There are 11 training images, not 12: ask for fewer"):
        check_sizes(tasks, RECIPE, toy(COUNTS), None)


def test_fewer_images_are_the_first_ones_and_have_as_many_steps(monkeypatch):
    seen = []

    def fit(network, scale, train, recipe, steps, seed):
        seen.append((train.names, steps))
        return 0.0

    monkeypatch.setattr(training, "fit", fit)
    for size in (0, 6, 3):
        measured("mlp", 0, size)
    (every, steps), (six, of_six), (three, of_three) = seen
    assert (len(every), steps) == (11, 9)  # three epochs of three steps
    assert (six, of_six) == (every[:6], 9) and (three, of_three) == (every[:3], 9)


def test_features_are_scaled_by_the_training_boxes():
    train = toy(COUNTS)
    batch = Scale(train)(train)
    torch.testing.assert_close(batch.features.mean(dim=0), torch.zeros(6), atol=1e-4, rtol=0)
    torch.testing.assert_close(batch.features.std(dim=0), torch.ones(6), atol=5e-3, rtol=0)
    assert batch.regions.splits == tuple(COUNTS) and batch.regions.image_sizes[0] == (300, 310)


def test_counts():
    test = toy([1, 3, 2], labels=torch.tensor([0, 0, 0, 1, 2, 2]))
    predicted = torch.tensor([0, 1, 0, 1, 2, 0])
    logits = torch.nn.functional.one_hot(predicted, 4).float()
    found = count(logits, test)
    assert found["all"] == [4, 6] and found["several_classes"] == [2, 3]
    assert found["by_class"] == {"cat": [2, 3], "dog": [1, 1], "cup": [1, 2], "bed": [0, 0]}
    assert found["by_boxes"] == {"1": [1, 1], "2": [1, 2], "3": [2, 3]}
    e = torch.e
    right, wrong = -torch.log(torch.tensor([e / (e + 3), 1 / (e + 3)]))
    assert found["nll"] == pytest.approx(((4 * right + 2 * wrong) / 6).item(), abs=1e-5)


def test_the_class_graph_is_of_what_is_seen_together():
    # Cats with dogs twice, cups with cats once, beds alone.
    train = toy([2, 2, 2, 1, 1], labels=torch.tensor([0, 1, 1, 0, 0, 2, 3, 2]))
    (adjacency,) = class_graph(train)
    expected = torch.zeros(4, 4)
    expected[0, 1] = expected[1, 0] = 1
    assert torch.equal(adjacency.to_dense(), expected)
    alone = toy([1] * 9)
    with pytest.raises(ValueError, match="global_classes: no two classes share training images"):
        measured("global_classes", 0, train=alone)
