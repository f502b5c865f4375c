"""The command line of datasets/build_knowledge_graph.py."""

from __future__ import annotations

import importlib.util
import json
import pickle
from datetime import date
from pathlib import Path

import numpy as np
import pytest

from relation_heads.data.graphs import sources as class_graphs
from relation_heads.data.scenes import scenes
from relation_heads.layers.reasoning.knowledge_graph import KnowledgeGraph

SCRIPT = Path(__file__).parents[2] / "datasets" / "build_knowledge_graph.py"


@pytest.fixture
def tool(tmp_path, monkeypatch):
    """`main` of the script, in a folder with a few inputs."""
    spec = importlib.util.spec_from_file_location("build_knowledge_graph", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    monkeypatch.chdir(tmp_path)
    Path("names.txt").write_text("tree\n trees \n\npalm tree\n")
    names = ["palm tree", "trees", "tree"]
    coco = {
        "images": [{"id": i} for i in range(3)],
        "categories": [{"id": 9 - k, "name": name} for k, name in enumerate(names)],
        "annotations": [{"id": n, "image_id": n // 2, "category_id": 9 - n % 2} for n in range(4)],
    }
    Path("train.json").write_text(json.dumps(coco))
    Path("old_r.pkl").write_bytes(pickle.dumps(np.ones((4, 4)), protocol=3))
    man, hat = {"name": "tree", "synsets": []}, {"names": ["palm tree"], "synsets": []}
    relationship = {"predicate": "near", "synsets": [], "subject": man, "object": hat}
    Path("relationships.json").write_text(json.dumps([{"relationships": [relationship]}]))
    Path("dict").mkdir()
    data = ["00000010 03 n 01 tree 0 000 |", "00000020 03 n 01 oak 0 001 @ 00000010 n 0000 |"]
    Path("dict/data.noun").write_text("\n".join(data))
    Path("dict/index.noun").write_text("oak n 1 1 @ 1 0 00000020\ntree n 1 0 1 0 00000010\n")
    Path("old.json").write_text('{"version": 1, "classes": ["a"], "relations": []}')
    Path("synsets.txt").write_text("tree.n.01\noak.n.01\n")
    return module.main


@pytest.mark.parametrize(
    "arguments, relations, edges",
    [
        ("names --classes names.txt", ("is-kind-of", "plural-of"), 2),
        ("names --coco train.json", ("is-kind-of", "plural-of"), 2),
        ("wordnet --classes synsets.txt --dict dict", ("is-a",), 1),
        ("wordnet --classes synsets.txt --dict dict --hops 1", ("is-a",), 1),
        ("relationships relationships.json --classes names.txt", ("near",), 1),
        ("cooccurrence --coco train.json", ("co-occurs",), 1),
        ("import old_r.pkl --classes names.txt", ("old_r",), 3),
    ],
)
@pytest.mark.parametrize("output", ["graph.npz", "graph.json"])
def test_graphs_are_written_and_described(tool, capsys, arguments, relations, edges, output):
    tool([*arguments.split(), "--output", output])
    printed = capsys.readouterr().out.splitlines()
    graph = KnowledgeGraph.load(output)
    assert graph.relations == relations and len(graph.edge_weight) == edges
    description = graph.describe().splitlines()
    assert printed == [*description, json.dumps(graph.meta), output]
    assert graph.meta["date"] == date.today().isoformat()
    assert graph.meta["dataset"] in arguments and graph.meta["normalised"] is False
    tool(["show", output])
    assert capsys.readouterr().out.splitlines() == printed


def test_classes_of_a_coco_file_are_in_the_order_of_their_ids(tool):
    tool("names --coco train.json --output graph.npz".split())
    assert KnowledgeGraph.load("graph.npz").classes == ("tree", "trees", "palm tree")


def test_merge(tool):
    tool("names --classes names.txt --output names.json".split())
    tool("import old_r.pkl --classes names.txt --output old.npz".split())
    tool("merge names.json old.npz --output both.npz".split())
    graph = KnowledgeGraph.load("both.npz")
    assert graph.relations == ("is-kind-of", "plural-of", "old_r")
    assert [meta["source"] for meta in graph.meta["merged"]] == ["names", "old_r.pkl"]


def test_scenes_and_their_control(tool, capsys):
    Path("class_graph.json").write_text(json.dumps(scenes.class_graph()))
    tool("scenes class_graph.json --output scenes.json".split())
    tool("shuffle scenes.json --seed 3 --output wrong.npz".split())
    assert capsys.readouterr().out.splitlines()[-1] == "wrong.npz"
    graph, wrong = KnowledgeGraph.load("scenes.json"), KnowledgeGraph.load("wrong.npz")
    assert wrong.meta == {**graph.meta, "shuffled": 3}
    assert wrong.edge_dst.tolist() == class_graphs.shuffled(graph, 3).edge_dst.tolist()


@pytest.mark.parametrize(
    "arguments, sentence",
    [
        ("names --classes none.txt --output graph.npz", "none.txt: No such file or directory."),
        ("names --classes none.txt --output graph.txt", "graph.txt: the name of a"),
        ("names --classes names.txt --output no/graph.npz", "no/graph.npz: No such file"),
        ("names --classes synsets.txt --output graph.npz", "No edge was found between the 2 cl"),
        ("names --coco names.txt --output graph.npz", "names.txt is not a JSON file"),
        ("names --coco relationships.json --output graph.npz", "relationships.json: This is not"),
        ("wordnet --classes names.txt --dict dict --output graph.npz", "must have the form"),
        ("cooccurrence --coco relationships.json --output graph.npz", "relationships.json: This"),
        ("relationships names.txt --classes names.txt --output graph.npz", "is not a JSON list"),
        ("import old_r.pkl --classes synsets.txt --output graph.npz", "old_r.pkl must hold"),
        ("scenes train.json --output graph.npz", "train.json: it is not the class graph of Rela"),
        ("shuffle names.txt --output graph.npz", "names.txt: the name of a"),
        ("merge names.txt --output graph.npz", "names.txt: the name of a"),
        ("merge boxes.npz boxes.npz --output graph.npz", "'relations' must be unique"),
        ("merge boxes.npz old.json --output graph.npz", "old.json: 'classes' must be those asked"),
        ("show train.json", "train.json: it lacks"),
    ],
)
def test_errors_are_one_sentence_and_exit_code_2(tool, capsys, arguments, sentence):
    class_graphs.graph_from_names(["box", "boxes"]).save("boxes.npz")
    with pytest.raises(SystemExit) as error:
        tool(arguments.split())
    printed = capsys.readouterr()
    assert error.value.code == 2 and not printed.out
    assert sentence in printed.err and printed.err.count("\n") == 1
    assert not Path("graph.npz").exists()


@pytest.mark.parametrize(
    "arguments", ["", "names --output a.npz", "names --classes a --coco b --output c.npz", "merge"]
)
def test_incomplete_command_lines(tool, capsys, arguments):
    with pytest.raises(SystemExit) as error:
        tool(arguments.split())
    assert error.value.code == 2 and "usage" in capsys.readouterr().err
