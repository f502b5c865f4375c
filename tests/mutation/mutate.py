#!/usr/bin/env python
"""Change one place of the code at a time, and see whether a test fails: which changes survive?

    tests/mutation/mutate.py                       # goes on where the results file ends
    tests/mutation/mutate.py --run 25              # at most 25 mutants this time
    tests/mutation/mutate.py --again survived      # those once more, after new tests

The mutants are a seeded sample of all changes that `changes` knows, in random order. Each is made
in a copy of the tree and run against the test files that import its file (`covering_tests`), until
the first failure. A mutant that takes too long counts as neither killed nor survived. Results stand
in a JSON file, written after every mutant; a "note" that is written there by hand is kept.
"""

from __future__ import annotations

import argparse
import ast
import hashlib
import json
import os
import random
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
OPERATORS: dict[type, tuple[str, str]] = {
    ast.Add: ("+", "-"), ast.Sub: ("-", "+"), ast.Mult: ("*", "/"), ast.Div: ("/", "*"),
    ast.FloorDiv: ("//", "/"), ast.Mod: ("%", "*"), ast.Pow: ("**", "*"), ast.MatMult: ("@", "+"),
    ast.BitAnd: ("&", "|"), ast.BitOr: ("|", "&"), ast.Lt: ("<", "<="), ast.LtE: ("<=", "<"),
    ast.Gt: (">", ">="), ast.GtE: (">=", ">"), ast.Eq: ("==", "!="), ast.NotEq: ("!=", "=="),
    ast.And: ("and", "or"), ast.Or: ("or", "and"), ast.Is: ("is", "is not"),
    ast.IsNot: ("is not", "is"), ast.In: ("in", "not in"), ast.NotIn: ("not in", "in"),
}  # fmt: skip
NAMES = {
    "min": "max", "max": "min", "amin": "amax", "amax": "amin", "sum": "mean", "mean": "sum",
    "zeros": "ones", "ones": "zeros", "zeros_": "ones_", "ones_": "zeros_", "any": "all",
    "all": "any", "floor": "ceil", "ceil": "floor", "argmax": "argmin", "argmin": "argmax",
    "detach": "clone", "sin": "cos", "cos": "sin", "relu": "abs", "exp": "expm1", "log": "log1p",
}  # fmt: skip
KILLED, SURVIVED, TOO_LONG = "killed", "survived", "too long"


@dataclass(frozen=True)
class Mutant:
    """One change: in `file`, at byte `start` of it, `old` becomes `new`."""

    file: str
    line: int
    start: int
    old: str
    new: str

    def apply(self, source: bytes) -> bytes:
        """The changed file."""
        end = self.start + len(self.old.encode())
        assert source[self.start : end] == self.old.encode()
        return source[: self.start] + self.new.encode() + source[end:]


def changes(source: bytes, file: str) -> Iterator[Mutant]:
    """All changes of a file: operators, comparisons, constants, conditions, names of functions.
    Annotations, docstrings, other texts and what is raised stay as they are."""
    starts = [0]
    for line in source.splitlines(keepends=True):
        starts.append(starts[-1] + len(line))

    def place(line: int, column: int) -> int:
        return starts[line - 1] + column

    def text_of(node: Any) -> str:
        end = place(node.end_lineno, node.end_col_offset)
        return source[place(node.lineno, node.col_offset) : end].decode()

    def mutant(node: Any, old: str, new: str, start: int | None = None) -> Mutant:
        start = place(node.lineno, node.col_offset) if start is None else start
        return Mutant(file, source[:start].count(b"\n") + 1, start, old, new)

    def between(left: Any, right: Any, operator: ast.AST) -> Iterator[Mutant]:
        old, new = OPERATORS.get(type(operator), ("", ""))
        start = place(left.end_lineno, left.end_col_offset)
        at = source.find(old.encode(), start, place(right.lineno, right.col_offset))
        if old and at >= 0:
            yield mutant(left, old, new, at)

    def visit(node: Any) -> Iterator[Mutant]:
        if isinstance(node, ast.BinOp):
            yield from between(node.left, node.right, node.op)
        elif isinstance(node, ast.BoolOp):
            yield from between(node.values[0], node.values[1], node.op)
        elif isinstance(node, ast.Compare):
            yield from between(node.left, node.comparators[0], node.ops[0])
        elif isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub):
            yield mutant(node, "-", "")
        elif isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.Not):
            yield mutant(node, "not ", "")
        elif isinstance(node, ast.Constant) and isinstance(node.value, bool):
            yield mutant(node, str(node.value), str(not node.value))
        elif isinstance(node, ast.Constant) and isinstance(node.value, int | float):
            text = text_of(node)
            new = f"({text} + 1)" if isinstance(node.value, int) else f"({text} * 2)"
            yield mutant(node, text, new)
        elif isinstance(node, ast.Attribute) and node.attr in NAMES:
            start = place(node.end_lineno, node.end_col_offset) - len(node.attr)
            yield mutant(node, node.attr, NAMES[node.attr], start)
        elif isinstance(node, ast.Name) and node.id in NAMES:
            yield mutant(node, node.id, NAMES[node.id])
        if isinstance(node, ast.If | ast.IfExp | ast.While):
            condition = text_of(node.test)
            if "\n" not in condition:
                yield mutant(node.test, condition, f"(not ({condition}))")
        for name, child in ast.iter_fields(node):
            if name in ("annotation", "returns", "decorator_list"):
                continue
            for part in child if isinstance(child, list) else [child]:
                if isinstance(part, ast.AST) and not isinstance(part, ast.Raise | ast.JoinedStr):
                    yield from visit(part)

    yield from visit(ast.parse(source))


