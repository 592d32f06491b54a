"""Debian's Chromium through Playwright, without any way to the outside; tests skip where no browser is."""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
needs_browser = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium here: apt-get install chromium")
# Root cannot have Chromium's sandbox, and without a network it would look for Google's hosts at every start.
FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
         "--disable-component-update", "--disable-sync"]
PHONE, DESK = {"width": 390, "height": 844}, {"width": 1280, "height": 900}


class Watched:
    """A page, and what went wrong on it: requests to other hosts, errors of scripts, messages on the console."""

    def __init__(self, page, allowed: tuple[str, ...]) -> None:
        self.page, self.outside, self.errors = page, [], []
        page.on("request", lambda request: request.url.startswith(allowed) or self.outside.append(request.url))
        page.on("pageerror", lambda error: self.errors.append(str(error)))
        page.on("console", lambda message: message.type == "error" and self.errors.append(message.text))


@contextlib.contextmanager
def opened(address: str, *, size: dict = DESK, dark: bool = False, allowed: tuple[str, ...] = ()) -> Iterator[Watched]:
    """The page at `address` in a window of that size; requests may go to what `allowed` begins with, and itself."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        page = browser.new_page(viewport=size, color_scheme="dark" if dark else "light")
        watched = Watched(page, (address, "data:", "blob:", *allowed))
        page.goto(address)
        yield watched
        browser.close()


def address_of(path: Path) -> str:
    return path.resolve().as_uri()
