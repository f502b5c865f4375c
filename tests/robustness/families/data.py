"""Data sets: annotations with other values in one place, results, and images that are none."""

from __future__ import annotations

import json
import os
import struct
import zlib
from collections.abc import Iterator
from functools import partial
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from tests.robustness.case import ACCEPTED, SENTENCE, Case, Workshop, tool, verb

MISSING = object()
NAN, INF = float("nan"), float("inf")
# Place -> values that nothing can be done with.
WRONG: dict[tuple[Any, ...], list[Any]] = {
    (): [[], 7, None, "coco", {}, {"images": []}, {"categories": []}],
    ("images",): [MISSING, None, 3, {}, "x", [None], [[]], ["a"]],
    ("categories",): [MISSING, None, [], 3, [None], [[1]], {"id": 1}, ["cat"]],
    ("annotations",): [None, 9, {}, "x", [None], ["a"], [[]]],
    ("categories", 0, "id"): [MISSING, None, "a", 2, 1e300 * 10, NAN, 2**70, [1], {}, True],
    ("categories", 0, "name"): [MISSING, None, 5, [], "class1", {}, True],
    ("images", 0, "id"): [MISSING, None, "b", 2, [], {}, NAN, 2**64, True],
    ("images", 0, "file_name"): [MISSING, None, 5, [], {}, "a\0b.png", "../../data/x.png",
                                 "/etc/hostname", "", ".", "none.png", "\ud800.png"],
    ("images", 0, "width"): [MISSING, None, 0, -96, "96", NAN, INF, [], 95, 10**12],
    ("images", 0, "height"): [MISSING, None, 0, -1, "x", -INF, {}, 63],
    ("annotations", 0, "id"): [MISSING, None, 0, 2, "b7", NAN, 2**65, [], {}],
    ("annotations", 0, "image_id"): [MISSING, None, 77, "x", [], {}, NAN],
    ("annotations", 0, "category_id"): [MISSING, None, 44, -1, "x", [], NAN],
    ("annotations", 0, "bbox"): [MISSING, None, [], [1, 2, 3], [1, 2, 3, 4, 5], "1234", 8,
                                 [1, 2, "3", 4], [NAN, 1, 2, 3], [1, 1, INF, 5], [None] * 4,
                                 [[1], [2], [3], [4]], [1, 2, 1e400, 3], {"x": 1}],
    ("annotations", 0, "area"): [MISSING, None, -4, "big", NAN, [], INF],
    ("annotations", 0, "iscrowd"): [MISSING],
    ("annotations", 0, "ignore"): [1, "yes"],
}  # fmt: skip
# What pycocotools leaves out or does not read, and the evaluation warns of.
LENIENT = [("name", "class1"), ("id", 0), ("image_id", 77), ("category_id", 44),
           ("category_id", -1), ("area", -4), ("ignore", 1), ("ignore", "yes")]  # fmt: skip
# The same, with values that are odd and work.
RIGHT: dict[tuple[Any, ...], list[Any]] = {
    ("images", 0, "extra"): [None, {"a": [1]}],
    ("annotations", 0, "bbox"): [[3, 2, 10.25, 8]],
    ("annotations", 0, "area"): [0.5, 10**6],
    ("annotations", 0, "id"): [10**9],
    ("categories", 2, "name"): ["кошка", "a b"],
    ("info",): [None, "x"],
}


def changed(tree: Any, place: tuple[Any, ...], value: Any) -> Any:
    """A copy of a JSON tree in which something else stands at a place."""
    if not place:
        return value
    copy = json.loads(json.dumps(tree))
    inside = copy
    for key in place[:-1]:
        inside = inside[key]
    if value is MISSING:
        del inside[place[-1]]
    else:
        inside[place[-1]] = value
    return copy


def _shown(place: tuple[Any, ...], value: Any) -> str:
    where = ".".join(map(str, place)) or "all of it"
    return f"{where}: {'missing' if value is MISSING else repr(value)[:40]}"


