"""Damaged files: every reader gives what it can read, or one error that its callers know.

    FUZZ_CASES=100000 python -m pytest tests/robustness/test_fuzz.py

A valid file is damaged in its values (a JSON tree in which something else stands in one or two
places) or in its bytes.
"""

from __future__ import annotations

import json
import math
import os
import pickle
import warnings
from io import BytesIO
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pytest

pytest.importorskip("detectron2")
pytest.importorskip("hypothesis")

import torch
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from PIL import Image

from relation_heads.config import get_cfg
from relation_heads.data.array_pickle import read_plain
from relation_heads.data.checks.format import type_findings
from relation_heads.data.coco_format import class_names, keypoint_metadata, read_coco
from relation_heads.data.exif import exif_orientation
from relation_heads.data.files import read_json
from relation_heads.data.graphs.files import named
from relation_heads.data.graphs.sources import coco_class_names, graph_from_cooccurrence
from relation_heads.data.json_records import read_records
from relation_heads.engine.checkpoint import damage
from relation_heads.engine.convert_files import read_state
from relation_heads.engine.model_config import merge_config
from relation_heads.evaluation.coco_arrays import ground_truth, read_results
from relation_heads.layers.reasoning.knowledge_graph import KnowledgeGraph

CASES = int(os.environ.get("FUZZ_CASES", 200))
fuzz = settings(
    max_examples=CASES, deadline=None, database=None, print_blob=True,
    derandomize="FUZZ_CASES" not in os.environ,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)  # fmt: skip

COCO = {
    "info": {"description": "two images"},
    "images": [
        {"id": 1, "file_name": "a.jpg", "width": 40, "height": 30},
        {"id": 2, "file_name": "b/c.jpg", "width": 20, "height": 30},
    ],
    "categories": [
        {"id": 3, "name": "cat", "keypoints": ["left_eye", "right_eye"], "skeleton": [[1, 2]]},
        {"id": 7, "name": "dog"},
    ],
    "annotations": [
        {"id": 1, "image_id": 1, "category_id": 3, "bbox": [1, 2, 10, 8.5], "area": 85.0,
         "iscrowd": 0, "segmentation": [[1, 2, 11, 2, 11, 10]],
         "keypoints": [2, 3, 2, 0, 0, 0], "num_keypoints": 1},
        {"id": 2, "image_id": 1, "category_id": 7, "bbox": [0, 0, 5, 5], "area": 25, "iscrowd": 0},
    ],
}  # fmt: skip
RESULTS = [
    {"image_id": 1, "category_id": 3, "bbox": [1, 2, 3, 4], "score": 0.5},
    {"image_id": 2, "category_id": 7, "bbox": [1.5, 2, 3, 4], "score": 1},
]
GRAPH = {
    "version": 1,
    "classes": ["cat", "dog", "mouse"],
    "relations": [
        {"name": "eats", "directed": True, "edges": [["cat", "mouse", 1.0]]},
        {"name": "near", "directed": False, "edges": [["cat", "dog", 2.5]]},
    ],
}
YAML = """\
MODEL:
  ROI_HEADS:
    NAME: RelationROIHeads
  RELATION:
    KEY_DIM: 16
SOLVER:
  STEPS: (3, 4)
"""

junk = st.recursive(
    st.sampled_from([None, True, -1, 0, 10**30, 10**400, math.nan, math.inf, -0.0, "", "x", "\0",
                     "\ud800", [], {}, [[]], "../../etc"])
    | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3)
    | st.dictionaries(st.text(max_size=3), inner, max_size=2),
    max_leaves=4,
)  # fmt: skip


def places(tree, path=()):
    """Ways to all values of a JSON tree."""
    yield path
    items = (
        tree.items()
        if isinstance(tree, dict)
        else enumerate(tree)
        if isinstance(tree, list)
        else ()
    )
    for key, value in items:
        yield from places(value, (*path, key))


@st.composite
def damaged(draw, tree):
    """The tree, in which one or two values are others, missing or there twice."""
    tree = json.loads(json.dumps(tree))
    for _ in range(draw(st.integers(1, 2))):
        *way, last = draw(st.sampled_from([p for p in places(tree) if p] or [("",)]))
        parent = tree
        for key in way:
            parent = parent[key]
        if not isinstance(parent, dict | list) or last == "":
            return draw(junk)
        match draw(st.sampled_from(["other", "other", "missing", "twice"])):
            case "missing":
                del parent[last]
            case "twice" if isinstance(parent, list):
                parent.append(parent[last])
            case _:
                parent[last] = draw(junk)
    return draw(junk) if draw(st.integers(0, 40)) == 0 else tree


@st.composite
def damaged_bytes(draw, content):
    """The bytes, some of which are others, or missing, or too many."""
    content = bytearray(content)
    for _ in range(draw(st.integers(1, 4))):
        at = draw(st.integers(0, max(len(content) - 1, 0)))
        match draw(st.sampled_from(["flip", "cut", "insert", "end"])):
            case "flip" if content:
                content[at] = draw(st.integers(0, 255))
            case "cut":
                del content[at : at + draw(st.integers(1, 8))]
            case "insert":
                content[at:at] = draw(st.binary(max_size=4))
            case "end":
                del content[at:]
    return bytes(content)


