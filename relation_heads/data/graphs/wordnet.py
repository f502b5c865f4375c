"""The noun hierarchy of WordNet as a graph between classes, read from WordNet's own files.

`index.noun` and `data.noun` are in the folder `dict` of WordNet's distribution (Debian's package
`wordnet-base` has them in /usr/share/wordnet). Their format is described in wndb(5WN):

    index.noun: lemma n synset_cnt p_cnt [symbol...] sense_cnt tagsense_cnt offset...
    data.noun:  offset lex_filenum n w_cnt word lex_id... p_cnt [symbol offset pos source]... | text

w_cnt is hexadecimal. Lines that begin with blanks are the licence. The class `bag.n.04` is the
synset at the fourth offset of the lemma `bag`; versions of WordNet number senses differently, and
Visual Genome uses 3.0.
"""

from __future__ import annotations

import os
import re
from collections import defaultdict
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path

from relation_heads.data.graphs.sources import Edge, build_graph
from relation_heads.layers.arguments import first_few
from relation_heads.layers.reasoning.knowledge_graph import KnowledgeGraph

_CLASS = re.compile(r"(.+)\.n\.(\d+)")
_VERSION, _WANTED = re.compile(r"WordNet (\d+\.\d+)"), "3.0"
_UP = ("@", "@i")  # hypernym, and of what it is an instance


def graph_from_wordnet(
    class_names: Sequence[str], folder: str | os.PathLike[str], hops: int
) -> KnowledgeGraph:
    """`is-a` between classes, directed: "dog is-a animal" up to so many steps up the hierarchy.

    The weight is 1 / steps, by the shortest way; steps lead through synsets that are no classes.

    Args:
        class_names: K names of the form `lemma.n.NN`.
        folder: with `index.noun` and `data.noun`.
        hops: the most steps, at least 1.

    Raises:
        OSError: a file cannot be read.
        ValueError: a class is not in this WordNet, or a file is not WordNet's.
    """
    if hops < 1:
        raise ValueError(f"hops must be at least 1, but it is {hops}.")
    offsets = synset_offsets(class_names, Path(folder) / "index.noun")
    parents = read_parents(Path(folder) / "data.noun")
    classes = defaultdict(list)  # two lemmas may share a synset
    for k, offset in enumerate(offsets):
        if offset not in parents:
            raise ValueError(f"{folder}: index.noun and data.noun are not of one WordNet.")
        classes[offset].append(k)
    edges: list[Edge] = [
        ("is-a", k, other, 1 / steps)
        for k, offset in enumerate(offsets)
        for ancestor, steps in _ancestors(offset, parents, hops)
        for other in classes.get(ancestor, ())
    ]
    return build_graph(class_names, {"is-a": True}, edges, {"source": "WordNet", "hops": hops})


def synset_offsets(class_names: Sequence[str], index_file: Path) -> list[int]:
    """Where in `data.noun` the synset of each class is.

    Raises:
        OSError: the file cannot be read.
        ValueError: names that are not of the form `lemma.n.NN`, or not in this WordNet.
    """
    parsed = [_CLASS.fullmatch(name) for name in class_names]
    _refuse([n for n, p in zip(class_names, parsed, strict=True) if not p],
            "must have the form lemma.n.NN, as bag.n.04 has")  # fmt: skip
    keys = [(p[1].lower(), int(p[2])) for p in parsed if p]
    senses = _read_senses(index_file, {lemma for lemma, _ in keys})
    _refuse(
        [
            name
            for name, (lemma, number) in zip(class_names, keys, strict=True)
            if not 1 <= number <= len(senses.get(lemma, ()))
        ],
        f"are not in {index_file}",
    )
    return [senses[lemma][number - 1] for lemma, number in keys]


def _refuse(names: Sequence[str], why: str) -> None:
    if names:
        raise ValueError(f"The classes {first_few([repr(name) for name in names])} {why}.")


class WrongVersion(ValueError):
    """The files are of another WordNet."""


def _fields(path: Path) -> Iterator[list[str]]:
    with open(path, encoding="utf-8") as file:
        for line in file:
            if not line.startswith("  "):
                yield line.partition("|")[0].split()
            elif (version := _VERSION.search(line)) and version[1] != _WANTED:
                raise WrongVersion(
                    f"{path} is of WordNet {version[1]}, which numbers senses differently: Visual "
                    f"Genome's synsets are of WordNet {_WANTED}."
                )


def _read_senses(path: Path, lemmas: Collection[str]) -> dict[str, list[int]]:
    """The offsets of the senses of these lemmas, most frequent sense first."""
    try:
        # synset_cnt offsets are at the end.
        return {f[0]: [int(x) for x in f[-int(f[2]) :]] for f in _fields(path) if f[0] in lemmas}
    except WrongVersion:
        raise
    except (ValueError, IndexError) as error:
        raise ValueError(f"{path} is not an index file of WordNet: {error}.") from None


def read_parents(path: Path) -> dict[int, list[int]]:
    """What each synset is a kind of or an instance of, by offsets."""
    parents = {}
    try:
        for fields in _fields(path):
            start = 4 + 2 * int(fields[3], 16)  # of p_cnt, after the words
            pointers = fields[start + 1 : start + 1 + 4 * int(fields[start])]
            ups = zip(pointers[::4], pointers[1::4], strict=True)
            parents[int(fields[0])] = [int(offset) for symbol, offset in ups if symbol in _UP]
    except WrongVersion:
        raise
    except (ValueError, IndexError) as error:
        raise ValueError(f"{path} is not a data file of WordNet: {error}.") from None
    return parents


def _ancestors(
    offset: int, parents: Mapping[int, Sequence[int]], hops: int
) -> Iterator[tuple[int, int]]:
    """(ancestor, steps), each once, nearest first."""
    seen, level = {offset}, [offset]
    for steps in range(1, hops + 1):
        level = list(dict.fromkeys(p for x in level for p in parents.get(x, ()) if p not in seen))
        seen.update(level)
        yield from ((ancestor, steps) for ancestor in level)
