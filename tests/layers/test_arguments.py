"""Sentences about arguments: every one of them, with name, rule and value."""

import math

import pytest

from relation_heads.layers.arguments import (
    ArgumentError,
    above,
    at_least,
    each_of,
    multiple_of,
    one_of,
    require,
    within,
)


def test_every_wrong_argument_is_named_and_the_right_ones_are_not():
    with pytest.raises(ArgumentError) as caught:
        require(
            one_of("geometry", "none", ("none", "signed")),
            at_least("num_heads", 0, 1),
            multiple_of("dim", 30, 4, "num_heads"),
        )
    assert [(w.argument, w.value) for w in caught.value.wrong] == [("num_heads", 0), ("dim", 30)]
    message = str(caught.value)
    assert message == (
        "num_heads must be at least 1, got 0. dim must be a multiple of num_heads 4, got 30."
    )
    assert isinstance(caught.value, ValueError)


def test_a_name_can_be_exchanged_for_the_key_of_a_config():
    wrong = at_least("num_heads", -1, 1).named("MODEL.RELATION.NUM_HEADS")
    assert str(wrong) == "MODEL.RELATION.NUM_HEADS must be at least 1, got -1."


@pytest.mark.parametrize("value", [None, "1", True, math.nan, math.inf, -math.inf, [1]])
def test_what_is_no_finite_number_is_wrong_everywhere(value):
    assert at_least("x", value, 0)
    assert above("x", value, 0)
    assert within("x", value, "[0, 1]")


@pytest.mark.parametrize(
    ("check", "right", "wrong"),
    [
        (lambda v: at_least("x", v, 2), [2, 2.5], [1, 1.999]),
        (lambda v: above("x", v, 2), [2.5], [2, 1]),
        (lambda v: within("x", v, "[0, 1)"), [0, 0.5], [1, -1e-9]),
        (lambda v: within("x", v, "(0, 1]"), [1, 1e-9], [0, 1.1]),
        (lambda v: multiple_of("x", v, 8), [8, 16], [0, 4, -8, 8.0, None]),
        (lambda v: one_of("x", v, ("a", 1)), ["a", 1], ["b", True, None, []]),
        (lambda v: each_of("x", v, ("a", "b")), [[], ["b", "a"]], [["c"], ["a", "a"]]),
    ],
)
def test_rules(check, right, wrong):
    assert [check(value) for value in right] == [None] * len(right)
    assert all(check(value) for value in wrong)
