"""The command line: every step by itself, a whole night, and what is around them.

A step prints its summary as JSON on stdout and logs to stderr. What a person can mend ends in
one line `error: ...` on stderr and exit code 2.
"""

import datetime as dt
import json
import logging
import os
import sys
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from tasks.errors import NightError, NotReadyError, PipelineError, SettingsError
from tasks.lake import Lake
from tasks.settings import Settings, load_settings
from tasks.steps import STEPS, check_night, run_step

STEP_PANEL = "Steps of a night, in order"
OTHER_PANEL = "Around them"

app = typer.Typer(
    help="Turn an event log into one intent label a user, night by night.",
    epilog="Example: .venv/bin/python -m tasks run --events events.csv --night 2026-11-22 "
    "--lake lakes/by-hand",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)

Night = Annotated[
    str, typer.Option(help="The UTC date to work on; yesterday if not given.", metavar="YYYY-MM-DD")
]
Events = Annotated[
    str | None,
    typer.Option(help="Event file, folder or glob, or its s3:// URL: the setting source.path."),
]
LakeRoot = Annotated[Path | None, typer.Option(help="Folder of the tables: the setting lake.root.")]
Changes = Annotated[
    list[str],
    typer.Option(
        "--set",
        help="A setting for this call only, for example model.n_intents=64; may be repeated. "
        "Lists and tables as JSON. `.venv/bin/python -m tasks settings` shows them all.",
        metavar="SECTION.KEY=VALUE",
    ),
]
Quiet = Annotated[bool, typer.Option("--quiet", help="Log warnings and errors only.")]


def settings_from(events: str | None, lake: Path | None, changes: list[str]) -> Settings:
    """Load the settings with what the command line changes."""
    overrides: dict[str, Any] = {}
    for change in changes:
        key, equals, value = change.partition("=")
        if not equals or "." not in key:
            raise SettingsError(f"--set {change} is no setting: write --set section.key=value")
        overrides[key.strip()] = _value(key, value)
    if events is not None:
        url = "://" in events
        overrides["source.path"] = events if url else str(Path(events).expanduser().absolute())
    if lake is not None:
        overrides["lake.root"] = str(lake.expanduser().absolute())
    return load_settings(**overrides)


def _value(key: str, text: str) -> Any:
    if not text.lstrip().startswith(("[", "{")):
        return text  # the settings turn it into their type
    try:
        return json.loads(text)
    except ValueError as error:
        raise SettingsError(f"--set {key}={text} is no valid JSON: {error}") from None


def night_from(text: str) -> dt.date:
    """Read a night as a person writes it; yesterday (UTC) when it is empty."""
    if not text:
        return dt.datetime.now(dt.UTC).date() - dt.timedelta(days=1)
    return date_from("--night", text)


def date_from(option: str, text: str) -> dt.date:
    """Read a date as a person writes it."""
    try:
        return dt.date.fromisoformat(text)
    except ValueError:
        raise NightError(f"{option} {text} is no date: write it as YYYY-MM-DD") from None


def _log(quiet: bool) -> None:
    logging.basicConfig(
        stream=sys.stderr, level=logging.INFO, format="%(asctime)s %(levelname)-7s %(message)s"
    )
    least = logging.WARNING if quiet else logging.INFO

    def worth_reading(record: logging.LogRecord) -> bool:
        ours = record.name.startswith(("tasks", "elcrec"))
        return record.levelno >= (least if ours else logging.WARNING)

    for handler in logging.getLogger().handlers:
        handler.addFilter(worth_reading)


def _command_of(name: str) -> Callable[..., None]:
    def command(
        night: Night = "",
        events: Events = None,
        lake: LakeRoot = None,
        changes: Changes = [],  # noqa: B006 - typer copies it
        quiet: Quiet = False,
    ) -> None:
        _log(quiet)
        summary = run_step(name, settings_from(events, lake, changes), night_from(night))
        typer.echo(json.dumps(summary, indent=2, default=str))

    return command


