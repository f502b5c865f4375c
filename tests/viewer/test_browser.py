"""The page in a real browser: headless Chromium, if it and Playwright are installed.

    RELATION_HEADS_CHROMIUM=/usr/bin/chromium pytest tests/viewer/test_browser.py

`RELATION_HEADS_SHOTS` names a folder for screenshots: viewer_desktop.jpg and viewer_phone.jpg of it
are docs/viewer.jpg and docs/viewer_phone.jpg.
"""

import os
import re
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

pytest.importorskip("detectron2")
pytest.importorskip("playwright.sync_api", reason="Playwright is not installed")

import cv2
import numpy as np
from playwright.sync_api import sync_playwright

import relation_heads
from relation_heads.data.scenes.scenes import compose_scenes, render
from relation_heads.engine import RelationTrainer
from relation_heads.viewer import write_page
from tests.helpers import registered, tiny_cfg, tiny_coco
from tests.modeling.common import RELATION, SMALL_RELATION
from tests.viewer.common import BOXES, at_random, by_hand
from tests.visualization.test_objects import slow_heard

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
    """Opens a page, or one of detections; it must say nothing on the console and load nothing."""
    contexts, said = [], []

    def opened(detections, size="desktop", *, scheme="light", **options):
        if isinstance(detections, Path):  # a page
            path = detections
        else:
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
    mean = [("cow", "65.0%"), ("(dog)", "22.5%"), ("itself", "10.0%"), ("all else", "2.5%")]
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
    # The cow was detected; nothing was where the dog is, so that its box is faint.
    assert tab.locator(".box.alone").count() == 1 == tab.locator("tr.alone").count()
    assert tab.locator(".label text").all_text_contents() == ["cat 0.90", "cow 65%", "(dog) 23%"]
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
    button = tab.get_by_role("button", name="(dog), 22.5%")
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
            relations = found.relations[0]
            own, heard = slow_heard(
                relations.boxes,
                relations.region,
                found.boxes,
                range(3),
                relations.heard(d, head),
                d,
            )
            rows = table(tab)
            numbers = [float(percent.rstrip("%")) / 100 for _, percent in rows]
            assert sum(numbers) == pytest.approx(1, abs=1e-9)
            assert [name for name, _ in rows] == [
                *(found.names[i] if detected else f"({relations.labels[i]})"
                  for detected, i, _ in heard[: len(rows) - 2]),
                "itself", "all else",
            ]  # fmt: skip
            expected = [weight for *_, weight in heard[: len(rows) - 2]]
            assert numbers[:-2] == pytest.approx(expected, abs=0.0011)
            assert numbers[-2] == pytest.approx(own, abs=0.0011)
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
    own, heard = slow_heard(
        module.boxes, module.region, found[0].boxes, range(len(found[0])), module.heard(0), 0
    )
    assert numbers[-2] == pytest.approx(own, abs=0.0011)
    assert numbers[:-2] == pytest.approx([w for *_, w in heard][: len(numbers) - 2], abs=0.0011)
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
    assert tab.evaluate("document.getElementById('picture').getBoundingClientRect().top") >= -1
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


def test_graph_has_the_lines_of_all_detections(show):
    cat, dog, cow = 0, 3, 4
    heard = np.eye(6, dtype=np.float32)[[cow, cat, dog]] * 0.7
    heard[[0, 1, 2], [cat, cow, cow]] += 0.3
    (module,) = by_hand().relations
    relations = replace(module, region=np.array([cat, cow, dog]), weights=heard[None])
    one = by_hand(boxes=BOXES[[cat, cow, dog]], scores=np.array([0.9, 0.8, 0.7]),
                  classes=np.arange(3), names=["cat", "cow", "dog"], attention={},
                  relations=(relations,))  # fmt: skip
    stock = replace(one, relations=())
    tab = show({"mine": [one], "stock": [stock]})
    assert lines(tab) == []
    tab.locator("#graph").click()
    assert lines(tab) == [700, 700, 300]  # the dog listened to itself otherwise
    rows = tab.locator("table.edges tr").all_inner_texts()
    assert [re.split(r"[\t\n]+", row.strip()) for row in rows] == [
        ["cat → cow", "70.0%"], ["cow → cat", "70.0%"], ["dog → cow", "30.0%"]
    ]  # fmt: skip
    tab.get_by_role("button", name="dog → cow, 30.0%").focus()
    assert tab.locator(".line.lit").get_attribute("data-share") == "300"
    by_arrow(tab, 1)
    assert lines(tab) == [700]  # of the cat alone
    tab.keyboard.press("Escape")
    tab.locator("#class").select_option("cow")
    assert lines(tab) == []
    tab.locator("#class").select_option("")
    tab.keyboard.press("2")
    assert tab.locator("#graph").is_hidden() and lines(tab) == []
    tab.keyboard.press("1")
    tab.keyboard.press("g")
    assert tab.locator("#graph").get_attribute("aria-pressed") == "false" and lines(tab) == []


