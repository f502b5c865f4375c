"""Files that a converter can rely on after it was stopped: written whole, and read only once."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable
from hashlib import blake2b
from pathlib import Path
from typing import Any


def write_whole(path: Path, text: str) -> None:
    """Writes a file that appears when it is complete; makes its folder."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(path.name + ".part")
    part.write_text(text, encoding="utf-8")
    part.replace(path)


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