def cases_of_annotations(shop: Workshop) -> Iterator[Case]:
    """check_dataset, the check of a training, and the evaluation of results have one opinion."""
    results = shop.written("results.json", "[]")
    for expected, table in ((SENTENCE, WRONG), (ACCEPTED, RIGHT)):
        for place, values in table.items():
            for value in values:
                text = json.dumps(changed(shop.coco.dataset, place, value))
                path = shop.written("coco.json", text)
                shown = _shown(place, value)
                names, file = (str(place[-1]) if place else "coco.json",), ("coco.json", "tiny")
                names += ("image 1",) if place[-1:] == ("file_name",) else ()
                run = partial(tool, "check_dataset", "--dataset", "one", path,
                              shop.coco.image_root)  # fmt: skip
                yield Case("annotations", "check_dataset.py", shown, expected, run, names, code=1)
                outside = place[-1:] in (("file_name",), ("width",), ("height",))
                if expected == SENTENCE and outside and isinstance(value, str | int):
                    continue  # whether the image fits is seen when it is read
                run = partial(shop.train, coco=(path, shop.coco.image_root))
                yield Case("annotations", "train --dataset", shown, expected, run, names, file)
                if place[:1] in (("annotations",), ("categories",)) and len(place) == 3:
                    run = partial(tool, "evaluate_results", path, results)
                    lenient = ACCEPTED if (place[-1], value) in LENIENT else expected
                    yield Case("annotations", "evaluate_results.py", shown, lenient, run, names,
                               file)  # fmt: skip
    for what, text in {
        "cut": json.dumps(shop.coco.dataset)[:-40], "empty": "",
        "deep": '{"images":' + "[" * 60_000,
        "digits": '{"images": [' + "7" * 8000 + "]}", "a comma": '{"images": [],}',
        "not UTF-8": b'{"images": ["\xff"]}', "two values": "{} {}", "NUL": b"\0" * 30,
    }.items():  # fmt: skip
        path = shop.written("coco.json", text)
        for subject, run in (
            ("check_dataset.py", partial(tool, "check_dataset", "--dataset", "one", path,
                                         shop.coco.image_root)),
            ("train --dataset", partial(shop.train, coco=(path, shop.coco.image_root))),
            ("evaluate_results.py", partial(tool, "evaluate_results", path, results)),
            ("take_images.py", partial(tool, "take_images", path, shop.path("less.json"))),
            ("dataset_figures.py", partial(tool, "dataset_figures", path, "--output",
                                           shop.path("a.png"))),
        ):  # fmt: skip
            code = 1 if subject == "check_dataset.py" else 2  # it has found something
            yield Case("annotations", subject, what, SENTENCE, run, ("coco.json",), code=code)
    yield from _results(shop)


def _results(shop: Workshop) -> Iterator[Case]:
    right = {"image_id": 1, "category_id": 1, "bbox": [1.0, 2.0, 3.0, 4.0], "score": 0.5}
    wrong: dict[str, Any] = {
        "a number": 5, "an object": {}, "null inside": [None], "a list inside": [[]],
        **{f"{key}: missing": [{k: v for k, v in right.items() if k != key}] for key in right},
        **{f"{key}: {value!r}": [{**right, key: value}] for key, values in {
            "image_id": [None, "x", 99, [], NAN], "category_id": [None, "x", -4, 99, {}],
            "bbox": [None, [1, 2, 3], "x", [1, 2, NAN, 3], [1, 2, "x", 3]],
            "score": [None, "high", NAN, [], INF],
        }.items() for value in values},
    }  # fmt: skip
    for what, content in wrong.items():
        path = shop.written("found.json", json.dumps(content))
        run = partial(tool, "evaluate_results", shop.coco.json_file, path)
        yield Case("annotations", "results of evaluate_results.py", what, SENTENCE, run,
                   ("found.json",))  # fmt: skip
    path = shop.written("found.json", json.dumps([right]))
    yield Case("annotations", "results of evaluate_results.py", "right", ACCEPTED,
               partial(tool, "evaluate_results", shop.coco.json_file, path), ())  # fmt: skip


