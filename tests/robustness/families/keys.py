"""Every key of `config/defaults.py` with right and wrong values, made from the types there.

The type is read here anew: an interval says which numbers are right, a choice which texts are. The
values come on the command line and from a YAML.
"""

from __future__ import annotations

import math
import random
from collections.abc import Iterator
from functools import partial
from typing import Annotated, Any, Literal, get_args, get_origin

import yaml

from tests.robustness.case import ACCEPTED, SENTENCE, Case, Workshop, as_said
from tests.robustness.test_values import READERS

Values = Iterator[tuple[Any, bool]]
# Texts, and numbers that must fit other keys, with the values that are right.
ALONE: dict[str, list[tuple[Any, bool]]] = {
    "MODEL.RELATION.NUM_HEADS": [(1, True), (8, True), (32, True), (12, False), (63, False)],
    "MODEL.RELATION.KEY_DIM": [(1, True), (30, True), (128, True)],
    "MODEL.RELATION.NUM_RELATIONS": [([2, 0], True), ([0, 3], True), ([3, 100.0], False)],
    "MODEL.RELATION.IMPLEMENTATION": [("simple", True), ("fused", True), ("trition", False)],
    "MODEL.SGRN.NUM_KERNELS": [(1, True), (2, True), (4, True), (3, False), (16, False)],
    "MODEL.SGRN.GRAPH_DIMS": [([16], True), ([24, 8, 16], True), ([12], False), ([8, 9], False)],
    "MODEL.SGRN.EDGE_NORM": [("softmax", True), ("joint", True), ("none", False)],
    "MODEL.SGRN.SHARE_FC": [(True, True), (False, False)],
    "MODEL.REASONING.TEST_PREDICTION": [("global1", True), ("plain", True), ("local3", True),
                                        ("local0", False), ("finale", False), ("local-1", False)],
    "MODEL.REASONING.LOCAL.IN_FEATURE": [("p3", True), ("p5", True), ("p7", False), ("P4", False)],
    "MODEL.REASONING.GLOBAL.GRAPH_FILE": [("/", False), ("graph.txt", False), (".", False)],
    "MODEL.CONTEXT_BLOCKS.BUILDER": [("build_retinanet_resnet_fpn_backbone", True),
                                     ("build_resnet_fpn", False), ("BUILD", False)],
    "MODEL.CONTEXT_BLOCKS.PLUGINS": [
        ([{"name": "GC", "stages": ["res3"], "position": "after_conv2", "ratio": 0.25}], True),
        ([{"name": "GG", "stages": ["res3"], "position": "after_conv2", "ratio": 0.25}], False),
        ([{"name": "GC", "stages": ["res1"], "position": "after_conv2", "ratio": 0.25}], False),
        ([{"name": "GC", "stages": ["res3"], "position": "before", "ratio": 0.25}], False),
        ([{"name": "GC", "stages": ["res3"], "position": "after_conv2", "ratio": -1}], False),
        ([{"name": "GC", "stages": ["res3"], "position": "after_conv2", "ratio": math.nan}], False),
        ([{"name": "GC", "stages": ["res3"], "position": "after_conv2", "ratio": "x"}], False),
        ([{"name": "GC", "stages": [3], "position": "after_conv2", "ratio": 0.25}], False),
        ([{"name": "GC", "stages": None, "position": "after_conv2", "ratio": 0.25}], False),
        ([{"name": "NL", "stages": ["res4"], "position": "after_add", "mod": "dot"}], False),
        ([{"name": "NL", "stages": ["res4"], "position": "after_add", "inner_channels": 0}], False),
        ([{"name": "GloRe", "stages": ["res4"], "position": "after_add", "num_nodes": -4}], False),
        ([{"name": "SE", "stages": ["res4"], "position": 5}], False),
        ([{1: 2}], False), ([5], False), ([[]], False), ("GC", False), ({"name": "GC"}, False),
    ],
    "MODEL.TORCHVISION.NAME": [("resnet34", True), ("resnet43", False), ("torch", False)],
    "MODEL.TRAIN_ONLY": [([7], False), ([["x"]], False), (["nothing.*"], False)],
}  # fmt: skip
# Where the model is another one than a key needs, its right values are tried with more than it.
MORE = {
    "MODEL.REASONING": [
        *READERS["MODEL.REASONING"], "MODEL.REASONING.LOCAL.CHANNELS", 8,
        "MODEL.REASONING.LOCAL.FC_DIM", 8, "MODEL.REASONING.LOCAL.CROP_SIZE", 3,
        "MODEL.REASONING.GLOBAL.CHANNELS", 8, "MODEL.REASONING.GLOBAL.EMBEDDING_DIM", 8,
    ],
    "MODEL.GLORE_HEAD": ["MODEL.META_ARCHITECTURE", "GeneralizedRCNN"],
    "MODEL.TORCHVISION": [*READERS["MODEL.TORCHVISION"], "MODEL.TORCHVISION.NAME", "resnet18"],
}  # fmt: skip
# Keys that the sentence names instead.
NAMED = {
    "MODEL.RELATION.NUM_HEADS": ("num_heads",),
    "MODEL.SGRN.NUM_KERNELS": ("num_kernels",),
    "OUTPUT_DIR": ("/proc/nothing",),
}
OTHER = [None, {"a": 0}, [[]], {}, [None]]  # of no type but Any


