"""The page in a real browser: headless Chromium, if it and Playwright are installed.

    RELATION_HEADS_CHROMIUM=/usr/bin/chromium pytest tests/viewer/test_browser.py

`RELATION_HEADS_SHOTS` names a folder for screenshots.
"""

import os
import re
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

pytest.importorskip("detectron2")
pytest.importorskip("playwright.sync_api", reason="Playwright is not installed")

import numpy as np
from playwright.sync_api import sync_playwright

import relation_heads
from relation_heads.engine import RelationTrainer
from relation_heads.viewer import write_page
from tests.helpers import registered, tiny_cfg, tiny_coco
from tests.modeling.common import RELATION, SMALL_RELATION
from tests.viewer.common import BOXES, at_random, by_hand

CHROMIUM = os.environ.get("RELATION_HEADS_CHROMIUM") or next(
    filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None
)
SIZES = {"desktop": (1280, 800), "phone": (390, 844)}
EVIL = "</script><script>document.title='evil'</script><img src=x onerror=document.title='evil'>"


@pytest.fixture(scope="module")
def browser():
    if CHROMIUM is None:
        pytest.skip("Chromium is not installed")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture
def show(browser, tmp_path):
    """Opens a page of detections; afterwards it said nothing on the console and loaded nothing."""
    contexts, said = [], []

    def opened(detections, size="desktop", *, scheme="light", **options):
        path = write_page(tmp_path / "page.html", detections, **options)
        width, height = SIZES[size]
        context = browser.new_context(
            viewport={"width": width, "height": height}, color_scheme=scheme,
            has_touch=size == "phone", is_mobile=size == "phone",
        )  # fmt: skip
        contexts.append(context)
        tab = context.new_page()
        tab.on("console", lambda message: said.append(message.text))
        tab.on("pageerror", lambda error: said.append(str(error)))
        tab.on("request", lambda request: said.append(request.url[:80]))
        tab.goto(path.as_uri())
        assert said.pop(0) == path.as_uri()  # the page itself
        return tab

    yield opened
    for context in contexts:
        context.close()
    assert [text for text in said if not text.startswith("data:")] == []


def at(tab, box, image_width=200):
    """The middle of a box of the image, in pixels of the screen."""
    frame = tab.locator("#drawing").bounding_box()
    scale = frame["width"] / image_width
    return (
        frame["x"] + scale * float(box[0] + box[2]) / 2,
        frame["y"] + scale * float(box[1] + box[3]) / 2,
    )


def table(tab):
    """Name and percent of every row that says what a detection listened to."""
    rows = tab.locator("#answer table:not(.attention) tr")
    read = "rows => rows.map(r => ['th', '.number'].map(part => r.querySelector(part).innerText))"
    return [tuple(row) for row in rows.evaluate_all(read)]


def lines(tab):
    return tab.locator(".line").evaluate_all("all => all.map(line => Number(line.dataset.share))")


def by_arrow(tab, number):
    for _ in range(number):
        tab.keyboard.press("ArrowDown")


def test_pointing_shows_what_it_listened_to(show):
    tab = show({"mine": [by_hand()]}, top=2)
    assert lines(tab) == [] and tab.locator(".box").count() == 2
    tab.mouse.move(*at(tab, BOXES[0]))
    assert lines(tab) == [650, 225]
    mean = [("cow", "65.0%"), ("dog", "22.5%"), ("itself", "10.0%"), ("all else", "2.5%")]
    assert table(tab) == mean
    assert tab.locator("#answer h2").inner_text() == "cat 0.90"
    # A line goes to the middle of the border that faces the detection, or into the box.
    x, y = at(tab, BOXES[4])
    frame = tab.locator("#drawing").bounding_box()
    end = tab.locator(".line").first.locator("circle").last
    side = (BOXES[4][2] - BOXES[4][0]) * frame["width"] / 200
    assert abs(float(end.get_attribute("cx")) + frame["x"] - x) <= side / 2 + 1
    assert abs(float(end.get_attribute("cy")) + frame["y"] - y) <= side / 2 + 1
    widths = [float(line.locator("line").last.get_attribute("stroke-width"))
              for line in tab.locator(".line").all()]  # fmt: skip
    assert widths[0] > 2 * widths[1]
    tab.mouse.move(*at(tab, [150, 20, 160, 30]))
    assert lines(tab) == [] and table(tab) == []
    # A click stays, also when the pointer leaves.
    tab.mouse.click(*at(tab, BOXES[0]))
    tab.mouse.move(5, 5)
    assert lines(tab) == [650, 225]
    attention = tab.locator("table.attention tr").all_inner_texts()
    assert [text.split() for text in attention] == [["plain", "25.0%"], ["local1", "75.0%"]]


