"""The page answers those who may see it, shows what the tables say, and lets no text do harm."""

import io
import logging
import re
from html import unescape

import polars as pl
import pytest
from fastapi.routing import APIRoute

from tasks.lake import Lake, tables
from tasks.page import zoom
from tasks.page.access import TokenAccess, Visitor
from tasks.page.app import create_app, environment
from tasks.registry import names
from tasks.settings import Settings
from tests.tasks.nights import NIGHT, small_settings
from tests.tasks.page.conftest import DAY, FORMULA, HOSTILE, LONG, MARKUP, NIGHTS, TURNED, Ask

VIEWS = (
    *("/night", "/intents", "/intents/0", "/intents/3", "/users", "/models", "/flows"),
    *("/users?id=u01", "/users?id=nobody", "/intents?q=comedy&sort=name&order=down"),
    *(f"/night?night={NIGHTS[0]}", f"/flows?since={NIGHTS[0]}", f"/intents/0?night={NIGHTS[1]}"),
)
RUNS = re.compile(r"<script(?! src=)|\son\w+\s*=|\sstyle\s*=|javascript:", re.IGNORECASE)


def test_whoever_is_not_known_gets_401_everywhere(lake: Lake, ask: Ask) -> None:
    client = ask(None)
    app = client.app
    routes = [route for route in app.routes if isinstance(route, APIRoute)]  # type: ignore[attr-defined]
    assert len(routes) >= 11
    paths = [
        re.sub(r"\{(\w+)(:path)?\}", lambda found: {"kind": "csv"}.get(found[1], "1"), route.path)
        for route in routes
    ]
    for path in [*paths, "/nowhere", "/docs", "/openapi.json", "/static/../app.py", "/?token=x"]:
        for method in ("GET", "HEAD", "POST", "PUT", "DELETE", "OPTIONS"):
            answer = client.request(method, path)
            assert answer.status_code == 401, (method, path)
            assert "default-src 'none'" in answer.headers["content-security-policy"]


def test_whoever_may_not_read_gets_403(lake: Lake, ask: Ask) -> None:
    client = ask(Visitor("guest", may_read=False))
    assert {client.get(path).status_code for path in VIEWS} == {403}


@pytest.mark.parametrize("path", VIEWS)
def test_every_view_is_there_and_nothing_in_it_runs(lake: Lake, ask: Ask, path: str) -> None:
    answer = ask().get(path)
    assert answer.status_code == 200, answer.text
    policy = answer.headers["content-security-policy"]
    assert "unsafe" not in policy and "http" not in policy
    tags = re.findall(r"<[a-zA-Z/!][^>]*>", answer.text)
    assert not [tag for tag in tags if RUNS.search(re.sub(r'"[^"]*"', '""', tag))]
    hidden = "".join(re.findall("[\u200b\u200e\u200f\u202a-\u202e\u2066-\u2069]", answer.text))
    assert not hidden
    assert len(answer.text) < 200_000


@pytest.mark.slow
def test_ids_that_mean_harm_are_looked_up_and_shown_as_text(lake: Lake, ask: Ask) -> None:
    client = ask()
    for user in HOSTILE:
        answer = client.get("/users", params={"id": user})
        assert answer.status_code == 200
        assert "No such user" not in answer.text
        assert "<script>alert" not in answer.text and "onerror=alert(2)>" not in answer.text
    assert "\\u202e" in client.get("/users", params={"id": TURNED}).text
    assert client.get("/users", params={"id": "x" * 50_000}).status_code == 200


def test_an_intent_shows_its_users_with_the_evidence_marked(lake: Lake, ask: Ask) -> None:
    shown = unescape(ask().get("/intents/0").text)
    assert re.search(r"<mark>.*alert.*75", shown, re.DOTALL)
    assert "Plain & simple" in shown


