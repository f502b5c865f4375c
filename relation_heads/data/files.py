"""Files that can be relied on after a program was stopped: written whole, and made only once."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from hashlib import blake2b
from pathlib import Path
from typing import IO, Any

PART = ".part"  # end of the name of a file that is being written


@contextmanager
def replacing(path: Path, mode: str = "w") -> Iterator[IO[Any]]:
    """A file to write, which takes the place of `path` when it is closed without an error.

    It is written under another name, flushed to the disk and renamed, so that a process that is
    killed at any moment leaves the file of before.

    Args:
        path: the file; its folder is made.
        mode: "w", in UTF-8, or "wb".
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(path.name + PART)
    try:
        with open(part, mode, encoding=None if "b" in mode else "utf-8") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(part, path)
    except BaseException:
        with suppress(OSError):
            part.unlink(missing_ok=True)
        raise
    if hasattr(os, "O_DIRECTORY"):  # the name is on the disk when its folder is
        folder = os.open(path.parent, os.O_DIRECTORY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)


def write_whole(path: Path, text: str) -> None:
    """Writes a text file that appears when it is complete; makes its folder."""
    with replacing(path) as file:
        file.write(text)


def read_text(path: Path) -> str:
    """The content of a text file in UTF-8.

    Raises:
        OSError: it cannot be opened.
        ValueError: it is not UTF-8; names the file.
    """
    try:
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is not a text in UTF-8: {error}.") from None


def read_json(
    path: str | os.PathLike[str],
    hook: Callable[[dict[str, Any]], Any] | None = None,
    errors: str = "strict",
) -> Any:
    """The content of a JSON file in UTF-8.

    Args:
        path: the file.
        hook: what it makes of an object stands in the place of the object. Its ValueErrors name the
            file.
        errors: what becomes of bytes that are not UTF-8, see `open`.

    Raises:
        OSError: it cannot be opened.
        ValueError: it is not JSON, or nested too deep, or what `hook` raises; names the file.
    """
    with open(path, encoding="utf-8", errors=errors) as file:
        try:
            return json.load(file, object_hook=hook)
        except RecursionError:
            why = "lists or objects are nested too deep"
        except ValueError as error:  # not JSON, not UTF-8, an integer of too many digits
            if str(path) in str(error):
                raise
            why = str(error)
    raise ValueError(f"{path} is not a JSON file: {why}.")


def stamp(paths: Iterable[Path], *settings: Any) -> str:
    """Stands for files as they are: it changes with a name, a size, a time of change, a setting.

    Args:
        paths: a path that does not exist counts as well.
        settings: what else the result depends on, as JSON.
    """
    states = []
    for path in paths:
        try:
            state = path.stat()
            states.append([path.as_posix(), state.st_size, state.st_mtime_ns])
        except OSError:
            states.append([path.as_posix()])
    return blake2b(json.dumps([states, settings]).encode(), digest_size=16).hexdigest()


class Kept:
    """Results by key in a file, a line of JSON each; one is kept as soon as it is set.

    A program that is stopped while it writes leaves a line without an end. It is cut off, and its
    result is made again.
    """

    def __init__(self, path: Path) -> None:
        """
        Args:
            path: the file; it is made with the first result.

        Raises:
            OSError: it cannot be read or written.
        """
        self.path = path
        self._results: dict[str, Any] = {}
        if not path.is_file():
            return
        content = path.read_bytes()
        whole = content[: content.rfind(b"\n") + 1]
        if len(whole) < len(content):
            os.truncate(path, len(whole))
        for line in whole.splitlines():
            try:
                key, result = json.loads(line)
                self._results[key] = result
            except (TypeError, ValueError):  # damaged: made again
                continue

    def get(self, key: str) -> Any:
        """The result, or None."""
        return self._results.get(key)

    def set(self, key: str, result: Any) -> None:
        """Keeps a result, not None; does nothing if the same is kept already."""
        if self._results.get(key) == result:
            return
        self._results[key] = result
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with open(self.path, "a", encoding="utf-8") as file:
            file.write(json.dumps([key, result]) + "\n")
