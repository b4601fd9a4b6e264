"""The page in a real browser, on ten nights of MovieLens 100K with titles."""

import datetime as dt
import os
import re
import threading
from collections.abc import Iterator
from pathlib import Path

import polars as pl
import pytest
import uvicorn
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, FloatRect

from tasks.lake import Lake, tables
from tasks.page.access import TokenAccess
from tasks.page.app import create_app
from tasks.settings import REPO, Settings, load_settings
from tasks.steps import STEPS, run_step
from tests.browser import browser, tab
from tests.servers import free_port

pytestmark = pytest.mark.slow

DATA = Path(os.environ.get("ELCREC_DATA") or REPO.parent / "shared" / "data")
LAST = dt.date(1998, 4, 22)
NIGHTS = [LAST - dt.timedelta(days=days) for days in range(9, -1, -1)]
PICTURES = REPO / "build" / "pages"
OF_DOCS: FloatRect = {"x": 0, "y": 0, "width": 1280, "height": 1010}  # what a picture there shows
VIEWS = {
    "night": "/night",
    "intents": "/intents",
    "part": "/intents?zoom=1-1-1",
    "intent": "/intents/0",
    "users": "/users",
    "user": "/users?id=17",
    "models": "/models",
    "flows": "/flows",
}


@pytest.fixture(scope="module")
def settings(tmp_path_factory: pytest.TempPathFactory) -> Settings:
    """Run ten nights, and return the settings of their lake."""
    events, items = DATA / "ml-100k.inter", DATA / "ml-100k.item"
    if not events.exists():
        pytest.skip(f"{events} is not there: ELCREC_DATA names the folder that has it")
    made = load_settings(
        **{
            "lake.root": str(tmp_path_factory.mktemp("page") / "lake"),
            "source.path": str(events),
            "catalogue.path": str(items),
            "model": {"max_epochs": 5, "warm_epochs": 1, "device": "cpu", "threads": 1},
            "duckdb.threads": 1,
            "quality.stop_volume_below": 0,
            "recommend.top_k": 5,
        }
    )
    for night in NIGHTS:
        for step in STEPS:
            run_step(step, made, night)
    return made


@pytest.fixture(scope="module")
def address(settings: Settings) -> Iterator[str]:
    """Serve the page; return the address with its token."""
    access, port = TokenAccess("ann"), free_port()
    config = uvicorn.Config(create_app(settings, access), port=port, log_level="error")
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run)
    thread.start()
    try:
        yield f"http://127.0.0.1:{port}/?token={access.token}"
    finally:
        server.should_exit = True
        thread.join()


@pytest.fixture(scope="module")
def chrome() -> Iterator[Browser]:
    with browser() as opened:
        yield opened


@pytest.mark.parametrize("phone", [False, True], ids=["desk", "phone"])
@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
def test_every_view_is_whole_and_usable(
    chrome: Browser, address: str, dark: bool, phone: bool
) -> None:
    PICTURES.mkdir(parents=True, exist_ok=True)
    kind = f"{'dark' if dark else 'light'}-{'phone' if phone else 'desk'}"
    base = address.partition("/?")[0]
    with tab(chrome, dark=dark, phone=phone) as page:
        page.goto(address)
        assert "token" not in page.url
        for name, path in VIEWS.items():
            answer = page.goto(base + path)
            assert answer and answer.status == 200, path
            page.screenshot(path=PICTURES / f"{name}-{kind}.png", full_page=True)
            if kind == "light-desk" and (REPO / "docs" / "pictures" / f"{name}.png").exists():
                page.screenshot(path=PICTURES / f"docs-{name}.png", full_page=True, clip=OF_DOCS)
            wide = page.evaluate("document.documentElement.scrollWidth - innerWidth")
            assert wide <= 0, f"{path} is {wide} pixels wider than the screen"
            found = Axe().run(page)
            serious = [
                f"{one['id']}: {one['nodes'][0]['html'][:200]}"
                for one in found.response["violations"]
                if one["impact"] in ("serious", "critical")
            ]
            assert not serious, f"{path} ({kind}): {serious}"


