"""Every key of this package with values that nobody wants: refused, and that key alone is named."""

from __future__ import annotations

import math
import re
from operator import attrgetter

import pytest

pytest.importorskip("detectron2")

from detectron2.config import get_cfg as get_detectron2_cfg
from yacs.config import CfgNode

from relation_heads.config import get_cfg, node
from relation_heads.config.defaults import ADDED, NODES, value_problems
from relation_heads.engine.checks import check_cfg
from relation_heads.engine.model_config import merge_config, merge_overrides
from tests.helpers import registered, tiny_cfg, tiny_coco
from tests.modeling.common import SEM_SEG

# Key -> values at the ends of what is allowed, and values just outside.
SIZE = ([1, 65536], [0, -1, 65537])
TIMES = ([1, 100], [0, -1, 101])
WEIGHT = ([0, 0.0, 1e6], [-0.1, -1, 1.1e6])
SHARE = ([0, 0.999], [-0.1, 1, 1.0, 1.5])
SAMPLING = (["loss", "regions", "off"], ["Loss", "", "on"])
STAGES = ([["res2"], ("res5", "res2")], [[], ["res1"], ["res2", "res2"], ["stem"], "res2"])
FLAG = ([True, False], [0, 1, "True", "yes"])
RULES = {
    "MODEL.RELATION": {
        "NUM_RELATIONS": ([[0, 0], (0, 100)], [[1], [1, 1, 1], [-1, 1], [1, 101], [1, 0.5], 1]),
        "NUM_HEADS": SIZE,
        "KEY_DIM": SIZE,
        "NORM": (["max_rms", ""], ["max", "LN"]),
        "GEOMETRY": (["relation", "signed", "unary", "none", "position"], ["sigend", "None", ""]),
        "NORMALIZE_BY": (["query", "key"], ["value", "keys"]),
        "BETWEEN_STAGES": FLAG,
        "INIT": (["zero", "xavier", "normal"], ["he", "Zero"]),
        "SAMPLING": SAMPLING,
        "GT_AS_KEYS": FLAG,
        "IMPLEMENTATION": (["auto", "simple", "fused", "triton"], ["cuda", "Auto"]),
    },
    "MODEL.SGRN": {
        "GRAPH_DIMS": ([[], [1, 65536], (8,)], [[0], [8, -8], [65537], [8.0], ["x", "y"], 8]),
        "NUM_KERNELS": SIZE,
        "NUM_NEIGHBORS": SIZE,
        "LATENT_DIM": SIZE,
        "NODE_EMBED": (["soft", "hard"], ["mean"]),
        "POOL_BIAS": FLAG,
        "DETACH_POOL": FLAG,
        "DETACH_LEARNER_INPUT": FLAG,
        "SIMILARITY": (["dot", "cosine"], ["l2"]),
        "EDGE_NORM": (["softmax", "none", "joint"], ["sigmoid", ""]),
        "EDGE_LAYERS": (["first", "all"], ["last"]),
        "FOREGROUND_EDGES": FLAG,
        "KERNEL_NORM": (["kernels", "neighbors", "none"], ["neighbours"]),
        "COVARIANCE": (["diag", "full"], ["diagonal"]),
        "ANGLE": (["atan2", "arctan"], ["atan"]),
        "DROPOUT": SHARE,
        "OUT_NORM": (["LN", ""], ["BN"]),
        "REFINE": FLAG,
        "SHARE_FC": FLAG,
        "TEST_ENSEMBLE": (["last", "mean", "union_nms"], ["first", "union"]),
        "MEAN_GRADIENT": FLAG,
        "LOSS_WEIGHTS": ([[0, 1.0], (1e6, 0.0)], [[1.0], [1.0] * 3, [-1, -1], [1e30, 1], 1.0]),
        "SAMPLING": SAMPLING,
        "GT_AS_KEYS": FLAG,
    },
    "MODEL.REASONING_RCNN": {
        "CHANNELS": ([0, 65536], [-1, 65537, 8.0]),
        "SQUEEZE_CHANNELS": SIZE,
        "GRAPH_FILE": ([""], ["nowhere.npz"]),
        "EDGE_NORM": (["rows", "none"], ["row", ""]),
        "OUT_NORM": (["LN", ""], ["BN"]),
        "REFINE": FLAG,
        "TEST_ENSEMBLE": (["last", "mean", "union_nms"], ["first", "union"]),
        "MEAN_GRADIENT": FLAG,
        "LOSS_WEIGHTS": ([[0, 1.0], (1e6, 0.0)], [[1.0], [1.0] * 3, [-1, -1], [1e30, 1], 1.0]),
    },
    "MODEL.REASONING": {
        "MODULES": ([[], ["global"], ("global", "local")], [["local"] * 2, ["locl"], "local"]),
        "NUM_ITERS": TIMES,
        "CROSS_FEED": FLAG,
        "BETA": ([0, 1, 0.5], [-1, 1.01]),
        "LOSS_WEIGHTS": ([[0, 1, 2.5]], [[1.0, 1.0], [1.0, 1.0, -1.0], [math.nan, 1, 1], []]),
        "FOREGROUND": FLAG,
        "TEST_PREDICTION": (["final", "plain", "local", "global2"], ["global4", "bogus", ""]),
        "SAMPLING": SAMPLING,
        "GT_AS_KEYS": FLAG,
        "LOCAL.IN_FEATURE": (["", "p4"], ["p9", "res4"]),
        "LOCAL.CHANNELS": SIZE,
        "LOCAL.CROP_SIZE": ([2, 256], [1, 0, 257]),
        "LOCAL.INIT_SIZE": ([[1, 65536]], [[], [20], [0, 0], ["x", "y"], [65537, 1]]),
        "LOCAL.NUM_FC": TIMES,
        "LOCAL.FC_DIM": SIZE,
        "LOCAL.HALF_PIXEL": FLAG,
        "LOCAL.INIT": (["he", "normal"], ["xavier"]),
        "GLOBAL.CHANNELS": SIZE,
        "GLOBAL.NUM_STACKS": TIMES,
        "GLOBAL.RELATIONS": ([[], ["iou", "left"]], [["left", "left"], ["above"], [3]]),
        "GLOBAL.BANDWIDTH": ([1e-3, 50, 1e6], [0, -1.0, 2e6]),
        "GLOBAL.NORMALIZE_EDGES": FLAG,
        "GLOBAL.GRAPH_FILE": ([""], ["nowhere.npz"]),
        "GLOBAL.EMBEDDING_DIM": SIZE,
    },
    "MODEL.CONTEXT_BLOCKS": {
        "PLUGINS": ([[], ()], ["GC", ["GC"], [{"name": "GC"}], [None], {}]),
        "BUILDER": (["build_resnet_backbone"], ["build_context_backbone", "bogus", ""]),
    },
    "MODEL.REGION_FEATURES": {
        "BRANCHES": ([[], ["box"], ("box", "mask", "keypoint")], [["box"] * 2, ["boxes"], "box"]),
        "EMBED_DIM": ([2, 65536], [0, 1, 65537, 8.0]),
        "DIM": SIZE,
        "SUPPORT": (["box", "double", "image"], ["boxes", 2]),
        "INSIDE": ([1, 256], [0, 257]),
        "AROUND": ([1, 256], [0, 257]),
    },
    "MODEL.DUPLICATE_REMOVAL": {
        "TEST_METHOD": (["nms", "soft_nms", "learned"], ["softnms", ""]),
        "SOFT_NMS_DECAY": (["gaussian", "linear"], ["exp"]),
        "SOFT_NMS_SIGMA": ([1e-3, 1], [0, 0.0, -0.5]),
        "LEARN": FLAG,
        "END_TO_END": FLAG,
        "LOGIT_BIAS": ([-100, -7, -0.5, 0, 100.0], [-101, 1000.0]),
        "FIRST_N": SIZE,
        "SCORE_THRESH_TRAIN": SHARE,
        "CLASS_THRESH_TEST": SHARE,
        "MAX_CLASSES": ([0, 65536], [-1, 65537]),
        "THRESHOLDS": ([[0.5], (0.1, 0.9)], [[], [0.0], [0.5, 1], ["x"], [math.nan], 0.5]),
        "POSITIVE_WEIGHT": WEIGHT,
        "LOSS_WEIGHT": WEIGHT,
    },
    "MODEL.GLORE_HEAD": {
        "NUM_NODES": SIZE,
        "NUM_UNITS": ([0, 100], [-1, 101]),
        "DROPOUT": SHARE,
    },
    "MODEL.EFFICIENTNET_LITE": {
        "VARIANT": ([0, 1, 2], [3, -1, "lite0"]),
        "OUT_FEATURES": STAGES,
    },
    "MODEL.CLASSIFIER": {
        "NUM_CLASSES": SIZE,
        "CROP_SIZE": SIZE,
        "RESIZE": SIZE,
        "MIN_AREA": ([0.001, 1, 1.0], [0, 0.0, -0.1, 1.1]),
    },
    "MODEL.LR_NET": {
        "DEPTH": ([26, 50], [27, 101, "50"]),
        "NORM": (["", "BN", "SyncBN", "FrozenBN", "LN"], ["GN", "bn"]),
        "OUT_FEATURES": STAGES,
    },
    "MODEL.TORCHVISION": {
        "NAME": (["resnet18"], ["resnet1", "", "ResNet"]),
        "OUT_FEATURES": STAGES,
    },
    "MODEL": {"TRAIN_ONLY": ([[], ["x", "y"]], [[5], "backbone.*", [None]])},
    "DATALOADER": {
        "MAX_BROKEN": ([0, 10**18], [-1, 0.5]),
        "CACHE_MAPS": ([0.0, 0.5, 4096.0], [-1.0, float("nan"), 1e30, "8 GB"]),
    },
}
# Whatever the key is, unless it is above.
NEVER = [None, math.nan, math.inf, -math.inf, -7, -0.5, 1e30, 10**18, [None, None], [[]],
         [math.nan, math.nan], [10**9] * 2, ["x", "y"], {"a": 1}, "bogus", b"x"]  # fmt: skip
