"""Names of files in JSON, where a text may be anything."""

from __future__ import annotations

import os


def can_be_a_file(name: str) -> bool:
    """Whether a file system could have it."""
    try:
        return b"\0" not in os.fsencode(name)
    except UnicodeEncodeError:
        return False
