"""How Detectron2 turns an image when it reads it: by the orientation in its EXIF data."""

from __future__ import annotations

from PIL import Image

_ORIENTATION = 0x0112
UPRIGHT = 1
QUARTER_TURNS = (5, 6, 7, 8)  # the orientations that exchange width and height


def exif_orientation(image: Image.Image) -> int:
    """1 to 8; `UPRIGHT` also if there are no data or, as in Detectron2, broken ones."""
    try:
        value = image.getexif().get(_ORIENTATION)
    except Exception:  # broken data make PIL raise nearly anything
        return UPRIGHT
    return value if isinstance(value, int) and 2 <= value <= 8 else UPRIGHT


def upright_size(size: tuple[int, int], orientation: int) -> tuple[int, int]:
    """Width and height after the turn."""
    return size[::-1] if orientation in QUARTER_TURNS else size
