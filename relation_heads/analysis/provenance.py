"""What a reader needs to know about numbers that were measured: of which code, on which machine."""

from __future__ import annotations

import os
import platform
import subprocess
from pathlib import Path

import torch


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
