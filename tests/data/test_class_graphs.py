"""Graphs from names, relationships, co-occurrence and pickles, on a few classes each."""

from __future__ import annotations

import json
import math
import os
import pickle

import numpy as np
import pytest
import torch

from relation_heads.data.graphs import sources as class_graphs
from relation_heads.data.graphs.sources import (
    graph_from_cooccurrence,
    graph_from_names,
    graph_from_relationships,
    graph_from_scenes,
    import_pickle,
    merge,
    plurals,
    shuffled,
    words,
)
from relation_heads.data.scenes import scenes


def edges_by_name(graph):
    columns = (graph.edge_relation, graph.edge_dst, graph.edge_src, graph.edge_weight)
    return {
        (graph.classes[dst], graph.relations[e], graph.classes[src]): weight
        for e, dst, src, weight in zip(*(c.tolist() for c in columns), strict=True)
    }


# ---- names ----


@pytest.mark.parametrize(
    "noun, plural",
    [("tree", "trees"), ("box", "boxes"), ("bench", "benches"), ("berry", "berries"),
     ("toy", "toys"), ("leaf", "leaves"), ("knife", "knives"), ("woman", "women"),
     ("potato", "potatoes"), ("palm tree", "palm trees")],
)  # fmt: skip
def test_plurals(noun, plural):
    assert plural in plurals(noun)
    assert set(edges_by_name(graph_from_names([noun, plural]))) == {(plural, "plural-of", noun)}


@pytest.mark.parametrize("noun, other", [("can", "canes"), ("box", "boxs"), ("toy", "toies")])
def test_no_plurals(noun, other):
    assert not graph_from_names([noun, other]).relations


def test_names_say_kinds_plurals_and_sides():
    names = ["clock", "alarm clock", "digital alarm_clock", "Trees", "tree", "left arm",
             "right arm", "arm", "coat", "arms", "coat of arms", "chair"]  # fmt: skip
    graph = graph_from_names(names)
    assert edges_by_name(graph) == {
        ("alarm clock", "is-kind-of", "clock"): 1,
        ("digital alarm_clock", "is-kind-of", "alarm clock"): 1,  # the longest name
        ("left arm", "is-kind-of", "arm"): 1,
        ("right arm", "is-kind-of", "arm"): 1,
        ("Trees", "plural-of", "tree"): 1,
        ("arms", "plural-of", "arm"): 1,
        ("left arm", "left-right", "right arm"): 1,
    }
    assert dict(zip(graph.relations, graph.directed, strict=True)) == {
        "is-kind-of": True,
        "plural-of": True,
        "left-right": False,
    }
    assert graph.meta["edges"] == {"is-kind-of": 4, "plural-of": 2, "left-right": 1}


def test_sense_suffixes_are_no_words():
    assert words("sleeping_bag.n.04") == "sleeping bag"
    names = ["bag.n.01", "bag.n.04", "sleeping_bag.n.01", "bags.n.01", "clock.n.01",
             "alarm_clock.n.01", "mr.n.02"]  # fmt: skip
    graph = graph_from_names(names)
    assert edges_by_name(graph) == {("alarm_clock.n.01", "is-kind-of", "clock.n.01"): 1}
    assert graph.meta["ambiguous"] == 2  # which of the two bags?


# ---- Relational Scenes ----


def test_scenes_are_what_they_are_made_by():
    content = scenes.class_graph()
    graph = graph_from_scenes(content)
    assert list(graph.classes) == content["classes"] and all(graph.directed)
    assert set(graph.relations) == set(content["relations"])
    assert edges_by_name(graph) == {
        (e["class"], e["relation"], e["partner"]): 1.0 for e in content["edges"]
    }


def test_the_same_edges_between_other_classes():
    graph = graph_from_scenes(scenes.class_graph())
    one, other = shuffled(graph, 0), shuffled(graph, 1)
    edges = [set(edges_by_name(g)) for g in (graph, one, other)]
    assert not edges[0] & edges[1] and edges[1] != edges[2]
    assert one.classes == graph.classes and one.meta["shuffled"] == 0
    assert torch.equal(one.edge_relation, graph.edge_relation)
    for ends in ("edge_dst", "edge_src"):  # a class is renamed everywhere alike
        renamed = dict(zip(getattr(graph, ends).tolist(), getattr(one, ends).tolist(), strict=True))
        assert [renamed[k] for k in getattr(graph, ends).tolist()] == getattr(one, ends).tolist()
    assert set(edges_by_name(shuffled(graph, 0))) == edges[1]


