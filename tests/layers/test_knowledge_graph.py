"""The value, its matrices and its two files; whatever does not fit is refused in one sentence."""

from __future__ import annotations

import dataclasses
import json
import re

import numpy as np
import pytest
import torch

from relation_heads.layers.reasoning.knowledge_graph import KnowledgeGraph

CLASSES = ("cake", "food", "fork", "tree")
RELATIONS = ("is-kind-of", "near")
# relation, dst, src, weight; "near" is undirected
EDGES = [(0, 0, 1, 1.0), (1, 2, 0, 3.0), (1, 2, 1, 1.0), (1, 0, 1, 0.1)]


def fields(edges=EDGES, **changes):
    relation, dst, src, weight = zip(*edges, strict=True) if edges else ((),) * 4
    values = {
        "classes": CLASSES,
        "relations": RELATIONS,
        "directed": (True, False),
        "edge_relation": torch.tensor(relation, dtype=torch.int64),
        "edge_dst": torch.tensor(dst, dtype=torch.int64),
        "edge_src": torch.tensor(src, dtype=torch.int64),
        "edge_weight": torch.tensor(weight, dtype=torch.float32),
        "meta": {"source": "test"},
    }
    return {**values, **changes}


def make(edges=EDGES, **changes):
    return KnowledgeGraph(**fields(edges, **changes))


def edges_by_name(graph):
    columns = (graph.edge_relation, graph.edge_dst, graph.edge_src, graph.edge_weight)
    return {
        (graph.relations[e], graph.classes[dst], graph.classes[src]): weight
        for e, dst, src, weight in zip(*(c.tolist() for c in columns), strict=True)
    }


def slow_matrices(graph):
    """The definition, one number at a time in float64."""
    k, found = len(graph.classes), {}
    for (name, dst, src), weight in edges_by_name(graph).items():
        directed = graph.directed[graph.relations.index(name)]
        there = found.setdefault(name, np.zeros((k, k)))
        back = found.setdefault(f"inv:{name}", np.zeros((k, k))) if directed else there
        i, j = graph.classes.index(dst), graph.classes.index(src)
        there[i, j] += weight
        back[j, i] += weight
    for matrix in found.values():
        for row in matrix:
            if row.sum() > 0:
                row /= row.sum()
    return found


# ---- matrices ----


def test_matrices_are_normalised_and_directed_relations_have_inverses():
    graph = make()
    matrices = graph.adjacencies()
    expected = slow_matrices(graph)
    assert [name for name, _ in matrices] == ["is-kind-of", "inv:is-kind-of", "near"]
    for name, matrix in matrices:
        assert matrix.is_sparse and matrix.dtype == torch.float32 and matrix.shape == (4, 4)
        assert torch.allclose(matrix.to_dense().double(), torch.tensor(expected[name]))
    kind, inverse, near = (matrix.to_dense() for _, matrix in matrices)
    assert kind[0, 1] == 1 and inverse[1, 0] == 1  # cake hears from food, and food from cake
    assert near[2].tolist() == [0.75, 0.25, 0, 0] and near[0, 2] > 0.9
    assert not near[3].any() and not kind[1:].any()  # empty rows stay empty


def test_products_and_gradients_are_those_of_dense_matrices():
    graph = make()
    x = torch.randn(4, 5, requires_grad=True)
    for name, matrix in graph.adjacencies():
        dense = torch.tensor(slow_matrices(graph)[name])
        y = torch.sparse.mm(matrix, x)
        weights = torch.randn(4, 5)
        (gradient,) = torch.autograd.grad((y * weights).sum(), x)
        assert torch.allclose(y.double(), dense @ x.detach().double(), atol=1e-6)
        assert torch.allclose(gradient.double(), dense.T @ weights.double(), atol=1e-6)
        low = x.detach().bfloat16().requires_grad_()
        torch.sparse.mm(matrix.bfloat16(), low).sum().backward()
        assert low.grad.isfinite().all()


