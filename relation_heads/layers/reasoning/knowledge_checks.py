"""What holds for every knowledge graph, in sentences with the keys of its files.

`graph` is a `KnowledgeGraph` whose fields have been set. Shapes: K classes, E relations, nnz edges
of all relations, d channels of an embedding; see `knowledge_graph`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any, NoReturn

import torch
from torch import Tensor

from ..arguments import first_few

INVERSE = "inv:"  # begins the names of inverse relations


def require_none(key: str, rule: str, offenders: Sequence[str]) -> None:
    """Raises a ValueError that what `key` holds must `rule`, if there are offenders."""
    if offenders:
        refuse(key, rule, first_few(offenders))


def refuse(key: str, rule: str, offender: str) -> NoReturn:
    """Raises the ValueError of `require_none`."""
    raise ValueError(f"'{key}' must {rule}, but there is {offender}.")


def repeated(names: Iterable[Any]) -> list[str]:
    """What comes twice."""
    return [repr(name) for name, count in Counter(names).items() if count > 1]


def edges_as_text(graph: Any, rows: Tensor) -> list[str]:
    """The edges of some rows, (nnz,) bool, as a reader says them."""
    columns = (graph.edge_relation, graph.edge_dst, graph.edge_src, graph.edge_weight)
    return [
        f"'{graph.classes[dst]} {graph.relations[e]} {graph.classes[src]}' (weight {weight:g})"
        for e, dst, src, weight in zip(*(c[rows].tolist() for c in columns), strict=True)
    ]


def check_names(graph: Any) -> None:
    """Raises a ValueError of classes, relations and directions."""
    for key, names in (("classes", graph.classes), ("relations", graph.relations)):
        bad = [repr(name) for name in names if not isinstance(name, str) or not name.strip()]
        require_none(key, "hold names", bad)
        require_none(key, "be unique", repeated(names))
    if not graph.classes:
        refuse("classes", "hold names", "none")
    reserved = [repr(name) for name in graph.relations if name.startswith(INVERSE)]
    require_none("relations", f"not begin with {INVERSE!r}, which marks inverses", reserved)
    if [type(value) for value in graph.directed] != [bool] * len(graph.relations):
        rule = f"hold true or false for each of the {len(graph.relations)} relations"
        refuse("rel_directed", rule, str(list(graph.directed)))


def check_edges(graph: Any) -> None:
    """Raises a ValueError of the edges, for a graph whose names are right."""
    k, weight, shape = len(graph.classes), graph.edge_weight, tuple(graph.edge_weight.shape)
    if len(shape) != 1:
        refuse("edge_weight", "have one dimension", f"the shape {shape}")
    for key, indices, size in (
        ("edge_rel", graph.edge_relation, len(graph.relations)),
        ("edge_dst", graph.edge_dst, k),
        ("edge_src", graph.edge_src, k),
    ):
        if indices.is_floating_point() or tuple(indices.shape) != shape:
            found = f"{indices.dtype} of the shape {tuple(indices.shape)}"
            refuse(key, f"hold integers of the shape {shape}", found)
        outside = indices[(indices < 0) | (indices >= size)].tolist()
        require_none(key, f"be in 0..{size - 1}", [str(index) for index in outside])
    bad = ~(weight.isfinite() & (weight > 0))
    require_none("edge_weight", "be finite and > 0", edges_as_text(graph, bad))
    directed = torch.tensor(graph.directed, dtype=torch.bool)[graph.edge_relation]
    ends = torch.stack([graph.edge_dst, graph.edge_src])
    dst, src = torch.where(directed, ends, ends.sort(0).values)  # undirected: in either order
    code = (graph.edge_relation * k + dst) * k + src
    _, place, counts = code.unique(return_inverse=True, return_counts=True)
    require_none("edge_dst", "have each edge once", edges_as_text(graph, counts[place] > 1))


def check_embeddings_and_meta(graph: Any) -> None:
    """Raises a ValueError of the rest."""
    vectors = graph.embeddings
    if vectors is not None:
        k, shape = len(graph.classes), tuple(vectors.shape)
        if vectors.dtype != torch.float32 or len(shape) != 2 or shape[0] != k or 0 in shape:
            found = f"{vectors.dtype} of the shape {shape}"
            refuse("embeddings", f"hold float32 of the shape ({k}, d)", found)
        rows = (~vectors.isfinite()).any(1).nonzero().flatten().tolist()
        require_none("embeddings", "be finite", [f"that of {graph.classes[row]!r}" for row in rows])
    if not isinstance(graph.meta, dict):
        refuse("meta", "be an object", repr(graph.meta))
