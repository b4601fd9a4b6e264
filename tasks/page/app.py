"""The ASGI app of the page: its addresses, what each answers, and what every answer carries.

Whoever serves it gives it an `Access`. There is no route without one: what is not known gets 401,
also where there is no such address.
"""

import datetime as dt
import logging
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import parse_qs

from anyio import CapacityLimiter, to_thread
from fastapi import FastAPI, Request
from jinja2 import Environment, FileSystemLoader, StrictUndefined, select_autoescape
from starlette.datastructures import MutableHeaders
from starlette.exceptions import HTTPException
from starlette.responses import (
    FileResponse,
    HTMLResponse,
    PlainTextResponse,
    RedirectResponse,
    Response,
    StreamingResponse,
)
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from tasks.chores import naming
from tasks.errors import LakeError, NamingError, PipelineError
from tasks.lake import tables
from tasks.page import charts, cohort, flows, intent, intents, models, night, people, words
from tasks.page.access import Access, FormTokens, TokenAccess, Visitor
from tasks.page.links import Links
from tasks.page.reader import PageLake
from tasks.page.zoom import Part
from tasks.settings import Settings

log = logging.getLogger(__name__)

Result = TypeVar("Result")
AT_ONCE = 2  # views that are made side by side

HERE = Path(__file__).resolve().parent
STATIC = {"page.css": "text/css", "page.js": "text/javascript", "icon.svg": "image/svg+xml"}
LARGEST_FORM = 16 * 1024  # bytes
LONGEST_ID = 20_000  # characters of a user's id that are looked up
MANY = 10**9  # larger than any number that a filter can want

TITLES = {
    "night": "Night",
    "intents": "Intents",
    "users": "Users",
    "models": "Data and models",
    "flows": "Flows",
}


class _Templates(Environment):
    """Templates in which `row.clear` is what the row holds, not the method of a dictionary."""

    def getattr(self, obj: Any, attribute: str) -> Any:
        if isinstance(obj, dict) and attribute in obj:
            return obj[attribute]
        return super().getattr(obj, attribute)


def environment() -> Environment:
    """Return the templates, which escape every value that is no chart."""
    found = _Templates(
        loader=FileSystemLoader(HERE / "templates"),
        autoescape=select_autoescape(default=True, default_for_string=True),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    found.filters |= {
        name: getattr(words, name)
        for name in (
            *(
                "count",
                "percent",
                "sure",
                "signed",
                "points",
                "number",
                "times",
                "duration",
                "memory",
            ),
            *("day", "weekday", "moment", "shown", "plural"),
        )
    }
    found.globals |= {"glossary": words.GLOSSARY, "bar": charts.bar}
    return found


def create_app(settings: Settings, access: Access, tokens: FormTokens | None = None) -> FastAPI:
    """Return the app.

    access: says who asks and what they may do. tokens: of the forms; those of one process, unless
    several processes serve the page.
    """
    page = _Page(settings, access, tokens or FormTokens())
    app = FastAPI(openapi_url=None, docs_url=None, redoc_url=None)
    app.get("/")(page.home)
    app.get("/night")(page.night)
    app.get("/run/{run_id:path}")(page.run)
    app.get("/intents")(page.intents)
    app.get("/intents/{number}")(page.intent)
    app.post("/intents/{number}/name")(page.name)
    app.get("/intents/{number}/users.{kind}")(page.cohort)
    app.get("/users")(page.users)
    app.get("/models")(page.models)
    app.get("/flows")(page.flows)
    app.get("/flows/users.csv")(page.moved)
    app.get("/static/{name}")(page.static)
    app.exception_handler(HTTPException)(page.refused)
    app.exception_handler(PipelineError)(page.failed)
    app.exception_handler(Exception)(page.broken)
    app.add_middleware(_Guarded, page=page)
    return app


class _Guarded:
    """Lets nobody in who is not known, and puts the same headers on every answer."""

    def __init__(self, app: ASGIApp, page: "_Page") -> None:
        self.app = app
        self.page = page

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return

        async def with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message).update(self.page.headers)
            await send(message)

        request = Request(scope, receive)
        answer = self.page.let_in(request)
        if answer is None:
            visitor = await self.page.access.visitor(request)
            if visitor is None:
                answer = self.page.unknown(request)
            elif not visitor.may_read:
                answer = PlainTextResponse("You may not see the intents.", 403)
            scope.setdefault("state", {})["visitor"] = visitor
        if answer is not None:
            await answer(scope, receive, with_headers)
            return
        await self.app(scope, receive, with_headers)