# ---- relationships ----


def relationship(subject, predicate, object_, synsets=()):
    return {"predicate": predicate, "synsets": list(synsets), "subject": subject, "object": object_}


MAN = {"name": "man", "synsets": ["man.n.01"], "x": 1}
HAT = {"names": ["Fire_Hat"], "synsets": []}
DOG = {"names": ["hound"], "synsets": ["dog.n.01"]}
TWO = {"name": "dog", "synsets": ["dog.n.01", "man.n.01"]}
RECORDS = [
    {"image_id": 1, "relationships": [
        relationship(MAN, "wears", HAT, ["wear.v.01"]),
        relationship(MAN, "Wearing", HAT, ["wear.v.01"]),
        relationship(HAT, " ON ", DOG),
        relationship(MAN, "near", MAN),
    ]},
    {"image_id": 2, "relationships": []},
    {"image_id": 3, "relationships": [
        relationship(DOG, "on", HAT),
        relationship(HAT, "of", MAN, ["a.v.01", "b.v.01"]),
        relationship(TWO, "wears", HAT, ["wear.v.01"]),
        relationship({"name": "cat"}, "on", HAT),
        relationship({"names": []}, "on", None),
    ]},
]  # fmt: skip


def write_records(path, records=RECORDS, **kwargs):
    path.write_text(json.dumps(records, **kwargs))
    return path


@pytest.mark.parametrize("indent", [None, 2])
def test_relationships_are_counted(tmp_path, indent):
    path = write_records(tmp_path / "relationships.json", indent=indent)
    graph = graph_from_relationships(path, ["man.n.01", "fire hat", "dog.n.01"], 2)
    assert graph.relations == ("on", "wear.v.01") and graph.directed == (True, True)
    assert edges_by_name(graph) == {
        ("man.n.01", "wear.v.01", "fire hat"): 2,
        ("fire hat", "on", "dog.n.01"): 1,
        ("dog.n.01", "on", "fire hat"): 1,
    }
    counts = {"annotations": 9, "unknown classes": 3, "same class": 1, "predicates": 3}
    assert {key: graph.meta[key] for key in counts} == counts


def test_classes_without_senses_are_known_by_their_names(tmp_path):
    path = write_records(tmp_path / "relationships.json")
    graph = graph_from_relationships(path, ["man", "Fire hat", "dog"], 9)
    assert edges_by_name(graph) == {
        ("man", "wear.v.01", "Fire hat"): 2,
        ("dog", "wear.v.01", "Fire hat"): 1,
        ("Fire hat", "of", "man"): 1,
    }
    with pytest.raises(ValueError, match="differ by case"):
        graph_from_relationships(path, ["fire_hat", "Fire hat"], 9)
    with pytest.raises(ValueError, match="num_predicates"):
        graph_from_relationships(path, ["man"], 0)


@pytest.mark.parametrize(
    "text, sentence",
    [
        ('{"a": 1}', "does not begin with '\\['"),
        ("", "does not begin"),
        ('[{"relationships": []}, {"relat', "record 1: .* cut off"),
        ('[{"relationships": []}', "record 0: "),
        ('[{"relationships": []} {}]', "record 0: .* must follow it"),
        ('[{"relationships": []}, {"objects": []}]', "record 1 has no list 'relationships'"),
        ('[{"relationships": [1]}]', "record 0 has no list 'relationships' of objects"),
        ("[1]", "record 0 has no list"),
    ],
)
def test_other_files_are_refused(tmp_path, text, sentence):
    path = tmp_path / "bad.json"
    path.write_text(text)
    with pytest.raises(ValueError, match=rf"bad\.json.*{sentence}"):
        graph_from_relationships(path, ["man"], 1)


# ---- co-occurrence ----