def test_an_intent_of_few_users_shows_none_of_them(lake: Lake, ask: Ask) -> None:
    client = ask(page={"min_users": 12})
    assert "The users closest to this intent" in client.get("/intents/0").text
    for intent in (1, 3):
        shown = client.get(f"/intents/{intent}").text
        assert "Fewer than 12 users" in shown
        assert not re.search(r"users\?night=[^\"]*id=", shown)


def test_a_user_has_titles_times_labels_and_evidence(lake: Lake, ask: Ask) -> None:
    shown = unescape(ask().get("/users?id=u01").text)
    assert (
        "not clear: less than 50\N{NO-BREAK SPACE}%" in shown and "25\N{NO-BREAK SPACE}%" in shown
    )
    assert "20\N{NO-BREAK SPACE}Nov\N{NO-BREAK SPACE}2026 09:30" in shown  # i5, of this night
    assert "19\N{NO-BREAK SPACE}Nov\N{NO-BREAK SPACE}2026 09:30" in shown  # i1, of a night before
    assert "javascript:alert(3)" in shown
    assert "the last 3 nights" in shown


def test_a_name_is_given_and_shown_at_once_and_taken_back(
    lake: Lake, ask: Ask, caplog: pytest.LogCaptureFixture
) -> None:
    client = ask()
    token = _token(client.get("/intents/1").text)
    with caplog.at_level(logging.INFO):
        answer = client.post(
            "/intents/1/name",
            params={"night": str(NIGHT)},
            data={"token": token, "name": "Warm <b>socks</b>", "description": MARKUP},
        )
    assert answer.status_code == 303
    assert "ann names intent 1" in caplog.text
    shown = client.get(answer.headers["location"]).text
    assert "Warm &lt;b&gt;socks&lt;/b&gt;" in shown and "given by ann" in shown
    assert "Saved." in shown
    assert "Warm &lt;b&gt;socks" in client.get("/intents").text
    [row] = lake.scan(tables.GIVEN_NAMES).collect().to_dicts()
    assert (row["given_by"], row["name"]) == ("ann", "Warm <b>socks</b>")
    assert "given by ann after this night" in client.get(f"/intents/1?night={NIGHTS[0]}").text
    answer = client.post("/intents/1/name", data={"token": token, "what": "back", "name": "x"})
    assert "is back." in client.get(answer.headers["location"]).text
    assert "Warm" not in client.get("/intents").text


def test_a_name_that_cannot_be_is_refused_with_what_was_typed(lake: Lake, ask: Ask) -> None:
    client = ask()
    token = _token(client.get("/intents/1").text)
    for name in ("", "   ", "x" * 61, TURNED):
        answer = client.post("/intents/1/name", data={"token": token, "name": name})
        assert answer.status_code == 422
        assert 'role="alert"' in answer.text
    gone = client.post("/intents/77/name", data={"token": token, "name": "x"})
    assert gone.status_code == 404
    assert lake.scan(tables.GIVEN_NAMES).collect().is_empty()


def test_a_form_without_its_token_changes_nothing(lake: Lake, ask: Ask) -> None:
    client = ask()
    other = _token(ask().get("/intents/1").text)  # of another process
    for token in ("", "x", other):
        answer = client.post("/intents/1/name", data={"token": token, "name": "Mine"})
        assert answer.status_code == 403
    huge = client.post("/intents/1/name", data={"token": "x" * 20_000})
    assert huge.status_code == 413
    assert lake.scan(tables.GIVEN_NAMES).collect().is_empty()


def test_whoever_may_only_read_sees_no_form_and_cannot_name(lake: Lake, ask: Ask) -> None:
    client = ask(Visitor("ben"))
    assert "Rename" not in client.get("/intents/1").text
    answer = client.post("/intents/1/name", data={"token": "", "name": "Mine"})
    assert answer.status_code == 403