def test_attention_over_the_predictions_of_all_detections(show):
    tab = show({"mine": [by_hand()], "stock": [by_hand(attention={})]})
    tab.locator("#predictions-open").click()
    rows = tab.locator("#prediction-table tr").all_inner_texts()
    assert [row.split() for row in rows] == [
        ["plain", "local1"], ["cat", "0.90", "25.0%", "75.0%"], ["cow", "0.40", "50.0%", "50.0%"]
    ]  # fmt: skip
    tab.keyboard.press("Escape")
    tab.keyboard.press("2")
    assert tab.locator("#predictions-open").is_hidden()


@pytest.mark.parametrize("size", SIZES)
def test_nodes_of_glore_lie_on_the_image(show, size):
    """Node 6 of 18 gathers the left half, and what is right of it counts against it."""
    maps = np.zeros((18, 5, 10), np.float32)
    maps[5, :, :5], maps[5, :, 5:] = 0.3, -0.15
    grey = np.full((100, 200, 3), 128, np.uint8)
    one = by_hand(image=grey, nodes={"backbone.res4.1.glore": maps})
    tab = show({"mine": [one], "stock": [replace(one, nodes={})]}, size)
    tab.locator("#nodes-open").click()
    assert "first 16 of 18 nodes" in tab.locator("#nodes h3").inner_text()
    assert tab.locator(".node").count() == 16
    for k, (left, right) in {4: (128, 128), 5: (255, 65), 6: (128, 128)}.items():
        shot = tab.locator(".node").nth(k).screenshot()
        seen = cv2.imdecode(np.frombuffer(shot, np.uint8), cv2.IMREAD_GRAYSCALE)
        middle = seen[len(seen) // 2]
        assert abs(int(middle[len(middle) // 4]) - left) <= 4
        assert abs(int(middle[len(middle) * 3 // 4]) - right) <= 4
    tab.keyboard.press("Escape")
    tab.keyboard.press("2")
    assert tab.locator("#nodes-open").is_hidden()


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


FIRST_PAINT = """() => new Promise((done) => {
    const read = (entries) => {
        const [paint] = entries.filter((one) => one.name === "first-contentful-paint");
        if (paint) done(paint.startTime);
    };
    const observer = new PerformanceObserver((list) => read(list.getEntries()));
    observer.observe({ type: "paint", buffered: true });
})"""


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("size", SIZES)
def test_twelve_photographs_are_there_at_once(show, size, scheme, photographs, record_property):
    """Nothing on the console and no request: `show` looks. The size of a page of photographs."""
    tab = show(photographs, size, scheme=scheme)
    paint = tab.evaluate(FIRST_PAINT)
    print(f"first paint after {paint:.0f} ms, {size}, {scheme}")
    record_property("first_paint_ms", paint)
    assert 0 < paint < 1000 * float(os.environ.get("RELATION_HEADS_PATIENCE", "3"))
    assert tab.evaluate("document.documentElement.scrollWidth") <= SIZES[size][0]
    assert photographs.stat().st_size < 3e6
    tab.keyboard.press("ArrowRight")
    tab.keyboard.press("g")
    assert len(lines(tab)) > 3


@pytest.fixture(scope="module")
def photographs(tmp_path_factory):
    """A page of twelve, larger as JPEG than most, and of two detectors: one of 16 heads, one of a
    graph and GloRe units."""
    rng = np.random.default_rng(0)
    relation, graph = [], []
    for i in range(12):
        coarse = rng.integers(0, 256, (40, 60, 3), dtype=np.uint8)
        image = cv2.resize(coarse, (1500, 1000), interpolation=cv2.INTER_CUBIC)
        same = {"number": 15, "regions": 60, "image": image, "min_score": 0.3, "file_name": f"{i}"}
        relation.append(at_random(rng, heads=16, **same))
        nodes = {f"res{k}": rng.normal(size=(64, 50, 75)).astype(np.float32) for k in (3, 4)}
        graph.append(replace(at_random(rng, heads=1, modules=1, **same), nodes=nodes))
    path = tmp_path_factory.mktemp("photographs") / "page.html"
    return write_page(path, {"relation": relation, "SGRN": graph})


@pytest.mark.parametrize("size", SIZES)
def test_screenshots(show, size, tmp_path):
    """Of a detector that comes with the package, on scenes that it never saw."""
    scenes = [render(scene) for scene in compose_scenes(3, seed=5)]
    found = relation_heads.load("scenes-relation-signed")(scenes, relations=True)
    tab = show({"relation": found}, size, scheme="dark" if size == "phone" else "light")
    by_arrow(tab, 1)
    folder = Path(os.environ.get("RELATION_HEADS_SHOTS") or tmp_path)
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"viewer_{size}.jpg"
    tab.screenshot(path=path, type="jpeg", quality=85)
    assert 20_000 < path.stat().st_size < 150_000