def values_of(kind: Any, rng: random.Random) -> Values:
    """Values of a type of `config/schema.py`, each with whether it is right."""
    origin, parts = get_origin(kind), get_args(kind)
    if origin is Annotated and parts[0] in (int, float):
        yield from _numbers(parts[0], parts[1], rng)
    elif origin is Literal:
        yield from _choices(parts, rng)
    elif kind is bool:
        yield from ((True, True), (False, True), (2, False), (0.0, False), ("on", False),
                    ("true", False), ([True], False), (math.nan, False))  # fmt: skip
    elif kind is str:
        yield from ((3, False), (0.25, False), (True, False), (["x"], False))
    else:
        yield from _lists(kind, rng)
    yield from ((value, False) for value in OTHER)


def _numbers(of: type, interval: str, rng: random.Random) -> Values:
    low, high = map(float, interval[1:-1].split(","))
    width = min(high - low, 40) if low > -math.inf else 40
    inside = rng.randint(math.ceil(low), math.floor(low + width)) if of is int else (
        round(low + width * rng.uniform(0.1, 0.9), 4))  # fmt: skip
    yield inside, True
    yield from ((of(low), True),) if interval[0] == "[" else ((of(low), False),)
    if high < math.inf and interval[-1] == ")":
        yield of(high), False
    below, over = rng.randint(1, 10**4), rng.randint(1, 10**4)
    step = 1 if of is int else 0.37
    yield from ((of(low - below * step), False), (-(10**25), False), (-math.inf, False))
    if high < math.inf:
        yield from ((of(high + over * step), False), (of(10.0**12), False), (math.inf, False))
    if of is int:
        yield from ((low + 1.5, False), (math.inf, False))
    yield from ((math.nan, False), ("seven", False), ("", False), ([inside], False))  # fmt: skip


def _choices(parts: tuple[Any, ...], rng: random.Random) -> Values:
    for part in parts:
        yield part, True
    first = rng.choice([part for part in parts if part != ""])
    if isinstance(first, str):
        yield from ((first.swapcase(), False), (first[1:], False), (first + first[-1], False))
        if "" not in parts:
            yield "", False
    else:
        yield from ((max(parts) + 5, False), (str(first), False), (first + 0.5, False))
    yield from ((math.nan, False), (-1, False), ([first], False), (0.5, False))