def test_the_users_of_an_intent_are_those_of_the_table(
    lake: Lake, ask: Ask, caplog: pytest.LogCaptureFixture
) -> None:
    client = ask()
    labels = lake.scan(tables.INTENT_LABELS, NIGHT, NIGHT).filter(intent_id=0).collect()
    with caplog.at_level(logging.INFO):
        parquet = pl.read_parquet(io.BytesIO(client.get("/intents/0/users.parquet").content))
    assert "ann downloads the users of intent 0" in caplog.text
    assert parquet["user_id"].to_list() == sorted(labels["user_id"])
    csv = client.get("/intents/0/users.csv")
    assert "attachment" in csv.headers["content-disposition"]
    read = pl.read_csv(io.BytesIO(csv.content))
    assert set(read["user_id"]) == {*labels["user_id"]} - {FORMULA} | {f"'{FORMULA}"}
    assert LONG in read["user_id"].to_list()


def test_filters_take_users_out_of_a_file(lake: Lake, ask: Ask) -> None:
    client = ask()

    def users(**filters: object) -> int:
        content = client.get("/intents/0/users.csv", params=filters).content
        return pl.read_csv(io.BytesIO(content), infer_schema=False).height

    assert users() == 15
    assert users(clear=1) == users(confidence=50) == 14
    assert users(events=3) == len(HOSTILE)
    assert users(since=str(NIGHT + DAY)) == 0
    assert users(night=str(NIGHTS[0])) == 16
    for wrong in ({"confidence": "all"}, {"confidence": 101}, {"since": "today"}):
        assert client.get("/intents/0/users.csv", params=wrong).status_code == 400
    empty = client.get("/intents/0/users.parquet", params={"events": 99}).content
    assert pl.read_parquet(io.BytesIO(empty)).is_empty()


def test_the_users_who_moved_between_two_nights_are_to_be_had(
    lake: Lake, ask: Ask, caplog: pytest.LogCaptureFixture
) -> None:
    client = ask()
    page = unescape(client.get("/flows", params={"since": str(NIGHTS[0])}).text)
    assert "No intent was" in page
    [address] = re.findall(r'href="(/flows/users.csv[^"]*)"', page)
    with caplog.at_level(logging.INFO):
        read = pl.read_csv(io.BytesIO(client.get(address).content), infer_schema=False)
    assert "ann downloads the users who moved" in caplog.text
    assert read.drop("from_name", "to_name").rows() == [("u00", "0", "1"), ("u29", "2", "3")]
    called = names.shown(lake, NIGHT)
    assert read.select("from_name", "to_name").row(0) == tuple(
        name and name.name for name in (called.of(0), called.of(1))
    )
    [address] = re.findall(
        r'href="(/flows/users.csv[^"]*)"', unescape(client.get("/intents/3").text)
    )
    assert pl.read_csv(io.BytesIO(client.get(address).content))["user_id"].to_list() == ["u29"]
    none = client.get("/flows/users.csv", params={"since": str(NIGHTS[0]), "intent": 77})
    assert none.content == b'"user_id","from_intent_id","from_name","to_intent_id","to_name"\n'
    for wrong, status in ((NIGHT, 404), ("2020-01-01", 404), ("", 404), ("x", 400)):
        assert client.get("/flows/users.csv", params={"since": wrong}).status_code == status
    assert client.get(f"/flows/users.exe?since={NIGHTS[0]}").status_code == 404


def test_a_look_up_is_logged_with_who(
    lake: Lake, ask: Ask, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO):
        ask(Visitor("ben")).get("/users?id=u01%0Ainjected")
    assert "ben looks up user 'u01\\ninjected'" in caplog.text


@pytest.mark.parametrize(
    ("path", "status"),
    [
        ("/night?night=2020-01-01", 404),
        ("/night?night=yesterday", 400),
        ("/flows?since=x", 400),
        ("/intents/99", 404),
        ("/intents/-1", 404),
        ("/intents/0x1", 404),
        ("/intents/99999999999999999999", 404),
        ("/intents/0/users.exe", 404),
        ("/static/app.py", 404),
        ("/static/..%2Fapp.py", 404),
        ("/nowhere", 404),
    ],
)
def test_what_is_not_there_is_said_plainly(lake: Lake, ask: Ask, path: str, status: int) -> None:
    answer = ask().get(path)
    assert answer.status_code == status
    assert "Traceback" not in answer.text and "tasks/page" not in answer.text


