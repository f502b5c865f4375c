"""Reads arrays of numbers, and dictionaries and lists of them, from a pickle, and runs nothing.

A pickle is a program: Python's unpickler calls what the file names. To allow a few names is not
enough, since `numpy.ndarray` alone makes an array over any address in memory. So the opcodes are
read here, one by one, by a small machine that knows only those that plain data need. It has no way
to call a function of the file's choice: the names below stand for the code below.

Read are the protocols 0 to 5 of Python 3, and 1 and 2 of Python 2. Example, of protocol 3:

    _reconstruct(ndarray, (0,), b"b"), then BUILD with (1, shape, dtype, in Fortran's order, bytes)
"""

from __future__ import annotations

import math
import pickletools
from dataclasses import dataclass
from itertools import product
from typing import Any

import numpy as np

# What a file may name; of numpy before 2 and after.
_NAMES = {
    ("_codecs", "encode"): "encode",
    ("numpy", "dtype"): "dtype",
    ("numpy", "ndarray"): "ndarray",
    **{
        (f"numpy.{core}.{module}", name): name
        for core, (module, name) in product(
            ("core", "_core"), (("multiarray", "_reconstruct"), ("numeric", "_frombuffer"))
        )
    },
}
_NUMBERS = {*("f2", "f4", "f8"), *(f"{kind}{size}" for kind in "iu" for size in (1, 2, 4, 8))}
_MOST_AXES = 32
_VALUES = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False, "EMPTY_TUPLE": ()}
_EMPTY, _FROM_MARK = ("EMPTY_DICT", "EMPTY_LIST"), ("DICT", "LIST")
_WITH_VALUE = frozenset(
    "INT LONG BININT BININT1 BININT2 LONG1 LONG4 FLOAT BINFLOAT STRING BINSTRING SHORT_BINSTRING "
    "UNICODE BINUNICODE SHORT_BINUNICODE BINUNICODE8 "
    "BINBYTES SHORT_BINBYTES BINBYTES8 BYTEARRAY8".split()
)
_TUPLES = {"TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3}
_PASSED_OVER = frozenset(("PROTO", "FRAME"))


@dataclass(frozen=True, eq=False)
class _Name:
    """Something that the file names; it cannot be called."""

    name: str


@dataclass(eq=False)
class _DType:
    """A type of numbers, whose byte order comes later."""

    code: str
    order: str = "="


@dataclass(eq=False)
class _Array:
    """An array whose content comes later."""

    values: np.ndarray | None = None


class _Mark:
    """Where on the stack the items of a tuple begin."""


def read_array(content: bytes) -> np.ndarray | None:
    """The array of numbers that a pickle holds; None if it holds other plain data.

    Args:
        content: the bytes of the file.

    Raises:
        Exception: see `read_plain`.
    """
    result = read_plain(content)
    return result if isinstance(result, np.ndarray) else None


def read_plain(content: bytes) -> Any:
    """What a pickle holds: an array of numbers, a number, a text, dictionaries and lists of them.

    Args:
        content: the bytes of the file.

    Raises:
        Exception: it is broken, or asks for more than plain data. Nothing was run.
    """
    stack: list[Any] = []
    memo: dict[int, Any] = {}
    containers: list[dict[Any, Any] | list[Any]] = []
    for opcode, value, _ in pickletools.genops(content):
        name = opcode.name
        if name == "STOP":
            break
        if name in _PASSED_OVER:
            continue
        if name in _VALUES:
            stack.append(_VALUES[name])
        elif name in _WITH_VALUE:
            stack.append(value)
        elif name == "MARK":
            stack.append(_Mark)
        elif name in _TUPLES:
            stack[-_TUPLES[name] :] = [tuple(_last(stack, _TUPLES[name]))]
        elif name == "TUPLE":
            stack.append(tuple(_since_mark(stack)))
        elif name in _EMPTY or name in _FROM_MARK:
            items = [] if name in _EMPTY else _since_mark(stack)
            containers.append({} if name.endswith("DICT") else [])
            _fill(containers[-1], items)
            stack.append(containers[-1])
        elif name in ("APPEND", "SETITEM"):
            items = _last(stack, 1 if name == "APPEND" else 2)
            del stack[-len(items) :]
            _fill(*_last(stack, 1), items)
        elif name in ("APPENDS", "SETITEMS"):
            items = _since_mark(stack)
            _fill(*_last(stack, 1), items)
        elif name in ("MEMOIZE", "PUT", "BINPUT", "LONG_BINPUT"):
            memo[len(memo) if name == "MEMOIZE" else value] = _last(stack, 1)[0]
        elif name in ("GET", "BINGET", "LONG_BINGET"):
            stack.append(memo[value])
        elif name == "GLOBAL":
            stack.append(_named(*value.split(" ", 1)))
        elif name == "STACK_GLOBAL":
            stack[-2:] = [_named(*_last(stack, 2))]
        elif name == "REDUCE":
            stack[-2:] = [_reduce(*_last(stack, 2))]
        elif name == "BUILD":
            _build(*_last(stack, 2))
            stack.pop()
        else:
            raise ValueError(f"it has the instruction {name}, which plain data do not need")
    for container in containers:
        places = container if isinstance(container, dict) else range(len(container))
        for place in places:
            container[place] = _finished(container[place])
    return _finished(_last(stack, 1)[0])


def _fill(target: Any, items: list[Any]) -> None:
    """Puts items into a list, or keys and values in turn into a dictionary."""
    if isinstance(target, list):
        target += items
        return
    keys, values = items[::2], items[1::2]
    # The hash of a tuple may take for ever.
    if not isinstance(target, dict) or not all(isinstance(k, str | bytes | int) for k in keys):
        raise ValueError("it fills in something else than a list, or a dictionary by name")
    target.update(zip(keys, values, strict=True))


def _finished(value: Any) -> Any:
    """The value of an entry; the machine's own marks stay inside."""
    if isinstance(value, _Array) and value.values is not None:
        return value.values
    if isinstance(value, _Array | _Name | _DType):
        raise ValueError("it has an array without numbers, or a name without a call")
    return value


def _last(stack: list[Any], count: int) -> list[Any]:
    items = stack[-count:]
    if len(items) < count or _Mark in items:
        raise ValueError("it is broken: an opcode finds too little on the stack")
    return items


def _since_mark(stack: list[Any]) -> list[Any]:
    items = []
    while stack:
        item = stack.pop()
        if item is _Mark:
            return items[::-1]
        items.append(item)
    raise ValueError("it is broken: a tuple has no beginning")


def _named(module: Any, name: Any) -> _Name:
    if not (isinstance(module, str) and isinstance(name, str)):
        raise ValueError("it asks for something that it does not name")
    if (module, name) not in _NAMES:
        raise ValueError(f"it asks for {module}.{name}, and only arrays are read")
    return _Name(_NAMES[module, name])


def _reduce(function: Any, arguments: Any) -> Any:
    """What the call would give, made without one."""
    name = function.name if isinstance(function, _Name) else ""
    match name, arguments:
        case "encode", (str() as text, "latin1"):
            return text.encode("latin1")
        case "dtype", (str() as code, _, _):
            return _DType(_number_type(code))
        case "_reconstruct", (_Name("ndarray"), (0,), b"b" | "b"):
            return _Array()
        case "_frombuffer", (buffer, _DType() as dtype, shape, "C" | "F" as order):
            return _Array(_numbers(buffer, dtype, shape, order))
    raise ValueError("it calls something as no array does")


def _build(target: Any, state: Any) -> None:
    """Fills in what `_reduce` left open, once."""
    match target, state:
        case _DType(), (3, "<" | ">" | "|" | "=" as order, None, None, None, -1, -1, 0):
            target.order = order
        case _Array(None), (1, shape, _DType() as dtype, (True | False | 0 | 1) as fortran, data):
            target.values = _numbers(data, dtype, shape, "F" if fortran else "C")
        case _:
            raise ValueError("it fills in an array or its type as numpy does not")


def _number_type(code: str) -> str:
    if code not in _NUMBERS:
        raise ValueError(
            f"it must hold numbers, f2 to f8, i1 to i8 or u1 to u8, but their type is {code!r}"
        )
    return code


def _numbers(data: Any, dtype: _DType, shape: Any, order: Any) -> np.ndarray:
    """The numbers in these bytes, which must be as many as the shape says."""
    numbers = np.dtype(dtype.code).newbyteorder(dtype.order)
    if isinstance(data, str):  # of Python 2
        data = data.encode("latin1")
    if not isinstance(data, bytes | bytearray):
        raise ValueError("its numbers are not bytes")
    if not isinstance(shape, tuple) or len(shape) > _MOST_AXES:
        raise ValueError(f"its shape is not a tuple of at most {_MOST_AXES} integers")
    if not all(type(n) is int and 0 <= n < 1 << 63 for n in shape):
        raise ValueError("its shape has something else than integers >= 0")
    if math.prod(shape) * numbers.itemsize != len(data):
        raise ValueError(f"it has {len(data)} bytes, and its shape asks for another number of them")
    return np.frombuffer(bytes(data), numbers).reshape(shape, order=order)