def test_rows_of_the_table_are_buttons_that_light_their_line(show):
    tab = show({"mine": [by_hand()]}, top=2)
    by_arrow(tab, 1)
    button = tab.get_by_role("button", name="dog, 22.5%")
    button.focus()
    lit = tab.locator(".line.lit")
    assert lit.count() == 1 and lit.get_attribute("data-share") == "225"
    button.blur()
    assert tab.locator(".lit").count() == 0
    button.hover()
    assert tab.locator(".line.lit").count() == 1


@pytest.mark.parametrize("size", SIZES)
def test_numbers_are_the_weights(show, size):
    found = at_random(np.random.default_rng(3), number=3)
    tab = show({"mine": [found]}, size, min_score=0, top=40)
    for d in range(3):
        by_arrow(tab, 1)
        tab.locator("#module").select_option(index=0)
        for head in (None, 0, 3):
            tab.locator("#head").select_option(index=0 if head is None else head + 1)
            rows = table(tab)
            numbers = [float(percent.rstrip("%")) / 100 for _, percent in rows]
            assert sum(numbers) == pytest.approx(1, abs=1e-9)
            assert numbers[:-2] == sorted(numbers[:-2], reverse=True)
            relations = found.relations[0]
            weights = relations.heard(d, head)
            own = relations.boxes[relations.region[d]]
            overlaps = [
                max(0, min(own[2], b[2]) - max(own[0], b[0]))
                * max(0, min(own[3], b[3]) - max(own[1], b[1]))
                for b in relations.boxes
            ]
            areas = (relations.boxes[:, 2:] - relations.boxes[:, :2]).prod(1)
            union = areas + (own[2:] - own[:2]).prod() - overlaps
            mine = np.array(overlaps) / union > 0.3
            assert rows[-2][0] == "itself"
            assert numbers[-2] == pytest.approx(weights[mine].sum(), abs=0.0011)
            strongest = np.argmax(np.where(mine, 0, weights))
            assert numbers[0] >= weights[strongest] - 0.0011
            shares = [float(percent.rstrip("%")) for _, percent in rows[:-2]]
            assert [round(10 * s) for s in shares] == lines(tab)


def test_a_trained_detector(show, tmp_path):
    with registered(tiny_coco(tmp_path / "data")) as name:
        opts = (*RELATION, *SMALL_RELATION, "SOLVER.MAX_ITER", 1,
                "MODEL.ROI_HEADS.SCORE_THRESH_TEST", 0.0)  # fmt: skip
        cfg = tiny_cfg([name], [], 3, tmp_path / "out", opts, base=relation_heads.get_cfg())
        trainer = RelationTrainer(cfg)
        trainer.resume_or_load(resume=False)
        trainer.train()
    predictor = relation_heads.load(tmp_path / "out" / "model_final.pth")
    files = sorted(map(str, (tmp_path / "data" / "images").iterdir()))[:2]
    found = predictor(files, relations=True)
    tab = show({"relation": found}, min_score=0, top=100)
    by_arrow(tab, 1)
    assert tab.locator("#answer h2").inner_text().startswith(found[0].names[0])
    module = found[0].relations[-1]
    assert module.module.endswith(tab.locator("#module option:checked").inner_text())
    numbers = [float(percent.rstrip("%")) / 100 for _, percent in table(tab)]
    assert sum(numbers) == pytest.approx(1, abs=1e-9)
    weights = module.heard(0)
    same = [  # a region of the same box as the detection's
        r for r, box in enumerate(module.boxes) if (box == module.boxes[module.region[0]]).all()
    ]
    assert numbers[-2] >= weights[same].sum() - 0.0011
    assert tab.locator("#where").inner_text() == f"{Path(files[0]).name} 1 of 2"


