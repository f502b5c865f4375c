"""Arguments of all tools and verbs that are missing, of another type, or name nothing.

The options are those that the parser of a program has. A number must be one, a choice be among
them, a file be there; what a program does not read is not tried.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from tests.robustness.case import ROOT, SENTENCE, Case, Workshop, as_said, load_program, tool, verb

PROGRAMS = sorted(p.stem for f in ("tools", "datasets") for p in (ROOT / f).glob("*.py"))


class _Parser(BaseException):
    pass


def parser_of(name: str) -> argparse.ArgumentParser:
    """That a program makes to parse its command line."""
    program = load_program(name)

    def caught(self: argparse.ArgumentParser, *_: Any) -> None:
        raise _Parser(self)

    with pytest.MonkeyPatch.context() as patch:
        for method in ("parse_args", "parse_intermixed_args"):
            patch.setattr(argparse.ArgumentParser, method, caught)
        try:
            program.parse_args([])
        except _Parser as found:
            return found.args[0]
    raise ValueError(f"{name} has no parser.")


def cases_of_arguments(shop: Workshop) -> Iterator[Case]:
    """Of the parsers, then by hand."""
    for name in PROGRAMS:
        run = partial(tool, name)
        yield Case("arguments", f"{name}.py", "--no-such-flag", SENTENCE,
                   partial(run, "--no-such-flag"), ("--no-such-flag", "required"))  # fmt: skip
        for action in parser_of(name)._actions:
            yield from _of_option(f"{name}.py", run, action)
    from relation_heads.commands import VERBS, build_parser

    (sub,) = [a for a in build_parser()._actions if isinstance(a, argparse._SubParsersAction)]
    for name in VERBS:
        for action in sub.choices[name]._actions:
            yield from _of_option(name, partial(verb, name), action)
    yield from _by_hand(shop)


def _of_option(program: str, run: Any, action: argparse.Action) -> Iterator[Case]:
    if not action.option_strings or action.nargs in ("*", "?", argparse.REMAINDER):
        return
    if isinstance(action, argparse._HelpAction):
        return
    flag = action.option_strings[-1]
    if action.nargs == 0:
        values = ["=yes"]
    elif action.choices:
        first = str(next(iter(action.choices)))
        values = [first.upper() + "x", "", first[:-1]]
    elif number := _number(action):
        values = ["many", "", "1,5", "0x10", "1e", "--"]
        values += ["2.5", "nan", "1e9"] if number is int else []
    else:
        values = ["MISSING"]
    for value in values:
        words = [flag] if value == "MISSING" else [f"{flag}{value}"] if value == "=yes" else [
            flag, *[value] * (action.nargs if isinstance(action.nargs, int) else 1)]  # fmt: skip
        shown = f"{flag} {value}"
        needed = () if value == "MISSING" else (*as_said(value.lstrip("=")), "required")
        yield Case("arguments", program, shown, SENTENCE, partial(run, *words),
                   (flag, "required"), needed)  # fmt: skip


def _number(action: argparse.Action) -> type | None:
    """int or float, if the argument is a number."""
    try:
        return {int: int, float: float}.get(type(action.type("1")))  # type: ignore[operator]
    except (TypeError, ValueError, argparse.ArgumentTypeError):
        return None


def _by_hand(shop: Workshop) -> Iterator[Case]:
    """Values of the right type that no program can work with."""
    image = str(next(shop.coco.image_root.iterdir()))
    nothing, none = str(shop.path("none")), str(shop.path("x.json"))
    file = str(shop.written("a.txt", "x"))
    coco = str(shop.coco.json_file)
    model, config = str(shop.model), str(shop.config)
    results = str(shop.written("found.json", "[]"))
    predict = ["predict", model, image, "--no-pictures", "--json", none]
    train = ["train", "--config-file", config, "--dataset", "tiny"]
    for words, names in (
        ([], ("VERB",)), (["teach"], ("teach",)), (["Predict"], ("Predict",)),
        (["predict"], ("MODEL",)), (["predict", model], ("IMAGE",)),
        (["predict", model, nothing], (nothing,)), (["predict", model, file], (file,)),
        (["predict", model, nothing + "/*.jpg"], ("jpg",)),
        (["predict", nothing, image], (nothing,)),
        (["predict", "scenes-relation-sign", image], ("scenes-relation-sign",)),
        (["predict", config, image], ("MODEL.WEIGHTS",)),
        ([*predict, "--min-score", "1.5"], ("--min-score",)),
        ([*predict, "--min-score", "nan"], ("--min-score",)),
        ([*predict, "--min-score", "-0.1"], ("--min-score",)),
        ([*predict, "--batch-size", "0"], ("--batch-size",)),
        ([*predict, "--device", "gpu"], ("gpu",)),
        ([*predict, "--device", "cuda:99"], ("cuda:99",)),
        ([*predict, "--device", ""], ("device",)), ([*predict, "--device", "meta"], ("meta",)),
        ([*predict, "MODEL.RPN.NMS_THRESH", "3.0"], ("NMS_THRESH",)),
        ([*predict, "MODEL.RELATION.KEY_DIM", "0"], ("KEY_DIM",)),
        ([*predict, "MODEL.ROI_HEADS.SCORE_THRESH_TEST", "-1.0"], ("SCORE_THRESH_TEST",)),
        ([*predict, "INPUT.MIN_SIZE_TEST", "-7"], ("MIN_SIZE_TEST",)),
        ([*predict, "INPUT.FORMAT", "XYZ"], ("INPUT.FORMAT",)),
        ([*predict, "MODEL.ROI_HEADS.NUM_CLASSES", "17"], ("model_final.pth",)),
        ([*predict, "MODEL.ROI_HEADS.NAME", "Nothing"], ("Nothing",)),
        ([*predict, "MODEL.BACKBONE.NAME", "Nothing"], ("Nothing",)),
        ([*predict, "MODEL.ROI_HEADS.NAM", "x"], ("MODEL.ROI_HEADS.NAM",)),
        ([*predict, "MODEL.DEVICE"], ("MODEL.DEVICE",)),
        (["explain", model, image, "--class", "unicorn", "--output", nothing], ("unicorn",)),
        (["explain", model, image, "--module", "none", "--output", nothing], ("none",)),
        (["explain", model, image, "--head", "99", "--output", nothing], ("99", "head")),
        (["explain", model, image, "--head", "-2", "--output", nothing], ("-2", "head")),
        (["explain", model, image, "--top", "0"], ("--top",)),
        (["explain", model, nothing], (nothing,)),
        (["view", model, image, "--output", file + "/a.html"], (file,)),
        (["view", model, image, "--beside", "x", "--output", none], ("--beside",)),
        (["view", model, image, "--beside", f"x={nothing}", "--output", none], (nothing,)),
        (["view", model, image, "--num", "0"], ("--num",)),
        (["export", nothing], (nothing,)), (["export", model, "--height", "0"], ("--height",)),
        (["export", model, "--output", file + "/a.ts"], (file,)),
        (["export", config, "--output", none], ("MODEL.WEIGHTS", "weights")),
        (["evaluate", nothing], (nothing,)), (["evaluate", file], (file,)),
        (["configs", "no", "such", "words"], ("such", "no")),
        ([*train, nothing, image], (nothing,)), ([*train, coco, nothing], (nothing,)),
        ([*train, coco], ("--dataset",)), ([*train, file, str(shop.folder)], (file,)),
        (["train", "--config-file", config], ("tiny",)),
        (["train"], ("DATASETS.TRAIN", "DEVICE")),
        (["train", "--config-file", config, "--num-gpus", "-3"], ("--num-gpus",)),
        (["train", "--config-file", config, "--num-machines", "0"], ("--num-machines",)),
        (["train", "--config-file", config, "--num-machines", "2", "--machine-rank", "2"],
         ("--machine-rank",)),
        (["train", "--config-file", config, "--num-machines", "2", "--dist-url", "auto"],
         ("--dist-url",)),
        (["train", "--config-file", config, "--num-machines", "2", "--dist-url", "http://x"],
         ("--dist-url",)),
        (["train", "--config-file", config, "--resume", "--overwrite"], ("tiny", "--resume")),
    ):  # fmt: skip
        shown = " ".join(Path(w).name if "/" in w else w for w in words[1:]) or "nothing"
        subject = words[0] if words else "relation-heads"
        yield Case("arguments", subject, shown, SENTENCE, partial(verb, *words), names,
                   _value(words, names))  # fmt: skip
    for name, words, names in (
        ("check_dataset", ["nowhere"], ("nowhere",)),
        ("check_dataset", ["--dataset", "a", nothing, nothing], (nothing,)),
        ("check_dataset", ["--dataset", "a", coco, nothing], (nothing,)),
        ("check_dataset", ["--dataset", "a", coco, str(shop.coco.image_root), "--workers", "0"],
         ("--workers",)),
        ("check_dataset", ["--dataset", "a", coco, str(shop.coco.image_root), "--json",
                           nothing + "/a.json"], ("--json",)),
        ("evaluate_results", [nothing, results], (nothing,)),
        ("evaluate_results", [coco, nothing], (nothing,)),
        ("evaluate_results", [coco, file], (file,)),
        ("evaluate_results", [coco, results, "--max-detections", "5"], ("--max-detections",)),
        ("evaluate_results", [coco, results, "--train", nothing], (nothing,)),
        ("compare_duplicate_removal", [coco, nothing], (nothing,)),
        ("compare_duplicate_removal", [nothing, results], (nothing,)),
        ("compare_duplicate_removal", [coco, results, "--nms", "1.5"], ("--nms", "1.5")),
        ("compare_duplicate_removal", [coco, results, "--sigma", "0"], ("--sigma", "0")),
        ("compare_duplicate_removal", [coco, results, "--nms", "nan"], ("--nms", "nan")),
        ("compare_heads", [nothing], (nothing,)),
        ("compare_heads", ["--rounds", "0", config], ("--rounds",)),
        ("compare_heads", ["--train-regions", "-1", config], ("--train-regions",)),
        ("compare_heads", ["--device", "gpu", config], ("gpu",)),
        ("analyze_model", [], ("--paper-table",)), ("analyze_model", [nothing], (nothing,)),
        ("analyze_model", [config, "MODEL.X", "3"], ("MODEL.X",)),
        ("analyze_model", [config, "--size", "0", "9"], ("sides",)),
        ("analyze_model", [config, "--size", "-4", "9"], ("sides",)),
        ("analyze_model", [config, "--twin", nothing], (nothing,)),
        ("dataset_figures", [nothing, "--output", none], ("--output",)),
        ("dataset_figures", [nothing + ".json", "--output", none + ".png"], (nothing,)),
        ("dataset_figures", [coco, "--output", nothing + "/a.png"], ("--output",)),
        ("dataset_figures", [coco, "--output", none + ".png", "--dpi", "-1"], ("--dpi",)),
        ("convert_weights", ["mmdet-gcnet", nothing, none + ".pth"], (nothing,)),
        ("convert_weights", ["mmdet-gcnet", file, none + ".pth"], (file,)),
        ("convert_weights", ["glore-3d", model, none + ".pth"], ("model_final.pth",)),
        ("convert_weights", ["glore-3d", model, none], (none, "OUTPUT", ".pth")),
        ("convert_weights", ["yolo", model, none], ("yolo",)),
        ("extract_features", ["--config-file", config, "--output", file + "/x"], (file, "WEIGHTS")),
        ("extract_features", ["--config-file", nothing, "--output", none], (nothing,)),
        ("extract_features", ["--config-file", config, "--output", none, "--image", nothing],
         (nothing, "WEIGHTS")),
        ("visualize_relations", ["--config-file", nothing, "--image", image], (nothing,)),
        ("visualize_relations", ["--config-file", model, "--image", nothing], (nothing,)),
        ("publish_weights", [nothing], ("--",)), ("publish_weights", [], ("CHECKPOINT",)),
        ("record_growth", ["--output", none], ("--config-file",)),
        ("record_growth", ["--draw", nothing, "--output", none + ".svg"], (nothing,)),
        ("record_growth", ["--draw", file, "--output", none + ".svg"], (file,)),
        ("stable_learning_rate", [], ("--config-file",)),
        ("stable_learning_rate", ["--config-file", nothing, "--output", nothing], (nothing,)),
        ("stable_learning_rate", ["--config-file", config, "--start", "0"], ("--start",)),
        ("stable_learning_rate", ["--config-file", config, "--start", "nan"], ("--start",)),
        ("compare_trainings", ["--results", nothing], ("--run", nothing)),
        ("compare_trainings", ["--results", nothing, "--run", "a"], ("--run", "a")),
        ("compare_trainings", ["--results", nothing, "--run", "a", nothing + "y"], (nothing,)),
        ("compare_given_boxes", ["--output", nothing], ("--datasets",)),
        ("compare_given_boxes", ["--output", nothing, "--datasets", "x", "--epochs", "0"],
         ("--epochs",)),
        ("sweep_stock_configs", ["--configs", "no such"], ("no such", "--configs")),
        ("sweep_stock_configs", ["--heads", "NoHeads"], ("NoHeads",)),
        ("sweep_stock_configs", ["--import", "no.module"], ("no",)),
        ("try_exports", ["--detectors", "none"], ("none",)),
        ("benchmark", ["--rounds", "0"], ("--rounds",)), ("benchmark", ["nosuch"], ("nosuch",)),
        ("benchmark", ["--threads", "-1"], ("--threads",)),
        ("compare_evaluators", ["--images", "0"], ("--images",)),
        ("compare_evaluators", ["--classes", "-3"], ("--classes",)),
        ("demo", ["--iterations", "0"], ("--iterations",)),
        ("demo", ["--iterations", "-5"], ("--iterations",)),
        ("make_relational_scenes", ["--num-train", "-1"], ("--num-train",)),
        ("make_relational_scenes", ["--output", file, "--num-train", "1"], (file,)),
        ("make_relational_scenes", ["--seed", "-1"], ("--seed",)),
        ("prepare_vg", ["--vg-root", nothing, "--output", none], (nothing,)),
        ("prepare_vg", ["--vg-root", nothing, "--output", none, "--workers", "0"], ("--workers",)),
        ("prepare_vg", ["--vg-root", nothing, "--output", none, "--seed", "1"], ("--seed",)),
        ("prepare_ade", ["--ade-root", nothing, "--output", none, "--labels", "sgrn"], (nothing,)),
        ("prepare_ade", ["--ade-root", nothing, "--output", none, "--labels", "x"], ("--labels",)),
        ("prepare_ade", ["--ade-root", nothing, "--output", none, "--labels", "sgrn", "--names",
                         file], ("--names",)),
        ("prepare_photos", ["--output", none], ("--voc",)),
        ("prepare_photos", ["--output", none, "--camvid", nothing], (nothing,)),
        ("prepare_photos", ["--output", none, "--vg", nothing], (nothing,)),
        ("take_images", [nothing, none], (nothing,)), ("take_images", [file, none], (file,)),
        ("take_images", [coco, none, "--num", "0"], ("--num",)),
        ("take_images", [coco, none, "--ids", "777"], ("777",)),
        ("take_images", [coco, file + "/x"], (file,)),
        ("build_knowledge_graph", [], ("COMMAND",)), ("build_knowledge_graph", ["grow"], ("grow",)),
        ("build_knowledge_graph", ["show", nothing], (nothing,)),
        ("build_knowledge_graph", ["merge", nothing, "--output", none], (nothing,)),
        ("build_knowledge_graph", ["names", "--classes", nothing, "--output", none], (nothing,)),
        ("build_knowledge_graph", ["names", "--coco", coco, "--output", nothing + ".txt"],
         (".txt", "--output")),
        ("build_knowledge_graph", ["wordnet", "--coco", coco, "--dict", nothing, "--output", none],
         ("lemma",)),
    ):  # fmt: skip
        shown = " ".join(Path(w).name if "/" in w else w for w in words) or "nothing"
        yield Case("arguments", f"{name}.py", shown, SENTENCE, partial(tool, name, *words), names,
                   _value(words, names))  # fmt: skip


def _value(words: list[str], names: tuple[str, ...]) -> tuple[str, ...]:
    """Of the argument that must be named, if it has one."""
    for flag, value in pairwise(words):
        if flag in names and flag.startswith("--") and not value.startswith("--"):
            return as_said(value)
    return ()
