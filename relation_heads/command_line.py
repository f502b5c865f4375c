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
KNOWN = (OSError, ValueError, KeyError, ImportError, FloatingPointError)  # if raised here
MOST_SAID = 300  # characters of an error that was not expected
_ROOT = Path(__file__).resolve().parents[1]
_OURS = tuple(_ROOT / name for name in ("relation_heads", "benchmarks", "tools", "datasets"))


def new_parser(doc: str | None) -> argparse.ArgumentParser:
    """The parser of a program, which its docstring explains."""
    parser = argparse.ArgumentParser(
        description=doc, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add_debug(parser)
    return parser


def add_debug(parser: argparse.ArgumentParser) -> None:
    """`--debug`, see `run_or_explain`. Before config overrides, which take all that follows."""
    parser.add_argument("--debug", action="store_true", help="show the traceback of an error")


def run_or_explain(
    run: Callable[[argparse.Namespace], Any], args: argparse.Namespace, program: str = ""
) -> Any:
    """`run(args)`; one sentence on stderr and an exit code for what goes wrong.

    2 is for a fault that is known: a file that cannot be opened, a package that is not installed,
    too little memory of a GPU, and what a `raise` in this project made: its message is for the
    user. Everything else may be a bug: 1, and a sentence that says where it was. The traceback goes
    to the log file, if there is one, and with `--debug` to the terminal. 130 is for Ctrl-C.
    """
    quiet()
    for stream in (sys.stdout, sys.stderr):  # what is only printed must not end a program
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    program = program or Path(run.__code__.co_filename).name
    try:
        return run(args)
    except KeyboardInterrupt:
        code, message = 130, "stopped."
    except Exception as error:
        _to_log_files(error)
        if getattr(args, "debug", False):
            raise
        known = explain(error)
        code, message = (1, unexpected(error)) if known is None else (2, known)
    print(f"{program}: {message}", file=sys.stderr)
    raise SystemExit(code)


def _to_log_files(error: Exception) -> None:
    """The traceback, into the files that are logged to."""
    logger = logging.getLogger("relation_heads")
    record = logger.makeRecord(
        logger.name, logging.ERROR, __file__, 0, "The program ends with an error:", (),
        (type(error), error, error.__traceback__),
    )  # fmt: skip
    for handler in logger.handlers:
        if isinstance(handler, logging.StreamHandler) and handler.stream not in (
            sys.stdout,
            sys.stderr,
        ):
            handler.handle(record)


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


def unexpected(error: Exception) -> str:
    """What is known about an error that nobody thought of."""
    return f"{told(error)}. This was not expected; --debug shows the traceback."


def told(error: Exception) -> str:
    """The type of an error, what it says, and where it was raised."""
    trace = _origin(error.__traceback__)
    where = f"{trace.tb_frame.f_code.co_filename}, line {trace.tb_lineno}" if trace else "nowhere"
    said = " ".join(str(error).split())
    said = said if len(said) <= MOST_SAID else said[:MOST_SAID] + " ..."
    return f"{type(error).__name__}{': ' if said else ''}{said} ({where})"


def explain(error: Exception) -> str | None:
    """The sentence for the user; None if the error may be a bug."""
    if type(error).__name__ == "OutOfMemoryError":  # torch's, which need not be there
        return (
            "the GPU has too little memory for this: less images (SOLVER.IMS_PER_BATCH), smaller "
            "ones (INPUT.MIN_SIZE_TRAIN, INPUT.MAX_SIZE_TRAIN), or SOLVER.AMP.ENABLED True need "
            "less."
        )
    if isinstance(error, OSError) and error.filename:
        return f"{error.filename}: {error.strerror}."
    if isinstance(error, ModuleNotFoundError) and error.name:
        package = error.name.partition(".")[0]
        return None if package == "relation_heads" else not_installed(package)
    if not isinstance(error, KNOWN) or not error.args or not _raised_here(error.__traceback__):
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


def _origin(trace: TracebackType | None) -> TracebackType | None:
    """Where an error came from: the innermost call."""
    while trace and trace.tb_next:
        trace = trace.tb_next
    return trace


def of_a_package(error: Exception) -> bool:
    """Whether a package that is installed raised it, not this project nor a file of the user."""
    trace = _origin(error.__traceback__)
    return trace is not None and "site-packages" in trace.tb_frame.f_code.co_filename


def _raised_here(trace: TracebackType | None) -> bool:
    """Whether a `raise` statement of ours was the origin, not a call of Python or of a package."""
    trace = _origin(trace)
    if trace is None:
        return False
    code = trace.tb_frame.f_code
    path = Path(code.co_filename).resolve()
    ours = any(path.is_relative_to(folder) for folder in _OURS)
    return ours and dis.opname[code.co_code[trace.tb_lasti]] == "RAISE_VARARGS"
