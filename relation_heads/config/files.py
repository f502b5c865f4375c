"""Where configs are looked up by name."""

from __future__ import annotations

from pathlib import Path

import detectron2

_PACKAGE = Path(__file__).resolve().parents[1]
# Installed, in a checkout, among Detectron2's own.
CONFIG_ROOTS = (
    _PACKAGE / "configs",
    _PACKAGE.parent / "configs",
    Path(detectron2.__file__).resolve().parent / "model_zoo" / "configs",
)


def find_config(name: str) -> str:
    """The path of a YAML given as a path, or as a name below our `configs/` or Detectron2's.

    Raises:
        FileNotFoundError: there is none; lists where it was looked for.
    """
    candidates = [Path(name).expanduser(), *(root / name for root in CONFIG_ROOTS)]
    for path in candidates:
        if path.is_file():
            return str(path)
    raise FileNotFoundError(
        f"Config file {name!r} was not found; looked for {', '.join(map(str, candidates))}."
    )


def all_configs(*, with_detectron2: bool = False) -> list[tuple[str, str]]:
    """Name and first comment of every config that can be trained, sorted: not the parts in
    `configs/blocks`, `data`, `heads`, `schedules`, nor the bases.

    Args:
        with_detectron2: Detectron2's own as well; ours come first where both have a name.
    """
    parts = ("blocks/", "data/", "heads/", "schedules/")
    found: dict[str, str] = {}
    for root in CONFIG_ROOTS if with_detectron2 else CONFIG_ROOTS[:-1]:
        for path in sorted(root.rglob("*.yaml")):
            name = path.relative_to(root).as_posix()
            if not name.startswith(parts) and not path.name.startswith("Base-"):
                first = path.read_text(encoding="utf-8").partition("\n")[0]
                found.setdefault(name, first[1:].strip() if first.startswith("#") else "")
    return sorted(found.items())
