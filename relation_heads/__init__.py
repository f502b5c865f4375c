"""Detectors that reason over their regions: relational heads and blocks for Detectron2.

Importing this package registers its heads, backbones and datasets in Detectron2. Without Detectron2
the plain PyTorch part, `relation_heads.layers`, works alone.
"""

from importlib.util import find_spec

from .command_line import DETECTRON2_HELP

__version__ = "0.1.0"


if find_spec("detectron2") is not None:
    from . import modeling  # noqa: F401  (registers)
    from .config import add_relation_heads_config, get_cfg
    from .data.builtin import register_builtin
    from .evaluation import build_evaluator

    register_builtin()
    __all__ = ["add_relation_heads_config", "build_evaluator", "get_cfg"]
else:

    def __getattr__(name: str) -> object:
        if name in ("add_relation_heads_config", "build_evaluator", "get_cfg"):
            raise ImportError(DETECTRON2_HELP)
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
