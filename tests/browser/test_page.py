"""The page of all results in a real Chromium, opened as a file, without a network.

bash tests/browser/run
"""

import shutil
from collections.abc import Iterator
from typing import Any

import pytest

from paper_repro.report import Report

pytestmark = pytest.mark.browser

NAMES = ("chromium", "chromium-browser", "google-chrome", "chrome")
FLAGS = (
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic"),
    *("--no-first-run", "--disable-background-networking"),
    *("--disable-component-update", "--disable-sync"),
)
ORDER = """column => {
  const rows = [...document.querySelector("#all").tBodies[0].rows];
  return rows.filter(r => !r.hidden).map(r => r.cells[column].innerText.trim());
}"""
GROUND = "() => getComputedStyle(document.body).backgroundColor"


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> str:
    out = tmp_path_factory.mktemp("page") / "report"
    Report(out=out).write()
    return (out / "index.html").as_uri()


@pytest.fixture(scope="module")
def chromium() -> Iterator[Any]:
    # an extra, which the other tests do without
    from playwright.sync_api import sync_playwright

    path = next(filter(None, map(shutil.which, NAMES)), None)
    assert path, "no Chromium on PATH: bash tests/browser/run installs one"
    with sync_playwright() as started:
        browser = started.chromium.launch(executable_path=path, args=[*FLAGS])
        yield browser
        browser.close()


@pytest.fixture
def page(chromium: Any, url: str) -> Iterator[Any]:
    """The page at 1280 pixels in light colours; what a browser finds wrong fails."""
    wrong: list[str] = []
    page = chromium.new_page(
        viewport={"width": 1280, "height": 900},
        color_scheme="light",
        reduced_motion="reduce",
    )
    page.on("console", lambda m: wrong.append(m.text))
    page.on("pageerror", lambda e: wrong.append(str(e)))
    page.on("requestfailed", lambda r: wrong.append(r.url))
    page.on("request", lambda r: r.url.startswith(("file:", "data:"))
            or wrong.append(r.url))  # fmt: skip
    page.goto(url)
    yield page
    page.close()
    assert wrong == []


def number(text: str) -> float:
    first = text.split()[0]
    return {"∞": float("inf"), "–": float("nan")}.get(first) or float(first)


def test_every_image_is_loaded(page: Any) -> None:
    page.evaluate("document.querySelectorAll('details').forEach(d => d.open = true)")
    sizes = page.evaluate(
        """async () => {
          const images = [...document.images];
          for (const i of images) { i.loading = "eager"; await i.decode(); }
          return images.map(i => [i.naturalWidth, i.clientWidth]);
        }"""
    )
    assert len(sizes) > 30 and min(map(min, sizes)) > 0


def test_a_head_orders_the_rows(page: Any) -> None:
    heads = page.locator("#all th button").all_inner_texts()
    obtained, n, study = map(heads.index, ("obtained", "n", "study"))
    before = page.evaluate(ORDER, obtained)
    button = page.locator("#all th button").nth(obtained)
    head = page.locator("#all thead th").nth(obtained)
    for sign, sort in ((1, "ascending"), (-1, "descending")):
        button.click()
        assert head.get_attribute("aria-sort") == sort
        values = [number(v) for v in page.evaluate(ORDER, obtained)]
        known = [v for v in values if v == v]
        assert known == sorted(known, reverse=sign < 0)
        assert all(v != v for v in values[len(known) :])  # what is missing stays last
    assert sorted(before) == sorted(page.evaluate(ORDER, obtained)) != before
    button = page.locator("#all th button").nth(n)
    button.focus()
    page.keyboard.press("Enter")
    counts = [int(v) for v in page.evaluate(ORDER, n)]
    assert counts == sorted(counts) and head.get_attribute("aria-sort") is None
    assert counts != sorted(counts, key=str)  # as numbers
    page.locator("#all th button").nth(study).click()
    studies = page.evaluate(ORDER, study)
    assert studies == sorted(studies)


def test_filters_choose_rows(page: Any) -> None:
    every = page.evaluate(ORDER, 0)
    page.fill("[name=text]", "ONE_SHOT n90")
    page.select_option("[name=study]", "parity_mlp")
    page.select_option("[name=scale]", "cpu")
    page.select_option("[name=verdict]", "held")
    assert page.evaluate(ORDER, 2) == ["P3.one_shot"]
    assert page.inner_text("#count") == f"1 of {len(every)} claims"
    page.fill("[name=text]", "no such words")
    assert page.evaluate(ORDER, 0) == []
    page.click("#filters [type=reset]")
    page.wait_for_function(
        "n => document.querySelector('#count').value === `${n} claims`", arg=len(every)
    )
    assert page.evaluate(ORDER, 0) == every


def test_colours_follow_the_system_and_the_switch(page: Any) -> None:
    light = page.evaluate(GROUND)
    page.emulate_media(color_scheme="dark")
    dark = page.evaluate(GROUND)
    assert dark != light
    page.get_by_text("light", exact=True).click()
    assert page.evaluate(GROUND) == light
    page.emulate_media(color_scheme="light")
    page.get_by_text("dark", exact=True).click()
    assert page.evaluate(GROUND) == dark
    page.emulate_media(media="print")
    assert page.evaluate(GROUND) == light


@pytest.mark.parametrize("width", [320, 390, 768, 1280])
def test_the_page_is_as_wide_as_the_screen(page: Any, width: int) -> None:
    page.set_viewport_size({"width": width, "height": 844})
    page.evaluate("document.querySelectorAll('details').forEach(d => d.open = true)")
    assert page.evaluate("document.documentElement.scrollWidth") == width
    boxes = page.evaluate(
        "[...document.querySelectorAll('.box')].map(b => b.scrollWidth > b.clientWidth)"
    )
    assert any(boxes) or width > 390  # tables scroll in theirs


def test_a_link_into_what_is_folded_opens_it(page: Any, url: str) -> None:
    folded = page.locator("#parity_mlp\\.smoke table")
    assert not folded.is_visible()
    page.goto(f"{url}#parity_mlp.smoke")
    folded.wait_for(state="visible")


def test_a_page_without_scripts_shows_everything(chromium: Any, url: str) -> None:
    page = chromium.new_page(java_script_enabled=False)
    page.goto(url)
    assert page.locator("#all tbody tr").count() > 100
    assert page.locator("#filters").is_hidden()
    assert page.locator("#all th button").count() == 0
    page.close()
