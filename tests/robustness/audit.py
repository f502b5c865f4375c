"""Misuse everything: wrong values of every key, broken files, wrong arguments. Which mistake is not
answered by a sentence?

    python -m tests.robustness.audit --json docs/reliability.json     # all cases
    python -m tests.robustness.audit --sample 100 --seed 5            # some of them
    python -m tests.robustness.audit --families images files --show

Every case calls the entry point of a tool or verb with a command line, in this process. What should
come out stands with the case: "sentence" (a wrong value; exit code 2 and a sentence that names what
is wrong, and its value) or "accepted" (a right one). Everything else is bad:

    TRACEBACK   an exception, or an error that the program calls unexpected
    CODE        an exit code that is not 2
    UNNAMED     a sentence without the key, file or argument
    NO VALUE    a sentence without the value
    SILENT      a wrong value was taken
    REFUSED     a right value was not
    HANG        no end within `LIMIT` seconds
    EXECUTED    a file ran code of its own
    OUTSIDE     something was written, made or removed outside the temporary folder
"""

from __future__ import annotations

import argparse
import io
import json
import os
import random
import signal
import sys
import tempfile
import time
import warnings
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any
from unittest.mock import patch

from tests.robustness.case import ACCEPTED, SENTENCE, Case, Reached, Workshop, close_logs

LIMIT = 30
LONGEST = 6000  # characters of a message; one line for each of many problems
GOOD = (SENTENCE, ACCEPTED)


class Hang(BaseException):
    """The time is over."""


_writable: list[str] = []  # the only folder, while a case runs
_outside: list[str] = []


def _note(event: str, args: tuple[Any, ...]) -> None:
    """What is written, made or removed elsewhere; an audit hook of Python."""
    if not _writable:
        return
    paths: Sequence[Any] = ()
    if event == "open" and args[2] & (os.O_WRONLY | os.O_RDWR | os.O_CREAT):
        paths = args[:1]
    elif event in ("os.mkdir", "os.remove", "os.rmdir", "os.truncate"):
        paths = args[:1]
    elif event in ("os.rename", "os.link", "os.symlink"):
        paths = args[1:2]
    for path in paths:
        if isinstance(path, str | bytes):  # else a number: open already
            real = os.path.realpath(os.fsdecode(path))
            if not real.startswith((*_writable, "/dev", "/proc")):
                _outside.append(f"{event} {real}")


sys.addaudithook(_note)


@contextmanager
def inside(folder: Path) -> Iterator[list[str]]:
    """The folder is where a case runs, and where its temporary files go.

    Yields:
        what is written elsewhere.
    """
    before, temporary, bytecode = os.getcwd(), tempfile.tempdir, sys.dont_write_bytecode
    os.chdir(folder)
    tempfile.tempdir, sys.dont_write_bytecode = str(folder), True
    _outside.clear()
    _writable[:] = [os.path.realpath(folder)]
    try:
        with patch.dict(os.environ, MPLCONFIGDIR=str(folder)):  # matplotlib's cache
            yield _outside
    finally:
        _writable.clear()
        os.chdir(before)
        tempfile.tempdir, sys.dont_write_bytecode = temporary, bytecode


