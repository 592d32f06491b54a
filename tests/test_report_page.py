"""The report in a real browser: readable by day and night, on desk, phone and paper, and cut off from the world."""

from __future__ import annotations

from pathlib import Path

import pytest

from ssl_pose.config import load_config
from ssl_pose.reporting import SECTIONS, render_report
from tests.browser import DESK, PHONE, address_of, needs_browser, opened

ROOT = Path(__file__).resolve().parent.parent
pytestmark = needs_browser
LUMINANCE = """element => {
  const linear = value => value <= 0.03928 ? value / 12.92 : ((value + 0.055) / 1.055) ** 2.4;
  const light = colour => { const [r, g, b] = colour.match(/[\\d.]+/g).map(part => linear(part / 255));
                            return 0.2126 * r + 0.7152 * g + 0.0722 * b; };
  const behind = node => { const colour = getComputedStyle(node).backgroundColor;
                           const clear = colour.endsWith(', 0)') && node.parentElement;
                           return clear ? behind(node.parentElement) : colour; };
  return [light(getComputedStyle(element).color), light(behind(element))];
}"""


@pytest.fixture(scope="module")
def page_file(tmp_path_factory) -> Path:
    """The page of the committed default profile as it is rendered now, at its place in a copy of the folder."""
    results = ROOT / "results" / "default"
    folder = tmp_path_factory.mktemp("results") / "default"
    folder.mkdir()
    (folder / "notebooks").symlink_to(results / "notebooks")
    config = load_config(ROOT / "params.yaml")
    (folder / "report.html").write_text(render_report(config, results, [results]))
    return folder / "report.html"


@pytest.mark.parametrize(("size", "dark"), [(DESK, False), (DESK, True), (PHONE, False), (PHONE, True)],
                         ids=["desk-light", "desk-dark", "phone-light", "phone-dark"])
def test_it_opens_without_requests_errors_or_sideways_scrolling(page_file, size, dark):
    with opened(address_of(page_file), size=size, dark=dark) as watched:
        page = watched.page
        assert (watched.outside, watched.errors) == ([], [])
        shown = [section for section in SECTIONS if page.locator(f"#{section.key}").count()]
        assert page.locator("section h2").count() == len(shown) + 1
        assert page.evaluate("document.documentElement.scrollWidth <= window.innerWidth")
        pictures = page.locator("img")
        assert pictures.count() == page.locator("figure").count() > len(shown) / 2
        assert pictures.evaluate_all("all => all.every(one => one.complete && one.naturalWidth > 100 && one.alt)")
        assert page.evaluate("getComputedStyle(document.body).fontSize") == "16px"
        for kind in ("p", "th", "td", "caption", "figcaption", "a", ".good", ".bad", ".open", ".made"):
            for element in page.locator(kind).all()[:3]:
                light, dim = sorted(element.evaluate(LUMINANCE), reverse=True)
                assert (light + 0.05) / (dim + 0.05) >= 4.5, f"{kind} has too little contrast"


def test_every_link_leads_somewhere(page_file):
    with opened(address_of(page_file)) as watched:
        links = watched.page.locator("a").evaluate_all("all => all.map(one => one.getAttribute('href'))")
        ids = watched.page.locator("[id]").evaluate_all("all => all.map(one => one.id)")
        assert len(ids) == len(set(ids))
        for link in links:
            assert link[1:] in ids if link.startswith("#") else (page_file.parent / link).exists(), link
        watched.page.locator("nav a").last.click()
        assert watched.page.url.endswith("#effort")


def test_it_prints_whole(page_file, tmp_path):
    with opened(address_of(page_file)) as watched:
        watched.page.emulate_media(media="print")
        boxes = watched.page.locator("table, img")
        sizes = boxes.evaluate_all("all => all.map(one => one.getBoundingClientRect().width)")
        assert watched.page.pdf(format="A4").startswith(b"%PDF")
        assert max(sizes) <= DESK["width"]
        assert not watched.page.locator("nav").is_visible()
