"""Our evaluator of boxes beside other implementations of COCO's, on random detections.

Every evaluator reads the same two files (ground truth, results) and gives COCO's arrays. They take
turns in one process, each on one thread where it has threads; time is that of the process. The
memory of each is measured before, in a copy of the process.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib
import importlib.metadata
import io
import json
import os
import resource
import statistics
import tempfile
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ProcessPoolExecutor
from importlib.util import find_spec
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np

from relation_heads.analysis.evaluators import OURS, table
from relation_heads.analysis.provenance import provenance
from relation_heads.data.files import write_whole

from .measure import seconds_in_turns

SIDE = 600  # pixels of the images
PATIENCE = 300.0  # seconds, see `seconds_in_turns`

Arrays = tuple[np.ndarray, np.ndarray]  # precision (T, R, K, A, M), recall (T, K, A, M)
Evaluator = Callable[[str, str], Arrays]  # from the files of the ground truth and the results


def random_files(folder: Path, classes: int, args: argparse.Namespace) -> tuple[str, str]:
    """Writes a data set and results: images of `args.objects` objects and `args.detections`
    detections, half of which are at an object, near it, and mostly of its class."""
    rng = np.random.default_rng(args.seed)
    annotations: list[dict[str, Any]] = []
    results: list[dict[str, Any]] = []
    for image in range(1, args.images + 1):
        boxes = np.concatenate(
            [
                rng.uniform(0, SIDE / 2, (args.objects, 2)),
                rng.uniform(8, SIDE / 2, (args.objects, 2)),
            ],
            axis=1,
        )
        labels = rng.integers(1, classes + 1, args.objects)
        for box, label in zip(boxes.tolist(), labels.tolist(), strict=True):
            annotations.append(
                {
                    "id": len(annotations) + 1, "image_id": image, "category_id": label,
                    "bbox": box, "area": box[2] * box[3], "iscrowd": int(rng.random() < 0.02),
                }
            )  # fmt: skip
        near = rng.integers(0, args.objects, args.detections)
        found = boxes[near] * rng.normal(1, 0.1, (args.detections, 4))
        guess = rng.integers(1, classes + 1, args.detections)
        right = rng.random(args.detections) < 0.5
        chosen = np.where(right, labels[near], guess)
        scores = rng.random(args.detections).round(3)  # some are equal
        for box, label, score in zip(found.tolist(), chosen.tolist(), scores.tolist(), strict=True):
            results.append({"image_id": image, "category_id": label, "bbox": box, "score": score})
    dataset = {
        "images": [{"id": i, "width": SIDE, "height": SIDE} for i in range(1, args.images + 1)],
        "categories": [{"id": c, "name": f"class {c}"} for c in range(1, classes + 1)],
        "annotations": annotations,
    }
    paths = str(folder / "truth.json"), str(folder / "results.json")
    for path, content in zip(paths, (dataset, results), strict=True):
        Path(path).write_text(json.dumps(content), encoding="utf-8")
    return paths


def ours(truth_file: str, results_file: str) -> Arrays:
    """`sparse_coco.evaluate_detections`."""
    from relation_heads.data.coco_format import read_coco
    from relation_heads.evaluation.coco_arrays import ground_truth, read_results
    from relation_heads.evaluation.sparse_coco import evaluate_detections

    truth = ground_truth(read_coco(truth_file), truth_file)
    detections = read_results(results_file, truth)
    assert truth.objects is not None
    sizes = len(truth.image_ids), len(truth.category_ids)
    return evaluate_detections(truth.objects, detections, *sizes)


def _like_pycocotools(coco: Any, evaluation: Any, truth_file: str, results_file: str) -> Arrays:
    truth = coco(truth_file)
    run = evaluation(truth, truth.loadRes(results_file), "bbox")
    run.evaluate()
    run.accumulate()
    return np.asarray(run.eval["precision"]), np.asarray(run.eval["recall"])


def pycocotools(truth_file: str, results_file: str) -> Arrays:
    """The reference."""
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    return _like_pycocotools(COCO, COCOeval, truth_file, results_file)


def detectron2(truth_file: str, results_file: str) -> Arrays:
    """Detectron2's COCOeval_opt, in C++."""
    from detectron2.evaluation.fast_eval_api import COCOeval_opt
    from pycocotools.coco import COCO

    return _like_pycocotools(COCO, COCOeval_opt, truth_file, results_file)


