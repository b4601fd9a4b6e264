"""A real browser for tests of pages: the Chromium of the system, which asks loopback alone."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from urllib.parse import urlsplit

from playwright.sync_api import Browser, Page, sync_playwright

from tests.needs import needs

NAMES = ("chromium", "chromium-browser", "google-chrome")
# Chromium asks its maker for updates and lists by itself: that is switched off.
QUIET = (
    "--no-sandbox",
    "--disable-dev-shm-usage",  # a container has little of it
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-domain-reliability",
    "--disable-sync",
    "--no-first-run",
)
PHONE = {"width": 390, "height": 844}
DESK = {"width": 1280, "height": 900}


def chromium() -> str:
    """Return where Chromium is; AssertionError without one."""
    found = next(filter(None, map(shutil.which, NAMES)), None)
    assert found, "there is no Chromium: `make servers` installs it"
    return found


@needs("servers")
@contextmanager
def browser() -> Iterator[Browser]:
    """Run Chromium without a window."""
    with sync_playwright() as playwright:
        opened = playwright.chromium.launch(executable_path=chromium(), args=list(QUIET))
        try:
            yield opened
        finally:
            opened.close()


@contextmanager
def tab(opened: Browser, *, dark: bool = False, phone: bool = False) -> Iterator[Page]:
    """Open a tab; at its end it must have asked nobody but loopback, and have had no error."""
    context = opened.new_context(
        color_scheme="dark" if dark else "light",
        viewport=PHONE if phone else DESK,  # type: ignore[arg-type]
        accept_downloads=True,
    )
    page = context.new_page()
    asked: list[str] = []
    wrong: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    page.on("pageerror", lambda error: wrong.append(str(error)))
    page.on(
        "console",
        lambda said: wrong.append(said.text) if said.type in ("error", "warning") else None,
    )
    try:
        yield page
        outside = [url for url in asked if urlsplit(url).hostname not in ("127.0.0.1", None)]
        assert not outside, f"the page asks others than loopback: {outside}"
        assert not wrong, wrong
    finally:
        context.close()