# ---- which tests cover a file ----


def module_name(file: str) -> str:
    """relation_heads/layers/__init__.py to relation_heads.layers."""
    return file.removesuffix(".py").removesuffix("/__init__").replace("/", ".")


def imports(root: Path, file: str) -> set[str]:
    """Full names of everything that a file imports: modules, and names in modules."""
    package = module_name(file).split(".")
    package = package if file.endswith("__init__.py") else package[:-1]
    found = set()
    for node in ast.walk(ast.parse((root / file).read_bytes())):
        if isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            name = ".".join([*base, *([node.module] if node.module else [])])
            found.update(f"{name}.{alias.name}" for alias in node.names)
    return found


def python_files(root: Path, folder: str) -> list[str]:
    """Below a folder, relative to the root, sorted."""
    return sorted(p.relative_to(root).as_posix() for p in (root / folder).rglob("*.py"))


class Coverage:
    """Test files by the files whose names they import, also through `__init__` files."""

    def __init__(self, root: Path, sources: list[str], tests: str) -> None:
        packages = sorted({source.split("/")[0] for source in sources})
        files = [file for package in packages for file in python_files(root, package)]
        self.modules = {module_name(file): file for file in files}
        self.imports = {file: imports(root, file) for file in files}
        test_files = [f for f in python_files(root, tests) if Path(f).name.startswith("test_")]
        self.tests = {test: self._reached(imports(root, test)) for test in test_files}

    def _reached(self, names: set[str]) -> set[str]:
        return {file for file in map(self._file, names) if file is not None}

    def _file(self, name: str) -> str | None:
        """The file that defines a name."""
        if name in self.modules:
            return self.modules[name]
        module, _, last = name.rpartition(".")
        file = self.modules.get(module)
        if file is None or not file.endswith("__init__.py"):
            return file
        handed_on = (n for n in self.imports[file] if n.rpartition(".")[2] == last and n != name)
        return next(filter(None, map(self._file, handed_on)), file)

    def covering_tests(self, file: str) -> list[str]:
        """Test files that import the file, of these only those in a folder of its part if there are
        any; of a file that none imports, those that import one that does."""
        wanted = {file}
        for _ in range(len(self.modules)):
            found = [test for test, reached in self.tests.items() if reached & wanted]
            if found:
                parts = set(file.split("/")[1:-1])
                return [test for test in found if parts & set(test.split("/"))] or found
            users = {f for f in self.imports if self._reached(self.imports[f]) & wanted}
            if users <= wanted:
                break
            wanted |= users
        return []


# ---- running ----


def copy_tree(root: Path, to: Path) -> None:
    """What a test needs: everything but hidden folders and outputs."""
    leave = shutil.ignore_patterns(".*", "__pycache__", "build", "output", "*.egg-info")
    shutil.copytree(root, to, ignore=leave, dirs_exist_ok=True)


def run_tests(root: Path, tests: list[str], limit: float) -> tuple[str, float]:
    """Status and seconds of the tests, until the first failure."""
    command = [sys.executable, "-m", "pytest", "-x", "-q", "-p", "no:cacheprovider", *tests]
    environment = {**os.environ, "PYTHONPATH": str(root), "PYTHONDONTWRITEBYTECODE": "1"}
    began = time.monotonic()
    try:
        code = subprocess.run(
            command, cwd=root, env=environment, capture_output=True, timeout=limit, check=False
        ).returncode
    except subprocess.TimeoutExpired:
        return TOO_LONG, time.monotonic() - began
    return SURVIVED if code == 0 else KILLED, time.monotonic() - began


