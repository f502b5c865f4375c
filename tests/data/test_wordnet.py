"""The is-a graph of WordNet, from files of seven synsets."""

from __future__ import annotations

import pytest

from relation_heads.data.graphs.wordnet import graph_from_wordnet
from tests.data.test_class_graphs import edges_by_name

LICENCE = "  1 This software and database is being provided to you | by Princeton\n"
# entity 10 <- animal 20 <- dog 30 (also "domestic dog") <- puppy 40; city 50 <-instance- rome 60
DATA = """\
00000010 03 n 01 entity 0 001 ~ 00000020 n 0000 | that which is
00000020 05 n 02 animal 0 beast 0 002 @ 00000010 n 0000 ~ 00000030 n 0000 | a | b
00000030 05 n 0a dog 0 a 0 b 0 c 0 d 0 e 0 f 0 g 0 h 0 i 0 002 @ 00000020 n 0000 + 00000070 v 0101 |
00000040 05 n 01 puppy 0 002 @ 00000030 n 0000 @ 00000010 n 0000 | young dog
00000050 15 n 01 city 0 001 @ 00000010 n 0000 | large
00000060 15 n 01 rome 0 001 @i 00000050 n 0000 | capital
00000070 05 n 01 dog 1 000 | a dull person
"""
INDEX = """\
animal n 1 2 @ ~ 1 1 00000020
beast n 1 1 ~ 1 0 00000020
city n 1 1 @ 1 1 00000050
dog n 2 3 @ ~ + 2 1 00000030 00000070
entity n 1 1 ~ 1 1 00000010
puppy n 1 1 @ 1 0 00000040
rome n 1 1 @i 1 0 00000060
"""


@pytest.fixture
def wordnet(tmp_path):
    (tmp_path / "data.noun").write_text(LICENCE + DATA)
    (tmp_path / "index.noun").write_text(LICENCE + INDEX)
    return tmp_path


def test_wordnet_edges_lead_up_so_many_steps(wordnet):
    names = ["dog.n.02", "puppy.n.01", "animal.n.01", "dog.n.01", "Rome.n.01", "city.n.01"]
    near = {
        ("puppy.n.01", "is-a", "dog.n.01"): 1,
        ("dog.n.01", "is-a", "animal.n.01"): 1,
        ("Rome.n.01", "is-a", "city.n.01"): 1,
    }
    graph = graph_from_wordnet(names, wordnet, hops=1)
    assert edges_by_name(graph) == near and graph.directed == (True,)
    far = {("puppy.n.01", "is-a", "animal.n.01"): 0.5}
    assert edges_by_name(graph_from_wordnet(names, wordnet, hops=2)) == {**near, **far}


def test_wordnet_takes_the_shortest_way_through_what_is_no_class(wordnet):
    names = ["entity.n.01", "puppy.n.01", "animal.n.01", "beast.n.01"]
    assert edges_by_name(graph_from_wordnet(names, wordnet, hops=9)) == {
        ("puppy.n.01", "is-a", "entity.n.01"): 1,  # also puppy - dog - animal - entity
        ("puppy.n.01", "is-a", "animal.n.01"): 0.5,  # two names of one synset
        ("puppy.n.01", "is-a", "beast.n.01"): 0.5,
        ("animal.n.01", "is-a", "entity.n.01"): 1,
        ("beast.n.01", "is-a", "entity.n.01"): 1,
    }


@pytest.mark.parametrize(
    "names, sentence",
    [
        (["dog.n.01", "dog", "dog.v.01"], "'dog', 'dog.v.01' must have the form lemma.n.NN"),
        (["dog.n.03", "dog.n.00", "cat.n.01"], "'dog.n.03', 'dog.n.00', 'cat.n.01' are not in"),
    ],
)
def test_classes_that_wordnet_has_not(wordnet, names, sentence):
    with pytest.raises(ValueError, match=sentence):
        graph_from_wordnet(names, wordnet, hops=1)


def test_files_that_are_not_wordnets(wordnet, tmp_path):
    with pytest.raises(ValueError, match="hops"):
        graph_from_wordnet(["dog.n.01"], wordnet, hops=0)
    for name, kind in (("data.noun", "a data file"), ("index.noun", "an index file")):
        before = (wordnet / name).read_text()
        (wordnet / name).write_text("dog\n")
        with pytest.raises(ValueError, match=f"{name} is not {kind}"):
            graph_from_wordnet(["dog.n.01"], wordnet, hops=1)
        (wordnet / name).write_text(before)
    (wordnet / "data.noun").write_text(LICENCE)
    with pytest.raises(ValueError, match="not of one WordNet"):
        graph_from_wordnet(["dog.n.01"], wordnet, hops=1)
    with pytest.raises(FileNotFoundError):
        graph_from_wordnet(["dog.n.01"], tmp_path / "nowhere", hops=1)


def test_another_version_of_wordnet_is_refused(wordnet):
    licence = "  2 WordNet {} Copyright 2011 by Princeton University.  All rights reserved.\n"
    for name in ("index.noun", "data.noun"):
        before = (wordnet / name).read_text()
        (wordnet / name).write_text(licence.format("3.0") + before)
        graph_from_wordnet(["dog.n.01"], wordnet, hops=1)
        (wordnet / name).write_text(licence.format("3.1") + before)
        with pytest.raises(ValueError, match=rf"{name} is of WordNet 3\.1, .* of WordNet 3\.0"):
            graph_from_wordnet(["dog.n.01"], wordnet, hops=1)
        (wordnet / name).write_text(before)
