"""Alerts reach a webhook and a mail server, with what happened and nothing that is secret."""

import asyncio
import datetime as dt
import email
import json
import runpy
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from dags.notices import of_summary
from tasks.settings import load_settings
from tests.servers import webhook

REPO = Path(__file__).resolve().parents[2]
REFUSED = {
    "model_version": "20260302-b",
    "promoted": False,
    "kept_old": True,
    "labels_with": "20260301-a",
    "reasons": ["its NDCG@20 is 0.1, below 0.2"],
}
EVIL = 'no column {{ conn }} in <b>"x".csv</b>: correct it'


@pytest.fixture
def posted() -> Iterator[tuple[str, list[dict[str, Any]]]]:
    """Receive what is posted on loopback: the address, and the bodies with their path."""
    with webhook() as received:
        yield received


@pytest.fixture
def mailed() -> Iterator[tuple[int, list[Any]]]:
    """Receive mail on loopback: the port, and the messages."""
    from aiosmtpd.controller import Controller

    letters: list[Any] = []

    class Receiver:
        async def handle_DATA(self, _server: Any, _session: Any, envelope: Any) -> str:  # noqa: N802
            letters.append(email.message_from_bytes(envelope.content))
            return "250 OK"

    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    controller = Controller(Receiver(), hostname="127.0.0.1", port=port)
    controller.start()
    yield port, letters
    controller.stop()


def wiring(monkeypatch: pytest.MonkeyPatch, **alerts: Any) -> dict[str, Any]:
    for name, value in alerts.items():
        monkeypatch.setenv(f"ELCREC_ALERTS__{name.upper()}", value)
    return runpy.run_path(str(REPO / "dags" / "alerts.py"))


def to_webhook(monkeypatch: pytest.MonkeyPatch, url: str, **alerts: Any) -> dict[str, Any]:
    connection = {"conn_type": "http", "host": url}
    monkeypatch.setenv("AIRFLOW_CONN_ON_CALL", json.dumps(connection))
    return wiring(monkeypatch, webhook="on_call", **alerts)


def to_post(monkeypatch: pytest.MonkeyPatch, port: int) -> None:
    extra = {"from_email": "nights@example.org", "disable_ssl": True, "disable_tls": True}
    connection = {"conn_type": "smtp", "host": "127.0.0.1", "port": port, "extra": extra}
    monkeypatch.setenv("AIRFLOW_CONN_POST", json.dumps(connection))


class Ti:
    """What a callback asks of a task."""

    dag_id, run_id, task_id, map_index = "nightly_intents", "run-1", "promote", -1

    def __init__(self, summary: Any = None) -> None:
        self.summary = summary

    def xcom_pull(self, **_: Any) -> Any:
        return self.summary


class Task:
    """A task of a night."""

    op_args = ("2026-03-02",)


def context(summary: Any = None, error: str = "") -> dict[str, Any]:
    failure = {"exception": ValueError(error)} if error else {}
    return {"ti": Ti(summary), "task": Task, **failure}


def test_a_failed_task_posts_its_sentence_as_it_is(
    posted: tuple[str, list[dict[str, Any]]], monkeypatch: pytest.MonkeyPatch
) -> None:
    url, bodies = posted
    wired = to_webhook(monkeypatch, f"{url}/hooks/T0/secret")
    wired["CALLBACKS"]["on_failure_callback"](context(error=EVIL))
    assert bodies == [
        {
            "event": "task_failed",
            "subject": "nightly_intents 2026-03-02 promote failed",
            "text": EVIL,
            "dag": "nightly_intents",
            "run": "run-1",
            "task": "promote",
            "night": "2026-03-02",
            "path": "/hooks/T0/secret",
        }
    ]


def test_a_killed_task_is_told_of_too(
    posted: tuple[str, list[dict[str, Any]]], monkeypatch: pytest.MonkeyPatch
) -> None:
    url, bodies = posted
    to_webhook(monkeypatch, url)["task_failed"]({"ti": Ti()})
    assert "may have been killed" in bodies[0]["text"] and "night" not in bodies[0]


