"""Trained detectors that come with the package, by name.

    predictor = relation_heads.load("scenes-relation-signed")

`zoo.json` has an entry for every name: its file, SHA-256, what it was trained on, and what an
evaluation of exactly this file gave. MODEL_ZOO.md is made from it.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).resolve().parent
INDEX = FOLDER / "zoo.json"


def entries() -> dict[str, dict[str, Any]]:
    """Name -> what is known of the detector."""
    return json.loads(INDEX.read_text(encoding="utf-8"))


def path_of(name: str) -> str:
    """The checkpoint of a name.

    Raises:
        ValueError: the file is not the one that was published.
    """
    entry = entries()[name]
    path = FOLDER / entry["file"]
    if sha256_of(path) != entry["sha256"]:
        raise ValueError(f"{path} is not the file that was published: its SHA-256 is another.")
    return str(path)


def sha256_of(path: Path) -> str:
    """In hexadecimal."""
    return hashlib.sha256(path.read_bytes()).hexdigest()