def text(tree):
    return json.dumps(tree, ensure_ascii=True).encode()


DEEP = b"[" * 100_000
MANY_DIGITS = b'{"images": [], "categories": [], "annotations": [' + b"9" * 10_000 + b"]}"


def check(tmp_path, name, content, read, allowed=(ValueError,)):
    """Reads a file with this content; an error must name the file."""
    path = tmp_path / name
    path.write_bytes(content)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            return read(path)
        except allowed as error:
            said = str(error.args[0]) if error.args else ""
            assert said and name in said, repr(error)
            assert len(said) < 3000
    return None


def test_what_is_not_damaged_is_read(tmp_path):
    """So that the damage is what the readers refuse."""
    readers = {
        "a.json": (text(GRAPH), KnowledgeGraph.load),
        "a.npz": (arrays(), KnowledgeGraph.load),
        "c.json": (text(COCO), evaluated),
        "m.pth": (checkpoint(), read_state),
        "l.json": (text(RESULTS), lambda path: list(read_records(path, 16))),
    }
    for name, (content, read) in readers.items():
        assert check(tmp_path, name, content, read, allowed=()), name
    assert read_plain(PLAIN)["a"] == ["b", 1, None]


def coco(path):
    dataset = read_coco(path)
    class_names(dataset)
    keypoint_metadata(dataset)
    type_findings(dataset)


@fuzz
@given(damaged(COCO).map(text) | damaged_bytes(text(COCO)))
@example(DEEP)
@example(MANY_DIGITS)
def test_coco(tmp_path, content):
    check(tmp_path, "coco.json", content, coco)


def evaluated(path):
    return ground_truth(read_coco(path), str(path))


@fuzz
@given(damaged(COCO).map(text))
def test_ground_truth(tmp_path, content):
    check(tmp_path, "truth.json", content, evaluated)


@fuzz
@given(damaged(RESULTS).map(text) | damaged_bytes(text(RESULTS)))
@example(DEEP)
def test_results(tmp_path, content):
    truth = ground_truth(COCO, "truth")
    check(tmp_path, "results.json", content, lambda path: read_results(path, truth))


@fuzz
@given(damaged(GRAPH).map(text) | damaged_bytes(text(GRAPH)))
@example(DEEP)
def test_class_graphs(tmp_path, content):
    check(tmp_path, "graph.json", content, KnowledgeGraph.load)


def arrays():
    with TemporaryDirectory() as folder:
        path = Path(folder, "graph.json")
        path.write_bytes(text(GRAPH))
        KnowledgeGraph.load(path).save(path.with_suffix(".npz"))
        return path.with_suffix(".npz").read_bytes()


@fuzz
@given(damaged_bytes(arrays()))
def test_class_graphs_of_arrays(tmp_path, content):
    check(tmp_path, "graph.npz", content, KnowledgeGraph.load)


@fuzz
@given(damaged(COCO).map(text))
@example(DEEP)
def test_graphs_from_annotations(tmp_path, content):
    def build(path):
        dataset = read_json(path)
        named(path, coco_class_names, dataset)
        return named(path, graph_from_cooccurrence, dataset)

    check(tmp_path, "coco.json", content, build)


@fuzz
@given(damaged(COCO["annotations"]).map(text) | damaged_bytes(text(COCO["annotations"])))
@example(DEEP)
def test_long_lists(tmp_path, content):
    check(tmp_path, "list.json", content, lambda path: list(read_records(path, 16)))


PLAIN = pickle.dumps({"model": {"w": np.arange(6.0).reshape(2, 3)}, "a": ["b", 1, None]}, 2)


@fuzz
@given(damaged_bytes(PLAIN))
def test_pickles_are_plain_or_refused(content):
    try:
        found = read_plain(content)
    except Exception:
        return
    assert not callable(found)


def checkpoint():
    file = BytesIO()
    torch.save({"state_dict": {"w": torch.arange(6.0).reshape(2, 3)}}, file)
    return file.getvalue()


@fuzz
@given(damaged_bytes(checkpoint()))
def test_checkpoints(tmp_path, content):
    check(tmp_path, "model.pth", content, read_state)
    assert isinstance(damage(tmp_path / "model.pth"), str)


@fuzz
@given(damaged_bytes(YAML.encode()))
def test_configs(tmp_path, content):
    check(tmp_path, "tiny.yaml", content, lambda path: merge_config(get_cfg(), str(path)))


def picture():
    file, exif = BytesIO(), Image.Exif()
    exif[0x0112] = 6  # Orientation
    pixels = np.random.default_rng(0).integers(256, size=(10, 10, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(file, "JPEG", exif=exif)
    return file.getvalue()


@fuzz
@given(damaged_bytes(picture()))
def test_orientations(tmp_path, content):
    try:
        with Image.open(BytesIO(content)) as image:
            assert exif_orientation(image) in range(1, 9)
    except (OSError, SyntaxError, ValueError):  # of PIL, for what is no image
        pass
