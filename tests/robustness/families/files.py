"""Files that are given by name: configs, weights, class graphs, vocabularies; and what they run."""

from __future__ import annotations

import io
import json
import os
import pickle
import zipfile
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from tests.robustness.case import ACCEPTED, SENTENCE, Case, Workshop, tool, verb


class Runs:
    """What writes the canary when it is unpickled."""

    def __init__(self, canary: Path) -> None:
        self.canary = canary

    def __reduce__(self) -> Any:
        return Path.touch, (self.canary,)


def _saved(content: Any, **how: Any) -> bytes:
    file = io.BytesIO()
    torch.save(content, file, **how)
    return file.getvalue()


def cases_of_configs(shop: Workshop) -> Iterator[Case]:
    """YAMLs that cannot be read or do not fit."""
    canary = shop.canary
    texts: dict[str, str | bytes] = {
        "empty": "",
        "blank lines": "\n \n",
        "a comment": "# nothing else\n",
        "a list": "- a\n- b\n",
        "a number": "17",
        "a text": "relation",
        "null": "~",
        "a tab": "MODEL:\n\tMASK_ON: True\n",
        "an open bracket": "MODEL: {ROI_HEADS: {NAME: x}\n",
        "an open quote": "MODEL: 'abc\n",
        "two documents": "VERSION: 2\n---\nVERSION: 2\n",
        "a key that is a list": "[1, 2]: 3\n",
        "a number as key": "3: 4\n",
        "a node that is a number": "MODEL: 5\n",
        "a node that is a list": "MODEL: [1]\n",
        "a node that is null": "MODEL:\n",
        "a node inside that is null": "MODEL:\n  SGRN:\n",
        "a value that is a node": "MODEL: {MASK_ON: {A: 1}}\n",
        "an unknown tag": "MODEL: !mine x\n",
        "a tag that runs": f"OUTPUT_DIR: !!python/object/apply:os.system ['touch {canary}']\n",
        "a tag that runs, new": f"SEED: !!python/object/new:os.system ['touch {canary}']\n",
        "a tag that evaluates": f"SEED: !!python/object/apply:eval [\"open('{canary}', 'w')\"]\n",
        "a tag that names": "SEED: !!python/name:os.system\n",
        "a tag that imports": "SEED: !!python/module:os\n",
        "anchors that grow": "a: &a [x, x]\nb: &b [*a, *a]\nc: [*b, *b]\n",
        "an anchor in itself": "MODEL: &a {X: *a}\n",
        "not UTF-8": b"MODEL:\n  ROI_HEADS: {NAME: \xff\xfe}\n",
        "UTF-16": "VERSION: 2\n".encode("utf-16"),
        "a NUL": "MODEL:\0 1\n",
        "a picture": b"\x89PNG\r\n\x1a\n" + bytes(range(256)),
        "its own base": "_BASE_: own.yaml\n",
        "a base that is a number": "_BASE_: 3\n",
        "a base that is a list": "_BASE_: [a.yaml]\n",
        "a base that is not there": "_BASE_: none.yaml\n",
        "a base that is a folder": "_BASE_: ..\n",
        "a base elsewhere": "_BASE_: ftp://somewhere/x.yaml\n",
        "a base of null": "_BASE_:\n",
        "version 7": "VERSION: 7\n",
        "a text as version": "VERSION: two\n",
        "version 1": "VERSION: 1\nMODEL: {WEIGHT: x}\n",
        "an unknown key": "MODEL: {ROI_HEADS: {NAMES: x}}\n",
        "an unknown node": "MODEL: {RELATIONS: {A: 1}}\n",
        "deep lists": "SEED: " + "[" * 3000 + "]" * 3000,
        "deep nodes": "{A: " * 1500 + "1" + "}" * 1500,
        "many digits": "SEED: " + "9" * 6000,
    }
    for what, text in texts.items():
        path = shop.written("own.yaml", text)
        names = ("own.yaml", "DATASETS.TRAIN", "anchor", "key")
        run = partial(shop.train, config=path)
        yield Case("configs", "--config-file", what, SENTENCE, run, names)
        if "anchor" not in what and what != "null":
            run = partial(shop.train, flags=["--schedule", str(path)])
            yield Case("configs", "--schedule", what, SENTENCE, run, names)
    good = shop.written("own.yaml", "SOLVER: {BASE_LR: 0.5}\n")
    for what, path in _no_files(shop, "own.yaml"):
        run = partial(shop.train, config=path)
        yield Case("configs", "--config-file", what, SENTENCE, run, (str(path)[:40], "Config"))
    run = partial(shop.train, flags=["--schedule", str(good)])
    yield Case("configs", "--schedule", "right", ACCEPTED, run, ())


