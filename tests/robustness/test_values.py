"""Every key of this package, with values that nobody wants: refused with its name, or harmless."""

from __future__ import annotations

import math
import re
import time

import pytest

pytest.importorskip("detectron2")

from yacs.config import CfgNode

from relation_heads.config import get_cfg
from relation_heads.config.defaults import NODES
from relation_heads.engine.checks import check_cfg
from relation_heads.engine.model_config import merge_overrides
from tests.helpers import registered, tiny_cfg, tiny_coco

DUPLICATES = ["MODEL.ROI_HEADS.NAME", "DuplicateRemovalROIHeads"]
HEADS = {
    "RELATION": [
        "MODEL.ROI_HEADS.NAME", "RelationROIHeads",
        "MODEL.RELATION.KEY_DIM", 4,
        "MODEL.RELATION.NUM_HEADS", 4,
    ],
    "SGRN": [
        "MODEL.ROI_HEADS.NAME", "SGRNROIHeads",
        "MODEL.SGRN.LATENT_DIM", 8,
        "MODEL.SGRN.GRAPH_DIMS", [8, 8],
    ],
    "REASONING": ["MODEL.ROI_HEADS.NAME", "ReasoningROIHeads"],
    "DUPLICATE_REMOVAL": [*DUPLICATES, "MODEL.DUPLICATE_REMOVAL.LEARN", True],
}  # fmt: skip
BAD = [
    None, -1, 0, -0.5, math.nan, math.inf, 1e30, 10**9, 10**18, "bogus", [], [0], [-1, -1],
    [None, None], ["x", "y"], [10**9] * 2, "None", {"a": 1}, (), True,
]  # fmt: skip
# Allowed on purpose: what is off, empty or a switch.
ALLOWED = {
    "RELATION.GT_AS_KEYS": [True], "SGRN.GT_AS_KEYS": [True], "REASONING.GT_AS_KEYS": [True],
    "SGRN.GRAPH_DIMS": [[], ()], "SGRN.REFINE": [True],
    "REASONING.MODULES": [[], ()], "REASONING.GLOBAL.RELATIONS": [[], ()],
    "DUPLICATE_REMOVAL.LEARN": [True], "DUPLICATE_REMOVAL.END_TO_END": [True],
    "DUPLICATE_REMOVAL.LOGIT_BIAS": [-0.5],
}  # fmt: skip
SLOW = 5.0  # seconds of a process, for one check


def leaves(node, prefix=""):
    for name, default in node.items():
        if isinstance(default, CfgNode):
            yield from leaves(default, f"{prefix}{name}.")
        else:
            yield prefix + name, default


KEYS = [(node, key, default) for node in HEADS for key, default in leaves(NODES[node]())]


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data")
    with registered(tiny_coco(folder)) as name:
        cfg = tiny_cfg([name], [name], 3, folder / "out", base=get_cfg())
        check_cfg(cfg)
        yield cfg


def said_of(cfg, opts):
    """What is said about overrides; None if nothing is wrong."""
    cfg = cfg.clone()
    try:
        merge_overrides(cfg, opts)
        check_cfg(cfg)
    except ValueError as error:
        return str(error)
    return None


@pytest.mark.parametrize(("node", "key", "default"), KEYS, ids=[f"{n}.{k}" for n, k, _ in KEYS])
def test_a_bad_value_is_named(base, node, key, default):
    full, start = f"MODEL.{node}.{key}", time.process_time()
    assert said_of(base, HEADS[node]) is None
    for value in BAD:
        same_kind = type(value) is type(default) and value == default
        if same_kind or value in ALLOWED.get(f"{node}.{key}", []):
            assert said_of(base, [*HEADS[node], full, value]) is None, value
            continue
        said = said_of(base, [*HEADS[node], full, value])
        if said is None:  # it is as good as the default: a number within its range
            assert isinstance(value, int | float) and abs(value) <= 1, value
            continue
        names = {key.split(".")[-1], f"{node}.{key}"}
        assert any(name in said for name in names), (value, said)
        assert re.search(r"got|is|with|not|must|Allowed|valid", said)
    assert time.process_time() - start < SLOW * len(BAD)
