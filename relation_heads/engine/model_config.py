"""The config of a model: from a YAML, or from inside a checkpoint of `RelationTrainer`."""

from __future__ import annotations

import os
import re
import zipfile
from collections.abc import Iterator, Sequence
from typing import Any

import torch
import yaml
from detectron2.config import CfgNode
from detectron2.data import MetadataCatalog

from .. import zoo
from ..command_line import MOST_SAID
from ..config import find_config, get_cfg, merge_file
from ..config.problems import did_you_mean
from ..config.schema import described

# Keys of a checkpoint: the config as YAML, and the names of the classes.
CONFIG, CLASS_NAMES = "config", "class_names"
CHECKPOINTS = (".pth", ".pkl")
# What yacs and its YAML reader raise for a file, a key or a value that is wrong.
NOT_MERGED = (
    AssertionError, AttributeError, KeyError, RecursionError, TypeError, ValueError, yaml.YAMLError,
)  # fmt: skip


def about_model(cfg: CfgNode) -> dict[str, Any]:
    """What a checkpoint needs to be used alone: its config, and the names of the training set's
    classes if they are known."""
    about: dict[str, Any] = {CONFIG: cfg.dump()}
    names = MetadataCatalog.get(cfg.DATASETS.TRAIN[0]).get("thing_classes")
    if names:
        about[CLASS_NAMES] = list(names)
    return about


# What yacs says of a value of another type than the default, and its types.
_MISMATCH = re.compile(
    r"Type mismatch \(<class '[\w.]*?(?P<of>\w+)'> vs. <class '[\w.]*?(?P<got>\w+)'>\) with "
    r"values \(.* vs. (?P<value>.*)\) for config key: (?P<key>\S+)",
    re.DOTALL,
)
_TYPES = {
    **{kind.__name__: described(kind) for kind in (bool, str, int, float)},
    "list": "a list", "tuple": "a list", "CfgNode": "a node of keys",
}  # fmt: skip


def config_of(source: str | os.PathLike[str]) -> CfgNode:
    """The config that a checkpoint or a YAML has; `MODEL.WEIGHTS` of a checkpoint's is itself.

    Args:
        source: a path, a name of the zoo, or one of a config below `configs/` or Detectron2's own.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the checkpoint cannot be read, or has no config of this version inside.
    """
    cfg, source = get_cfg(), os.fspath(source)
    if source in zoo.entries():
        source = zoo.path_of(source)
    if is_yaml(source):
        if not (os.path.splitext(source)[1] or os.path.isfile(source)):
            raise FileNotFoundError(
                f"{source!r} is no config (.yaml), no checkpoint (.pth) and none of the "
                f"zoo, which has {', '.join(zoo.entries())}."
            )
        merge_config(cfg, source)
        return cfg
    saved = read_checkpoint(source)
    if CONFIG not in saved:
        raise ValueError(
            f"{source} has no config inside: give the config it was trained with, and this file as "
            "its MODEL.WEIGHTS."
        )
    try:
        cfg.merge_from_other_cfg(CfgNode(yaml.safe_load(saved[CONFIG])))
    except NOT_MERGED as error:
        raise ValueError(
            f"The config inside {source} is not one of this version: {_said(error, cfg)}"
        ) from error
    cfg.MODEL.WEIGHTS = source
    return cfg


def is_yaml(source: str) -> bool:
    """Whether it is a config, not a checkpoint or a name of the zoo."""
    return not source.endswith(CHECKPOINTS) and source not in zoo.entries()


def merge_config(cfg: CfgNode, name: str) -> None:
    """Merges a YAML: a path, or a name below `configs/` or Detectron2's own.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it cannot be read, or a key or value does not fit.
    """
    path = find_config(name)
    try:
        merge_file(cfg, path)
    except NOT_MERGED as error:
        wrong = isinstance(error, AttributeError | TypeError)  # not what yacs looks into
        said = "it must be keys with their values" if wrong else _said(error, cfg)
        raise ValueError(f"{path} is not a config that can be read: {said}") from error
    except OSError as error:
        if error.filename in (None, path):
            raise
        raise ValueError(
            f"{path} is based on {error.filename}, which cannot be read: {error.strerror}."
        ) from error