def faster_coco_eval(truth_file: str, results_file: str) -> Arrays:
    """faster-coco-eval, in C++."""
    from faster_coco_eval import COCO, COCOeval_faster

    return _like_pycocotools(COCO, COCOeval_faster, truth_file, results_file)


def hotcoco(truth_file: str, results_file: str) -> Arrays:
    """hotcoco, in Rust."""
    from hotcoco import COCO, COCOeval

    return _like_pycocotools(COCO, COCOeval, truth_file, results_file)


EVALUATORS: Mapping[str, tuple[Evaluator, str]] = {  # with the module that each needs
    OURS: (ours, "relation_heads.evaluation.sparse_coco"),
    "pycocotools": (pycocotools, "pycocotools.cocoeval"),
    "Detectron2 COCOeval_opt": (detectron2, "detectron2.evaluation.fast_eval_api"),
    "faster-coco-eval": (faster_coco_eval, "faster_coco_eval"),
    "hotcoco": (hotcoco, "hotcoco"),
}
REFERENCE = "pycocotools"
PACKAGES = ("pycocotools", "faster-coco-eval", "hotcoco", "numpy")


def quietly(name: str, files: tuple[str, str]) -> Arrays:
    """What an evaluator gives, without what it prints."""
    with contextlib.redirect_stdout(io.StringIO()):
        return EVALUATORS[name][0](*files)


def differences(found: Arrays, expected: Arrays) -> dict[str, float]:
    """How many numbers of both arrays differ, the largest difference, and that of AP."""
    pairs = [(np.reshape(f, e.shape), e) for f, e in zip(found, expected, strict=True)]
    ap = [float(a[a > -1].mean()) if (a > -1).any() else -1.0 for a in (found[0], expected[0])]
    return {
        "numbers": sum(e.size for _, e in pairs),
        "different": sum(int((f != e).sum()) for f, e in pairs),
        "largest": max(float(np.abs(f - e).max()) for f, e in pairs),
        "ap": abs(ap[0] - ap[1]),
    }


def peak_mib(name: str, files: tuple[str, str]) -> float:
    """How much the memory of this process, a new one, grows at most while the evaluator runs."""
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    quietly(name, files)
    return (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024


def alone(function: Callable[..., Any], *args: Any) -> Any:
    """Its result, from a copy of this process, whose memory no evaluator has used before."""
    with ProcessPoolExecutor(1, mp_context=get_context("fork")) as pool:
        return pool.submit(function, *args).result()


def installed() -> tuple[list[str], list[str]]:
    """Names of the evaluators that can be imported, and of those that cannot."""
    here = [n for n, (_, module) in EVALUATORS.items() if find_spec(module.split(".")[0])]
    return here, [name for name in EVALUATORS if name not in here]


def measure(classes: int, names: list[str], args: argparse.Namespace) -> dict[str, Any]:
    """One size: what `table` shows."""
    with tempfile.TemporaryDirectory() as folder:
        files = alone(random_files, Path(folder), classes, args)
        peaks = {name: alone(peak_mib, name, files) for name in names}
        last: dict[str, Arrays] = {}

        def run(name: str) -> None:
            last[name] = quietly(name, files)

        functions = {name: (lambda name=name: run(name)) for name in names}
        seconds = seconds_in_turns(
            functions, args.rounds, clock=time.process_time, patience=PATIENCE
        )
        rows = {
            name: {
                "seconds": statistics.median(seconds[name]),
                "rounds": len(seconds[name]),
                "peak_mib": peaks[name],
                **differences(last[name], last[REFERENCE]),
            }
            for name in names
        }
    return {"classes": classes, "images": args.images, "evaluators": rows}


def compare_evaluators(args: argparse.Namespace) -> None:
    """What `tools/compare_evaluators.py` does with its arguments."""
    os.environ.setdefault("RAYON_NUM_THREADS", "1")  # hotcoco's
    names, missing = installed()
    for name in names:
        importlib.import_module(EVALUATORS[name][1])
    for name in missing:
        print(f"Left out, since it is not installed: {name}.")
    result = provenance(args.seed, "tools/compare_evaluators.py")
    for name in PACKAGES:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            result["versions"][name] = importlib.metadata.version(name)
    result["cases"] = []
    for classes in args.classes:
        result["cases"].append(alone(measure, classes, names, args))
        print(table({**result, "cases": result["cases"][-1:]}), flush=True)
        if args.json is not None:
            write_whole(args.json, json.dumps(result, indent=1) + "\n")
