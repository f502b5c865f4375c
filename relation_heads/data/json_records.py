"""The items of a JSON file that is one long list, read with the memory of one item.

`json.load` needs several times the size of a file, and Visual Genome's have up to gigabytes. Here
a window of text moves over the file, and the standard library's decoder takes one item after the
other from its beginning. What cannot be read is refused with the number of the item, from 0 on, and
the byte in the file.
"""

from __future__ import annotations

import codecs
import json
import os
import re
from collections.abc import Iterator
from typing import Any, BinaryIO

_NOT_BLANK = re.compile(r"[^ \t\r\n]")
_PACKED = {b"\x1f\x8b": "gzip", b"PK\x03": "zip", b"BZh": "bzip2", b"\xfd7z": "xz"}
_CHUNK, _LONGEST = 1 << 20, 1 << 26  # bytes read at once, characters of one item


def read_records(path: str | os.PathLike[str], chunk_size: int = _CHUNK) -> Iterator[Any]:
    """The items of a JSON file that is a list.

    Args:
        path: the file, in UTF-8.
        chunk_size: fewest bytes read at once.

    Yields:
        what `json.load` would have in its list.

    Raises:
        OSError: the file cannot be read.
        ValueError: it is not a list, cut off, broken or not UTF-8; names file, record and byte.
    """
    with open(path, "rb") as file:
        start = file.read(len(codecs.BOM_UTF8))
        packed = next((kind for magic, kind in _PACKED.items() if start.startswith(magic)), None)
        if packed:
            raise ValueError(
                f"{path} is not a JSON list but packed, with {packed}: unpack it first."
            )
        skipped = len(start) if start == codecs.BOM_UTF8 else 0
        file.seek(skipped)
        window = _Window(path, file, chunk_size, skipped)
        if window.take() != "[":
            raise ValueError(f"{path} is not a JSON list: it does not begin with '['.")
        if window.peek() == "]":
            window.take()
        else:
            yield from _items(window)
        if window.peek():
            raise ValueError(f"{path}: the list ends, but at byte {window.byte} the file goes on.")


def _items(window: _Window) -> Iterator[Any]:
    while True:
        yield window.value()
        separator = window.peek()
        if separator not in (",", "]"):
            found = repr(separator) if separator else "the end of the file"
            raise window.error(f"',' or ']' must follow it at byte {window.byte}, not {found}.")
        window.take()
        if separator == "]":
            return
        window.number += 1


class _Window:
    """A part of the text of a file, and what has not been taken from it yet."""

    def __init__(
        self, path: str | os.PathLike[str], file: BinaryIO, chunk_size: int, skipped: int
    ) -> None:
        self.number = 0  # of the record
        self._path, self._file, self._chunk_size = path, file, chunk_size
        self._text, self._start = "", 0
        self._first_byte = skipped  # of the text
        self._bytes_read = skipped
        self._bad_byte: int | None = None  # behind the text
        self._utf8 = codecs.getincrementaldecoder("utf-8")()
        self._decoder = json.JSONDecoder()

    @property
    def byte(self) -> int:
        """Where in the file the text begins that has not been taken yet."""
        return self._byte_of(self._start)

    def error(self, what: str) -> ValueError:
        return ValueError(f"{self._path}, record {self.number}: {what}")

    def peek(self) -> str:
        """The next character that is not blank, or "" at the end of the file."""
        while True:
            found = _NOT_BLANK.search(self._text, self._start)
            self._start = found.start() if found else len(self._text)
            if found:
                return found.group()
            if not self._more():
                return ""

    def take(self) -> str:
        """`peek`, and past it."""
        character = self.peek()
        self._start += len(character)
        return character

    def value(self) -> Any:
        """The next JSON value, and past it."""
        self.peek()
        while True:
            try:
                value, end = self._decoder.raw_decode(self._text, self._start)
                problem = ""
            except json.JSONDecodeError as error:  # broken, or not read to its end yet
                end, problem = len(self._text), f"{error.msg} (byte {self._byte_of(error.pos)})"
            except RecursionError:
                raise self.error(f"it begins at byte {self.byte} and is nested too deep.") from None
            except ValueError:  # of int(): more digits than Python converts
                where = f"it begins at byte {self.byte}"
                raise self.error(f"{where} and has an integer of too many digits.") from None
            # Of a number only the beginning may be there, which is a number too.
            if end < len(self._text) and self._text[end] not in ".eE":
                break
            where = f"it begins at byte {self.byte}"
            if len(self._text) - self._start > _LONGEST or not self._more():
                if problem:
                    raise self.error(f"{where} and is cut off or broken: {problem}.")
                break
        self._start = end
        return value

    def _byte_of(self, index: int) -> int:
        return self._first_byte + len(self._text[:index].encode())

    def _more(self) -> bool:
        """Reads on and forgets what was taken; False at the end of the file."""
        if self._bad_byte is not None:
            raise self.error(f"byte {self._bad_byte} is not UTF-8.")
        rest = self._text[self._start :]
        # At least doubles what is there, so that a long record is not parsed over and over.
        chunk = self._file.read(max(self._chunk_size, len(rest)))
        text = self._decode(chunk)
        if not (chunk or text or self._bad_byte is not None):
            return False
        self._first_byte, self._text, self._start = self.byte, rest + text, 0
        return True

    def _decode(self, chunk: bytes) -> str:
        """The text of the next bytes of the file; up to the first one that is not UTF-8."""
        begin = self._bytes_read - len(self._utf8.getstate()[0])  # of a character cut in two
        self._bytes_read += len(chunk)
        try:
            return self._utf8.decode(chunk, final=not chunk)
        except UnicodeDecodeError as error:
            self._bad_byte = begin + error.start
            return error.object[: error.start].decode()
