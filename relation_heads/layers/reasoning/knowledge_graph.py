"""Knowledge graph: typed, weighted edges between the classes of a data set, and its two files.

Source: the class-to-class edges of Chen et al., "Iterative Visual Reasoning Beyond Convolutions",
CVPR 2018, eq. 3, where each relation e has a matrix with rows that sum to 1:

    G_c = sum_e A_e M W_e        A_e: (K, K), M: (K, D) what the classes know, W_e: (D, D')

A_e[dst, src] is the weight of the message from class src to class dst. An edge reads "dst relation
src": by "cake is-kind-of food" cake hears from food. A directed relation comes with its inverse,
`inv:is-kind-of`, with its own W_e. An undirected one has each pair once, in either order, and the
messages go both ways.

`.npz`: `format_version` 1; `classes` (K,) and `relations` (E,) names; `rel_directed` (E,) bool;
`edge_rel` (nnz,) int16, `edge_dst` and `edge_src` (nnz,) int32, `edge_weight` (nnz,) float32;
optional `embeddings` (K, d) float32 and `meta`, a JSON object. No pickles.
`.json`: the same with names instead of indices, for editing by hand, and without embeddings:

    {"version": 1, "classes": ["cake", "food"], "relations": [
      {"name": "is-kind-of", "directed": true, "edges": [["cake", "food", 1.0]]}], "meta": {}}

Shapes: K classes, E relations, nnz edges of all relations, d channels of an embedding.
"""

from __future__ import annotations

import json
import os
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..arguments import first_few
from .knowledge_checks import (
    INVERSE,
    check_edges,
    check_embeddings_and_meta,
    check_names,
    edges_as_text,
    refuse,
    repeated,
    require_none,
)

_VERSION = 1
_LARGEST = 2**31  # bytes of all arrays of a file
# Key of the .npz file: attribute, dtype in the file.
_NPZ: dict[str, tuple[str, type[np.generic]]] = {
    "classes": ("classes", np.str_), "relations": ("relations", np.str_),
    "rel_directed": ("directed", np.bool_), "edge_rel": ("edge_relation", np.int16),
    "edge_dst": ("edge_dst", np.int32), "edge_src": ("edge_src", np.int32),
    "edge_weight": ("edge_weight", np.float32), "embeddings": ("embeddings", np.float32),
}  # fmt: skip
_dumps = json.JSONEncoder(ensure_ascii=False).encode
_EDGE_TYPES = ([str, str, int], [str, str, float])  # in the .json file