class _Page:
    """What the addresses answer."""

    def __init__(self, settings: Settings, access: Access, tokens: FormTokens) -> None:
        self.settings = settings
        self.access = access
        self.tokens = tokens
        self.templates = environment()
        self.headers = _headers(settings, framed=access.framed)
        self._lake: PageLake | None = None
        self._few = CapacityLimiter(AT_ONCE)

    @property
    def lake(self) -> PageLake:
        """The lake; LakeError as long as there is none."""
        if self._lake is None:
            self._lake = PageLake.there(self.settings)
        return self._lake

    # --- who asks ---------------------------------------------------------------------------------

    def let_in(self, request: Request) -> Response | None:
        """Turn the token of the printed address into a cookie, so that it is in no link."""
        given = request.query_params.get("token")
        if given is None or not isinstance(self.access, TokenAccess) or request.method != "GET":
            return None
        if not self.access.matches(given):
            return None
        rest = request.url.remove_query_params("token")
        answer = RedirectResponse(f"{rest.path}{'?' * bool(rest.query)}{rest.query}", 303)
        answer.set_cookie(self.access.cookie, self.access.token, httponly=True, samesite="lax")
        return answer

    def unknown(self, request: Request) -> Response:
        """Answer somebody who is not known."""
        return PlainTextResponse(
            "Log in first. The page that runs alone is opened with the address that it has "
            "printed; inside Airflow it is opened from Airflow.",
            401,
        )

    # --- views ------------------------------------------------------------------------------------

    async def home(self, request: Request) -> Response:
        """Lead to the newest night."""
        return RedirectResponse(_links(request, None).night(), 303)

    async def run(self, request: Request, run_id: str) -> Response:
        """Lead to the night of a run of the DAG."""
        find: Callable[[Request, str], dt.date | None] | None = getattr(
            self.access, "night_of_run", None
        )
        found = await self._aside(find, request, run_id) if find else None
        return RedirectResponse(_links(request, found).night(), 303)

    async def night(self, request: Request) -> Response:
        """Show whether a night is good."""
        return await self._shown(
            request, "night", lambda of, links: night.view(self.settings, self.lake, of, links)
        )

    async def intents(self, request: Request) -> Response:
        """Show the table and the map of the intents."""
        asked = request.query_params
        up = {"up": True, "down": False}.get(asked.get("order", ""))
        show = _number(asked["show"], "show") if asked.get("show") else None
        try:
            part = Part.read(asked.get("zoom", ""))
        except ValueError:
            raise HTTPException(400, "zoom has to be a part of the map, as 1-0-2.") from None
        return await self._shown(
            request,
            "intents",
            lambda of, links: intents.view(
                self.lake,
                of,
                links,
                search=asked.get("q", "")[:200],
                sort=asked.get("sort", "users"),
                up=up,
                part=part,
                show=show,
            ),
        )

    async def intent(self, request: Request, number: str) -> Response:
        """Show one intent."""
        which = _number(number, "intent")

        def found(of: dt.date, links: Links) -> dict[str, Any]:
            shown = intent.view(self.settings, self.lake, of, which, links)
            if shown is None:
                if of not in self.lake.nights(tables.INTENT_PROFILES):
                    raise HTTPException(404, f"Night {of} was not finished; it has no labels.")
                raise HTTPException(404, f"Night {of} has no intent {which}.")
            return shown | {
                "saved": request.query_params.get("saved"),
                "fault": None,
                "typed": None,
                "most": naming.LONGEST_NAME,
                "most_description": naming.LONGEST_DESCRIPTION,
            }

        return await self._shown(request, "intent", found, section="intents")

    async def users(self, request: Request) -> Response:
        """Look a user up."""
        user = request.query_params.get("id", "").strip(" ")[:LONGEST_ID]
        everything = request.query_params.get("all") == "1"

        def found(of: dt.date, links: Links) -> dict[str, Any]:
            if not user:
                users = people.closest(self.settings, self.lake, of, links)
                return {"asked": "", "found": None, "closest": users}
            log.info("%s looks up user %r on night %s", _visitor(request).name, user[:200], of)
            shown = people.view(self.settings, self.lake, of, user, links, all_items=everything)
            why = None if shown else people.absent(self.lake, of, user, links)
            return {"asked": user, "found": shown, "absent": why}

        return await self._shown(request, "user" if user else "users", found, section="users")

    async def models(self, request: Request) -> Response:
        """Show data and models."""
        return await self._shown(
            request, "models", lambda of, links: models.view(self.lake, of, links)
        )

    async def flows(self, request: Request) -> Response:
        """Show the flows between two nights."""
        since = _date(request.query_params.get("since", ""), "since")
        return await self._shown(
            request, "flows", lambda of, links: flows.view(self.lake, since, of, links)
        )

    async def static(self, request: Request, name: str) -> Response:
        """Send one of the page's own files."""
        if name not in STATIC:
            raise HTTPException(404, "There is no such file.")
        return FileResponse(
            HERE / "static" / name,
            media_type=STATIC[name],
            headers={"Cache-Control": "private, max-age=300"},
        )

    # --- what is done -----------------------------------------------------------------------------

    async def name(self, request: Request, number: str) -> Response:
        """Give an intent a name, or take a person's name back."""
        which, visitor = _number(number, "intent"), _visitor(request)
        if not visitor.may_name:
            raise HTTPException(
                403, "You may not name intents: that needs the right to edit the DAG."
            )
        form = await _form(request)
        if not self.tokens.matches(form.get("token", ""), visitor):
            raise HTTPException(
                403, "The form is too old: go back, load the page again, and send it."
            )
        given, description = form.get("name", ""), form.get("description", "")
        takes_back = form.get("what") == "back"
        if takes_back:
            given = description = ""
        try:
            if not (takes_back or given.strip()):
                raise NamingError("not saved: write a name")
            told = await self._aside(
                naming.name, self.settings, which, given, description=description, by=visitor.name
            )
        except PipelineError as error:
            fault = str(error)

            def found(of: dt.date, links: Links) -> dict[str, Any]:
                shown = intent.view(self.settings, self.lake, of, which, links)
                if shown is None:
                    raise HTTPException(404, fault)
                return shown | {
                    "saved": None,
                    "fault": words.shown(fault, 600),
                    "typed": {"name": given, "description": description},
                    "most": naming.LONGEST_NAME,
                    "most_description": naming.LONGEST_DESCRIPTION,
                }

            return await self._shown(request, "intent", found, section="intents", status=422)
        log.info("%s names intent %d %r", visitor.name, which, told["name"])
        self.lake.forget(tables.GIVEN_NAMES)
        links = _links(request, _date(request.query_params.get("night", ""), "night"))
        target = links.intent(which)
        saved = "back" if takes_back else "1"
        return RedirectResponse(f"{target}{'&' if '?' in target else '?'}saved={saved}", 303)

    async def cohort(self, request: Request, number: str, kind: str) -> Response:
        """Send the users of an intent as a file."""
        which, visitor = _number(number, "intent"), _visitor(request)
        if kind not in cohort.MEDIA:
            raise HTTPException(404, "Users are to be had as csv and as parquet.")
        asked = request.query_params
        of = await self._aside(self._night, asked.get("night", ""))
        filters = cohort.Filters(
            clear=asked.get("clear") == "1",
            least_confidence=_share(asked.get("confidence", ""), "confidence"),
            least_events=_number(asked.get("events", "") or "0", "events"),
            active_since=_date(asked.get("since", ""), "since"),
        )
        log.info(
            "%s downloads the users of intent %d of night %s: %s", visitor.name, which, of, filters
        )
        rows = cohort.rows(self.settings, self.lake, of, which, filters)
        written = cohort.as_csv(rows) if kind == "csv" else cohort.as_parquet(rows)
        name = f"intent-{which}-night-{of}.{kind}"
        return StreamingResponse(
            written,
            media_type=cohort.MEDIA[kind],
            headers={"Content-Disposition": f'attachment; filename="{name}"'},
        )

    async def moved(self, request: Request) -> Response:
        """Send the users whose intent differs between two nights as a file."""
        asked, visitor = request.query_params, _visitor(request)
        since = _date(asked.get("since", ""), "since")
        which = _number(asked["intent"], "intent") if asked.get("intent") else None
        of = await self._aside(self._night, asked.get("night", ""))
        if since is None or since >= of or since not in self.lake.nights(tables.INTENT_LABELS):
            raise HTTPException(404, f"There is no night {since or 'to begin with'} before {of}.")
        log.info(
            "%s downloads the users who moved from night %s to night %s, of intent %s",
            *(visitor.name, since, of, "all" if which is None else which),
        )
        rows = cohort.moved(self.settings, self.lake, since, of, which)
        name = f"moved-{since}-to-{of}{'' if which is None else f'-intent-{which}'}.csv"
        return StreamingResponse(
            cohort.as_csv(rows, cohort.MOVED),
            media_type=cohort.MEDIA["csv"],
            headers={"Content-Disposition": f'attachment; filename="{name}"'},
        )

    # --- what goes wrong --------------------------------------------------------------------------

    async def refused(self, request: Request, error: Exception) -> Response:
        """Say why an address has no answer."""
        assert isinstance(error, HTTPException)
        return self._said(request, str(error.detail), error.status_code)

    async def failed(self, request: Request, error: Exception) -> Response:
        """Say what a person can mend."""
        return self._said(request, str(error), 409)

    async def broken(self, request: Request, error: Exception) -> Response:
        """Say that something is wrong that is not the visitor's fault."""
        log.error("the page failed at %s", request.url.path, exc_info=error)
        said = "Something went wrong here. The log of the server says what."
        answer = self._said(request, said, 500)
        answer.headers.update(self.headers)  # this one is sent past the others
        return answer

    # --- how it is put together -------------------------------------------------------------------

    def _night(self, asked: str) -> dt.date:
        """Return the night that is asked for; the newest labelled one by default."""
        nights = self.lake.nights(tables.INTENT_PROFILES)
        if not nights:
            raise LakeError(f"{self.lake.root} has no labels yet: run a night first")
        wanted = _date(asked, "night")
        if wanted is None:
            return nights[-1]
        if wanted not in nights and wanted not in self.lake.nights(tables.STEPS):
            raise HTTPException(
                404, f"There is no night {wanted}. The lake has {nights[0]} to {nights[-1]}."
            )
        return wanted

    async def _shown(
        self,
        request: Request,
        template: str,
        view: Callable[[dt.date, Links], Mapping[str, Any]],
        *,
        section: str | None = None,
        status: int = 200,
    ) -> Response:
        return await self._aside(self._render, request, template, view, section or template, status)

    async def _aside(self, work: Callable[..., Result], *given: Any, **named: Any) -> Result:
        """Do what reads tables in a thread, of which few run at once: each takes memory."""
        return await to_thread.run_sync(partial(work, *given, **named), limiter=self._few)

    def _render(
        self,
        request: Request,
        template: str,
        view: Callable[[dt.date, Links], Mapping[str, Any]],
        section: str,
        status: int,
    ) -> Response:
        of = self._night(request.query_params.get("night", ""))
        links = _links(request, of)
        nights, labelled = self.lake.begun(), self.lake.nights(tables.INTENT_PROFILES)
        newer = [one for one in nights if of == labelled[-1] < one]
        body = self.templates.get_template(f"{template}.html").render(
            **(self._frame(request, section, links) | dict(view(of, links))),
            night=of,
            layout="paged.html",
            menu=_menu(nights, labelled),
            newer=len(newer),
            newest=nights[-1],
            before=next((links.of(one) for one in reversed(nights) if one < of), None),
            after=next((links.of(one) for one in nights if one > of), None),
        )
        return HTMLResponse(body, status)

    def _frame(self, request: Request, section: str, links: Links) -> dict[str, Any]:
        visitor = _visitor(request)
        return {
            "links": links,
            "section": section,
            "sections": TITLES,
            "visitor": visitor,
            "token": self.tokens.of(visitor) if visitor.may_name else None,
            "home": self.access.home,
            "asked_query": request.query_params,
            "saved": None,
            "lake_root": str(self.settings.lake.root),
        }

    def _said(self, request: Request, sentence: str, status: int) -> Response:
        body = self.templates.get_template("said.html").render(
            **self._frame(request, "", _links(request, None)),
            sentence=words.shown(sentence, 1000),
            status=status,
        )
        return HTMLResponse(body, status)


