"""What the keys of a node may be: stated once, as their types, beside their defaults.

    class SGRN(Keys):
        # K: spatial Gaussian kernels of a layer.
        NUM_KERNELS: Size = 8
        # Weights of the losses.
        LOSS_WEIGHTS: tuple[Weight, Weight] = (1.0, 1.0)

The node of the config, the check of its values, the sentence of an error and the table in
docs/config.md are made from this. A type is one of

    bool, str, Any
    Literal["a", "b"]                   a choice
    Annotated[float, "[0, 1)"]          a number in an interval; so are whole numbers (int)
    list[X], Some[X]                    of any length; not empty. A choice at most once
    tuple[X, X]                         of this length

and None, NaN and infinity are of no type but Any.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from numbers import Integral, Real
from operator import attrgetter
from typing import Annotated, Any, Literal, TypeVar, get_args, get_origin, get_type_hints

from detectron2.config import CfgNode

from ..layers.arguments import within
from .problems import Problem, did_you_mean

X = TypeVar("X")
Some = Annotated[list[X], "not empty"]
Natural = Annotated[int, "[0, inf)"]
Positive = Annotated[float, "(0, 1e6]"]
Probability = Annotated[float, "[0, 1]"]
Weight = Annotated[float, "[0, 1e6]"]
# What memory is proportional to, and what is done so many times. No machine holds more; what the
# sizes of a layer make together is estimated, see `modeling.keys`.
Size = Annotated[int, "[1, 65536]"]
Times = Annotated[int, "[1, 100]"]
LONGEST = 1_000  # items of a list


class Keys:
    """The keys of one node; a class inside is a node inside."""

    @classmethod
    def defaults(cls) -> CfgNode:
        """The node."""
        node = {name: value for name, value in vars(cls).items() if name.isupper()}
        return CfgNode({name: _in_node(value) for name, value in node.items()})

    @classmethod
    @cache
    def types(cls) -> dict[str, Any]:
        """Of every key, by its name below the node: "NUM_ITERS", "LOCAL.CHANNELS"."""
        types = get_type_hints(cls, include_extras=True)
        for name, inside in vars(cls).items():
            if isinstance(inside, type) and issubclass(inside, Keys):
                types |= {f"{name}.{key}": kind for key, kind in inside.types().items()}
        return types


def wrong_values(node: CfgNode, types: dict[str, Any], prefix: str = "") -> Iterator[Problem]:
    """One problem for every value that is not of its type.

    Args:
        node: has the keys.
        types: by key; of a key in a node inside with dots.
        prefix: of the keys in the sentences.
    """
    for key, kind in types.items():
        value = attrgetter(key)(node)
        if not fits(value, kind):
            hint = _hint(value, _choices(kind))
            yield Problem(f"{prefix}{key} must be {described(kind)}, got {value!r}{hint}")


def fits(value: Any, kind: Any) -> bool:
    """Whether a value is of a type, see the module."""
    origin, parts = get_origin(kind), get_args(kind)
    if origin is Annotated and parts[0] in _NUMBERS:
        is_number = isinstance(value, _NUMBERS[parts[0]])
        return is_number and within("", value, parts[1]) is None
    if origin is Annotated:
        return fits(value, parts[0]) and len(value) > 0
    if origin is Literal:
        return any(value == choice and type(value) is type(choice) for choice in parts)
    if origin in (list, tuple):
        if not isinstance(value, list | tuple) or len(value) > LONGEST:
            return False
        kinds = parts if origin is tuple else parts * len(value)
        right = len(value) == len(kinds) and all(map(fits, value, kinds))
        return right and not (_choices(kind) and len(set(value)) < len(value))
    return kind is Any or isinstance(value, kind)


def described(kind: Any) -> str:
    """A type as the end of "KEY must be ..."."""
    origin, parts = get_origin(kind), get_args(kind)
    if origin is Annotated and parts[0] in _NUMBERS:
        return f"{_WORDS[parts[0]]} in {parts[1]}"
    if origin is Annotated:
        return described(parts[0]).replace("a list", "a list, not empty,")
    if origin is Literal:
        return f"one of {', '.join(map(repr, parts))}"
    if origin is tuple:
        return f"{len(parts)} values, each {described(parts[0])}"
    if origin is list:
        return f"a list, each {described(parts[0])}{', at most once' if _choices(kind) else ''}"
    return _WORDS[kind]


_NUMBERS: dict[Any, type] = {int: Integral, float: Real}
_WORDS = {bool: "True or False", str: "a text", int: "a whole number", float: "a number",
          Any: "anything"}  # fmt: skip


def _in_node(value: Any) -> Any:
    if isinstance(value, type):
        return value.defaults()  # type: ignore[attr-defined]
    return list(value) if isinstance(value, list | tuple) else value


def _choices(kind: Any) -> tuple[Any, ...]:
    """Of a choice, or of the items of a list."""
    parts = get_args(kind)
    return parts if get_origin(kind) is Literal else tuple(c for p in parts for c in _choices(p))


def _hint(value: Any, choices: tuple[Any, ...]) -> str:
    names = value if isinstance(value, list | tuple) else [value]
    unknown = [n for n in names if isinstance(n, str) and n not in choices]
    return did_you_mean(unknown[0], map(str, choices)) if unknown else "."
