"""Files of class graphs: what is wrong with one is said before anything is built."""

from __future__ import annotations

import json

import pytest

pytest.importorskip("detectron2")

import numpy as np
from detectron2.data import MetadataCatalog

from relation_heads import get_cfg
from relation_heads.engine.checks import check_cfg
from relation_heads.modeling.class_graphs import load_class_graph
from tests.helpers import registered, tiny_cfg, tiny_coco

KEYS = {
    "MODEL.REASONING_RCNN.GRAPH_FILE": ("MODEL.ROI_HEADS.NAME", "ReasoningRCNNROIHeads"),
    "MODEL.REASONING.GLOBAL.GRAPH_FILE": ("MODEL.ROI_HEADS.NAME", "ReasoningROIHeads"),
}


@pytest.fixture(scope="module")
def name(tmp_path_factory):
    with registered(tiny_coco(tmp_path_factory.mktemp("coco"))) as name:
        yield name


def arrays(names, **changed):
    """Of an .npz file: the first class hears the second one."""
    return {
        "format_version": 1,
        "classes": list(names),
        "relations": ["near"],
        "rel_directed": [True],
        "edge_rel": np.zeros(1, np.int16),
        "edge_dst": np.zeros(1, np.int32),
        "edge_src": np.ones(1, np.int32),
        "edge_weight": np.ones(1, np.float32),
        **changed,
    }


def text(names, **changed):
    """Of a .json file: the same."""
    relation = {"name": "near", "directed": True, "edges": [[*names[:2], 1.0]], **changed}
    return json.dumps({"version": 1, "classes": list(names), "relations": [relation]})


def write(path, content):
    if isinstance(content, dict):
        np.savez(path, **content)
    elif content is not None:
        path.write_text(content)


# Name of the file; content, of the names of the data set; what the sentence must say.
WRONG = {
    "missing": ("a.npz", lambda names: None, ["does not exist", ".npz or .json"]),
    "another kind": ("a.pkl", lambda names: "", [".npz or .json"]),
    "damaged .npz": ("a.npz", lambda names: "no archive", [".npz"]),
    "damaged .json": ("a.json", lambda names: "{", ["JSON"]),
    "one class too few": (
        "a.npz", lambda names: arrays(names[:-1]), ["'classes'", "missing"],
    ),
    "one class too many": (
        "a.npz", lambda names: arrays([*names, "other"]), ["'classes'", "too many: 'other'"],
    ),
    "NaN": (
        "a.npz", lambda names: arrays(names, edge_weight=np.full(1, np.nan, np.float32)),
        ["'edge_weight'", "finite and > 0", "nan"],
    ),
    "NaN in .json": (
        "a.json", lambda names: text(names, edges=[[*names[:2], float("nan")]]),
        ["'edge_weight'", "finite and > 0", "nan"],
    ),
    "dense matrix": ("a.npz", lambda names: {"matrix": np.eye(3)}, ["'edge_weight'", "'matrix'"]),
    "two dimensions": (
        "a.npz", lambda names: arrays(names, edge_weight=np.ones((1, 1), np.float32)),
        ["'edge_weight'", "one dimension", "(1, 1)"],
    ),
    "no rows": (
        "a.npz", lambda names: arrays(names, edge_src=np.full(1, 7, np.int32)),
        ["'edge_src'", "0..2", "7"],
    ),
}  # fmt: skip


@pytest.mark.parametrize("key", KEYS)
@pytest.mark.parametrize(("file", "content", "said"), WRONG.values(), ids=WRONG)
def test_a_wrong_file_is_one_sentence(key, file, content, said, name, tmp_path):
    path = tmp_path / file
    write(path, content(MetadataCatalog.get(name).thing_classes))
    opts = (*KEYS[key], key, str(path))
    cfg = tiny_cfg([name], [name], 3, tmp_path / "out", opts, base=get_cfg())
    with pytest.raises(ValueError) as caught:
        check_cfg(cfg)
    _, *lines = str(caught.value).splitlines()
    assert len(lines) == 1
    missing = [part for part in (key, str(path), *said) if part not in lines[0]]
    assert not missing, lines[0]


@pytest.mark.parametrize("key", KEYS)
def test_without_names_of_the_data_set_their_number_is_compared(key, tmp_path):
    path = tmp_path / "a.json"
    path.write_text(text(["a", "b", "c", "d"]))
    cfg = tiny_cfg([], [], 3, tmp_path / "out", (*KEYS[key], key, str(path)), base=get_cfg())
    with pytest.raises(ValueError, match=r"a\.json has 4 classes, MODEL\..*NUM_CLASSES is 3"):
        load_class_graph(cfg, str(path))


@pytest.mark.parametrize("key", KEYS)
@pytest.mark.parametrize("file", ["a.json", "a.npz"])
def test_a_right_file_is_accepted(key, file, name, tmp_path):
    names = MetadataCatalog.get(name).thing_classes[::-1]
    write(tmp_path / file, arrays(names) if file.endswith("z") else text(names))
    opts = (*KEYS[key], key, str(tmp_path / file))
    check_cfg(tiny_cfg([name], [name], 3, tmp_path / "out", opts, base=get_cfg()))


def test_a_graph_that_nobody_reads_is_not_read(name, tmp_path):
    key = "MODEL.REASONING_RCNN.GRAPH_FILE"
    opts = (*KEYS[key], key, "nowhere.npz", "MODEL.REASONING_RCNN.CHANNELS", 0)
    check_cfg(tiny_cfg([name], [name], 3, tmp_path / "out", opts, base=get_cfg()))