@pytest.mark.parametrize("normalize", [True, False])
def test_all_relations_in_one_matrix_both_ways(normalize):
    graph = make()
    expected = torch.zeros(4, 4, dtype=torch.float64)
    if normalize:  # the mean of the relations that have a row
        matrices = [torch.tensor(m) for m in slow_matrices(graph).values()]
        count = sum((m.sum(1, keepdim=True) > 0).double() for m in matrices)
        expected = sum(matrices) / count.clamp(min=1)
    else:
        for (_, dst, src), weight in edges_by_name(graph).items():
            i, j = CLASSES.index(dst), CLASSES.index(src)
            expected[i, j] += weight
            expected[j, i] += weight
    matrix = graph.adjacency(normalize=normalize)
    assert matrix.is_coalesced() and matrix.dtype == torch.float32
    torch.testing.assert_close(matrix.to_dense().double(), expected, rtol=1e-6, atol=1e-6)
    assert matrix.to_dense()[0, 1] == (0.5 * (1 + 0.1 / 3.1) if normalize else 1.1)


def test_weights_whose_sum_overflows_are_normalised_too():
    (_, near) = make([(0, 0, 1, 3e38), (0, 0, 2, 3e38)], directed=(False, False)).adjacencies()[0]
    assert near.to_dense()[0].tolist() == [0, 0.5, 0.5, 0]


def test_a_graph_without_edges():
    graph = make([])
    assert [m._nnz() for _, m in graph.adjacencies()] == [0, 0, 0]
    assert make([], relations=(), directed=()).adjacencies() == []
    for normalize in (True, False):
        assert make([], relations=(), directed=()).adjacency(normalize=normalize)._nnz() == 0


def test_describe():
    assert make().describe().splitlines() == [
        "4 classes without embeddings, 2 relations",
        "  is-kind-of (directed): 1 edges, 3 empty rows, 3 of its inverse",
        "  near (undirected): 3 edges, 1 empty rows",
    ]


# ---- order of the classes ----


def test_reordered_keeps_what_is_said_about_each_name():
    graph = make(embeddings=torch.arange(8.0).view(4, 2))
    names = ["tree", "cake", "fork", "food"]
    other = graph.reordered(names)
    assert other.classes == tuple(names) and other.meta == graph.meta
    assert edges_by_name(other) == edges_by_name(graph)
    assert other.embeddings.tolist() == [[6, 7], [0, 1], [4, 5], [2, 3]]


@pytest.mark.parametrize(
    "names, sentence",
    [
        (["cake", "food", "fork"], "missing: none; too many: 'tree'"),
        (["cake", "food", "fork", "car", "bus"], "missing: 'car', 'bus'; too many: 'tree'"),
        (["cake", "food", "fork", "tree", "tree"], "'class names' must be unique.*'tree'"),
    ],
)
def test_other_classes_are_named(names, sentence):
    with pytest.raises(ValueError, match=sentence):
        make().reordered(names)


# ---- files ----


@pytest.mark.parametrize("suffix", [".npz", ".json"])
@pytest.mark.parametrize("edges", [EDGES, []], ids=["edges", "none"])
def test_files_keep_everything(tmp_path, suffix, edges):
    graph = make(edges, classes=("cake", "føød", 'a "b" [c]', "tree.n.01"))
    if suffix == ".npz":
        graph = dataclasses.replace(graph, embeddings=torch.randn(4, 3))
    path = tmp_path / f"graph{suffix}"
    graph.save(path)
    assert suffix == ".npz" or "føød" in path.read_text(encoding="utf-8")
    other = KnowledgeGraph.load(path)
    for key, value in vars(graph).items():
        found = getattr(other, key)
        same = torch.equal(value, found) if isinstance(value, torch.Tensor) else value == found
        assert same, key
        assert not isinstance(value, torch.Tensor) or value.dtype == found.dtype


def test_the_json_file_can_be_read_and_edited_by_hand(tmp_path):
    path = tmp_path / "graph.json"
    make().save(path)
    text = path.read_text()
    content = json.loads(text)
    assert content["version"] == 1 and content["classes"] == list(CLASSES)
    assert content["relations"][0] == {
        "name": "is-kind-of",
        "directed": True,
        "edges": [["cake", "food", 1.0]],
    }
    assert '    ["cake", "food", 0.1]' in text.splitlines()[-2]  # an edge on each line
    path.write_text(text.replace('["cake", "food", 0.1]', '["tree", "fork", 2]'))
    assert edges_by_name(KnowledgeGraph.load(path))["near", "tree", "fork"] == 2