# The model that reads a node.
READERS = {
    "MODEL.RELATION": [
        "MODEL.ROI_HEADS.NAME", "RelationROIHeads",
        "MODEL.RELATION.KEY_DIM", 4,
        "MODEL.RELATION.NUM_HEADS", 4,
    ],
    "MODEL.SGRN": [
        "MODEL.ROI_HEADS.NAME", "SGRNROIHeads",
        "MODEL.SGRN.LATENT_DIM", 8,
        "MODEL.SGRN.GRAPH_DIMS", [8, 8],
    ],
    "MODEL.REASONING_RCNN": ["MODEL.ROI_HEADS.NAME", "ReasoningRCNNROIHeads"],
    "MODEL.REASONING": ["MODEL.ROI_HEADS.NAME", "ReasoningROIHeads"],
    "MODEL.CONTEXT_BLOCKS": ["MODEL.BACKBONE.NAME", "build_context_backbone"],
    "MODEL.DUPLICATE_REMOVAL": [
        "MODEL.ROI_HEADS.NAME", "DuplicateRemovalROIHeads",
        "MODEL.DUPLICATE_REMOVAL.LEARN", True,
    ],
    "MODEL.REGION_FEATURES": [
        "MODEL.ROI_HEADS.NAME", "DuplicateRemovalROIHeads",
        "MODEL.REGION_FEATURES.BRANCHES", ["box"],
    ],
    "MODEL.TORCHVISION": ["MODEL.BACKBONE.NAME", "build_torchvision_fpn_backbone"],
}  # fmt: skip
# Texts and lists that are right or wrong together with files, registries or other keys.
NEED_MORE = [
    "MODEL.REASONING.TEST_PREDICTION", "MODEL.REASONING.LOCAL.IN_FEATURE",
    "MODEL.REASONING.GLOBAL.GRAPH_FILE", "MODEL.REASONING_RCNN.GRAPH_FILE",
    "MODEL.CONTEXT_BLOCKS.PLUGINS", "MODEL.CONTEXT_BLOCKS.BUILDER", "MODEL.TORCHVISION.NAME",
]  # fmt: skip
KEYS = [(part, key) for part, keys in RULES.items() for key in keys]


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data")
    with registered(tiny_coco(folder)) as name:
        yield tiny_cfg([name], [name], 3, folder / "out", base=get_cfg())


