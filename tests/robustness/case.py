"""One misuse, and the small things that all families of them need: data, configs, weights."""

from __future__ import annotations

import importlib.util
import logging
import random
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, redirect_stdout, suppress
from dataclasses import dataclass
from functools import cache, cached_property
from io import StringIO
from pathlib import Path
from typing import Any

import yaml

from tests.helpers import tiny_cfg, tiny_coco

SENTENCE, ACCEPTED = "sentence", "accepted"
ROOT = Path(__file__).resolve().parents[2]


class Reached(BaseException):
    """All checks have passed: the run would begin."""


@dataclass(frozen=True)
class Case:
    """One command with one thing in it that is wrong, or right.

    Attributes:
        family, subject, value: what it is: a key or an argument and its value, a file and what is
            wrong with it.
        expected: SENTENCE or ACCEPTED.
        run: the entry point of a program, with its command line.
        names: one of these stands in the sentence.
        values: so does one of these, if there are any: the value, as it may be written.
        code: the exit code of a sentence.
    """

    family: str
    subject: str
    value: str
    expected: str
    run: Callable[[], Any]
    names: tuple[str, ...]
    values: tuple[str, ...] = ()
    code: int = 2


def as_said(value: Any) -> tuple[str, ...]:
    """A value as a sentence may show it: all of it, an item, how a long one begins."""
    if isinstance(value, list) and value and isinstance(value[0], dict):
        return tuple(repr(part) for item in value[0].items() for part in item)
    forms = [value, repr(value)[1:-1]] if isinstance(value, str) else [repr(value)]
    if value == "":
        forms.append(repr(value))
    if isinstance(value, list | tuple):
        forms += [str(list(value)), str(tuple(value)), *map(repr, value), *map(str, value)]
    if isinstance(value, dict):
        forms.append(yaml.safe_dump(value, default_flow_style=True).strip())
    if isinstance(value, int | float):
        forms.append(repr(float(value)))
    if value in ("", [], (), {}):
        forms.append("is empty")
    return tuple(form[:60] for form in forms if form)


class Workshop:
    """What the cases are made of, in one folder.

    Attributes:
        folder: of everything.
        rng: of the values.
        canary: a file that no reader may write.
    """

    def __init__(self, folder: Path, seed: int = 0) -> None:
        self.folder, self.rng = folder, random.Random(seed)
        self.canary = folder / "canary"
        self.coco = tiny_coco(folder / "data")
        self._numbers: Iterator[int] = iter(range(10**9))

    def path(self, name: str) -> Path:
        """A new path in a folder of its own."""
        folder = self.folder / f"{next(self._numbers)}"
        folder.mkdir()
        return folder / name

    def written(self, name: str, content: bytes | str) -> Path:
        """A new file."""
        path = self.path(name)
        path.write_bytes(content.encode("utf-8", "surrogatepass") if isinstance(content, str)
                         else content)  # fmt: skip
        return path

    @cached_property
    def config(self) -> Path:
        """The YAML of a small detector, "tiny" to train and to test on."""
        from relation_heads.config import get_cfg

        out = self.folder / "out"
        cfg = tiny_cfg(["tiny"], ["tiny"], 3, out, ["SOLVER.MAX_ITER", 1], base=get_cfg())
        path = self.folder / "tiny.yaml"
        path.write_text(yaml.safe_dump(_differences(cfg, get_cfg())))  # short: read for every case
        return path

    @cached_property
    def model(self) -> Path:
        """A checkpoint of it with relation modules, trained for an iteration."""
        out = self.folder / "model"
        with redirect_stdout(StringIO()), suppress(SystemExit):
            self.train("MODEL.ROI_HEADS.NAME", "RelationROIHeads", "OUTPUT_DIR", out, real=True)
        close_logs()
        return out / "model_final.pth"

    def train(
        self, *opts: Any, config: Path | str | None = None, coco: Sequence[Any] | None = None,
        flags: Sequence[str] = (), real: bool = False,
    ) -> Any:  # fmt: skip
        """`relation-heads train`, up to the end of its checks, or really."""
        json_file, images = coco or (self.coco.json_file, self.coco.image_root)
        argv = ["train", "--config-file", str(config or self.config), "--dataset", "tiny",
                str(json_file), str(images), *flags, *map(str, opts)]  # fmt: skip
        with forgotten("tiny"):
            return verb(*argv) if real else checked(*argv)


def _differences(cfg: dict[str, Any], other: dict[str, Any]) -> dict[str, Any]:
    """The values of a config that another one does not have."""
    return {
        key: _differences(value, other[key]) if isinstance(value, dict) else
        list(value) if isinstance(value, tuple) else value
        for key, value in cfg.items() if value != other[key] or key == "VERSION"
    }  # fmt: skip


def verb(*argv: str) -> Any:
    """`relation-heads ...`."""
    from relation_heads.commands import main

    return main(list(argv))


def checked(*argv: str) -> Any:
    """The same up to the end of the checks of the config."""
    from relation_heads.engine import setup

    def reached(cfg: Any, *_: Any) -> None:
        Path(cfg.OUTPUT_DIR).mkdir(parents=True, exist_ok=True)
        raise Reached

    real, setup.default_setup = setup.default_setup, reached
    try:
        return verb(*argv)
    finally:
        setup.default_setup = real


def close_logs() -> None:
    """What a run logs to."""
    for name in ("", "relation_heads", "detectron2", "fvcore"):
        logger = logging.getLogger(name)
        for handler in list(logger.handlers):
            if isinstance(handler, logging.FileHandler) or name:
                logger.removeHandler(handler)
                handler.close()
    logging.disable(logging.NOTSET)


@contextmanager
def forgotten(*names: str) -> Iterator[None]:
    """Data sets that are registered inside are not afterwards."""
    from tests.helpers import unregister

    try:
        yield
    finally:
        unregister(*names)


def tool(name: str, *argv: Any) -> Any:
    """`tools/NAME.py ...` or `datasets/NAME.py ...`."""
    return load_program(name).main([str(word) for word in argv])


@cache
def load_program(name: str) -> Any:
    """The module of a file in `tools/` or `datasets/`."""
    (path,) = [p for folder in ("tools", "datasets") for p in (ROOT / folder).glob(f"{name}.py")]
    spec = importlib.util.spec_from_file_location(f"audited_{name}", path)
    module = importlib.util.module_from_spec(spec)  # type: ignore[arg-type]
    sys.modules[module.__name__] = module
    spec.loader.exec_module(module)  # type: ignore[union-attr]
    return module