def test_the_npz_file_has_the_keys_and_types_of_the_format(tmp_path):
    make(embeddings=torch.zeros(4, 3)).save(tmp_path / "graph.npz")
    with np.load(tmp_path / "graph.npz", allow_pickle=False) as file:
        types = {key: file[key].dtype.name for key in file.files if file[key].dtype.kind != "U"}
        assert file["format_version"] == 1 and json.loads(str(file["meta"])) == {"source": "test"}
        assert set(file.files) - set(types) == {"classes", "relations", "meta"}
    assert types == {
        "format_version": "int64",
        "rel_directed": "bool",
        "edge_rel": "int16",
        "edge_dst": "int32",
        "edge_src": "int32",
        "edge_weight": "float32",
        "embeddings": "float32",
    }


def test_file_names_end_in_npz_or_json(tmp_path):
    for action in (make().save, KnowledgeGraph.load):
        with pytest.raises(ValueError, match=r"graph\.txt: .* \.npz or \.json"):
            action(tmp_path / "graph.txt")
    with pytest.raises(ValueError, match=r"embeddings needs an \.npz file"):
        make(embeddings=torch.zeros(4, 3)).save(tmp_path / "graph.json")
    with pytest.raises(FileNotFoundError):
        KnowledgeGraph.load(tmp_path / "graph.npz")


def npz(**changes):
    """The arrays of a good file with some changed; None takes one out."""
    arrays = {
        "format_version": 1,
        "classes": ["a", "b", "c"],
        "relations": ["r"],
        "rel_directed": [True],
        "edge_rel": [0],
        "edge_dst": [0],
        "edge_src": [1],
        "edge_weight": [1.0],
    }
    return {k: np.array(v) for k, v in {**arrays, **changes}.items() if v is not None}


@pytest.mark.parametrize(
    "changes, sentence",
    [
        ({"edge_dst": None}, "lacks 'edge_dst'"),
        ({"edges": [1]}, "unknown: 'edges'"),
        ({"format_version": 2}, "'format_version' must be 1, but there is 2"),
        ({"edge_src": [1.5]}, "'edge_src' must hold int32, but there is float64"),
        ({"edge_weight": ["x"]}, "'edge_weight' must hold float32"),
        ({"classes": [1, 2, 3]}, "'classes' must hold"),
        ({"meta": "[1"}, "no .npz file"),
        ({"meta": "[1]"}, r"'meta' must be an object, but there is \[1\]"),
        ({"edge_dst": [3]}, r"'edge_dst' must be in 0\.\.2, but there is 3"),
        ({"edge_weight": np.array([None])}, "without pickles"),
    ],
    ids=lambda x: next(iter(x)) if isinstance(x, dict) else "",
)
def test_bad_npz_files_are_refused_by_name(tmp_path, changes, sentence):
    path = tmp_path / "bad.npz"
    np.savez(path, **npz(**changes))
    with pytest.raises(ValueError, match=f"^{re.escape(str(path))}: .*{sentence}"):
        KnowledgeGraph.load(path)


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04", b"text", b"\x80\x04N."])
@pytest.mark.parametrize("suffix", [".npz", ".json"])
def test_files_of_another_kind_are_refused(tmp_path, content, suffix):
    path = tmp_path / f"bad{suffix}"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=f"^{re.escape(str(path))}: .* file"):
        KnowledgeGraph.load(path)


def test_a_single_array_is_no_graph(tmp_path):
    np.save(tmp_path / "a.npy", np.zeros(3))
    path = (tmp_path / "a.npy").rename(tmp_path / "a.npz")
    with pytest.raises(ValueError, match=r"a\.npz: no \.npz file"):
        KnowledgeGraph.load(path)


def relation(edges, **changes):
    return {"relations": [{"name": "r", "directed": True, "edges": edges, **changes}]}


