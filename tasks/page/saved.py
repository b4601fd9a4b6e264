"""A night and its intents as one file, to be mailed. It loads and runs nothing, and has no user."""

import base64
import datetime as dt
from hashlib import sha256

from markupsafe import Markup

from tasks.page import intent, intents, night
from tasks.page.app import HERE, environment
from tasks.page.links import Anchors
from tasks.page.reader import PageLake
from tasks.settings import Settings


def saved(settings: Settings, of: dt.date) -> str:
    """Return the page of a night, its figures, checks and intents, as HTML.

    Raises LakeError when there is no lake.
    """
    lake = PageLake.there(settings)
    links = Anchors("", of)
    templates = environment()
    frame = {"night": of, "links": links, "layout": "bare.html", "saved": True}
    listed = intents.view(lake, of, links)
    parts = {
        "night_part": templates.get_template("night.html").render(
            **night.view(settings, lake, of, links, names_users=False), **frame
        ),
        "intents_part": templates.get_template("intents.html").render(**listed, **frame),
    }
    each = [
        intent.about(lake, of, row["intent"], links)
        for row in listed["rows"]
        if row["users"] or row["is_new"]
    ]
    style = (HERE / "static" / "page.css").read_text("utf-8")
    # The bytes between the tags, as the browser sees them.
    digest = base64.b64encode(sha256(style.encode()).digest()).decode()
    return templates.get_template("saved.html").render(
        **{name: Markup(part) for name, part in parts.items()},
        **frame,
        each=[one for one in each if one],
        style=Markup(style),
        style_hash=f"sha256-{digest}",
        saved_at=dt.datetime.now(dt.UTC),
    )