for _step in STEPS.values():
    app.command(
        _step.name, help=f"{_step.does[0].upper()}{_step.does[1:]}.", rich_help_panel=STEP_PANEL
    )(_command_of(_step.name))


@app.command("run", rich_help_panel=OTHER_PANEL)
def run_all(
    night: Night = "",
    events: Events = None,
    lake: LakeRoot = None,
    changes: Changes = [],  # noqa: B006
    quiet: Quiet = False,
) -> None:
    """All steps of a night in order, without Airflow, then the report."""
    from tasks.chores import report

    _log(quiet)
    settings, date = settings_from(events, lake, changes), night_from(night)
    for name in STEPS:
        run_step(name, settings, date)
    report.show(settings, date, console=_console())


@app.command(rich_help_panel=OTHER_PANEL)
def relabel(
    first: Annotated[str, typer.Option("--from", help="The first night.", metavar="YYYY-MM-DD")],
    last: Annotated[str, typer.Option("--to", help="The last, included.", metavar="YYYY-MM-DD")],
    version: Annotated[str, typer.Option(help="A model_version of the table models.")],
    other_settings: Annotated[
        bool, typer.Option("--other-settings", help="Also a model trained on other settings.")
    ] = False,
    lake: LakeRoot = None,
    changes: Changes = [],  # noqa: B006
    quiet: Quiet = False,
) -> None:
    """Label a range of past nights with one model, without training, and check the labels."""
    from tasks.chores.relabel import relabel as label_again

    _log(quiet)
    nights = date_from("--from", first), date_from("--to", last)
    settings = settings_from(None, lake, changes)
    done = label_again(settings, *nights, version, other_settings=other_settings)
    typer.echo(json.dumps(done, indent=2))


@app.command(rich_help_panel=OTHER_PANEL)
def report(
    night: Annotated[
        str, typer.Option(help="The night; the last one with labels if not given.")
    ] = "",
    lake: LakeRoot = None,
    truth: Annotated[
        Path | None, typer.Option(help="truth.parquet of generated events: adds NMI and ARI.")
    ] = None,
    changes: Changes = [],  # noqa: B006
) -> None:
    """Print what a night left behind: intents, evaluation, data quality, time, and where it is."""
    from tasks.chores import report as reports

    settings = settings_from(None, lake, changes)
    date = night_from(night) if night else reports.latest_night(settings)
    reports.show(settings, date, truth=truth, console=_console())


@app.command(rich_help_panel=OTHER_PANEL)
def generate(
    out: Annotated[Path, typer.Option(help="Folder for events/ and truth.parquet.")],
    night: Annotated[
        str, typer.Option(help="The last night of the events; yesterday if not given.")
    ] = "",
    users: Annotated[int, typer.Option(min=1)] = 800,
    items: Annotated[int, typer.Option(min=1)] = 300,
    intents: Annotated[int, typer.Option(min=1)] = 8,
    nights: Annotated[int, typer.Option(min=1)] = 30,
    seed: Annotated[int, typer.Option(min=0)] = 42,
) -> None:
    """Write realistic events whose users have known intents, to try the pipeline and to test it."""
    # By its path: `local` stands above this module.
    write = import_module("local.generator").generate

    written = write(
        out,
        users=users,
        items=items,
        intents=intents,
        nights=nights,
        last_night=night_from(night),
        seed=seed,
    )
    typer.echo(
        f"{written.rows:,} rows ({written.duplicates:,} written twice, {written.broken:,} broken) "
        f"in {written.events}, true intents in {written.truth}"
    )