def test_a_person_finds_an_intent_names_it_and_takes_its_users(
    chrome: Browser, address: str, settings: Settings, tmp_path: Path
) -> None:
    lake = Lake(settings.lake.root)
    sizes = lake.scan(tables.INTENT_PROFILES, LAST, LAST).sort("users", descending=True).collect()
    largest = sizes["intent_id"][0]
    with tab(chrome) as page:
        page.goto(address)
        page.get_by_role("link", name="Intents", exact=True).click()
        page.locator("table.intents tbody th a").first.click()
        assert f"/intents/{largest}?" in page.url
        page.get_by_text("Rename", exact=True).click()
        page.get_by_label("Name at most").fill("Late <i>evenings</i>")
        page.get_by_label("What it is about").fill("Whoever watches late.")
        page.get_by_role("button", name="Save the name").click()
        assert page.locator("h1").inner_text() == "Late <i>evenings</i>"
        page.get_by_text("Download users").click()
        with page.expect_download() as begun:
            page.get_by_role("button", name="Download CSV").click()
        begun.value.save_as(tmp_path / "users.csv")
        page.goto(re.sub(r"/intents/.*", "/intents?q=evenings", page.url))
        assert page.locator("table.intents tbody tr").count() == 1
        page.goto(re.sub(r"\?.*", "", page.url))
        page.get_by_role("searchbox").press_sequentially("evenings")
        assert page.locator("table.intents tbody tr:visible").count() == 1
    labels = lake.scan(tables.INTENT_LABELS, LAST, LAST).filter(intent_id=largest).collect()
    users = pl.read_csv(tmp_path / "users.csv", schema_overrides={"user_id": pl.String})
    assert users["user_id"].to_list() == sorted(labels["user_id"])


def test_a_person_looks_a_user_up_and_sees_why(
    chrome: Browser, address: str, settings: Settings
) -> None:
    lake = Lake(settings.lake.root)
    [evidence] = (
        lake.scan(tables.LABEL_EVIDENCE, LAST, LAST).filter(user_id="17").collect().to_dicts()
    )
    with tab(chrome) as page:
        page.goto(address)
        page.get_by_role("link", name="Users", exact=True).click()
        page.get_by_role("searchbox").fill("17")
        page.get_by_role("button", name="Look up").click()
        rows = page.locator("table.history tbody tr")
        assert rows.count() == 28
        assert "1998" in rows.first.inner_text()
        assert page.locator("table.history mark").count() == len(evidence["items"])
        assert page.locator("#nights small").inner_text() == "the last 10 nights"
        assert page.locator("section:has(#next) li").count() == 5
        page.goto(page.url.replace(str(LAST), str(NIGHTS[-2])))
        assert page.locator("#why").count() == 1


def test_the_map_is_entered_by_keyboard_and_by_a_click_and_left_again(
    chrome: Browser, address: str
) -> None:
    with tab(chrome) as page:
        page.goto(address)
        page.goto(address.partition("/?")[0] + "/intents")
        rows = page.locator("table.intents tbody tr")
        every = rows.count()
        link = page.locator(".zoom a").first
        link.focus()
        page.keyboard.press("Enter")
        page.wait_for_url(re.compile("zoom=1-.*#map"))
        assert 0 < rows.count() < every
        assert page.locator(".map .place").count() == rows.count()
        # The next link by keyboard is one of the map, not the top of the page.
        page.keyboard.press("Tab")
        assert page.evaluate("!!document.activeElement.closest('.map-side')")
        page.get_by_role("link", name="Whole map").click()
        page.wait_for_url(re.compile(r"/intents\?(?!.*zoom)"))
        assert rows.count() == every
        page.locator(".map .quarter").first.click(position={"x": 10, "y": 10})
        page.wait_for_url(re.compile("zoom=1-"))


def test_a_night_and_the_start_of_flows_are_chosen_by_keyboard(
    chrome: Browser, address: str
) -> None:
    with tab(chrome) as page:
        page.goto(address)
        page.keyboard.press("Tab")
        assert page.evaluate("document.activeElement.textContent") == "Skip to the content"
        page.locator("select[name=night]").select_option(str(NIGHTS[3]))
        page.wait_for_url(re.compile(f"night={NIGHTS[3]}"))
        assert "16\xa0Apr\xa01998" in page.locator(".verdict").inner_text()
        page.get_by_role("link", name="Flows").click()
        page.locator("select[name=since]").select_option(str(NIGHTS[0]))
        page.wait_for_url(re.compile(f"since={NIGHTS[0]}"))
        assert "From 13" in page.locator("main").inner_text()


def test_a_word_is_explained_on_hover_and_on_focus(chrome: Browser, address: str) -> None:
    with tab(chrome) as page:
        page.goto(address)
        word = page.locator(".term", has_text="Lift of the labels")
        explained = word.locator(".tip")
        assert not explained.is_visible()
        word.hover()
        assert explained.is_visible()
        page.mouse.move(0, 0)
        word.focus()
        assert explained.is_visible()


def test_the_saved_page_opens_without_a_server(
    chrome: Browser, settings: Settings, tmp_path: Path
) -> None:
    from tasks.page.saved import saved

    file = tmp_path / "night.html"
    file.write_text(saved(settings, LAST), "utf-8")
    with tab(chrome) as page:
        page.goto(file.as_uri())
        page.screenshot(path=PICTURES / "saved.png", full_page=True)
        assert page.evaluate("getComputedStyle(document.body).fontSize") == "15px"
        page.locator("table.intents tbody th a").first.click()
        assert "#intent-" in page.url