def test_keys(show):
    relation = [by_hand(), by_hand(file_name="b.jpg")]
    stock = [replace(one, relations=(), attention={}, names=["dog", "cow"]) for one in relation]
    tab = show({"stock": stock, "relation": relation}, top=2)
    by_arrow(tab, 1)
    assert "names each box without the others" in tab.locator("#answer").inner_text()
    assert lines(tab) == [] and tab.locator("#head").is_hidden()
    tab.keyboard.press("2")  # the same place in the other detector
    assert tab.locator("#answer h2").inner_text() == "cat 0.90"
    assert tab.locator(".others").inner_text().split() == [
        "stock", "dog", "0.90", "relation", "cat", "0.90"
    ]  # fmt: skip
    assert lines(tab) == [650, 225]
    tab.keyboard.press("h")
    assert lines(tab) == [450, 300]
    tab.keyboard.press("h")
    assert lines(tab) == [1000]
    tab.keyboard.press("h")
    assert lines(tab) == [650, 225]
    tab.keyboard.press("Shift+H")
    assert lines(tab) == [1000] and table(tab)[0] == ("cow", "100.0%")
    tab.keyboard.press("ArrowDown")
    assert tab.locator("#answer h2").inner_text() == "cow 0.40"
    assert table(tab) == [("itself", "100.0%"), ("all else", "0.0%")]
    tab.keyboard.press("ArrowUp")
    tab.keyboard.press("Escape")
    assert lines(tab) == []
    tab.keyboard.press("ArrowRight")
    assert tab.locator("#where").inner_text() == "b.jpg 2 of 2"
    tab.keyboard.press("ArrowRight")
    assert tab.locator("#where").inner_text() == "farm.jpg 1 of 2"
    tab.keyboard.press("?")
    assert tab.locator("#help").is_visible()
    tab.keyboard.press("Escape")
    assert tab.locator("#help").is_hidden()
    tab.locator("#found button").first.focus()  # as Tab does
    assert tab.locator("#answer h2").inner_text() == "cat 0.90"


def test_filters(show):
    tab = show({"mine": [by_hand()]})
    tab.locator("#class").select_option("cow")
    assert tab.locator("#found button").all_inner_texts() == ["cow\n0.40"]
    tab.locator("#class").select_option("")
    tab.locator("#score").fill("0.5")
    assert tab.locator(".box").count() == 1 and "1 of 2" in tab.locator("#found-title").inner_text()
    tab.locator("#score").fill("0.4")
    assert tab.locator(".box").count() == 2


def test_a_phone(show):
    images = [at_random(np.random.default_rng(i), file_name=f"{i}.jpg") for i in range(12)]
    detectors = {name: images for name in ("stock", "relation", "SGRN", "reasoning")}
    tab = show(detectors, "phone", min_score=0)
    assert tab.evaluate("document.documentElement.scrollWidth") <= 390
    tab.locator("#drawing").tap(position={"x": 100, "y": 100})
    tab.locator("#found button").first.tap()
    assert tab.evaluate("document.getElementById('picture').getBoundingClientRect().top") >= 0
    assert len(lines(tab)) > 3
    assert tab.evaluate("document.documentElement.scrollWidth") <= 390


