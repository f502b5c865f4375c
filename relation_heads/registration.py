"""When our heads, backbones and data sets are registered in Detectron2.

Detectron2, when it is imported, imports the module that the environment variable
`DETECTRON2_ENV_MODULE` names and calls its `setup_environment`. `import relation_heads` before
Detectron2 names this file there. So `import relation_heads` need not import Detectron2 and torch,
and everything is registered before anybody can ask for it.

Modules that are registered may be what imports Detectron2 first. So the packages `config`, `data`
and `modeling` import Detectron2 in their first line, before any of their modules is half imported.
"""

from __future__ import annotations

import os
import sys

VARIABLE = "DETECTRON2_ENV_MODULE"


def register_with_detectron2() -> None:
    """Registers now if Detectron2 is there or its variable is another's, else when it comes."""
    if "detectron2" in sys.modules or os.environ.get(VARIABLE, __name__) != __name__:
        register()
    else:
        os.environ[VARIABLE] = __name__


def setup_environment() -> None:
    """What Detectron2 calls; child processes, which may not have this package, do not."""
    if os.environ.get(VARIABLE) == __name__:
        del os.environ[VARIABLE]
    register()


def register() -> None:
    """Registers everything; calling it again changes nothing."""
    from . import modeling  # noqa: F401  (registers)
    from .data.builtin import register_builtin

    register_builtin()