def sample(root: Path, sources: list[str], count: int, seed: int) -> list[Mutant]:
    """A random sample of all changes, in random order; the same for the same sources and seed."""
    files = [file for source in sources for file in python_files(root, source)]
    every = [m for file in files for m in changes((root / file).read_bytes(), file)]
    return random.Random(seed).sample(every, min(count, len(every)))


def fingerprint(root: Path, sources: list[str]) -> str:
    """Of all source files."""
    files = [file for source in sources for file in python_files(root, source)]
    return hashlib.sha256(b"".join((root / f).read_bytes() for f in files)).hexdigest()[:16]


def read_results(args: argparse.Namespace) -> dict[str, Any]:
    """The results so far.

    Raises:
        ValueError: they are of other sources, or of another sample.
    """
    settings = {
        "sources": args.sources, "fingerprint": fingerprint(args.root, args.sources),
        "seed": args.seed, "count": args.count,
    }  # fmt: skip
    if not args.json.is_file():
        return {**settings, "mutants": []}
    results: dict[str, Any] = json.loads(args.json.read_text(encoding="utf-8"))
    for key, value in settings.items():
        if results[key] != value:
            raise ValueError(
                f"{args.json} has results of {key} {results[key]!r}, not {value!r}: give another "
                "--json, or delete it to begin again."
            )
    return results


def mutate(args: argparse.Namespace) -> dict[str, Any]:
    """Runs mutants, writes the results after each.

    Raises:
        ValueError: see `read_results`; or a test fails without any change.
    """
    results = read_results(args)
    done = {(m["file"], m["start"], m["new"]): m for m in results["mutants"]}
    results["mutants"] = list(done.values())
    coverage = Coverage(args.root, args.sources, args.tests)
    left = args.run
    unchanged: dict[tuple[str, ...], float] = {}  # tests -> seconds
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder)
        copy_tree(args.root, copy)
        for mutant in sample(args.root, args.sources, args.count, args.seed):
            known = done.get((mutant.file, mutant.start, mutant.new))
            if left <= 0:
                break
            if known is not None and known["status"] != args.again:
                continue
            left -= 1
            tests = coverage.covering_tests(mutant.file)
            status, seconds = _run(copy, mutant, tests, unchanged, args.limit)
            entry = {**asdict(mutant), "tests": tests, "status": status, "seconds": round(seconds)}
            if known is None:
                results["mutants"].append(entry)
            else:
                known.update(entry)
            args.json.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
            print(
                f"{status}: {mutant.file}:{mutant.line}: {mutant.old} -> {mutant.new}", flush=True
            )
    return results


def _run(
    copy: Path,
    mutant: Mutant,
    tests: list[str],
    unchanged: dict[tuple[str, ...], float],
    limit: float,
) -> tuple[str, float]:
    if not tests:
        return SURVIVED, 0.0
    key = tuple(tests)
    if key not in unchanged:
        status, unchanged[key] = run_tests(copy, tests, limit)
        if status == KILLED:
            raise ValueError(f"Without any change one of these tests fails: {' '.join(tests)}.")
    path = copy / mutant.file
    source = path.read_bytes()
    path.write_bytes(mutant.apply(source))
    try:
        return run_tests(copy, tests, min(limit, 10 + 5 * unchanged[key]))
    finally:
        path.write_bytes(source)


def summary(results: dict[str, Any]) -> str:
    """How many of how many were run, and what became of them."""
    statuses = [m["status"] for m in results["mutants"]]
    counts = ", ".join(f"{statuses.count(s)} {s}" for s in (KILLED, SURVIVED, TOO_LONG))
    return f"{len(statuses)} of {results['count']} mutants were run: {counts}."


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--sources", nargs="+", default=["relation_heads/layers", "relation_heads/modeling"])
    add("--tests", default="tests", help="folder of the test files (%(default)s)")
    add("--count", type=int, default=200, help="size of the sample (%(default)s)")
    add("--seed", type=int, default=0)
    add("--run", type=int, default=sys.maxsize, help="at most so many this time")
    add("--again", choices=(KILLED, SURVIVED, TOO_LONG), help="run those with this status again")
    add("--limit", type=float, default=600, help="seconds of one mutant at most (%(default)s)")
    add("--json", type=Path, default=ROOT / "docs" / "mutation.json", help="results")
    add("--root", type=Path, default=ROOT, help="of the tree")
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> None:
    """Command line; exit code 2 and one sentence if something does not fit."""
    args = parse_args(argv)
    try:
        print(summary(mutate(args)))
    except ValueError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)


if __name__ == "__main__":
    main()
