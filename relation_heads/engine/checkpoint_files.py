"""Files of checkpoints that are either there and complete, or not there.

A file is written under another name, flushed to the disk and renamed, so that a process that is
killed at any moment leaves the one before. PyTorch writes checkpoints as ZIP archives, which have a
checksum of every tensor: `damage` compares them.
"""

from __future__ import annotations

import os
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any

PART = ".part"  # end of the name of a file that is being written
OLD_FORMAT = b"\x80\x02"  # a pickle


@contextmanager
def replacing(path: Path, mode: str) -> Iterator[IO[Any]]:
    """A file to write, which takes the place of `path` when it is closed without an error.

    Args:
        path: in a folder that exists.
        mode: "w" or "wb".
    """
    part = path.with_name(path.name + PART)
    try:
        with part.open(mode) as file:
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


def damage(path: Path) -> str:
    """What is wrong with a file of PyTorch, "" if nothing is; reads all of it.

    Files of before PyTorch 1.6 have no checksums: nothing is found in them.
    """
    try:
        with path.open("rb") as file:
            start = file.read(2)
        if start != b"PK":
            return "" if start == OLD_FORMAT else "it is no file of PyTorch"
        with zipfile.ZipFile(path) as archive:
            wrong = archive.testzip()
    except Exception as error:  # a damaged archive has no common error
        return f"{type(error).__name__}: {error}"
    return f"the checksum of {wrong} does not match" if wrong else ""
