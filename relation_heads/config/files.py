"""Where configs are looked up by name, and how they are read: without running what they name."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import detectron2
import yaml
from detectron2.config import CfgNode

_PACKAGE = Path(__file__).resolve().parents[1]
# Installed, in a checkout, among Detectron2's own.
CONFIG_ROOTS = (
    _PACKAGE / "configs",
    _PACKAGE.parent / "configs",
    Path(detectron2.__file__).resolve().parent / "model_zoo" / "configs",
)


TUPLE = "tag:yaml.org,2002:python/tuple"
EVAL = "tag:yaml.org,2002:python/object/apply:eval"
# What Detectron2's Base-RetinaNet.yaml computes.
KNOWN_EXPRESSIONS = {
    "[[x, x * 2**(1.0/3), x * 2**(2.0/3) ] for x in [32, 64, 128, 256, 512 ]]": [
        [x, x * 2 ** (1.0 / 3), x * 2 ** (2.0 / 3)] for x in (32, 64, 128, 256, 512)
    ]
}


def _tuple(loader: yaml.SafeLoader, entry: yaml.SequenceNode) -> tuple[Any, ...]:
    return tuple(loader.construct_sequence(entry, deep=True))


def _known(loader: yaml.SafeLoader, entry: yaml.SequenceNode) -> Any:
    arguments = loader.construct_sequence(entry, deep=True)
    if len(arguments) == 1 and arguments[0] in KNOWN_EXPRESSIONS:
        return KNOWN_EXPRESSIONS[arguments[0]]
    raise yaml.constructor.ConstructorError(
        None, None, f"it would run eval({', '.join(map(repr, arguments))})", entry.start_mark
    )


yaml.SafeLoader.add_constructor(TUPLE, _tuple)
yaml.SafeLoader.add_constructor(EVAL, _known)


def merge_file(cfg: CfgNode, name: str) -> None:
    """Merges a YAML and its bases into a config. A tag that would run code is an error, where
    Detectron2's `merge_from_file` warns and runs it.

    Args:
        cfg: is changed.
        name: a path, or a name that `find_config` knows.

    Raises:
        FileNotFoundError: there is none.
        yaml.YAMLError: it is no YAML, or has such a tag.
        AssertionError, KeyError, TypeError, ValueError: of yacs; a key or value does not fit.
    """
    cfg.merge_from_file(find_config(name), allow_unsafe=False)


def find_config(name: str) -> str:
    """The path of a YAML given as a path, or as a name below our `configs/` or Detectron2's.

    Raises:
        FileNotFoundError: there is none; lists where it was looked for.
    """
    candidates = [Path(name).expanduser(), *(root / name for root in CONFIG_ROOTS)]
    for path in candidates:
        if path.is_file():
            return str(path)
    raise FileNotFoundError(
        f"Config file {name!r} was not found; looked for {', '.join(map(str, candidates))}."
    )


def all_configs(*, with_detectron2: bool = False) -> list[tuple[str, str]]:
    """Name and first comment of every config that can be trained, sorted: not the parts in
    `configs/blocks`, `data`, `heads`, `schedules`, nor the bases.

    Args:
        with_detectron2: Detectron2's own as well; ours come first where both have a name.
    """
    parts = ("blocks/", "data/", "heads/", "schedules/")
    found: dict[str, str] = {}
    for root in CONFIG_ROOTS if with_detectron2 else CONFIG_ROOTS[:-1]:
        for path in sorted(root.rglob("*.yaml")):
            name = path.relative_to(root).as_posix()
            if not name.startswith(parts) and not path.name.startswith("Base-"):
                first = path.read_text(encoding="utf-8").partition("\n")[0]
                found.setdefault(name, first[1:].strip() if first.startswith("#") else "")
    return sorted(found.items())
