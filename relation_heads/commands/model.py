"""What the verbs that use a trained model have in common on the command line."""

from __future__ import annotations

import argparse
import os
import re

# A key of a config as a word of the command line; IMG.JPG is none.
KEY = re.compile(
    r"(CUDNN_BENCHMARK|FLOAT32_PRECISION|OUTPUT_DIR|SEED|VERSION|VIS_PERIOD)"
    r"|(DATALOADER|DATASETS|GLOBAL|INPUT|MODEL|SOLVER|TEST)(\.[A-Z0-9_]+)+"
)
CHECKPOINT_OR_CONFIG = (
    "a checkpoint of `relation-heads train`, or a config: a path, or a name that `relation-heads "
    "configs` lists; config overrides may follow, as KEY VALUE"
)


def take_overrides(words: list[str]) -> tuple[list[str], list[str]]:
    """The words of a command line without config overrides, and these, KEY VALUE in turn.

    They may stand anywhere, between other arguments too.

    Raises:
        ValueError: the last key has no value.
    """
    rest: list[str] = []
    opts: list[str] = []
    left = iter(words)
    for word in left:
        if KEY.fullmatch(word) and not os.path.exists(word):
            value = next(left, None)
            if value is None:
                raise ValueError(f"the config override {word} has no value")
            opts += [word, value]
        else:
            rest.append(word)
    return rest, opts


def add_model(parser: argparse.ArgumentParser) -> None:
    """The model, the images, and how it computes."""
    add = parser.add_argument
    add("model", metavar="MODEL", help=CHECKPOINT_OR_CONFIG)
    add("images", nargs="+", metavar="IMAGE", help="files, folders, patterns, videos, or the "
        "number of a webcam")  # fmt: skip
    add("--device", help="cpu, cuda, cuda:1, ... (the config's; cpu where there is no GPU)")
    add("--half", action="store_true", help="half precision")


def share(text: str) -> float:
    """A number in 0 to 1, as the type of an argument."""
    value = float(text)
    if not 0 <= value <= 1:
        raise argparse.ArgumentTypeError(f"must be in 0 to 1, got {text}")
    return value


def above_0(text: str) -> float:
    """A finite number above 0, as the type of an argument."""
    value = float(text)
    if not 0 < value < float("inf"):
        raise argparse.ArgumentTypeError(f"must be above 0, got {text}")
    return value


def at_least_0(text: str) -> int:
    """A whole number from 0 on, as the type of an argument."""
    return _whole(text, 0)


def at_least_1(text: str) -> int:
    """A whole number from 1 on, as the type of an argument."""
    return _whole(text, 1)


def _whole(text: str, least: int) -> int:
    value = int(text)
    if value < least:
        raise argparse.ArgumentTypeError(f"must be at least {least}, got {text}")
    return value