@pytest.mark.parametrize(
    ("summary", "event", "says"),
    [
        (REFUSED, "model_kept", "20260302-b is not promoted, 20260301-a goes on: its NDCG"),
        ({"warnings": ["rows are odd", "more"]}, "quality_warning", "rows are odd; more"),
        ({"promoted": True, "warnings": []}, "", ""),
        (None, "", ""),
    ],
)
def test_what_is_amiss_in_a_task_that_succeeded_is_told(
    summary: Any,
    event: str,
    says: str,
    posted: tuple[str, list[dict[str, Any]]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    url, bodies = posted
    to_webhook(monkeypatch, url)["CALLBACKS"]["on_success_callback"](context(summary))
    assert [body["event"] for body in bodies] == [event] * bool(event)
    assert not bodies or says in bodies[0]["text"]


def test_mail_goes_to_all_readers_with_markup_as_text(
    mailed: tuple[int, list[Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    port, letters = mailed
    to_post(monkeypatch, port)
    wired = wiring(monkeypatch, mail="post", mail_to='["a@example.org", "b@example.org"]')
    wired["task_failed"](context(error=EVIL))
    (letter,) = letters
    assert letter["Subject"] == "nightly_intents 2026-03-02 promote failed"
    assert letter["From"] == "nights@example.org"
    assert letter["To"].replace(" ", "") == "a@example.org,b@example.org"
    body = letter.get_payload()[0].get_payload(decode=True).decode()
    assert "no column {{ conn }} in &lt;b&gt;" in body


def test_an_alert_that_cannot_be_sent_fails_nothing_and_keeps_nobody_else_from_it(
    posted: tuple[str, list[dict[str, Any]]],
    mailed: tuple[int, list[Any]],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    url, bodies = posted
    to_webhook(monkeypatch, f"{url}/broken")["task_failed"](context(error="x"))
    assert len(bodies) == 1
    port, letters = mailed
    to_post(monkeypatch, port)
    wired = wiring(monkeypatch, webhook="nowhere", mail="post", mail_to='["a@example.org"]')
    wired["task_failed"](context(error="x"))
    asyncio.run(wired["night_late"](late_run()))
    assert [letter["Subject"].split()[-1] for letter in letters] == ["failed", "late"]
    assert caplog.text.count("an alert was not sent") == 3


def test_the_secret_in_the_path_of_a_webhook_is_masked(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from airflow.sdk.log import redact

    # A port that nobody listens on: what is raised then has the path in it.
    to_webhook(monkeypatch, "http://127.0.0.1:9/T0/very-secret")["task_failed"](context(error="x"))
    assert "very-secret" not in str(redact("refused with url: /T0/very-secret/"))


def late_run(run_type: str = "scheduled") -> dict[str, Any]:
    run = {
        "dag_id": "nightly_intents",
        "dag_run_id": "scheduled__2026-03-02",
        "run_type": run_type,
        "logical_date": "2026-03-02T00:00:00Z",
        "state": "running",
    }
    return {"dag_run": run, "deadline": {"deadline_time": "2026-03-03T06:00:00Z"}}


@pytest.mark.parametrize("run_type", ["scheduled", "backfill", "manual"])
def test_only_a_scheduled_night_can_be_late(
    run_type: str, posted: tuple[str, list[dict[str, Any]]], monkeypatch: pytest.MonkeyPatch
) -> None:
    url, bodies = posted
    asyncio.run(to_webhook(monkeypatch, url)["night_late"](late_run(run_type)))
    if run_type != "scheduled":
        assert bodies == []
        return
    (body,) = bodies
    assert body["event"] == "night_late" and body["night"] == "2026-03-02"
    assert "was to be done by 2026-03-03T06:00:00Z and is running" in body["text"]


def test_the_deadline_is_so_long_after_the_run_was_due(monkeypatch: pytest.MonkeyPatch) -> None:
    assert wiring(monkeypatch)["deadline"]() is None
    alert = to_webhook(monkeypatch, "http://127.0.0.1", late_minutes="90")["deadline"]()
    assert alert.interval == dt.timedelta(days=1, minutes=90)


def test_nobody_is_told_unless_settings_say_so(monkeypatch: pytest.MonkeyPatch) -> None:
    assert not {"on_failure_callback", "on_success_callback"} & set(
        wiring(monkeypatch)["CALLBACKS"]
    )


def test_mail_without_readers_is_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    from tasks.errors import SettingsError

    with pytest.raises(SettingsError, match="mail and mail_to go together"):
        load_settings(**{"alerts.mail": "post"})


def test_a_step_that_returns_no_summary_is_nothing_to_tell() -> None:
    assert of_summary(["2026-03-01"]) == []