@pytest.mark.parametrize(
    "changes, sentence",
    [
        ({"version": 2}, "'version' must be 1, but there is 2"),
        ({"classes": "abc"}, "'classes' must be a list"),
        ({"classes": ["a", ["b"]]}, r"'classes' must hold names, but there is \['b'\]"),
        ({"extra": 1}, "unknown: 'extra'"),
        ({"relations": [1]}, r"relations\[0\] must be an object, not 1"),
        (relation([], name=3), "'relations' must hold names, but there is 3"),
        (relation([], directed="yes"), "'rel_directed' must hold true or false.*'yes'"),
        (relation([["a", "x", 1]]), r"'relations\[0\].edges' must .* \[\"a\", \"x\", 1\]"),
        (relation([["a", "b"]]), r"relations\[0\].edges.* \[\"a\", \"b\"\]"),
        (relation([["a", "b", "1"]]), r"relations\[0\].edges"),
        (relation({"a": "b"}), r"relations\[0\].edges"),
        (relation([[["a"], "b", 1]]), r"relations\[0\].edges"),
        (relation([["a", "b", 0]]), r"'edge_weight' must be finite and > 0.*'a r b' \(weight 0\)"),
        (relation([["a", "b", float("nan")]]), "'edge_weight' must be finite"),
    ],
)  # fmt: skip
def test_bad_json_files_are_refused_by_name(tmp_path, changes, sentence):
    path = tmp_path / "bad.json"
    path.write_text(json.dumps({"version": 1, "classes": ["a", "b"], "relations": [], **changes}))
    with pytest.raises(ValueError, match=f"^{re.escape(str(path))}: .*{sentence}"):
        KnowledgeGraph.load(path)


# ---- what a graph must be ----


@pytest.mark.parametrize(
    "changes, sentence",
    [
        ({"classes": ("a", "b", "a", "b")}, "'classes' must be unique, but there is 'a', 'b'"),
        ({"classes": ()}, "'classes' must hold names, but there is none"),
        ({"classes": ("a", " ", "c", "d")}, "'classes' must hold names, but there is ' '"),
        ({"relations": ("r", "r")}, "'relations' must be unique"),
        ({"relations": ("r", "inv:s")}, "'relations' must not begin with 'inv:'"),
        ({"directed": (True,)}, "'rel_directed' must hold true or false for each of the 2"),
        ({"edge_relation": torch.tensor([0, 1, 1, 2])}, r"'edge_rel' must be in 0\.\.1.* 2"),
        ({"edge_src": torch.tensor([-1, 0, 1, 9])}, r"'edge_src' must be in 0\.\.3.* -1, 9"),
        ({"edge_dst": torch.ones(3).long()}, r"'edge_dst' must hold integers of the shape \(4,\)"),
        ({"edge_dst": torch.ones(4)}, "'edge_dst' must hold integers"),
        ({"edge_weight": torch.ones(4, 1)}, "'edge_weight' must have one dimension"),
        ({"edge_weight": torch.tensor([1, -1, 1, float("inf")])},
         r"'edge_weight' must be .* 'fork near cake' \(weight -1\), 'cake near food' \(weight in"),
        ({"embeddings": torch.ones(3, 2)}, r"'embeddings' must hold float32 of the shape \(4, d\)"),
        ({"embeddings": torch.ones(4)}, "'embeddings' must hold float32"),
        ({"embeddings": torch.ones(4, 0)}, "'embeddings' must hold float32"),
        ({"embeddings": torch.ones(4, 2).double()}, "'embeddings' must hold float32"),
        ({"embeddings": torch.tensor([1, float("nan"), 1, 1]).view(4, 1)},
         "'embeddings' must be finite, but there is that of 'food'"),
        ({"meta": [1]}, "'meta' must be an object"),
    ],
)  # fmt: skip
def test_what_does_not_fit_is_refused(changes, sentence):
    with pytest.raises(ValueError, match=sentence) as error:
        make(**changes)
    assert "\n" not in str(error.value)


def test_only_the_first_five_offenders_are_named():
    edges = [(0, i, j, -1.0) for i in range(4) for j in range(4) if i != j]
    with pytest.raises(ValueError, match=r"and 7 more\.$") as error:
        make(edges)
    assert str(error.value).count("weight -1") == 5


def test_an_edge_may_occur_once():
    with pytest.raises(ValueError, match=r"'edge_dst' must have each edge once.*'cake near food'"):
        make([*EDGES, (1, 0, 1, 2.0)])
    with pytest.raises(ValueError, match=r"each edge once.*'food near cake'"):  # undirected
        make([*EDGES, (1, 1, 0, 2.0)])
    make([*EDGES, (0, 1, 0, 2.0)])  # directed: there and back are two


def test_edges_from_a_class_to_itself_are_left_out_with_a_warning():
    with pytest.warns(UserWarning, match="Self-loops left out: 'tree near tree'"):
        graph = make([*EDGES, (1, 3, 3, 1.0)])
    assert edges_by_name(graph) == edges_by_name(make())
