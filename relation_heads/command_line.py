"""How the programs of `tools/` and `datasets/` end when something does not fit.

A program parses its command line with nothing but the standard library, so that `--help` comes at
once. Then it hands its work to `run_or_explain`, and imports what the work needs inside of it.
"""

from __future__ import annotations

import argparse
import dis
import io
import logging
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Any

DETECTRON2_HELP = (
    "relation_heads needs Detectron2 for its heads, configs and tools, and it is not installed. It "
    "is not on the package index; after torch, install it with: pip install --no-build-isolation "
    "'git+https://github.com/facebookresearch/detectron2.git' (relation_heads.layers works alone)."
)
_ROOT = Path(__file__).resolve().parents[1]
_OURS = tuple(_ROOT / name for name in ("relation_heads", "benchmarks", "tools", "datasets"))


def run_or_explain(
    run: Callable[[argparse.Namespace], Any], args: argparse.Namespace, program: str = ""
) -> Any:
    """`run(args)`; exit code 2 and one sentence on stderr for a fault that is known.

    Known are a file that cannot be opened, a package that is not installed, and an OSError,
    ValueError, KeyError or ImportError that a `raise` in this project made: its message is for the
    user. Everything else may be a bug and keeps its traceback.
    """
    quiet()
    for stream in (sys.stdout, sys.stderr):  # what is only printed must not end a program
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    try:
        return run(args)
    except (OSError, ValueError, KeyError, ImportError) as error:
        message = explain(error)
        if message is None:
            raise
    program = program or Path(run.__code__.co_filename).name
    print(f"{program}: {message}", file=sys.stderr)
    raise SystemExit(2)


def quiet() -> None:
    """Leaves out what torch, fvcore and Detectron2 say about themselves when they are imported or
    first used; what this package has to say stays."""
    for category in (FutureWarning, DeprecationWarning, UserWarning):
        for package in ("torch", "torchvision", "fvcore", "iopath", "detectron2", "pycocotools"):
            warnings.filterwarnings("ignore", category=category, module=rf"{package}\b")
    about_tracing = logging.getLogger("torch.fx._symbolic_trace")
    about_tracing.addFilter(_not_about_itself)


def _not_about_itself(record: logging.LogRecord) -> bool:
    """torch's advice to those who call `is_fx_tracing`, as torch itself does."""
    return not record.getMessage().startswith("is_fx_tracing")


def explain(error: Exception) -> str | None:
    """The sentence for the user; None if the error may be a bug."""
    if isinstance(error, OSError) and error.filename:
        return f"{error.filename}: {error.strerror}."
    if isinstance(error, ModuleNotFoundError) and error.name:
        package = error.name.partition(".")[0]
        return None if package == "relation_heads" else not_installed(package)
    if not error.args or not _raised_here(error.__traceback__):
        return None
    # str() of a KeyError would quote its message.
    return str(error.args[0]) if isinstance(error, KeyError) else str(error)


def not_installed(package: str) -> str:
    """What to do about a package that cannot be imported."""
    missing = f"{package} is not installed in {sys.executable}"
    venv = _ROOT / ".venv"
    if (venv / "bin" / "python").is_file() and Path(sys.prefix).resolve() != venv:
        return (
            f"{missing}; this checkout has an environment of its own: run the program with "
            f"{venv / 'bin' / 'python'}, or `source {venv / 'bin' / 'activate'}` first."
        )
    if package == "detectron2":
        return DETECTRON2_HELP
    return f"{missing}; `make setup` makes an environment that has everything, in .venv."


def _raised_here(trace: TracebackType | None) -> bool:
    """Whether a `raise` statement of ours was the origin, not a call of Python or of a package."""
    if trace is None:
        return False
    while trace.tb_next:
        trace = trace.tb_next
    code = trace.tb_frame.f_code
    path = Path(code.co_filename).resolve()
    ours = any(path.is_relative_to(folder) for folder in _OURS)
    return ours and dis.opname[code.co_code[trace.tb_lasti]] == "RAISE_VARARGS"