def with_value(cfg, key, value):
    """A copy of the config, a value of which is set in Python: yacs does not look at it."""
    cfg = cfg.clone()
    part, _, name = key.rpartition(".")
    attrgetter(part)(cfg)[name] = value
    return cfg


def said_of(cfg):
    """The lines of the check; [] if nothing is wrong."""
    try:
        check_cfg(cfg)
    except ValueError as error:
        return str(error).splitlines()[1:]
    return []


def leaves(node, prefix=""):
    for name, default in node.items():
        if isinstance(default, CfgNode):
            yield from leaves(default, f"{prefix}{name}.")
        else:
            yield prefix + name


def test_the_table_has_every_key():
    ours = {f"MODEL.{name}": keys for name, keys in NODES.items()} | ADDED
    assert {part: list(keys) for part, keys in RULES.items()} == {
        part: list(leaves(keys.defaults())) for part, keys in ours.items()
    }


@pytest.mark.parametrize(("part", "key"), KEYS, ids=[f"{p}.{k}" for p, k in KEYS])
def test_what_is_not_allowed_is_refused_and_the_rest_is_not(base, part, key):
    right, wrong = RULES[part][key]
    full = f"{part}.{key}"
    cfg = base.clone()
    cfg.merge_from_list(READERS.get(part, []))
    assert said_of(cfg) == []
    for value in right:
        assert list(value_problems(with_value(cfg, full, value))) == [], value
    alone = full not in NEED_MORE
    for value in (*wrong, *(never for never in NEVER if never not in right)):
        changed = with_value(cfg, full, value)
        (line,) = [f"- {p.message}" for p in value_problems(changed)] if alone else said_of(changed)
        assert re.match(rf"- {re.escape(full)}\b", line), (value, line)
        assert not re.search(r"MODEL\.[A-Z_.]+", line.replace(full, "")), line
    if alone:  # the check of a whole config says the same, once
        assert said_of(changed) == [line]


