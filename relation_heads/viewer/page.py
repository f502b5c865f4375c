"""The page as one file: its HTML, style and scripts from this folder, and the data inside."""

from __future__ import annotations

import base64
import hashlib
import html
import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ..visualization.detections import Detections
from .data import Kernels, page_data

HERE = Path(__file__).parent
SCRIPTS = ("picture.js", "content.js", "panels.js", "page.js")  # one scope, in this order
# Nothing may be loaded, and only the page's own style and script run: what a class name or a file
# name smuggles in does not. Images are inside the page.
POLICY = (
    "default-src 'none'; img-src data:; style-src '{style}'; script-src '{script}'; "
    "base-uri 'none'; form-action 'none'"
)


def write_page(
    path: str | Path,
    detections: Mapping[str, Sequence[Detections]],
    *,
    title: str = "What the detections listened to",
    min_score: float = 0.3,
    top: int = 12,
    kernels: Kernels | None = None,
) -> Path:
    """Writes one HTML file that a browser opens from disk, without a server or a network.

    The images are inside the file as JPEG: the longest side at most 1000 pixels, quality 85 or the
    next lower one with at most 130,000 bytes. A page of 12 photographs has less than 3 MB. Of a
    file name the page tells the last part alone.

        predictor = relation_heads.load("model_final.pth")
        write_page("page.html", {"relation": predictor(["a.jpg", "b.jpg"], relations=True)})

    Args:
        path: of the file; missing folders are made.
        detections: by the name of a detector, one entry for every image. All detectors saw the same
            images in the same order. Without relations only the boxes are shown.
        title: of the page.
        min_score: detections below are left out.
        top: how many objects a detection has in each head; the others are summed up.
        kernels: by the name of a detector, the spatial kernels of an SGRN: of every graph layer
            (K, side, side) maps in 0 to 1, as `visualization.kernels.kernel_maps` gives them.

    Returns:
        the path.

    Raises:
        ValueError: there is no detector or image, the detectors saw different images, or a value is
            not valid.
        OSError: the file cannot be written.
    """
    data = page_data(detections, min_score=min_score, top=top, kernels=kernels or {})
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(page(data, title), encoding="utf-8")
    return path


def page(data: dict[str, Any], title: str) -> str:
    """The HTML of the data of `page_data`."""
    style = _read("page.css")
    parts = "\n".join(_read(name) for name in SCRIPTS)
    script = f'"use strict";\n(() => {{\n{parts}}})();\n'
    values = {
        "policy": POLICY.format(style=_hash(style), script=_hash(script)),
        "title": html.escape(title),
        "style": style,
        "script": script,
        "data": json_in_html(data),
    }
    return re.sub(r"\{\{(\w+)\}\}", lambda found: values[found[1]], _read("page.html"))


def json_in_html(data: Any) -> str:
    """JSON that stays inside its script element: "</script>" in a string does not end it."""
    code = json.dumps(data, separators=(",", ":"), allow_nan=False)
    return code.replace("&", "\\u0026").replace("<", "\\u003c").replace(">", "\\u003e")


def _read(name: str) -> str:
    return (HERE / name).read_text(encoding="utf-8")


def _hash(code: str) -> str:
    """What the policy calls this code. An HTML parser reads every line end as one "\\n"."""
    digest = hashlib.sha256(code.replace("\r\n", "\n").encode()).digest()
    return f"sha256-{base64.b64encode(digest).decode('ascii')}"