def test_without_a_lake_or_a_night_the_page_says_what_to_do(settings: Settings, ask: Ask) -> None:
    assert "there is no lake" in ask().get("/night").text
    Lake(settings.lake.root).append(tables.ITEMS, tables.ITEMS.schema.empty_table())
    answer = ask().get("/night")
    assert answer.status_code == 409
    assert "run a night first" in answer.text


def test_the_token_of_the_address_becomes_a_cookie(lake: Lake, settings: Settings) -> None:
    from fastapi.testclient import TestClient

    access = TokenAccess("ann", "secret")
    client = TestClient(create_app(settings, access), follow_redirects=False)
    assert client.get("/night?token=wrong").status_code == 401
    let_in = client.get("/night", params={"token": "secret", "night": str(NIGHTS[0])})
    assert let_in.status_code == 303
    assert let_in.headers["location"] == f"/night?night={NIGHTS[0]}"
    assert "HttpOnly" in let_in.headers["set-cookie"]
    assert client.get("/night").status_code == 200


def test_images_come_from_allowed_hosts_only(lake: Lake, ask: Ask, settings: Settings) -> None:
    rows = lake.scan(tables.CATALOGUE).collect()
    addresses = {
        "i1": "https://images.example.org/1.png",
        "i4": "https://elsewhere.example.com/1.png",
        "i5": "javascript:alert(1)",
    }
    attributes = [
        f'{{"image_url": "{addresses.get(item, "")}"}}' for item in rows["item_id"].to_list()
    ]
    changed = rows.with_columns(attributes=pl.Series(attributes))
    lake.replace(tables.CATALOGUE, changed, nights=[NIGHTS[0]])
    assert "<img" not in ask().get("/users?id=u01").text
    answer = ask(page={"image_hosts": ["images.example.org"]}).get("/users?id=u01")
    assert re.findall(r'<img[^>]*src="([^"]*)"', answer.text) == [addresses["i1"]]
    assert "img-src 'self' https://images.example.org;" in answer.headers["content-security-policy"]


@pytest.mark.slow
def test_a_night_that_was_made_since_is_seen(lake: Lake, ask: Ask, settings: Settings) -> None:
    from tasks.page import reader
    from tests.tasks.page.conftest import users_of
    from tests.tasks.profiles import profile_by_hand

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(reader, "FRESH", 0.0)
        client = ask()
        assert client.get("/intents").status_code == 200
        profile_by_hand(settings, NIGHT + DAY, users_of(NIGHT), previous=NIGHT)
        assert str(NIGHT + DAY) in client.get("/intents").text
        profile_by_hand(settings, NIGHT + DAY, {"one": (0, [1])}, previous=NIGHT)
        assert "1 user in 1 intent" in client.get("/intents").text


def test_the_saved_page_is_whole_and_holds_no_user(
    lake: Lake, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    from tasks.page.saved import saved

    monkeypatch.setattr(zoom, "FEW", 1)  # so that the map would have parts
    page = saved(settings, NIGHT)
    assert "u01" not in page and FORMULA not in page
    assert not re.search(r"(src|href)=\"(?!#)", page)
    assert set(re.findall(r'href="#([^"]*)"', page)) <= set(re.findall(r'id="([^"]*)"', page))
    assert "<script" not in page
    small = small_settings(settings.lake.root)
    assert saved(small, NIGHTS[0]) != page


def test_a_template_sees_what_a_row_holds_not_the_methods_of_rows() -> None:
    template = environment().from_string("{{ row.clear }} {{ row.items }}")
    assert template.render(row={"clear": False, "items": 3}) == "False 3"


def _token(page: str) -> str:
    found = re.search(r'name="token" value="([0-9a-f]{64})"', page)
    assert found
    return found[1]
