"""Knowledge graphs between the classes of a data set, made from what is at hand.

From their names, the relationships of Visual Genome, a training set, or the files of Reasoning-RCNN
and HKRM; from WordNet in `wordnet`. All edges read "dst relation src"; what was counted on the way
is in `meta` of the graph.
"""

from __future__ import annotations

import math
import os
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import torch

from relation_heads.layers.reasoning.knowledge_graph import KnowledgeGraph

from ..array_pickle import read_array
from ..checks.format import structure_problem, type_findings
from ..json_records import read_records

Edge = tuple[str, int, int, float]  # relation, dst, src, weight

_SENSE = re.compile(r"\.[a-z]\.\d+$")  # of bag.n.04
_LONGEST_REASON = 200  # characters, as a broken file may name anything


def build_graph(
    class_names: Sequence[str],
    relations: Mapping[str, bool],
    edges: Iterable[Edge],
    meta: Mapping[str, Any],
) -> KnowledgeGraph:
    """A graph of these edges; relations that have none are left out.

    Args:
        class_names: K names.
        relations: of each one whether it is directed.
        edges: relation, dst and src in 0..K-1, weight.
        meta: where they come from; gets `edges`, the number per relation.
    """
    edges = list(edges)
    counts = Counter(name for name, *_ in edges)
    used = [name for name in relations if counts[name]]
    rows = {name: e for e, name in enumerate(used)}
    return KnowledgeGraph(
        classes=tuple(class_names),
        relations=tuple(used),
        directed=tuple(relations[name] for name in used),
        edge_relation=torch.tensor([rows[edge[0]] for edge in edges], dtype=torch.int64),
        edge_dst=torch.tensor([edge[1] for edge in edges], dtype=torch.int64),
        edge_src=torch.tensor([edge[2] for edge in edges], dtype=torch.int64),
        edge_weight=torch.tensor([edge[3] for edge in edges], dtype=torch.float32),
        meta={**meta, "edges": {name: counts[name] for name in relations}},
    )


def words(name: str) -> str:
    """A class name as words: `Fire_Hydrant` is "fire hydrant", and `bag.n.04` is "bag"."""
    return _spoken(_SENSE.sub("", name))


def _spoken(name: str) -> str:
    return " ".join(name.replace("_", " ").lower().split())


def plurals(noun: str) -> list[str]:
    """What the regular plural of a noun could be, by its last word; `leaf`: leafs, leaves."""
    if re.search(r"(s|x|z|ch|sh)$", noun):
        return [noun + "es"]
    if re.search(r"[^aeiou]y$", noun):
        return [noun[:-1] + "ies"]
    irregular = re.sub(r"fe?$", "ves", noun), re.sub(r"man$", "men", noun)
    also = [plural for plural in irregular if plural != noun]
    return [noun + "s", *also, *([noun + "es"] if noun.endswith("o") else [])]


def graph_from_names(class_names: Sequence[str]) -> KnowledgeGraph:
    """What the class names say about each other.

    - `plural-of`: "trees plural-of tree", regular plurals and -f(e)/-ves, -man/-men.
    - `left-right`: "left arm" and "right arm", undirected.
    - `is-kind-of`: a name without its first words, the longest that is a class: "alarm clock
      is-kind-of clock". Names with "of" are passed over, as their head is not the last word.

    The rules know no meaning ("hot dog is-kind-of dog"): read the edges of a small data set, in a
    .json file. A name that several classes share, as bag.n.01 and bag.n.04 do, could mean either,
    so rules that arrive at one say nothing; `meta["ambiguous"]` counts them.

    Args:
        class_names: K names; words are separated by blanks or `_`, sense suffixes are ignored.
    """
    classes = defaultdict(list)
    for k, name in enumerate(class_names):
        classes[words(name)].append(k)
    edges: list[Edge] = []
    ambiguous = 0
    for name, found in classes.items():
        for relation, other in _related_names(name, classes):
            if len(found) == len(classes[other]) == 1:
                edges.append((relation, found[0], classes[other][0], 1.0))
            else:
                ambiguous += 1
    relations = {"is-kind-of": True, "plural-of": True, "left-right": False}
    return build_graph(class_names, relations, edges, {"source": "names", "ambiguous": ambiguous})


