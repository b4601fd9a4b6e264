"""The page inside a real Airflow: nobody sees it without a login, and rights are Airflow's."""

import json
import re
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from fastapi.routing import APIRoute

from local import services
from local.client import DAG_ID, Airflow
from local.keys import password_file
from tasks.page.access import TokenAccess
from tasks.page.app import create_app
from tasks.settings import load_settings
from tests.needs import needs
from tests.tasks.nights import NIGHT
from tests.tasks.page.conftest import DAY, made_by_hand  # noqa: F401 - a fixture

pytestmark = pytest.mark.slow
PREFIX = "/nightly-intents"
PASSWORDS = {"admin": "of-admin", "viewer": "of-viewer"}


@needs("airflow")
def running_on(lake: Path, home: Path) -> Iterator[Airflow]:
    """Run Airflow's API server with two people: one who may do all, one who may only look."""
    home.mkdir()
    password_file(home).write_text(json.dumps(PASSWORDS))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(services, "USER", "viewer:viewer,admin")
        started = services.airflow(
            home,
            services.free_port(),
            {"api-server": ["api-server"]},
            {"lake.root": lake, "airflow.schedule": ""},
        )
        with started as airflow:
            yield airflow


@pytest.fixture(scope="module")
def running(
    made_by_hand: Path,  # noqa: F811
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Airflow]:
    yield from running_on(made_by_hand, tmp_path_factory.mktemp("airflow") / "home")


def client(running: Airflow, user: str | None) -> httpx.Client:
    """Return a browser without a login, or with the cookie of somebody's."""
    made = httpx.Client(base_url=running.url, trust_env=False, timeout=60)
    if user:
        told = made.post("/auth/token", json={"username": user, "password": PASSWORDS[user]})
        told.raise_for_status()
        made.cookies.set("_token", told.json()["access_token"])
    return made


def test_nobody_sees_any_route_without_a_login(running: Airflow) -> None:
    routes = [
        route
        for route in create_app(load_settings(), TokenAccess("x")).routes
        if isinstance(route, APIRoute)
    ]
    assert len(routes) >= 11
    anonymous, forged = client(running, None), client(running, None)
    forged.cookies.set("_token", "e30.e30.e30")
    for route in routes:
        path = PREFIX + re.sub(r"\{(\w+)(:path)?\}", "1", route.path)
        for browser in (anonymous, forged):
            for method in {*(route.methods or ()), "GET", "POST"}:
                assert browser.request(method, path).status_code == 401, (method, path)
    for path in ("/nowhere", "/docs", "/openapi.json", "/?token=x", "/night?token=x"):
        assert anonymous.get(PREFIX + path).status_code == 401, path


def test_whoever_may_read_the_dag_sees_the_page_and_may_not_name(running: Airflow) -> None:
    viewer = client(running, "viewer")
    page = viewer.get(f"{PREFIX}/intents/1")
    assert page.status_code == 200
    assert "Rename" not in page.text and "You are viewer" in page.text
    assert "frame-ancestors 'self'" in page.headers["content-security-policy"]
    named = viewer.post(f"{PREFIX}/intents/1/name", data={"name": "Mine", "token": ""})
    assert named.status_code == 403


def test_whoever_may_edit_the_dag_names_intents(running: Airflow) -> None:
    admin = client(running, "admin")
    page = admin.get(f"{PREFIX}/intents/1").text
    token = re.search(r'name="token" value="(\w+)"', page)
    assert token
    form = {"name": "Cold mornings", "token": token[1]}
    assert admin.post(f"{PREFIX}/intents/1/name", data=form).status_code == 303
    assert "given by admin" in admin.get(f"{PREFIX}/intents/1").text
    # Links lead back below the place where Airflow has the page.
    assert set(re.findall(r'(?:href|src|action)="(/[^/"?]*)', page)) <= {PREFIX, "/dags"}


def test_a_run_leads_to_its_night(running: Airflow) -> None:
    night = NIGHT - DAY
    run = {"dag_run_id": "by-hand:1+2", "logical_date": None, "conf": {"night": str(night)}}
    running.call("POST", "/dagRuns", run)
    admin = client(running, "admin")
    led = admin.get(f"{PREFIX}/run/{DAG_ID}/by-hand%3A1%2B2")
    assert led.headers["location"] == f"{PREFIX}/night?night={night}"
    for other in (f"{DAG_ID}/nowhere", "upkeep/by-hand%3A1%2B2", "x"):
        assert admin.get(f"{PREFIX}/run/{other}").headers["location"] == f"{PREFIX}/night"


def test_airflow_shows_the_page_in_its_navigation_on_the_dag_and_on_the_run(
    running: Airflow,
) -> None:
    told = client(running, "admin").get("/ui/config")
    views = client(running, "admin").get("/api/v2/plugins").json()["plugins"]
    [mine] = [one for one in views if one["name"] == "intents_page"]
    assert told.status_code == 200
    assert {one["destination"] for one in mine["external_views"]} == {"nav", "dag", "dag_run"}
    errors = client(running, "admin").get("/api/v2/plugins/importErrors").json()
    assert errors["import_errors"] == []