def _no_files(shop: Workshop, name: str) -> Iterator[tuple[str, Path | str]]:
    """Names under which there is no file that can be read."""
    closed = shop.written(name, "x")
    closed.chmod(0)
    link = shop.path(name)
    link.symlink_to(link)
    yield "is not there", shop.path(name)
    yield "a folder", shop.path(name).parent
    yield "below a file", shop.written(name, "x") / name
    yield "a link to itself", link
    yield "a long name", "x" * 400 + name
    yield "a NUL in its name", f"a\0{name}"
    if os.geteuid():  # root may read everything
        yield "not readable", closed


def weights_of(shop: Workshop) -> dict[str, bytes | str]:
    """Files that are no weights of the model, by what is wrong."""
    canary = shop.canary
    good = torch.load(shop.model, weights_only=True)
    state = dict(good["model"])
    name = "roi_heads.box_predictor.bbox_pred.bias"
    nan = {**state, name: torch.full_like(state[name], torch.nan)}
    inf = {**state, name: state[name].clone().fill_(-torch.inf)}
    whole = shop.model.read_bytes()
    middle = len(whole) // 2
    return {
        "empty.pth": b"", "empty.pkl": b"", "text.pth": "weights", "text.pkl": "weights",
        "cut.pth": whole[: len(whole) * 2 // 3],
        "one byte.pth": whole[:middle] + bytes([whole[middle] ^ 64]) + whole[middle + 1 :],
        "no end.pth": whole[:-30], "twice.pth": whole + whole[: len(whole) // 3],
        "zip.pth": _zip({"a": b"1"}), "runs.pth": _saved({"model": {"w": Runs(canary)}}),
        "runs old.pth": _saved({"model": Runs(canary)}, _use_new_zipfile_serialization=False),
        "runs.pkl": pickle.dumps({"model": {"w": Runs(canary)}}),
        "runs alone.pkl": pickle.dumps(Runs(canary)),
        "a list.pth": _saved([torch.zeros(2)]), "a tensor.pth": _saved(torch.zeros(2)),
        "a number.pkl": pickle.dumps(4.5), "a list.pkl": pickle.dumps([np.zeros(3)]),
        "nothing.pth": _saved({}), "no weights.pth": _saved({"model": {}}),
        "none.pth": _saved({"model": None}), "texts.pth": _saved({"model": {"a": "b"}}),
        "a model of numbers.pth": _saved({"model": 3}),
        "numbers.pth": _saved({"model": {name: 0.5}}),
        "keys.pth": _saved({"model": {3: state[name]}}),
        "others.pth": _saved({"model": {"w": torch.zeros(3), "v": torch.ones(2)}}),
        "others.pkl": pickle.dumps({"model": {"w": np.zeros(3)}, "__author__": "me"}),
        "shapes.pth": _saved({"model": {name: torch.zeros(5)}}),
        "nan.pth": _saved({"model": nan}), "inf.pth": _saved({"model": inf}),
        "complex.pth": _saved({"model": {name: state[name].to(torch.cfloat)}}),
        "objects.pkl": pickle.dumps({"model": {"w": np.array([None, {}], dtype=object)}}),
        "cut.pkl": pickle.dumps({"model": {"w": np.zeros(300)}})[:-200],
        "yaml.pth": "MODEL: {}\n", "picture.pth": b"\x89PNG\r\n\x1a\n" + bytes(200),
    }  # fmt: skip


def _zip(files: dict[str, bytes]) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return file.getvalue()


def cases_of_weights(shop: Workshop) -> Iterator[Case]:
    """Of a model that is evaluated, resumed or used."""
    image = next(shop.coco.image_root.iterdir())
    head = ["MODEL.ROI_HEADS.NAME", "RelationROIHeads"]
    for what, content in weights_of(shop).items():
        path = shop.written(what.replace(" ", "_"), content)
        names = (path.name,)
        run = partial(shop.train, *head, "MODEL.WEIGHTS", path, "OUTPUT_DIR", shop.path("out"),
                      flags=["--eval-only"], real=True)  # fmt: skip
        yield Case("weights", "train --eval-only MODEL.WEIGHTS", what, SENTENCE, run, names)
        run = partial(verb, "predict", str(path), str(image), "--no-pictures", "--json",
                      str(shop.path("x.json")))  # fmt: skip
        yield Case("weights", "predict", what, SENTENCE, run, names)
        if path.suffix == ".pth":
            folder = shop.path("out")
            folder.mkdir()
            (folder / "model_0000003.pth").write_bytes(path.read_bytes())
            run = partial(shop.train, *head, "OUTPUT_DIR", folder, flags=["--resume"], real=True)
            yield Case("weights", "train --resume", what, SENTENCE, run, ("model_0000003",))
    for what, no_file in _no_files(shop, "model.pth"):
        run = partial(shop.train, *head, "MODEL.WEIGHTS", no_file)
        yield Case("weights", "train MODEL.WEIGHTS", what, SENTENCE, run, ("MODEL.WEIGHTS",))
        run = partial(verb, "predict", str(no_file), str(image))
        names = ("model.pth", "Config", "config")
        yield Case("weights", "predict", what, SENTENCE, run, names)
    good = partial(verb, "predict", str(shop.model), str(image), "--no-pictures", "--json",
                   str(shop.path("x.json")))  # fmt: skip
    yield Case("weights", "predict", "right", ACCEPTED, good, ())
    other = partial(shop.train, "MODEL.WEIGHTS", shop.model, "OUTPUT_DIR", shop.path("out"),
                    "MODEL.ROI_HEADS.NAME", "SGRNROIHeads", flags=["--eval-only"],
                    real=True)  # fmt: skip
    yield Case("weights", "train --eval-only MODEL.WEIGHTS", "another head", SENTENCE, other,
               ("model_final.pth",))  # fmt: skip


def cases_of_graphs(shop: Workshop) -> Iterator[Case]:
    """Class graphs, and vocabularies that they are made from."""
    names = [f"class{k}" for k in range(3)]

    def graph(**change: Any) -> str:
        relation = {"name": "near", "directed": False, "edges": [[names[0], names[1], 1.5]]}
        content = {"version": 1, "classes": names, "relations": [relation]}
        for key, value in change.items():
            (relation if key in relation else content)[key] = value
        return json.dumps(content)

    wrong: dict[str, str | bytes] = {
        "empty": "", "a list": "[]", "a number": "1e3", "cut": graph()[:-9], "null": "null",
        "another version": graph(version=2), "a text as version": graph(version="1"),
        "no classes": graph(classes=[]), "classes that are numbers": graph(classes=[1, 2, 3]),
        "a class twice": graph(classes=[names[0], names[0], names[1]]),
        "too few classes": graph(classes=names[:2]), "too many": graph(classes=[*names, "more"]),
        "other classes": graph(classes=["a", "b", "c"], edges=[["a", "b", 1]]),
        "classes that are null": graph(classes=None), "relations that are a text":
        graph(relations="near"), "a relation that is a list": graph(relations=[[1]]),
        "a name that is a number": graph(name=3), "an empty name": graph(name=""),
        "directed: maybe": graph(directed="maybe"), "edges that are null": graph(edges=None),
        "an edge of two": graph(edges=[[names[0], names[1]]]),
        "an edge of numbers": graph(edges=[[0, 1, 1.0]]),
        "an edge to nowhere": graph(edges=[[names[0], "nowhere", 1.0]]),
        "a weight below 0": graph(edges=[[names[0], names[1], -0.5]]),
        "a weight of NaN": graph(edges=[[names[0], names[1], float("nan")]]),
        "a weight of 1e400": graph(edges=[[names[0], names[1], 1]]).replace(" 1]", " 1e400]"),
        "a weight that is a text": graph(edges=[[names[0], names[1], "1"]]),
        "a weight that is true": graph(edges=[[names[0], names[1], True]]),
        "an edge twice": graph(edges=[[names[0], names[1], 1.0]] * 2),
        "not UTF-8": graph().encode().replace(b"near", b"n\xffar"),
        "deep": "[" * 50_000, "many digits": '{"version": ' + "1" * 9000 + "}",
    }  # fmt: skip
    arrays = {
        "no arrays.npz": _zip({}),
        "text.npz": b"text",
        "empty.npz": b"",
        "pickled.npz": _npz(classes=np.array([Runs(shop.canary)], dtype=object)),
        "numbers.npz": _npz(classes=np.arange(3)),
        "a picture.npz": _zip({"a.png": b"\x89PNG"}),
        "huge.npz": _zip({"classes.npy": _header((10**12,))}),
        "negative.npz": _zip({"classes.npy": _header((-4,))}),
    }
    base = ["MODEL.ROI_HEADS.NAME", "ReasoningROIHeads", "MODEL.REASONING.GLOBAL.GRAPH_FILE"]
    for what, content in {**{f"{k}.json": v for k, v in wrong.items()}, **arrays}.items():
        path = shop.written(what.replace(" ", "_").replace(":", ""), content)
        run = partial(shop.train, *base, path)
        yield Case("class graphs", "GRAPH_FILE", what, SENTENCE, run, ("GRAPH_FILE",),
                   (path.name,))  # fmt: skip
        if what not in ("too few classes.json", "too many.json", "other classes.json"):
            run = partial(tool, "build_knowledge_graph", "show", path)
            yield Case("class graphs", "build_knowledge_graph.py show", what, SENTENCE, run,
                       (path.name,))  # fmt: skip
    right = shop.written("graph.json", graph())
    yield Case("class graphs", "GRAPH_FILE", "right", ACCEPTED,
               partial(shop.train, *base, right), ())  # fmt: skip
    yield from _vocabularies(shop)


def _npz(**arrays: Any) -> bytes:
    file = io.BytesIO()
    np.savez(file, **arrays)
    return file.getvalue()


def _header(shape: tuple[int, ...]) -> bytes:
    file = io.BytesIO()
    np.lib.format.write_array_header_1_0(
        file, {"descr": "<U8", "fortran_order": False, "shape": shape}
    )
    return file.getvalue()


def _vocabularies(shop: Workshop) -> Iterator[Case]:
    """Lists of names, and annotations, that a graph is made from."""
    output = shop.path("graph.json")
    lists: dict[str, str | bytes] = {
        "empty": "", "blank": "\n\n", "a name twice": "cat\ndog\ncat\n", "not UTF-8": b"c\xe4t\n",
        "a NUL": "cat\0\ndog\n",
    }  # fmt: skip
    build: Callable[..., Any] = partial(tool, "build_knowledge_graph")
    for what, content in lists.items():
        path = shop.written("names.txt", content)
        run = partial(build, "relationships", shop.written("r.json", "[]"), "--classes", path,
                      "--output", output)  # fmt: skip
        yield Case("vocabularies", "--classes", what, SENTENCE, run, ("names.txt", "class"))
    jsons: dict[str, str] = {
        "empty": "", "a number": "5", "an object": "{}", "a list of numbers": "[1, 2]",
        "null inside": "[null]", "relationships: 3": '[{"relationships": 3}]',
        "a relationship that is a text": '[{"relationships": ["x"]}]',
        "no subject": '[{"relationships": [{"predicate": "on"}]}]', "deep": "[" * 30_000,
    }  # fmt: skip
    classes = shop.written("names.txt", "cat\ndog\n")
    for what, text in jsons.items():
        path = shop.written("rel.json", text)
        run = partial(build, "relationships", path, "--classes", classes, "--output", output)
        yield Case("vocabularies", "relationships.json", what, SENTENCE, run,
                   ("rel.json", "No edge"))  # fmt: skip
    for what, text in {"empty": "", "a list": "[]", "no categories": '{"images": []}',
                       "names: null": '{"images": [], "categories": [{"id": 1, "name": null}]}',
                       "mixed ids": '{"images": [], "categories": [{"id": 1, "name": "a"}, '
                       '{"id": "b", "name": "b"}], "annotations": []}'}.items():  # fmt: skip
        path = shop.written("coco.json", text)
        run = partial(build, "cooccurrence", "--coco", path, "--output", output)
        yield Case("vocabularies", "--coco", what, SENTENCE, run, ("coco.json",))
    for what, content in {"runs": pickle.dumps(Runs(shop.canary)), "text": b"x",
                          "a number": pickle.dumps(3), "empty": b""}.items():  # fmt: skip
        path = shop.written("graph.pkl", content)
        run = partial(build, "import", path, "--classes", classes, "--output", output)
        yield Case("vocabularies", "pickle", what, SENTENCE, run, ("graph.pkl",))
