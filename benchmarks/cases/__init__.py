"""One file per operator: `CASES`, name to a function from the device to a `Case`."""

from __future__ import annotations

import importlib
from collections.abc import Callable

from ..case import Case

MODULES = (  # every file of cases, in the order of the table
    "object_relation",
    "sgrn",
    "reasoning_rcnn",
    "glore",
    "non_local",
    "local_relation",
    "global_context",
    "spatial_memory",
    "many_classes",
    "duplicate_removal",
    "end_of_head",
)


def find_cases() -> tuple[dict[str, Callable[[str], Case]], list[str]]:
    """All cases by name, and the files that are left out since they need Detectron2.

    Raises:
        ValueError: two cases have the same name.
    """
    cases: dict[str, Callable[[str], Case]] = {}
    left_out = []
    for name in MODULES:
        try:
            module = importlib.import_module(f"{__name__}.{name}")
        except ModuleNotFoundError as error:
            if (error.name or "").split(".")[0] != "detectron2":
                raise
            left_out.append(name)
            continue
        for case in module.CASES:
            if case in cases:
                raise ValueError(f"Two cases are called {case!r}; one is of {name}.py.")
        cases.update(module.CASES)
    return cases, left_out
