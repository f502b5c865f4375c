"""The page as a file: nothing escapes, nothing is loaded, it is small."""

import base64
import hashlib
import json
import re
from html.parser import HTMLParser
from pathlib import Path

import pytest

pytest.importorskip("detectron2")

import cv2
import numpy as np

import relation_heads.viewer
from relation_heads.viewer import write_page
from tests.viewer.common import at_random, by_hand

SOURCES = Path(relation_heads.viewer.__file__).parent
EVIL = "</script><script>alert(1)</script><img src=x onerror=alert(2)><!--\u2028&amp;{{script}}"


class Elements(HTMLParser):
    """Every element of a page with its attributes, and the text of script, style and title."""

    def __init__(self, text):
        super().__init__(convert_charrefs=True)
        self.found, self.texts, self._open = [], {}, None
        self.feed(text)
        self.close()

    def handle_starttag(self, tag, attrs):
        self.found.append((tag, dict(attrs)))
        if tag in ("script", "style", "title"):
            self._open = self.texts.setdefault(tag, [])
            self._open.append("")

    def handle_endtag(self, tag):
        if tag in ("script", "style", "title"):
            self._open = None

    def handle_data(self, data):
        if self._open is not None:
            self._open[-1] += data


def written(tmp_path, detections=None, **options):
    path = write_page(tmp_path / "new" / "page.html", detections or {"a": [by_hand()]}, **options)
    assert path == tmp_path / "new" / "page.html"
    return Elements(path.read_text(encoding="utf-8")), path


def test_untrusted_text_stays_text(tmp_path):
    evil = by_hand(names=[EVIL, "cow"], file_name="/a/" + EVIL.replace("/", "|"))
    evil.relations[0].labels[2] = EVIL + "2"
    page, path = written(tmp_path, {EVIL: [evil]}, title=EVIL)
    raw = path.read_text(encoding="utf-8")
    plain, _ = written(tmp_path)
    assert [tag for tag, _ in page.found] == [tag for tag, _ in plain.found]  # no new element
    assert page.texts["title"] == [EVIL]
    start = raw.index(">", raw.index('<script id="data"')) + 1
    assert not set("<>&") & set(raw[start : raw.index("</script>", start)])
    data = json.loads(page.texts["script"][0])
    assert data["detectors"] == [EVIL] and EVIL in data["names"] and EVIL + "2" in data["names"]
    assert page.texts["script"][1] == plain.texts["script"][1]


def test_no_script_writes_markup():
    words = ("innerHTML", "outerHTML", "insertAdjacent", "document.write", "eval(", "Function(")
    for path in SOURCES.glob("*.js"):
        for word in (*words, "setTimeout", "fetch(", "XMLHttp", "import(", "http"):
            text = path.read_text().replace("http://www.w3.org/2000/svg", "")
            assert word not in text, f"{path.name}: {word}"


def test_the_policy_allows_this_style_and_script_alone(tmp_path):
    page, _ = written(tmp_path)
    (policy,) = [a["content"] for t, a in page.found if a.get("http-equiv")]
    rules = dict(rule.split(" ", 1) for rule in policy.split("; "))
    assert rules["default-src"] == "'none'" and rules["img-src"] == "data:"
    for kind, text in (("style", page.texts["style"][0]), ("script", page.texts["script"][1])):
        digest = base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
        assert rules[f"{kind}-src"] == f"'sha256-{digest}'"


def test_nothing_is_loaded(tmp_path):
    page, path = written(tmp_path)
    for tag, attributes in page.found:
        for name in ("src", "href", "action", "data", "poster", "srcset", "style"):
            assert attributes.get(name, "data:,").startswith("data:"), tag
        assert not [name for name in attributes if name.startswith("on")], tag
    assert not re.search(r"url\((?!#)|@import", page.texts["style"][0])
    assert "somebody" not in path.read_text()  # whose photographs they are


def test_every_id_that_scripts_ask_for_is_there():
    html = (SOURCES / "page.html").read_text()
    asked = {
        i for path in SOURCES.glob("*.js") for i in re.findall(r'byId\("(.+?)"\)', path.read_text())
    }
    assert len(asked) > 15
    assert asked <= set(re.findall(r'id="(.+?)"', html))


def test_twelve_photographs_are_less_than_3_mb(tmp_path):
    rng = np.random.default_rng(0)
    images = []
    for _ in range(12):  # blobs with grain: larger as JPEG than most photographs
        coarse = rng.integers(0, 256, (40, 60, 3), dtype=np.uint8)
        image = cv2.resize(coarse, (1500, 1000), interpolation=cv2.INTER_CUBIC)
        images.append(cv2.add(image, rng.integers(0, 12, image.shape, dtype=np.uint8)))
    relation, sgrn = (
        [at_random(rng, number=15, regions=100, heads=heads, modules=modules, image=image,
                   min_score=0.3) for image in images]
        for heads, modules in ((16, 2), (1, 1))
    )  # fmt: skip
    _, path = written(tmp_path, {"relation": relation, "SGRN": sgrn})
    assert path.stat().st_size < 3e6


def test_a_place_that_cannot_be_written(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError, match="file"):
        write_page(tmp_path / "file" / "page.html", {"a": [by_hand()]})