def test_a_tap_asks_and_a_tap_beside_lets_go(show):
    tab = show({"mine": [by_hand()]}, "phone", top=2)
    tab.touchscreen.tap(*at(tab, BOXES[0]))
    assert lines(tab) == [650, 225]
    assert tab.locator(".label text").all_text_contents() == ["cat 0.90", "65%", "23%"]
    tab.touchscreen.tap(*at(tab, [150, 20, 160, 30]))
    assert lines(tab) == []


def test_taps_go_through_boxes_that_lie_on_each_other(show):
    twice = by_hand(boxes=BOXES[[0, 0]])
    tab = show({"mine": [twice]})
    names = []
    for _ in range(3):
        tab.mouse.click(*at(tab, BOXES[0]))
        names.append(tab.locator("#answer h2").inner_text())
    assert names == ["cat 0.90", "cow 0.40", "cat 0.90"]


def test_light_and_dark(show):
    def background(tab):
        color = tab.evaluate("getComputedStyle(document.body).backgroundColor")
        return sum(map(int, re.findall(r"\d+", color)))

    for scheme in ("light", "dark"):
        tab = show({"mine": [by_hand()]}, scheme=scheme)
        before = background(tab)
        assert (before > 400) == (scheme == "light")
        tab.keyboard.press("t")
        assert (background(tab) > 400) == (scheme == "dark")
        tab.locator("#theme").click()
        assert background(tab) == before


def test_untrusted_text_does_not_run(show):
    evil = by_hand(names=[EVIL, EVIL], file_name=EVIL.replace("/", "|"))
    evil.relations[0].labels[:] = [EVIL] * 6
    attention = dict.fromkeys([EVIL], np.ones(2))
    tab = show({EVIL: [replace(evil, attention=attention)]}, title=EVIL)
    by_arrow(tab, 1)
    assert tab.title() == EVIL and tab.locator("h1").inner_text() == EVIL
    assert tab.locator("#answer h2").inner_text() == f"{EVIL} 0.90"
    assert tab.evaluate("document.scripts.length") == 2
    assert tab.locator("img[onerror]").count() == 0


def test_kernels(show):
    maps = [np.zeros((8, 20, 20)), np.ones((3, 20, 20))]
    tab = show({"a": [by_hand()], "b": [by_hand()]}, kernels={"b": maps})
    assert tab.locator("#kernels-open").is_hidden()
    tab.keyboard.press("2")
    tab.locator("#kernels-open").click()
    assert tab.locator("#kernel-maps img:visible").count() == 11


def test_labels_do_not_cover_each_other(show):
    tab = show({"mine": [at_random(np.random.default_rng(1), number=10)]}, min_score=0)
    by_arrow(tab, 1)
    boxes = [label.bounding_box() for label in tab.locator(".label:visible").all()]
    assert len(boxes) > 4
    for i, a in enumerate(boxes):
        for b in boxes[:i]:
            width = min(a["x"] + a["width"], b["x"] + b["width"]) - max(a["x"], b["x"])
            height = min(a["y"] + a["height"], b["y"] + b["height"]) - max(a["y"], b["y"])
            assert min(width, height) < 3, (a, b)


def test_it_is_there_at_once(show):
    images = [at_random(np.random.default_rng(i), heads=16) for i in range(12)]
    tab = show({"mine": images}, min_score=0)
    tab.wait_for_function("performance.getEntriesByName('first-contentful-paint').length")
    (paint,) = tab.evaluate(
        "performance.getEntriesByName('first-contentful-paint').map((entry) => entry.startTime)"
    )
    assert paint < 1000 * float(os.environ.get("RELATION_HEADS_PATIENCE", "5"))


@pytest.mark.parametrize("size", SIZES)
def test_screenshots(show, size, tmp_path):
    tab = show({"mine": [at_random(np.random.default_rng(1))]}, size)
    by_arrow(tab, 1)
    folder = Path(os.environ.get("RELATION_HEADS_SHOTS") or tmp_path)
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"viewer_{size}.png"
    tab.screenshot(path=path)
    assert path.stat().st_size > 20_000