@dataclass(frozen=True, eq=False)
class KnowledgeGraph:
    """Typed edges between K classes, checked when it is made; self-loops are left out.

    Attributes:
        classes: K names, in the order in which a model numbers them.
        relations: E names.
        directed: (E,) whether "a relation b" differs from "b relation a".
        edge_relation: (nnz,) int64 in 0..E-1.
        edge_dst: (nnz,) int64 in 0..K-1, the class that hears.
        edge_src: (nnz,) int64 in 0..K-1, the class that is heard.
        edge_weight: (nnz,) float32, > 0.
        embeddings: (K, d) float32 vectors of the names, or None.
        meta: where it comes from; anything that JSON can hold.

    Raises:
        ValueError: something does not fit; names the key of the file format and the first five.
    """

    classes: tuple[str, ...]
    relations: tuple[str, ...]
    directed: tuple[bool, ...]
    edge_relation: Tensor
    edge_dst: Tensor
    edge_src: Tensor
    edge_weight: Tensor
    embeddings: Tensor | None = None
    meta: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name in ("classes", "relations", "directed"):
            object.__setattr__(self, name, tuple(getattr(self, name)))
        check_names(self)
        check_edges(self)
        check_embeddings_and_meta(self)
        loops = self.edge_dst == self.edge_src
        if loops.any():
            warnings.warn(
                f"Self-loops left out: {first_few(edges_as_text(self, loops))}.", stacklevel=3
            )
        for name in ("edge_relation", "edge_dst", "edge_src", "edge_weight"):
            dtype = torch.float32 if name == "edge_weight" else torch.int64
            object.__setattr__(self, name, getattr(self, name)[~loops].to(dtype))

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> KnowledgeGraph:
        """Reads a `.npz` or `.json` file.

        Raises:
            OSError, ValueError: it cannot be read, or what is wrong with it, and with which key.
        """
        read = _read_npz if check_suffix(path) == ".npz" else _read_json
        try:
            return read(path)
        except ValueError as error:
            raise ValueError(f"{path}: {error}") from None

    def save(self, path: str | os.PathLike[str]) -> None:
        """Writes a `.npz` or `.json` file, over what was there.

        Raises:
            OSError: it cannot be written.
            ValueError: other names, or embeddings that a `.json` file has no place for.
        """
        if check_suffix(path) == ".npz":
            values = {key: (getattr(self, name), dtype) for key, (name, dtype) in _NPZ.items()}
            arrays = {k: np.asarray(v).astype(t) for k, (v, t) in values.items() if v is not None}
            arrays |= {
                "format_version": np.array(_VERSION),
                "meta": np.array(json.dumps(self.meta)),
            }
            np.savez_compressed(path, allow_pickle=False, **arrays)
        elif self.embeddings is None:
            Path(path).write_text(_json_text(self), encoding="utf-8")
        else:
            raise ValueError(f"{path}: a graph with embeddings needs an .npz file.")

    def reordered(self, class_names: Sequence[str]) -> KnowledgeGraph:
        """The same graph with its classes in the order of a data set.

        Args:
            class_names: the same K names; ValueError with what is missing and too many if not.
        """
        require_none("class names", "be unique", repeated(class_names))
        mine, theirs = set(self.classes), set(class_names)
        if mine != theirs:
            missing = first_few([repr(name) for name in class_names if name not in mine])
            extra = first_few([repr(name) for name in self.classes if name not in theirs])
            differences = f"missing: {missing or 'none'}; too many: {extra or 'none'}"
            raise ValueError(f"'classes' must be those asked for, but {differences}.")
        old = {name: k for k, name in enumerate(self.classes)}
        order = torch.tensor([old[name] for name in class_names])  # (K,) new -> old
        new = order.argsort()  # (K,) old -> new
        dst, src = new[self.edge_dst], new[self.edge_src]
        vectors = None if self.embeddings is None else self.embeddings[order]
        return replace(
            self, classes=tuple(class_names), edge_dst=dst, edge_src=src, embeddings=vectors
        )

    def adjacencies(self) -> list[tuple[str, Tensor]]:
        """A_e of every relation, after a directed one its inverse.

        Returns:
            names and (K, K) sparse COO float32 matrices; each row sums to 1, or is empty.
        """
        found = []
        for e, (name, directed) in enumerate(zip(self.relations, self.directed, strict=True)):
            mine = self.edge_relation == e
            dst, src, weight = self.edge_dst[mine], self.edge_src[mine], self.edge_weight[mine]
            if directed:
                found.append((name, self._matrix(dst, src, weight)))
                found.append((INVERSE + name, self._matrix(src, dst, weight)))
            else:
                both = torch.cat([dst, src]), torch.cat([src, dst])
                found.append((name, self._matrix(*both, weight.repeat(2))))
        return found

    def adjacency(self, *, normalize: bool = True) -> Tensor:
        """All relations in one matrix, along each edge both ways.

        Args:
            normalize: the mean of `adjacencies` over the relations of a row, so that a row sums to
                1, or is empty. False: the sums of the weights as they are in the file.

        Returns:
            (K, K) sparse COO float32.
        """
        if normalize and self.relations:
            parts = [matrix for _, matrix in self.adjacencies()]
            dst, src = torch.cat([part.indices() for part in parts], dim=1).unbind()
            return self._matrix(dst, src, torch.cat([part.values() for part in parts]))
        both = torch.cat([self.edge_dst, self.edge_src]), torch.cat([self.edge_src, self.edge_dst])
        return self._sparse(*both, self.edge_weight.repeat(2))

    def _matrix(self, dst: Tensor, src: Tensor, weight: Tensor) -> Tensor:
        weight = weight.double()  # sums of large weights stay finite
        sums = weight.new_zeros(len(self.classes)).index_add(0, dst, weight)
        return self._sparse(dst, src, (weight / sums[dst]).float())

    def _sparse(self, dst: Tensor, src: Tensor, values: Tensor) -> Tensor:
        # COO, not CSR: the products of CSR matrices have no bfloat16 on the CPU.
        size, ends = (len(self.classes),) * 2, torch.stack([dst, src])
        return torch.sparse_coo_tensor(ends, values, size, check_invariants=True).coalesce()

    def describe(self) -> str:
        """One line about the classes, then one per relation: its edges and its empty rows."""
        k, vectors = len(self.classes), "without" if self.embeddings is None else "with"
        lines = [f"{k} classes {vectors} embeddings, {len(self.relations)} relations"]
        empty = {name: k - len(a.indices()[0].unique()) for name, a in self.adjacencies()}
        for e, name in enumerate(self.relations):
            edges = int((self.edge_relation == e).sum())
            kind, inverse = "undirected", ""
            if self.directed[e]:
                kind, inverse = "directed", f", {empty[INVERSE + name]} of its inverse"
            lines.append(f"  {name} ({kind}): {edges} edges, {empty[name]} empty rows{inverse}")
        return "\n".join(lines)


def check_suffix(path: str | os.PathLike[str]) -> str:
    """`.npz` or `.json`; ValueError if the name of the file ends in neither."""
    suffix = Path(path).suffix
    if suffix not in (".npz", ".json"):
        raise ValueError(f"{path}: the name of a knowledge graph's file ends in .npz or .json.")
    return suffix


