"""A reference proves nothing where it takes its numbers from the code that it checks."""

import ast
import importlib
import inspect
import types
from pathlib import Path

import pytest

TESTS = Path(__file__).resolve().parent
REFERENCES = sorted(TESTS.rglob("reference_*.py"))


def borrowed(source: str) -> list[str]:
    """What a file imports of the package, but classes: their weights are under test, and a type
    has no number. A whole module is borrowed, too, for all its constants are reached through it."""
    names = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names += [a.name for a in node.names if a.name.split(".")[0] == "relation_heads"]
        elif isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == (
            "relation_heads"
        ):
            module = importlib.import_module(node.module)
            for alias in node.names:
                value = getattr(module, alias.name, None)
                if not inspect.isclass(value) or isinstance(value, types.ModuleType):
                    names.append(f"{node.module}.{alias.name}")
    return names


def test_there_are_references():
    assert len(REFERENCES) >= 5


@pytest.mark.parametrize("path", REFERENCES, ids=lambda p: p.stem)
def test_a_reference_borrows_nothing_from_the_code_that_it_checks(path):
    assert not borrowed(path.read_text())


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("from relation_heads.layers import SGRN, Regions", []),
        ("from relation_heads.layers.geometry import MIN_GATE", ["MIN_GATE"]),
        ("from relation_heads.layers.geometry import widen as w", ["widen"]),
        ("def f():\n    from relation_heads.layers import geometry", ["geometry"]),
        ("import relation_heads.layers.geometry as g", ["geometry"]),
        ("import math\nfrom tests.layers.reference_object_relation import embed", []),
    ],
)
def test_what_counts_as_borrowed(source, expected):
    assert [name.rpartition(".")[2] for name in borrowed(source)] == expected