def merge_overrides(cfg: CfgNode, opts: Sequence[Any]) -> None:
    """Merges config overrides, keys and values in turn.

    Raises:
        ValueError: a key does not exist or has no value, or the value does not fit.
    """
    try:
        cfg.merge_from_list(list(opts))
    except NOT_MERGED as error:
        wrong = isinstance(error, AttributeError | TypeError)  # a key below a value
        keys = ", ".join(map(str, opts[::2]))
        said = f"one of these is no key: {keys}" if wrong else _said(error, cfg)
        raise ValueError(f"{said} (config overrides)") from error


def _said(error: Exception, cfg: CfgNode) -> str:
    """The message, with keys that an unknown one may be meant for; yacs prints whole nodes, which
    are cut."""
    # str() of a KeyError would quote it.
    said = str(error.args[0] if isinstance(error, KeyError) and error.args else error)
    if isinstance(error, RecursionError):
        said = "it is its own _BASE_, or part of itself, or nested too deep"
    if mismatch := _MISMATCH.fullmatch(said):
        of, got, value, key = mismatch.group("of", "got", "value", "key")
        value = ", ".join(value.split("\n")) if got == "CfgNode" else value
        value = {"str": repr(value), "CfgNode": f"{{{value}}}"}.get(got, value)
        said = f"{key} must be {_TYPES.get(of, of)}, got {value}"
    unknown = re.fullmatch(r"Non-existent (?:config )?key: (\S+)", said)
    said += did_you_mean(unknown[1], _keys(cfg)).rstrip(".") if unknown else ""
    if len(said) > MOST_SAID:
        said = f"{said[: MOST_SAID // 2]} ... {said[-MOST_SAID // 2 :]}"
    return " ".join(said.split())


def _keys(cfg: CfgNode, inside: str = "") -> Iterator[str]:
    """Of a config and its nodes, such as "MODEL.SGRN.DROPOUT"."""
    for name, value in cfg.items():
        yield from _keys(value, f"{inside}{name}.") if isinstance(value, dict) else [inside + name]


def read_checkpoint(path: str) -> dict[str, Any]:
    """The content of a `.pth` file, of tensors and plain containers only; {} of a `.pkl`.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is damaged, or needs code to be read.
    """
    if not os.path.isfile(path):
        raise FileNotFoundError(f"There is no checkpoint {path}.")
    if path.endswith(".pkl"):  # of Detectron2's model zoo, without a config
        return {}
    try:
        mmap = zipfile.is_zipfile(path)  # files of before torch 1.6 are none
        content = torch.load(path, map_location="cpu", weights_only=True, mmap=mmap)
    except Exception as error:  # unpickling has no common error
        raise ValueError(
            f"{path} is not a checkpoint that can be read safely: {str(error).splitlines()[0]}"
        ) from error
    return content if isinstance(content, dict) else {}


def names_of_classes(cfg: CfgNode) -> list[str]:
    """As the checkpoint `MODEL.WEIGHTS` or the config's data sets have them; "class 0", "class 1",
    ... where neither has any."""
    if cfg.MODEL.WEIGHTS.endswith(".pth") and os.path.isfile(cfg.MODEL.WEIGHTS):
        names = read_checkpoint(cfg.MODEL.WEIGHTS).get(CLASS_NAMES)
        if names:
            return list(names)
    for name in (*cfg.DATASETS.TEST, *cfg.DATASETS.TRAIN):
        names = MetadataCatalog.get(name).get("thing_classes")
        if names:
            return list(names)
    return [f"class {k}" for k in range(cfg.MODEL.ROI_HEADS.NUM_CLASSES)]