def images_of(shop: Workshop) -> dict[str, bytes]:
    """Files that are no images of 96 x 64 pixels, by what is wrong."""
    pixels = np.random.default_rng(shop.rng.randrange(9)).integers(256, size=(64, 96, 3))
    picture = Image.fromarray(pixels.astype(np.uint8))
    files = {}
    for kind in ("PNG", "JPEG", "BMP", "GIF", "WEBP"):
        file = BytesIO()
        picture.save(file, kind)
        files[kind] = file.getvalue()
    png = files["PNG"]
    return {
        "empty": b"", "text": b"no picture", "zeros": bytes(4000), "an SVG": b"<svg></svg>",
        "half a JPEG": files["JPEG"][: len(files["JPEG"]) // 2],
        "start of a JPEG": files["JPEG"][:20], "half a PNG": png[: len(png) // 2],
        "a PNG with other bytes": png[:200] + bytes(300) + png[500:], "start of a PNG": png[:33],
        "half a WebP": files["WEBP"][: len(files["WEBP"]) // 2],
        "start of a GIF": files["GIF"][:15], "start of a BMP": files["BMP"][:40],
        "a bomb": _png(70_000, 70_000), "a bar": _png(1, 3000), "one pixel": _png(1, 1),
        "no width": _png(0, 5), "another size": _png(40, 30, pixels=True),
    }  # fmt: skip


def _png(width: int, height: int, pixels: bool = False) -> bytes:
    """A PNG that says it has this size."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        crc = zlib.crc32(kind + content)
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", crc)

    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    rows = (b"\0" + bytes(width)) * height if pixels or width * height < 10_000 else b"\0" * 9
    body = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + body


def _folder_with(shop: Workshop, content: bytes | None, kind: str = "") -> Path:
    """The images of the data set, the first of which is another one."""
    folder = shop.path("images")
    folder.mkdir()
    for path in shop.coco.image_root.iterdir():
        os.link(path, folder / path.name)
    first = folder / shop.coco.dataset["images"][0]["file_name"]
    first.unlink()
    if kind == "FIFO":
        os.mkfifo(first)
    elif kind == "folder":
        first.mkdir()
    elif kind == "loop":
        first.symlink_to(first)
    elif content is not None:
        first.write_bytes(content)
    return folder


def cases_of_images(shop: Workshop) -> Iterator[Case]:
    """In training with no patience and with some, in check_dataset, in predict."""
    files: dict[str, tuple[bytes | None, str]] = {k: (v, "") for k, v in images_of(shop).items()}
    files |= {kind: (None, kind) for kind in ("FIFO", "folder", "loop", "nothing")}
    name = shop.coco.dataset["images"][0]["file_name"]
    for what, (content, kind) in files.items():
        readable = what == "a PNG with other bytes"  # as many, of other colours
        folder = _folder_with(shop, content, kind)
        coco = (shop.coco.json_file, folder)
        run = partial(tool, "check_dataset", "--dataset", "one", *coco)
        expected = ACCEPTED if readable else SENTENCE
        yield Case("images", "check_dataset.py", what, expected, run, (name,), code=1)
        opts = ["SOLVER.MAX_ITER", 2, "SOLVER.IMS_PER_BATCH", 4, "DATASETS.TEST", ()]
        run = partial(shop.train, *opts, "DATALOADER.MAX_BROKEN", 0, "OUTPUT_DIR",
                      shop.path("out"), coco=coco, real=True)  # fmt: skip
        yield Case("images", "train, MAX_BROKEN 0", what, expected, run, (name,))
        run = partial(verb, "predict", str(shop.model), str(folder / name), "--no-pictures",
                      "--json", str(shop.path("x.json")))  # fmt: skip
        sized = what in ("one pixel", "another size")
        yield Case("images", "predict", what, ACCEPTED if sized or readable else SENTENCE, run,
                   (name, "narrow"))  # fmt: skip
        if what in ("half a JPEG", "FIFO", "a bomb", "nothing"):
            run = partial(shop.train, *opts, "OUTPUT_DIR", shop.path("out"), coco=coco, real=True)
            yield Case("images", "train, MAX_BROKEN 10", what, ACCEPTED, run, (name,))
            run = partial(shop.train, "MODEL.WEIGHTS", shop.model, "MODEL.ROI_HEADS.NAME",
                          "RelationROIHeads", "OUTPUT_DIR", shop.path("out"), coco=coco,
                          flags=["--eval-only"], real=True)  # fmt: skip
            yield Case("images", "train --eval-only", what, SENTENCE, run, (name,))