@contextmanager
def limited(seconds: float) -> Iterator[None]:
    """Raises `Hang` inside after so many seconds, also while the system waits for a file."""

    def over(*_: Any) -> None:
        raise Hang

    before = signal.signal(signal.SIGALRM, over)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def judge(case: Case, canary: Path, limit: float = LIMIT) -> tuple[str, str]:
    """Runs a case.

    Returns:
        what came out, and what was said.
    """
    said, error = io.StringIO(), io.StringIO()
    canary.unlink(missing_ok=True)
    code: Any = 0
    with redirect_stdout(said), redirect_stderr(error), warnings.catch_warnings():
        try:
            with inside(canary.parent) as outside, limited(limit):
                code = case.run()
        except Reached:
            pass
        except SystemExit as end:
            code = end.code or 0
        except Hang:
            return "HANG", ""
        except Exception as raised:
            return "TRACEBACK", f"{type(raised).__name__}: {raised}"
        finally:
            close_logs()
    text = error.getvalue()
    whole = said.getvalue() + text
    if canary.exists():
        return "EXECUTED", text
    if outside:
        return "OUTSIDE", outside[0]
    if "Traceback" in text or "was not expected" in text:
        return "TRACEBACK", text
    if code in (0, None):
        return (ACCEPTED if case.expected == ACCEPTED else "SILENT"), text
    if case.expected == ACCEPTED:
        return "REFUSED", text
    if code != case.code:
        return "CODE", f"{code}: {text}"
    if len(text) >= LONGEST or not any(name in whole for name in case.names):
        return "UNNAMED", whole
    if case.values and not any(value in whole for value in case.values):
        return "NO VALUE", whole
    return SENTENCE, whole


def all_cases(workshop: Workshop, families: list[str] | None = None) -> list[Case]:
    """Of these families, or of all."""
    from tests.robustness.families import FAMILIES

    unknown = set(families or ()) - FAMILIES.keys()
    if unknown:
        raise ValueError(f"--families must be of {', '.join(FAMILIES)}, got {unknown.pop()}.")
    return [
        case for name, make in FAMILIES.items() if not families or name in families
        for case in make(workshop)
    ]  # fmt: skip


def audit(cases: list[Case], canary: Path, show: bool = False) -> list[tuple[Case, str, str]]:
    """Case, outcome and words of each; prints what is bad."""
    results = []
    for case in cases:
        outcome, said = judge(case, canary)
        results.append((case, outcome, said))
        if show or outcome not in GOOD:
            words = " ".join(said.split())[-400:]
            print(f"{outcome:9} {case.family}: {case.subject} = {case.value}: {words}", flush=True)
    return results


def as_json(results: list[tuple[Case, str, str]]) -> dict[str, Any]:
    """How many cases of each family came out how, and what is bad."""
    families: dict[str, Counter[str]] = {}
    for case, outcome, _ in results:
        families.setdefault(case.family, Counter())[outcome] += 1
    bad = [
        [case.family, case.subject, case.value, outcome]
        for case, outcome, _ in results if outcome not in GOOD
    ]  # fmt: skip
    return {"audit": families, "bad": bad}


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--families", nargs="+", metavar="NAME", help="some of them (all)")
    add("--sample", type=int, metavar="N", help="so many of the cases, chosen by the seed")
    add("--seed", type=int, default=0, help="of the values and of --sample (%(default)s)")
    add("--show", action="store_true", help="print every case, not only what is bad")
    add("--json", type=Path, metavar="FILE", help="results, for docs/reliability.json")
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> None:
    """Command line; exit code 1 if a case is bad."""
    args = parse_args(argv)
    os.environ["OMP_NUM_THREADS"] = "1"
    import torch

    from relation_heads.analysis.provenance import provenance

    torch.set_num_threads(1)
    began, cpu = time.monotonic(), time.process_time()
    about = provenance(args.seed, "python -m tests.robustness.audit")
    with tempfile.TemporaryDirectory() as folder:
        workshop = Workshop(Path(folder), args.seed)
        cases = all_cases(workshop, args.families)
        total = len(cases)
        if args.sample:
            cases = random.Random(args.seed).sample(cases, min(args.sample, len(cases)))
        results = audit(cases, workshop.canary, args.show)
    bad = sum(outcome not in GOOD for _, outcome, _ in results)
    seconds, cpu = time.monotonic() - began, time.process_time() - cpu
    print(f"{len(results)} cases, {bad} bad, {seconds:.0f} s ({cpu:.0f} s of CPU)")
    if path := args.json:
        content = {**about, "seconds": round(seconds), "cpu_seconds": round(cpu),
                   "of": total, **as_json(results)}  # fmt: skip
        path.write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    if bad:
        sys.exit(1)


if __name__ == "__main__":
    main()