def _check_keys(where: str, content: Any, required: set[str], optional: set[str]) -> None:
    if not isinstance(content, dict):
        raise ValueError(f"{where} must be an object, not {content!r:.40}.")
    missing = first_few([repr(key) for key in sorted(required - content.keys())])
    unknown = first_few([repr(key) for key in content if key not in required | optional])
    if missing or unknown:
        raise ValueError(f"{where} lacks {missing or 'no key'}; unknown: {unknown or 'none'}.")


def _check_version(key: str, version: Any) -> None:
    if version != _VERSION:
        refuse(key, f"be {_VERSION}", repr(version))


def _read_npz(path: str | os.PathLike[str]) -> KnowledgeGraph:
    try:
        with np.load(path, allow_pickle=False) as file:
            size = sum(entry.file_size for entry in file.zip.infolist())
            if size > _LARGEST:
                raise ValueError(f"it has {size} bytes when unpacked, at most {_LARGEST} are read")
            arrays = {key: file[key] for key in file.files}
        meta = json.loads(str(arrays.pop("meta", "{}")))
    except Exception as error:  # a damaged archive can raise anything
        if isinstance(error, OSError) and error.filename:
            raise
        raise ValueError(f"no .npz file, or not one without pickles: {error}.") from None
    _check_keys("it", arrays, {"format_version", *_NPZ} - {"embeddings"}, {"embeddings"})
    _check_version("format_version", arrays.pop("format_version").tolist())
    fields: dict[str, Any] = {"meta": meta}
    for key, array in arrays.items():
        name, dtype = _NPZ[key]
        if not np.can_cast(array.dtype, dtype, "same_kind"):
            refuse(key, f"hold {dtype.__name__}", str(array.dtype))
        if dtype in (np.str_, np.bool_):
            fields[name] = array.tolist()
        else:
            wide = np.float32 if dtype is np.float32 else np.int64
            fields[name] = torch.from_numpy(array.astype(wide))
    return KnowledgeGraph(**fields)


def _read_json(path: str | os.PathLike[str]) -> KnowledgeGraph:
    try:
        content = json.loads(Path(path).read_text(encoding="utf-8"))
    except (RecursionError, ValueError) as error:  # nested too deep; also what is not UTF-8
        raise ValueError(f"it is not a JSON file: {error}.") from None
    _check_keys("it", content, {"version", "classes", "relations"}, {"meta"})
    _check_version("version", content["version"])
    classes, relations = content["classes"], content["relations"]
    for key in ("classes", "relations"):
        if not isinstance(content[key], list):
            refuse(key, "be a list", repr(content[key]))
    index = {name: k for k, name in enumerate(classes) if isinstance(name, str)}
    edges: list[tuple[int, int, int, float]] = []
    for e, relation in enumerate(relations):
        _check_keys(f"relations[{e}]", relation, {"name", "directed", "edges"}, set())
        edges += _read_edges(e, relation["edges"], index)
    columns = torch.tensor(edges, dtype=torch.float64).reshape(-1, 4).T
    rel, dst, src = columns[:3].long()
    names = tuple(relation["name"] for relation in relations)
    directed = tuple(relation["directed"] for relation in relations)
    meta = content.get("meta", {})
    return KnowledgeGraph(classes, names, directed, rel, dst, src, columns[3].float(), None, meta)


def _read_edges(e: int, edges: Any, index: dict[str, int]) -> list[tuple[int, int, int, float]]:
    """(relation, dst, src, weight) of the edges of relation number `e` of a .json file."""

    def fits(edge: Any) -> bool:
        types = [type(value) for value in edge] if isinstance(edge, list) else None
        return types in _EDGE_TYPES and {*edge[:2]} <= index.keys()

    edges = edges if isinstance(edges, list) else [edges]
    rule = "hold lists [class, class, weight] with names of 'classes'"
    bad = [_dumps(edge) for edge in edges if not fits(edge)]
    require_none(f"relations[{e}].edges", rule, bad)
    return [(e, index[dst], index[src], weight) for dst, src, weight in edges]


def _json_text(graph: KnowledgeGraph) -> str:
    """What the .json file holds, an edge on each line."""
    edges: list[list[str]] = [[] for _ in graph.relations]
    columns = (graph.edge_relation, graph.edge_dst, graph.edge_src)
    weights = [float(str(w)) for w in graph.edge_weight.numpy()]  # 0.1, not 0.10000000149
    for e, dst, src, w in zip(*(c.tolist() for c in columns), weights, strict=True):
        edges[e].append("\n    " + _dumps([graph.classes[dst], graph.classes[src], w]))
    relations = [
        f'\n  {{"name": {_dumps(n)}, "directed": {_dumps(d)}, "edges": [{",".join(lines)}]}}'
        for n, d, lines in zip(graph.relations, graph.directed, edges, strict=True)
    ]
    head = f'{{"version": {_VERSION},\n "classes": {_dumps(graph.classes)},\n "relations": ['
    return head + ",".join(relations) + f'],\n "meta": {_dumps(graph.meta)}}}\n'
