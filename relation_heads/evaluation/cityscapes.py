"""The Cityscapes scripts under the name by which Detectron2 imports them.

The package is `cityscapesscripts`. Detectron2's evaluators (and its loader of instances) import
`deeplearning.projects.cityscapesApi.cityscapesscripts`, a name inside its authors' company, and
stop at it after the whole training. With NumPy 2.4 they also call a function that is gone.
"""

from __future__ import annotations

import sys
from importlib import import_module
from types import ModuleType

import numpy as np

INSTALLED = "cityscapesscripts"
IMPORTED = f"deeplearning.projects.cityscapesApi.{INSTALLED}"
# What Detectron2 imports, below the package.
MODULES = (
    "helpers",
    "helpers.labels",
    "evaluation",
    "evaluation.evalPixelLevelSemanticLabeling",
    "evaluation.evalInstanceLevelSemanticLabeling",
)


def provide_cityscapes_scripts() -> None:
    """Gives the modules of `INSTALLED` the names in `IMPORTED` too, unless these exist.

    Raises:
        ModuleNotFoundError: the package, or one that it needs, is missing; says how to get it.
    """
    try:
        import_module(IMPORTED)
        return
    except ModuleNotFoundError:
        pass
    try:
        package = import_module(INSTALLED)
        modules = {f"{IMPORTED}.{m}": import_module(f"{INSTALLED}.{m}") for m in MODULES}
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            f"Cityscapes is evaluated by its own scripts, and there is no {error.name}: install "
            'cityscapesscripts, or set DATASETS.TEST "()" to train without an evaluation.',
            name=error.name,
        ) from error
    if not hasattr(np, "in1d"):  # NumPy 2.4 removed it, and release 2.3.0 of the scripts calls it
        np.in1d = np.isin  # keeps the shape, into which they bring its result anyway
    parts = IMPORTED.split(".")
    for k in range(1, len(parts)):
        name = ".".join(parts[:k])
        sys.modules.setdefault(name, ModuleType(name))
    sys.modules.update(modules)
    sys.modules[IMPORTED] = package