def _lists(kind: Any, rng: random.Random) -> Values:
    """list[X], Some[X], tuple[X, X, ...]."""
    empty, length = get_origin(kind) is list, None
    if get_origin(kind) is Annotated:
        kind = get_args(kind)[0]
    parts = get_args(kind)
    if get_origin(kind) is tuple:
        length = len(parts)
    if parts[0] is Any or parts[0] is str:
        yield from (([], True), ("x", False), (5, False), ({"x": 1}, False))
        return
    items = list(values_of(parts[0], rng))
    right, wrong = [v for v, ok in items if ok], [v for v, ok in items if not ok]
    usual = right[: length or 1] if get_origin(parts[0]) is Literal else [right[0]] * (length or 1)
    usual = (usual * (length or 1))[: length or 1]
    yield usual, True
    yield [], empty and length is None
    if length:
        yield from ((usual[:-1], False), ([*usual, usual[0]], False))
    if get_origin(parts[0]) is Literal:
        yield from (([right[-1], right[-1]], False), (right, True))
    for value in rng.sample(wrong, min(5, len(wrong))):
        yield [*usual[1:], value], False
    yield from ((usual[0], False), (math.nan, False), ("x", False), (3.5, False))


def all_keys() -> Iterator[tuple[str, str, Any]]:
    """Node, key and type of every key of ours."""
    from relation_heads.config.defaults import ADDED, NODES

    for node, keys in ({f"MODEL.{name}": keys for name, keys in NODES.items()} | ADDED).items():
        for key, kind in keys.types().items():
            yield node, f"{node}.{key}", kind


def text(value: Any) -> str:
    """As on a command line."""
    return value if isinstance(value, str) else repr(value)


def cases_of_values(
    shop: Workshop, family: str, key: str, values: list[tuple[Any, bool]], opts: list[Any]
) -> Iterator[Case]:
    """On the command line and, in turn, from a YAML."""
    done: set[str] = set()
    for k, (value, right) in enumerate(values):
        shown, expected = text(value), ACCEPTED if right else SENTENCE
        if shown in done:
            continue
        done.add(shown)
        if from_yaml := bool(k % 2):
            path = shop.written("own.yaml", yaml.safe_dump(nested(key, value)))
            others = [x for pair in _pairs(opts) if pair[0] != key for x in pair]
            run = partial(shop.train, *others, flags=["--schedule", str(path)])
        else:
            run = partial(shop.train, *opts, key, shown)
        names = (key, key.rpartition(".")[2], "own.yaml") if from_yaml else (key,)
        yield Case(family, key, shown or '""', expected, run, (*names, *NAMED.get(key, ())),
                   as_said(value))  # fmt: skip


def _pairs(opts: list[Any]) -> list[tuple[Any, Any]]:
    return list(zip(opts[::2], opts[1::2], strict=True))


def nested(key: str, value: Any) -> dict[str, Any]:
    """{"A": {"B": value}} of "A.B"."""
    for part in reversed(key.split(".")):
        value = {part: value}
    return value


def cases_of_keys(shop: Workshop) -> Iterator[Case]:
    """All keys of ours."""
    for node, key, kind in all_keys():
        alone = ALONE.get(key, [])
        texts = {text(value) for value, _ in alone}
        values = [
            (value, right) for value, right in values_of(kind, shop.rng)
            if text(value) not in texts and not (right and alone)
        ]  # fmt: skip
        yield from cases_of_values(shop, "keys", key, alone + values, _reader(node))


def _reader(node: str) -> list[Any]:
    return MORE.get(node) or READERS.get(node, [])


def cases_that_train(shop: Workshop) -> Iterator[Case]:
    """What is accepted trains an iteration and is evaluated: one value of every key."""
    for node, key, kind in all_keys():
        if node not in READERS:
            continue
        right = [v for v, ok in ALONE.get(key, []) or values_of(kind, shop.rng) if ok]
        if not right:
            continue
        value = shop.rng.choice(right)
        out = shop.path("out")
        run = partial(shop.train, *_reader(node), key, text(value), "OUTPUT_DIR", out, real=True)
        yield Case("trained", key, text(value), ACCEPTED, run, (key,))