def test_a_head_that_is_built_without_the_check_refuses_it_too():
    for name in NODES:
        for key in RULES[f"MODEL.{name}"]:
            full = f"MODEL.{name}.{key}"
            with pytest.raises(ValueError, match=rf"^{re.escape(full)} must be .*, got None\.$"):
                node(with_value(get_cfg(), full, None), name)
        assert node(get_detectron2_cfg(), name) == NODES[name].defaults()


def test_a_value_of_another_type_is_refused_when_it_is_merged():
    cfg = get_cfg()
    for part, key in KEYS:
        full = f"{part}.{key}"
        other = 5 if isinstance(attrgetter(full)(cfg), str) else "bogus"
        with pytest.raises(ValueError, match=rf"\b{re.escape(full)}\b"):
            merge_overrides(cfg, [full, other])


def test_a_key_that_is_nearly_right_is_proposed(tmp_path):
    (tmp_path / "own.yaml").write_text("MODEL: {SGRN: {DROP_OUT: 0.1}}")
    for merge, meant in (
        (
            lambda cfg: merge_overrides(cfg, ["MODEL.RELATION.GEOMETRI", "none"]),
            "RELATION.GEOMETRY",
        ),
        (lambda cfg: merge_config(cfg, str(tmp_path / "own.yaml")), "SGRN.DROPOUT"),
    ):
        with pytest.raises(ValueError, match=rf"key: \S+; did you mean MODEL\.{meant}\b.*\?"):
            merge(get_cfg())


def test_a_choice_that_is_nearly_right_is_proposed(base):
    for key, value, meant in (
        ("MODEL.RELATION.GEOMETRY", "sigend", "signed"),
        ("MODEL.REASONING.MODULES", ["global", "locl"], "local"),
        ("MODEL.TORCHVISION.OUT_FEATURES", ["res22"], "res2"),
    ):
        (problem,) = value_problems(with_value(base, key, value))
        assert f"{key} must be" in problem.message and f"got {value!r}; did" in problem.message
        assert meant in problem.message.partition("did you mean")[2]


@pytest.mark.parametrize(
    ("part", "opts"),
    [
        ("MODEL.RELATION", ["NUM_RELATIONS", [40, 40], "KEY_DIM", 65536]),
        ("MODEL.SGRN", ["GRAPH_DIMS", [65536] * 100]),
        ("MODEL.REASONING", ["LOCAL.CHANNELS", 65536]),
        ("MODEL.REASONING", ["LOCAL.INIT_SIZE", [65536, 65536]]),
        ("MODEL.REASONING", ["LOCAL.NUM_FC", 100, "LOCAL.FC_DIM", 65536, "LOCAL.CROP_SIZE", 256]),
        ("MODEL.REASONING", ["GLOBAL.CHANNELS", 65536]),
        ("MODEL.GLORE_HEAD", ["NUM_UNITS", 100, "NUM_NODES", 65536]),
    ],
)
def test_sizes_that_no_machine_holds_are_refused_before_they_are_allocated(base, part, opts):
    cfg = base.clone()
    cfg.merge_from_list(SEM_SEG if part == "MODEL.GLORE_HEAD" else READERS[part])
    for key, value in zip(opts[::2], opts[1::2], strict=True):
        cfg = with_value(cfg, f"{part}.{key}", value)
    assert list(value_problems(cfg)) == []  # each alone is possible
    said = [line for line in said_of(cfg) if part in line]
    assert len(said) == 1 and "parameters" in said[0], said
