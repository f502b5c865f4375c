"""Detectors that reason over their regions: relational heads and blocks for Detectron2.

Importing this package registers its heads, backbones and data sets in Detectron2: at once if
Detectron2 has been imported, else as soon as it is (see `registration`), so that this import alone
takes no time. Without Detectron2 the plain PyTorch part, `relation_heads.layers`, works alone.
"""

from importlib import import_module
from importlib.util import find_spec
from typing import TYPE_CHECKING

from .command_line import DETECTRON2_HELP
from .registration import register_with_detectron2

if TYPE_CHECKING:
    from .config import add_relation_heads_config, get_cfg
    from .engine import load
    from .evaluation import build_evaluator

__version__ = "0.1.0"
__all__ = ["add_relation_heads_config", "build_evaluator", "get_cfg", "load"]

_WHERE = {
    "add_relation_heads_config": ".config",
    "build_evaluator": ".evaluation",
    "get_cfg": ".config",
    "load": ".engine",
}

if find_spec("detectron2") is not None:
    register_with_detectron2()


def __getattr__(name: str) -> object:
    if name not in _WHERE:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    if find_spec("detectron2") is None:
        raise ImportError(DETECTRON2_HELP)
    return getattr(import_module(_WHERE[name], __name__), name)
