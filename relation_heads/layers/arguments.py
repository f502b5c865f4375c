"""What is wrong with the arguments of a layer: all of it at once, as values and as sentences.

    require(
        one_of("geometry", geometry, GEOMETRIES),
        at_least("num_heads", num_heads, 1),
    )

raises `ArgumentError`, a ValueError that reads "num_heads must be at least 1, got 0." Whoever fills
these arguments from a config puts its keys in place of the names, see `Wrong.named`.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from numbers import Real


@dataclass(frozen=True)
class Wrong:
    """One argument with a value that is not allowed.

    Attributes:
        argument: its name.
        allowed: what it must be, such as "at least 1".
        value: what it is.
    """

    argument: str
    allowed: str
    value: object

    def __str__(self) -> str:
        return f"{self.argument} must be {self.allowed}, got {self.value!r}."

    def named(self, name: str) -> Wrong:
        """The same under another name, such as the key of a config."""
        return replace(self, argument=name)


class ArgumentError(ValueError):
    """Arguments outside what a layer allows; `wrong` has one entry each."""

    def __init__(self, wrong: Collection[Wrong]) -> None:
        super().__init__(" ".join(map(str, wrong)))
        self.wrong = tuple(wrong)


def require(*checks: Wrong | None) -> None:
    """Raises an ArgumentError of all checks that are not None."""
    wrong = [check for check in checks if check]
    if wrong:
        raise ArgumentError(wrong)


def one_of(argument: str, value: object, allowed: Collection[object]) -> Wrong | None:
    """`value` is one of a few."""
    if any(value == other and type(value) is type(other) for other in allowed):
        return None
    return Wrong(argument, f"one of {', '.join(map(repr, allowed))}", value)


def each_of(argument: str, values: Collection[object], allowed: Collection[object]) -> Wrong | None:
    """Every one of `values` is one of a few, and none comes twice."""
    if all(value in allowed for value in values) and len(set(values)) == len(values):
        return None
    return Wrong(argument, f"of {', '.join(map(repr, allowed))}, each at most once", values)


def at_least(argument: str, value: object, minimum: float) -> Wrong | None:
    """`value` is a number and not below `minimum`; NaN and infinity are not allowed."""
    if _is_number(value) and minimum <= value < float("inf"):  # type: ignore[operator]
        return None
    return Wrong(argument, f"at least {minimum:g}", value)


def above(argument: str, value: object, minimum: float) -> Wrong | None:
    """`value` is a number above `minimum`; NaN and infinity are not allowed."""
    if _is_number(value) and minimum < value < float("inf"):  # type: ignore[operator]
        return None
    return Wrong(argument, f"above {minimum:g}", value)


def within(argument: str, value: object, interval: str) -> Wrong | None:
    """`value` is a number in an interval as mathematics writes it, "[0, 1)"."""
    low, high = map(float, interval[1:-1].split(","))
    if _is_number(value):
        over = value >= low if interval[0] == "[" else value > low  # type: ignore[operator]
        under = value <= high if interval[-1] == "]" else value < high  # type: ignore[operator]
        if over and under:
            return None
    return Wrong(argument, f"in {interval}", value)


def multiple_of(argument: str, value: object, factor: object, what: str = "") -> Wrong | None:
    """`value` is a positive multiple of `factor`, which the sentence calls `what`."""
    if isinstance(value, int) and isinstance(factor, int) and factor > 0:
        if value > 0 and value % factor == 0:
            return None
    return Wrong(argument, f"a multiple of {what} {factor}".replace("  ", " "), value)


def first_few(items: Sequence[str], limit: int = 5) -> str:
    """The first items, and how many more there are: "a, b and 3 more"."""
    more = f" and {len(items) - limit} more" if len(items) > limit else ""
    return ", ".join(items[:limit]) + more


def _is_number(value: object) -> bool:
    return isinstance(value, Real) and not isinstance(value, bool)