@app.command(rich_help_panel=OTHER_PANEL)
def forget(
    user: Annotated[
        list[str], typer.Option(help="A user's id as it stands in events; may be repeated.")
    ] = [],  # noqa: B006
    users_file: Annotated[
        Path | None, typer.Option(help="Text file with an id a line, besides those of --user.")
    ] = None,
    lake: LakeRoot = None,
    changes: Changes = [],  # noqa: B006
    quiet: Quiet = False,
) -> None:
    """Remove people from every table, and leave them out of every night from now on."""
    from tasks.chores.forget import forget as remove
    from tasks.chores.forget import read_users

    _log(quiet)
    users = [*user, *(read_users(users_file) if users_file else [])]
    typer.echo(json.dumps(remove(settings_from(None, lake, changes), users), indent=2))


@app.command(rich_help_panel=OTHER_PANEL)
def rollback(
    to: Annotated[
        str, typer.Option(help="The model, a version in the table models.", metavar="VERSION")
    ],
    night: Night = "",
    lake: LakeRoot = None,
    changes: Changes = [],  # noqa: B006
    quiet: Quiet = False,
) -> None:
    """Let an earlier model label from a night on, until a later night's model is promoted."""
    from tasks.registry.choices import roll_back

    _log(quiet)
    settings, date = settings_from(None, lake, changes), night_from(night)
    check_night(date)
    place = Lake.there(settings.lake.root)
    with place.in_use(), place.turn(f"steps of night {date}"):
        typer.echo(json.dumps(roll_back(settings, date, to), indent=2))


@app.command(rich_help_panel=OTHER_PANEL)
def stale(
    lake: LakeRoot = None,
    changes: Changes = [],  # noqa: B006
) -> None:
    """Say which nights are stale, and why: what they were made from has changed since."""
    from tasks.chores import stale as chore

    for line in chore.lines(settings_from(None, lake, changes)):
        typer.echo(line)


@app.command(rich_help_panel=OTHER_PANEL)
def refresh(
    to: Annotated[
        str, typer.Option(help="The last night to look at; all if not given.", metavar="YYYY-MM-DD")
    ] = "",
    not_known: Annotated[
        bool,
        typer.Option("--not-known", help="Also the nights of which nothing is recorded."),
    ] = False,
    lake: LakeRoot = None,
    changes: Changes = [],  # noqa: B006
    quiet: Quiet = False,
) -> None:
    """Run the steps that are stale, night by night, until every night is up to date."""
    from tasks.chores import stale as chore

    _log(quiet)
    last = date_from("--to", to) if to else None
    done = chore.refresh(settings_from(None, lake, changes), last=last, not_known=not_known)
    typer.echo(json.dumps(done, indent=2))


@app.command(rich_help_panel=OTHER_PANEL)
def upkeep(
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="List what would go, and leave it.")
    ] = False,
    lake: LakeRoot = None,
    changes: Changes = [],  # noqa: B006
    quiet: Quiet = False,
) -> None:
    """Take out of the lake what the settings under retention do not keep."""
    from tasks.chores.upkeep import upkeep as take_out

    _log(quiet)
    went = take_out(settings_from(None, lake, changes), dry_run=dry_run)
    typer.echo(json.dumps(went, indent=2))


@app.command("settings", rich_help_panel=OTHER_PANEL)
def show_settings(changes: Changes = []) -> None:  # noqa: B006
    """Print every setting as it is in effect: file, then environment, then --set."""
    in_effect = settings_from(None, None, changes).model_dump(mode="json")
    for section, values in in_effect.items():
        for key, value in values.items():
            # As TOML has it: JSON has another word for inf.
            shown = value if isinstance(value, float) else json.dumps(value)
            typer.echo(f"{section}.{key} = {shown}")


def _console() -> Console:
    return Console(highlight=False, width=None if sys.stdout.isatty() else 120)


def main() -> None:
    """Run the command line."""
    try:
        app(prog_name=".venv/bin/python -m tasks")
    except (PipelineError, NotReadyError) as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)


if __name__ == "__main__":
    code: object = 0
    try:
        main()
    except SystemExit as ended:
        code = ended.code
    # Left at once: at an orderly end of Python, DuckDB's binding reports its own types as leaked.
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code if isinstance(code, int) else 1)