def coco(images, names=("a", "b", "c")):
    """A data set with these classes, by position, in each image; ids run backwards."""
    ids = {k: 10 - k for k in range(len(names))}
    return {
        "images": [{"id": i} for i in range(len(images))],
        "categories": [{"id": ids[k], "name": name} for k, name in enumerate(names)],
        "annotations": [
            {"id": 1, "image_id": i, "category_id": ids[k]}
            for i, classes in enumerate(images)
            for k in classes
        ],
    }


def test_cooccurrence_is_positive_pmi():
    images = [(0, 1), (0, 0, 1), (0,), (2,), (2, 1), (), (0, 2), (0, 2)]
    graph = graph_from_cooccurrence(coco(images))
    assert graph.classes == ("c", "b", "a") and graph.directed == (False,)
    # a: 5 of 8 images, b: 3, c: 4; a and b share 2, a and c 2, b and c 1.
    (edge,) = edges_by_name(graph).items()
    assert edge[0] == ("b", "co-occurs", "a")
    assert edge[1] == pytest.approx(math.log(2 * 8 / (5 * 3)))
    assert graph.meta["images"] == 8


def test_one_image_is_no_evidence():
    assert not graph_from_cooccurrence(coco([(0, 1), (2,), (2,)])).relations
    assert graph_from_cooccurrence(coco([(0, 1), (0, 1), (2,), (2,)])).relations


def test_unknown_categories_and_formats():
    dataset = coco([(0,)])
    dataset["annotations"][0]["category_id"] = 7
    with pytest.raises(ValueError, match="annotation 1 has category_id 7"):
        graph_from_cooccurrence(dataset)
    with pytest.raises(ValueError, match="not in COCO format"):
        graph_from_cooccurrence([])


@pytest.mark.parametrize(
    "change",
    [
        {"synsets": 5},
        {"synsets": [None]},
        {"synsets": {"a": 1}},
        {"subject": {"name": "man", "names": 5}},
        {"subject": {"name": "man", "synsets": 5}},
        {"subject": {"names": ["man"], "synsets": [None]}},
        {"subject": {"names": ["man"], "synsets": "man.n.01"}},
    ],
)
def test_relationships_with_values_of_other_types(tmp_path, change):
    path = tmp_path / "relationships.json"
    near = {"predicate": "Near", "subject": {"name": "man"}, "object": {"name": "dog"}}
    path.write_text(json.dumps([{"relationships": [{**near, **change}]}]))
    graph = graph_from_relationships(path, ["man", "dog"], 1)
    assert edges_by_name(graph) == {("man", "near", "dog"): 1.0}


@pytest.mark.parametrize("end", [{"names": [None]}, {"names": 5}, {"name": 5}, [None], 5, None])
def test_ends_of_relationships_without_a_name(tmp_path, end):
    path = tmp_path / "relationships.json"
    bad = {"predicate": "near", "subject": end, "object": {"name": "dog"}}
    path.write_text(json.dumps([{"relationships": [bad]}]))
    assert graph_from_relationships(path, ["man", "dog"], 1).meta["unknown classes"] == 1


def test_a_predicate_that_is_empty_costs_no_other_one(tmp_path):
    path = tmp_path / "relationships.json"
    ends = {"subject": {"name": "man"}, "object": {"name": "dog"}}
    empty = [{**ends, "predicate": p} for p in ("", "  ", None, 5, [None])]
    empty += [{**ends, "synsets": [""]}, ends]
    path.write_text(json.dumps([{"relationships": [*empty, {**ends, "predicate": "on"}]}]))
    graph = graph_from_relationships(path, ["man", "dog"], 1)
    assert graph.relations == ("on",) and graph.meta["no predicate"] == len(empty)


# ---- pickles ----


def matrix(k=3):
    """Symmetric, background first, diagonal 1."""
    values = np.zeros((k + 1, k + 1))
    values[1:, 1:] = np.eye(k)
    values[0, 2] = values[2, 0] = 9
    values[1, 3] = values[3, 1] = 0.25
    return values