def _related_names(name: str, known: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """(relation, other) for "name relation other", where `other` is known too."""
    for singular in _singulars(name):
        if singular in known and name in plurals(singular):
            yield "plural-of", singular
    split = name.split()
    mirrored = " ".join("right" if word == "left" else word for word in split)
    if mirrored != name and mirrored in known:
        yield "left-right", mirrored
    tails = [" ".join(split[start:]) for start in range(1, len(split))]
    for tail in [] if "of" in split else tails:
        if tail in known:
            yield "is-kind-of", tail
            break


def _singulars(noun: str) -> list[str]:
    """All that could have `noun` among its `plurals`."""
    pairs = (("s", ""), ("es", ""), ("ies", "y"), ("ves", "f"), ("ves", "fe"), ("men", "man"))
    return [noun[: -len(a)] + b for a, b in pairs if noun.endswith(a) and noun != a]


def graph_from_cooccurrence(dataset: Mapping[str, Any]) -> KnowledgeGraph:
    """Classes that share more images than by chance: `co-occurs`, undirected.

    The weight is the pointwise mutual information where it is positive,
    `log(n n_ab / (n_a n_b))`: n images, n_a with class a, n_ab with both. Counts would tie every
    class to the frequent ones. Rare classes get large weights on little evidence: a pair seen
    together once is left out.

    Args:
        dataset: the content of a JSON file in COCO format; ValueError if it does not fit.
    """
    names = coco_class_names(dataset)
    for finding in type_findings(dataset):
        raise ValueError(str(finding))
    index = {id_: k for k, id_ in enumerate(sorted(c["id"] for c in dataset["categories"]))}
    seen: dict[Any, set[int]] = defaultdict(set)
    for annotation in dataset.get("annotations", []):
        if annotation.get("category_id") not in index:
            what = f"{annotation.get('id')!r} has category_id {annotation.get('category_id')!r}"
            raise ValueError(f"The annotation {what}, which is not in 'categories'.")
        seen[annotation.get("image_id")].add(index[annotation["category_id"]])
    n = len(dataset["images"])
    alone = Counter(k for classes in seen.values() for k in classes)
    together = Counter(
        pair for classes in seen.values() for pair in combinations(sorted(classes), 2)
    )
    edges = [
        ("co-occurs", a, b, math.log(n * n_ab / (alone[a] * alone[b])))
        for (a, b), n_ab in sorted(together.items())
        if n_ab > 1 and n * n_ab > alone[a] * alone[b]
    ]
    meta = {"source": "co-occurrence", "weight": "positive PMI", "images": n}
    return build_graph(names, {"co-occurs": False}, edges, meta)


def coco_class_names(dataset: Mapping[str, Any]) -> list[str]:
    """Class names in the order of the category ids; ValueError if this is not in COCO format."""
    problem = structure_problem(dataset)
    if problem:
        raise ValueError(problem)
    return [c["name"] for c in sorted(dataset["categories"], key=lambda c: c["id"])]


def graph_from_relationships(
    path: str | os.PathLike[str], class_names: Sequence[str], num_predicates: int
) -> KnowledgeGraph:
    """The most frequent predicates of Visual Genome's `relationships.json`, directed relations.

    The weight is the number of annotations "subject predicate object". A predicate is its synset if
    it has exactly one (`wear.v.01` for "wears" and "wearing"), else its words. Subject and object
    are the class of their synset, if they have exactly one and it is a class, else that of their
    first name. The file is read record by record, and what is not counted is in `meta`.

    Args:
        path: a list of `{"relationships": [{"predicate", "synsets", "subject", "object"}]}`, where
            subject and object have `name` or `names`, and `synsets`.
        class_names: K names, with senses (`bag.n.04`) or without.
        num_predicates: how many relations, at least 1.

    Raises:
        OSError, ValueError: the file cannot be read, or it or an argument does not fit.
    """
    if num_predicates < 1:
        raise ValueError(f"num_predicates must be at least 1, but it is {num_predicates}.")
    index = {_spoken(name): k for k, name in enumerate(class_names)}
    if len(index) != len(class_names):
        raise ValueError("Two classes have names that differ by case or '_' alone.")
    pairs: dict[str, Counter[tuple[int, int]]] = defaultdict(Counter)
    skipped = Counter({"annotations": 0, "unknown classes": 0, "same class": 0, "no predicate": 0})
    for relationship in _relationships(path):
        skipped["annotations"] += 1
        dst, src = (_class_of(relationship.get(end), index) for end in ("subject", "object"))
        if dst is None or src is None:
            skipped["unknown classes"] += 1
        elif dst == src:
            skipped["same class"] += 1
        elif not (predicate := _predicate(relationship)):
            skipped["no predicate"] += 1
        else:
            pairs[predicate][dst, src] += 1
    order = sorted(pairs, key=lambda name: (-pairs[name].total(), name))[:num_predicates]
    edges = [(name, *pair, pairs[name][pair]) for name in order for pair in sorted(pairs[name])]
    meta = {"source": "relationships", "predicates": len(pairs), **skipped}
    return build_graph(class_names, dict.fromkeys(order, True), edges, meta)


def _class_of(entity: Any, index: Mapping[str, int]) -> int | None:
    """The class of a subject or object, None if it is not known."""
    if not isinstance(entity, Mapping):
        return None
    synsets, names = _listed(entity.get("synsets")), _listed(entity.get("names"))
    candidates = [*(synsets if len(synsets) == 1 else []), *(names or [entity.get("name")])[:1]]
    found = (index.get(_spoken(name)) for name in candidates if isinstance(name, str))
    return next((k for k in found if k is not None), None)


def _listed(value: Any) -> list[Any]:
    """The value if it is a list, else no items."""
    return value if isinstance(value, list) else []


def _predicate(relationship: Mapping[str, Any]) -> str:
    """The name of the relation; "" if there is none."""
    synsets, spoken = _listed(relationship.get("synsets")), relationship.get("predicate")
    named = synsets[0] if len(synsets) == 1 and isinstance(synsets[0], str) else ""
    return named.strip() or (_spoken(spoken) if isinstance(spoken, str) else "")


def _relationships(path: str | os.PathLike[str]) -> Iterator[Mapping[str, Any]]:
    for number, record in enumerate(read_records(path)):
        found = record.get("relationships") if isinstance(record, Mapping) else None
        if not isinstance(found, list) or not all(isinstance(r, Mapping) for r in found):
            raise ValueError(f"{path}: record {number} has no list 'relationships' of objects.")
        yield from found


def import_pickle(path: str | os.PathLike[str], class_names: Sequence[str]) -> KnowledgeGraph:
    """A graph of Reasoning-RCNN or HKRM (`new_COCO_graph_r.pkl`); its relation is the file's name.

    It is a dense (K + 1, K + 1) matrix with the background first. Background and diagonal are left
    out and the values kept; a symmetric matrix becomes an undirected relation. `array_pickle` reads
    the file, and calls nothing that it names.

    Args:
        path: the pickle.
        class_names: K names in the order of the rows, which the file itself does not tell.

    Raises:
        OSError, ValueError: it cannot be read, or holds anything else.
    """
    content = Path(path).read_bytes()
    try:
        matrix = read_array(content)
    except Exception as error:  # a broken pickle raises whatever it likes
        reason = "".join(c if c.isprintable() else "?" for c in str(error)[:_LONGEST_REASON])
        raise ValueError(f"{path} is refused: {reason}.") from None
    shape = (len(class_names) + 1,) * 2
    if matrix is None or matrix.shape != shape:
        found = "no array" if matrix is None else f"{matrix.dtype} {matrix.shape}"
        raise ValueError(f"{path} must hold numbers {shape}, background first, but it is {found}.")
    with np.errstate(over="ignore"):  # weights are float32, so 1e300 is infinite and refused
        values = matrix[1:, 1:].astype(np.float32)
    np.fill_diagonal(values, 0)
    if not (np.isfinite(values) & (values >= 0)).all():
        raise ValueError(f"{path} holds numbers that are not finite and >= 0.")
    directed = not np.array_equal(values, values.T)
    dst, src = np.nonzero(values if directed else np.triu(values))
    name = Path(path).stem
    edges = [(name, int(a), int(b), float(values[a, b])) for a, b in zip(dst, src, strict=True)]
    return build_graph(class_names, {name: directed}, edges, {"source": Path(path).name})


def graph_from_scenes(content: Any) -> KnowledgeGraph:
    """What Relational Scenes are made by: "square_with_sun present sun", directed.

    Args:
        content: of the `class_graph.json` beside the scenes.

    Raises:
        ValueError: it is not such a file.
    """
    try:
        names, relations = list(content["classes"]), list(content["relations"])
        rows = {name: k for k, name in enumerate(names)}
        edges: list[Edge] = [
            (edge["relation"], rows[edge["class"]], rows[edge["partner"]], 1.0)
            for edge in content["edges"]
        ]
        directed = dict.fromkeys(relations, True)
        return build_graph(names, directed, edges, {"source": "Relational Scenes"})
    except (KeyError, TypeError) as error:
        raise ValueError(f"it is not the class graph of Relational Scenes: {error!r}.") from None


def shuffled(graph: KnowledgeGraph, seed: int) -> KnowledgeGraph:
    """The same edges between other classes, as a control: each class gets the edges of a random
    one. Embeddings stay with their classes."""
    generator = torch.Generator().manual_seed(seed)
    order = torch.randperm(len(graph.classes), generator=generator)
    return replace(
        graph,
        edge_dst=order[graph.edge_dst],
        edge_src=order[graph.edge_src],
        meta={**graph.meta, "shuffled": seed},
    )


def merge(graphs: Sequence[KnowledgeGraph]) -> KnowledgeGraph:
    """One graph with the relations of several, and with the classes in the order of the first.

    Raises:
        ValueError: they have other classes, share a relation, or two have embeddings.
    """
    graphs = [graph.reordered(graphs[0].classes) for graph in graphs]
    embeddings = [graph.embeddings for graph in graphs if graph.embeddings is not None]
    if len(embeddings) > 1:
        raise ValueError("Only one of the graphs may have embeddings.")
    starts = np.cumsum([0, *(len(graph.relations) for graph in graphs)])
    rows = [g.edge_relation + int(n) for g, n in zip(graphs, starts, strict=False)]
    return KnowledgeGraph(
        classes=graphs[0].classes,
        relations=tuple(name for graph in graphs for name in graph.relations),
        directed=tuple(value for graph in graphs for value in graph.directed),
        edge_relation=torch.cat(rows),
        edge_dst=torch.cat([graph.edge_dst for graph in graphs]),
        edge_src=torch.cat([graph.edge_src for graph in graphs]),
        edge_weight=torch.cat([graph.edge_weight for graph in graphs]),
        embeddings=embeddings[0] if embeddings else None,
        meta={"merged": [graph.meta for graph in graphs]},
    )
