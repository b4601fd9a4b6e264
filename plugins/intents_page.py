"""The page of intents inside Airflow: in the navigation, on a DAG, and on a run for its night.

Airflow mounts the apps of plugins without authentication. So every request is asked here who it is
from: whoever may read the DAG may see the page, whoever may edit it may name intents. The app is
made at the first request, for every process of Airflow loads this file, and most serve no page.
"""

import datetime as dt
import hmac
from hashlib import sha256
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from airflow.configuration import conf
from airflow.plugins_manager import AirflowPlugin

if TYPE_CHECKING:
    from starlette.requests import Request
    from starlette.types import ASGIApp, Receive, Scope, Send

    from tasks.page.access import Visitor

DAG_ID = "nightly_intents"
PREFIX = "/nightly-intents"
BASE = urlsplit(conf.get("api", "base_url", fallback="")).path.rstrip("/")


class AirflowAccess:
    """Asks Airflow who a request is from, and what they may do with the DAG."""

    home: str | None = f"{BASE}/dags/{DAG_ID}"
    framed = True

    async def visitor(self, request: "Request") -> "Visitor | None":
        """Return who is logged in to Airflow; None: nobody is."""
        from airflow.api_fastapi.core_api.security import bearer_scheme, get_user
        from fastapi import HTTPException
        from starlette.concurrency import run_in_threadpool

        from tasks.page.access import Visitor

        try:
            user = await get_user(request, None, await bearer_scheme(request))
        except HTTPException:
            return None
        may_read = await run_in_threadpool(may, "GET", user, request)
        may_name = may_read and await run_in_threadpool(may, "PUT", user, request)
        return Visitor(user.get_name(), may_read=may_read, may_name=may_name)

    def night_of_run(self, request: "Request", run: str) -> dt.date | None:
        """Return the night that a run of the DAG works on; None: of another DAG, or not known.

        run: the DAG's id and the run's, with a slash between them.
        """
        from airflow.models.dagrun import DagRun
        from airflow.utils.session import create_session
        from sqlalchemy import select

        from plugins.run_notes import note_of

        dag_id, _, run_id = run.partition("/")
        if dag_id != DAG_ID:
            return None
        with create_session() as session:
            query = select(DagRun).where(DagRun.dag_id == dag_id, DagRun.run_id == run_id)
            found = session.scalar(query)
            note = note_of(found, session) if found else None
        return dt.date.fromisoformat(note.removeprefix("Night ")) if note else None


def may(method: Any, user: Any, request: "Request") -> bool:
    """Tell whether somebody may do this with the DAG: GET is to see it, PUT to edit it."""
    from airflow.api_fastapi.core_api.security import requires_access_dag
    from fastapi import HTTPException

    try:
        requires_access_dag(method, param_dag_id=DAG_ID)(request, user)
    except HTTPException:
        return False
    return True


class Page:
    """The app, made of the settings of this process when it is first asked for something."""

    def __init__(self) -> None:
        self._app: ASGIApp | None = None

    async def __call__(self, scope: "Scope", receive: "Receive", send: "Send") -> None:
        """Answer a request."""
        if self._app is None:
            from tasks.page.access import FormTokens
            from tasks.page.app import create_app
            from tasks.settings import load_settings

            self._app = create_app(load_settings(), AirflowAccess(), FormTokens(form_secret()))
        await self._app(scope, receive, send)


def form_secret() -> bytes | None:
    """Make a secret for the forms of one that all API servers share; None: there is none."""
    shared = conf.get("api_auth", "jwt_secret", fallback="") or conf.get(
        "api", "secret_key", fallback=""
    )
    made = hmac.new(str(shared).encode(), b"forms of the page of intents", sha256)
    return made.digest() if shared else None


class IntentsPagePlugin(AirflowPlugin):
    """Makes the page known to Airflow."""

    name = "intents_page"
    fastapi_apps = [  # noqa: RUF012 - as Airflow declares it
        {"app": Page(), "url_prefix": PREFIX, "name": "Nightly intents"}
    ]
    external_views = [  # noqa: RUF012
        {
            "name": "Intents",
            "href": f"{BASE}{PREFIX}/night",
            "destination": "nav",
            "nav_top_level": True,
            "icon": f"{BASE}{PREFIX}/static/icon.svg",
            "url_route": "nightly-intents",
        },
        {
            "name": "Intents",
            "href": f"{BASE}{PREFIX}/night",
            "destination": "dag",
            "url_route": "nightly-intents-of-dag",
        },
        {
            "name": "Intents",
            "href": f"{BASE}{PREFIX}/run/{{DAG_ID}}/{{RUN_ID}}",
            "destination": "dag_run",
            "url_route": "nightly-intents-of-run",
        },
    ]