@pytest.mark.parametrize("protocol", range(6))
def test_a_pickle_is_imported_without_background_and_diagonal(tmp_path, protocol):
    path = tmp_path / "graph_r.pkl"
    path.write_bytes(pickle.dumps(matrix(), protocol=protocol))
    graph = import_pickle(path, ["a", "b", "c"])
    assert edges_by_name(graph) == {("a", "graph_r", "c"): 0.25}
    assert graph.directed == (False,) and graph.meta["source"] == "graph_r.pkl"


def test_the_names_of_old_numpy_are_known(tmp_path):
    content = pickle.dumps(matrix(), protocol=3)
    old = content.replace(b"numpy._core.multiarray", b"numpy.core.multiarray")
    (tmp_path / "graph_r.pkl").write_bytes(old)
    assert len(import_pickle(tmp_path / "graph_r.pkl", ["a", "b", "c"]).edge_weight) == 1


def test_an_asymmetric_matrix_is_directed(tmp_path):
    values = matrix()
    values[1, 2] = 0.5
    (tmp_path / "q.pkl").write_bytes(pickle.dumps(values, protocol=3))
    graph = import_pickle(tmp_path / "q.pkl", ["a", "b", "c"])
    assert graph.directed == (True,)
    assert edges_by_name(graph) == {("a", "q", "b"): 0.5, ("a", "q", "c"): 0.25,
                                    ("c", "q", "a"): 0.25}  # fmt: skip


class Evil:
    def __reduce__(self):
        return os.mkdir, ("evil",)


@pytest.mark.parametrize(
    "value, sentence",
    [
        (Evil(), r"it asks for (posix|nt)\.mkdir"),
        ([1, 2], "must hold numbers .*no array"),
        (np.zeros((3, 3)), r"must hold numbers \(4, 4\), background first, but it is float64 \(3"),
        (np.full((4, 4), "x"), "must hold numbers"),
        (np.full((4, 4), -1.0), "not finite and >= 0"),
        (np.full((4, 4), np.nan), "not finite and >= 0"),
    ],
    ids=["call", "list", "shape", "text", "negative", "nan"],
)
def test_other_pickles_are_refused(tmp_path, monkeypatch, value, sentence):
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "bad.pkl"
    path.write_bytes(pickle.dumps(value, protocol=3))
    with pytest.raises(ValueError, match=rf"bad\.pkl.*{sentence}"):
        import_pickle(path, ["a", "b", "c"])
    assert os.listdir(tmp_path) == ["bad.pkl"]
    path.write_bytes(b"\x80\x03broken")
    with pytest.raises(ValueError, match=r"bad\.pkl is refused"):
        import_pickle(path, ["a", "b", "c"])


# ---- merge ----


def test_merge_keeps_all_edges_and_fixes_the_order(tmp_path):
    names = graph_from_names(["tree", "trees", "palm tree"])
    images = coco([(0, 1), (0, 1), (2,)], names=("tree", "trees", "palm tree"))
    together = graph_from_cooccurrence(images)
    assert together.classes != names.classes
    graph = merge([names, together])
    assert graph.classes == names.classes and graph.directed == (True, True, False)
    swapped = {(a, r, b): w for (b, r, a), w in edges_by_name(together).items()}
    expected = {**edges_by_name(names), **edges_by_name(together)}
    assert edges_by_name(graph) in (expected, {**edges_by_name(names), **swapped})
    assert graph.meta == {"merged": [names.meta, together.meta]}


def test_what_cannot_be_merged():
    graph = graph_from_names(["tree", "trees"])
    with pytest.raises(ValueError, match=r"'relations' must be unique.*'plural-of'"):
        merge([graph, graph])
    with pytest.raises(ValueError, match="missing: 'tree', 'trees'; too many: 'box', 'boxes'"):
        merge([graph, graph_from_names(["box", "boxes"])])
    vectors = torch.zeros(2, 3)
    with_vectors = [class_graphs.build_graph(("a", "b"), {n: True}, [(n, 0, 1, 1.0)], {})
                    for n in "rs"]  # fmt: skip
    for one in with_vectors:
        object.__setattr__(one, "embeddings", vectors)
    with pytest.raises(ValueError, match="Only one"):
        merge(with_vectors)
