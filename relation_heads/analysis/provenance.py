"""What a reader needs to know about numbers that were measured: of which code, on which machine."""

from __future__ import annotations

import json
import os
import platform
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any, TypeVar

import detectron2
import torch

Result = TypeVar("Result")


def read_result(path: Path, kind: type[Result], of: str = "this program") -> Result:
    """A dataclass from its JSON.

    Args:
        path: the file.
        kind: the dataclass.
        of: the program that wrote it, for the error.

    Raises:
        ValueError: the file is not one.
    """
    try:
        return kind(**json.loads(path.read_text(encoding="utf-8")))
    except (TypeError, ValueError) as error:
        raise ValueError(f"{path} is not a result of {of}: {error}.") from error


def made_by() -> dict[str, str]:
    """Of which code, on which machine, with which torch."""
    return {"commit": commit(), "machine": machine(), "torch": torch.__version__}


def commit() -> str:
    """The commit of this checkout, with `-dirty` if files differ from it; "unknown" without git."""
    git = subprocess.run(
        ["git", "describe", "--always", "--dirty", "--abbrev=12", "--exclude=*"],
        cwd=Path(__file__).resolve().parents[2], capture_output=True, text=True, check=False,
    )  # fmt: skip
    return git.stdout.strip() or "unknown"


def machine() -> str:
    """The system, the number of cores, and the instructions that torch uses."""
    capability = torch.backends.cpu.get_cpu_capability()
    return f"{platform.platform()}, {os.cpu_count()} cores, {capability}"


def provenance(seed: int, tool: str) -> dict[str, Any]:
    """What a reader needs to repeat the run of a tool, such as "tools/sweep_stock_configs.py" or
    "python -m tests.robustness.audit"."""
    return {
        "commit": commit(),
        "command": " ".join([tool, *map(shlex.quote, sys.argv[1:])]),
        "seed": seed,
        "machine": machine(),
        "versions": {
            "python": platform.python_version(),
            "torch": torch.__version__,
            "detectron2": detectron2.__version__,
        },
    }