def _headers(settings: Settings, *, framed: bool) -> dict[str, str]:
    """Return the headers of every answer: nothing runs or is loaded that is not the page's own."""
    images = " ".join(f"https://{host}" for host in settings.page.image_hosts)
    policy = {
        "default-src": "'none'",
        "script-src": "'self'",
        "style-src": "'self'",
        "img-src": f"'self' {images}".strip(),
        "form-action": "'self'",
        "base-uri": "'none'",
        "frame-ancestors": "'self'" if framed else "'none'",
    }
    return {
        "Content-Security-Policy": "; ".join(f"{name} {value}" for name, value in policy.items()),
        "X-Content-Type-Options": "nosniff",
        "Referrer-Policy": "no-referrer",
        "Cross-Origin-Opener-Policy": "same-origin",
        "X-Frame-Options": "SAMEORIGIN" if framed else "DENY",
    }


def _visitor(request: Request) -> Visitor:
    visitor: Visitor = request.state.visitor
    return visitor


def _links(request: Request, of: dt.date | None) -> Links:
    return Links(request.scope.get("root_path", "").rstrip("/"), of)


def _menu(nights: Sequence[dt.date], labelled: Sequence[dt.date]) -> list[dict[str, Any]]:
    """Return the menu of nights, the newest first, with a mark, and what lies between them.

    nights: all that were begun, oldest first. labelled: those with labels, oldest first.
    """
    there = set(labelled)
    found: list[dict[str, Any]] = []
    for before, one in pairwise([None, *nights]):
        missing = words.between([before, one]) if before and one else []
        if missing:
            found.append({"night": None, "none": words.span(missing[0], missing[-1])})
        mark = None if one in there else "no labels"
        if one == labelled[-1]:
            mark = "newest" if one == nights[-1] else "newest with labels"
        found.append({"night": one, "mark": mark})
    return found[::-1]


def _number(text: str, what: str) -> int:
    if not (text.isascii() and text.isdigit()) or int(text) > MANY:
        raise HTTPException(404, f"{what} has to be a whole number.")
    return int(text)


def _share(text: str, what: str) -> float:
    """Read a percentage as a share of 1."""
    try:
        value = float(text or 0) / 100
    except ValueError:
        value = -1.0
    if not 0 <= value <= 1:
        raise HTTPException(400, f"{what} has to be a number from 0 to 100.")
    return value


def _date(text: str, what: str) -> dt.date | None:
    if not text:
        return None
    try:
        return dt.date.fromisoformat(text)
    except ValueError:
        raise HTTPException(400, f"{what} has to be a date, as 2026-11-22.") from None


async def _form(request: Request) -> dict[str, str]:
    """Read a small form; a larger one is refused before it is in memory."""
    body = b""
    async for part in request.stream():
        body += part
        if len(body) > LARGEST_FORM:
            raise HTTPException(413, "The form is too large.")
    try:
        fields = parse_qs(body.decode(), keep_blank_values=True, max_num_fields=20)
    except ValueError:
        raise HTTPException(400, "The form cannot be read.") from None
    return {name: values[-1] for name, values in fields.items()}
