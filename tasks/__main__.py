"""The command line: every step by itself, a whole night, and what is around them.

A step prints its summary as JSON on stdout and logs to stderr. What a person can mend ends in
one line `error: ...` on stderr and exit code 2; Ctrl-C in one that says what is kept and how to go
on, and exit code 130.
"""

import datetime as dt
import json
import os
import shlex
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from typing import Annotated, Any

import typer

from tasks.errors import NightError, NotReadyError, PipelineError, SettingsError
from tasks.lake import Lake, tables
from tasks.settings import Settings, load_settings
from tasks.steps import STEPS, check_night, run_step
from tasks.terminal import PYTHON_TASKS, console_of, log_to_stderr

STEP_PANEL = "Steps of a night, in order"
OTHER_PANEL = "Around a night"

app = typer.Typer(
    help="Turn an event log into one intent label a user, night by night.",
    epilog="Example: .venv/bin/python -m tasks run --events events.csv --night 2026-11-22 "
    "--lake lakes/by-hand",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)

NewestOfSource = Annotated[
    str,
    typer.Option(
        "--night",
        help="UTC date of the night. Default: the newest one that is over and in the source.",
        metavar="YYYY-MM-DD",
    ),
]
NewestOfLake = Annotated[
    str,
    typer.Option(
        "--night",
        help="UTC date of the night. Default: the newest night that the lake has.",
        metavar="YYYY-MM-DD",
    ),
]
Events = Annotated[
    str | None,
    typer.Option(help="File, folder, glob or s3:// URL, instead of source.path."),
]
Items = Annotated[
    str | None,
    typer.Option(help="Catalogue of items: a file, folder, glob or URL, for catalogue.path."),
]
LakeRoot = Annotated[
    str | None,
    typer.Option(help="Folder or URL of another lake than lake.root.", metavar="FOLDER"),
]
Changes = Annotated[
    list[str],
    typer.Option(
        "--set",
        help="Change a setting for this call only, e.g. model.n_intents=64. May be repeated. "
        "Write lists and tables as JSON. `.venv/bin/python -m tasks settings` prints all settings.",
        metavar="SECTION.KEY=VALUE",
    ),
]
Quiet = Annotated[bool, typer.Option("--quiet", help="Log warnings and errors only.")]


def settings_from(
    events: str | None, lake: str | None, changes: list[str], items: str | None = None
) -> Settings:
    """Load the settings with what the command line changes."""
    overrides: dict[str, Any] = {}
    for change in changes:
        key, equals, value = change.partition("=")
        if not equals or "." not in key:
            raise SettingsError(f"--set {change} is no setting: write --set section.key=value")
        overrides[key.strip()] = _value(key, value)
    for key, path in (("source.path", events), ("catalogue.path", items)):
        if path is not None:
            overrides[key] = _absolute(path)
    if lake is not None:
        overrides["lake.root"] = _absolute(lake)
    return load_settings(**overrides)


def _absolute(place: str) -> str:
    return place if "://" in place else str(Path(place).expanduser().absolute())


def _value(key: str, text: str) -> Any:
    if not text.lstrip().startswith(("[", "{")):
        return text  # the settings turn it into their type
    try:
        return json.loads(text)
    except ValueError as error:
        raise SettingsError(f"--set {key}={text} is no valid JSON: {error}") from None


def night_of_source(text: str, settings: Settings) -> dt.date:
    """Read a night as a person writes it; the newest night of the source when it is empty.

    Yesterday would be a night that events of the past do not reach.
    """
    if text:
        return date_from("--night", text)
    from tasks.night.ingest import latest_night

    return latest_night(settings)


def night_of_lake(text: str, settings: Settings) -> dt.date:
    """Read a night as a person writes it; the newest one that was ingested when it is empty."""
    if text:
        return date_from("--night", text)
    nights = Lake.of(settings).nights(tables.INGESTS)
    if not nights:
        raise NightError(
            f"{settings.lake.root} has no night yet: run ingest first, or name a night with "
            "--night and a lake with --lake"
        )
    return nights[-1]


def date_from(option: str, text: str) -> dt.date:
    """Read a date as a person writes it."""
    try:
        return dt.date.fromisoformat(text)
    except ValueError:
        raise NightError(f"{option} {text} is no date: write it as YYYY-MM-DD") from None


def _log(quiet: bool) -> None:
    log_to_stderr(quiet=quiet)


class _StoppedError(Exception):
    """Ctrl-C has ended a command; the message says what is kept and how to go on."""


@contextmanager
def _stoppable(doing: str, kept: str) -> Iterator[None]:
    """Say on Ctrl-C within the block what was being done and what of it is kept."""
    pressed: list[int] = []

    def interrupt(number: int, _frame: Any) -> None:
        pressed.append(number)
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGINT, interrupt)
    try:
        yield
    except BaseException as error:
        # Of a query DuckDB makes an error of its own.
        if not pressed or isinstance(error, PipelineError):
            raise
        again = f"{PYTHON_TASKS} {shlex.join(sys.argv[1:])}"
        raise _StoppedError(f"stopped in {doing}: {kept}; to go on: {again}") from None
    finally:
        signal.signal(signal.SIGINT, before)


def _run_step(name: str, settings: Settings, night: dt.date) -> dict[str, Any]:
    kept = "every table is as it was or as it is to be, and the step can run again"
    if name == "train":
        kept = "the epochs that are done are kept, and training goes on after the last of them"
    with _stoppable(f"{name} of night {night}", kept):
        return run_step(name, settings, night)


def _print_summary(name: str, settings: Settings, night: dt.date) -> None:
    typer.echo(json.dumps(_run_step(name, settings, night), indent=2, default=str))


def _command_of(name: str) -> Callable[..., None]:
    def command(
        night: NewestOfLake = "",
        lake: LakeRoot = None,
        changes: Changes = [],  # noqa: B006 - typer copies it
        quiet: Quiet = False,
    ) -> None:
        _log(quiet)
        settings = settings_from(None, lake, changes)
        if name == "train" and settings.model.rendezvous and int(os.environ.get("RANK", "0")):
            # One of several that torchrun has started: the night's turn is of the one that leads.
            from elcrec.worker import main as work

            raise typer.Exit(work([]))
        _print_summary(name, settings, night_of_lake(night, settings))

    return command


def _ingest(
    night: NewestOfSource = "",
    events: Events = None,
    items: Items = None,
    lake: LakeRoot = None,
    changes: Changes = [],  # noqa: B006
    quiet: Quiet = False,
) -> None:
    """Do the one step that reads events of the source."""
    _log(quiet)
    settings = settings_from(events, lake, changes, items)
    _print_summary("ingest", settings, night_of_source(night, settings))


for _step in STEPS.values():
    app.command(
        _step.name, help=f"{_step.does[0].upper()}{_step.does[1:]}.", rich_help_panel=STEP_PANEL
    )(_ingest if _step.name == "ingest" else _command_of(_step.name))


@app.command("run", rich_help_panel=OTHER_PANEL)
def run_all(
    night: NewestOfSource = "",
    events: Events = None,
    items: Items = None,
    lake: LakeRoot = None,
    changes: Changes = [],  # noqa: B006
    quiet: Quiet = False,
) -> None:
    """Run all steps of a night in order, without Airflow, and print the report."""
    from tasks.chores import report

    _log(quiet)
    settings = settings_from(events, lake, changes, items)
    date = night_of_source(night, settings)
    for name in STEPS:
        _run_step(name, settings, date)
    report.show(settings, date, console=console_of())


@app.command("inspect", rich_help_panel=OTHER_PANEL)
def inspect_source(
    events: Events = None,
    items: Items = None,
    changes: Changes = [],  # noqa: B006
    quiet: Quiet = False,
) -> None:
    """Show how a source would be read, and the settings that fix this reading. Writes nothing.

    With --items alone it shows how that catalogue would be read, and without options also the
    catalogue of the settings.
    """
    from tasks.chores.inspection import inspect
    from tasks.chores.item_inspection import inspect_items

    _log(quiet)
    settings = settings_from(events, None, changes, items)
    if events is not None or items is None:
        inspect(settings, console_of())
    if items is not None or (events is None and settings.catalogue.is_set):
        inspect_items(settings, console_of())


@app.command(rich_help_panel=OTHER_PANEL)
def relabel(
    first: Annotated[str, typer.Option("--from", help="First night.", metavar="YYYY-MM-DD")],
    last: Annotated[str, typer.Option("--to", help="Last night.", metavar="YYYY-MM-DD")],
    version: Annotated[str, typer.Option(help="A model_version from the table models.")],
    other_settings: Annotated[
        bool,
        typer.Option("--other-settings", help="Allow a model of other settings."),
    ] = False,
    lake: LakeRoot = None,
    changes: Changes = [],  # noqa: B006
    quiet: Quiet = False,
) -> None:
    """Label past nights again with one model, without training, and check the labels."""
    from tasks.chores.relabel import relabel as label_again

    _log(quiet)
    nights = date_from("--from", first), date_from("--to", last)
    settings = settings_from(None, lake, changes)
    kept = "each night is labelled anew or as it was, and can be labelled again"
    with _stoppable(f"relabelling nights {first} to {last}", kept):
        done = label_again(settings, *nights, version, other_settings=other_settings)
    typer.echo(json.dumps(done, indent=2))


@app.command(rich_help_panel=OTHER_PANEL)
def report(
    night: Annotated[
        str, typer.Option(help="UTC date. Default: the newest night with labels.")
    ] = "",
    lake: LakeRoot = None,
    truth: Annotated[
        Path | None,
        typer.Option(help="truth.parquet of generated events: adds NMI and ARI."),
    ] = None,
    intent: Annotated[int | None, typer.Option(help="Print only this intent.")] = None,
    user: Annotated[str | None, typer.Option(help="Print only this user.")] = None,
    everything: Annotated[
        bool,
        typer.Option("--all", help="Print all intents, labels and figures."),
    ] = False,
    html: Annotated[
        Path | None,
        typer.Option(
            help="Write the night and its intents to this file, as a page that can be mailed.",
            metavar="FILE",
        ),
    ] = None,
    changes: Changes = [],  # noqa: B006
) -> None:
    """Print what a night left behind: outcome, intents, evaluation, rows, checks, and where it is.

    In a pipe each row is one line, however long.
    """
    from tasks.chores import report as reports

    if (intent is not None) + (user is not None) + everything + (html is not None) > 1:
        raise SettingsError(
            "--intent, --user, --all and --html each ask for another report: give one"
        )
    settings = settings_from(None, lake, changes)
    date = date_from("--night", night) if night else reports.latest_night(settings)
    if html is not None:
        from tasks.page.saved import saved

        html.write_text(saved(settings, date), "utf-8")
        typer.echo(f"Night {date} and its intents are in {html}")
    elif intent is not None:
        reports.show_intent(settings, date, intent, console=console_of())
    elif user is not None:
        reports.show_user(settings, date, user, console=console_of())
    else:
        reports.show(settings, date, truth=truth, everything=everything, console=console_of())


@app.command(rich_help_panel=OTHER_PANEL)
def page(
    port: Annotated[
        int, typer.Option(min=0, max=65535, help="Port on 127.0.0.1. 0: a free one.")
    ] = 8321,
    lake: LakeRoot = None,
    changes: Changes = [],  # noqa: B006
) -> None:
    """Serve the page of intents on this machine until Ctrl-C, at the address that is printed."""
    from tasks.page.server import serve

    _log(False)
    settings = settings_from(None, lake, changes)
    Lake.there(settings)
    serve(settings, port, lambda address: typer.echo(f"The page of intents: {address}"))


@app.command(rich_help_panel=OTHER_PANEL)
def generate(
    out: Annotated[
        Path,
        typer.Option(
            help="Folder for events/, truth.parquet, catalogue.parquet and themes.parquet."
        ),
    ],
    night: Annotated[str, typer.Option(help="Last night of the events. Default: yesterday.")] = "",
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
        last_night=date_from("--night", night)
        if night
        else dt.datetime.now(dt.UTC).date() - dt.timedelta(days=1),
        seed=seed,
    )
    typer.echo(
        f"{written.rows:,} rows ({written.duplicates:,} written twice, {written.broken:,} broken) "
        f"in {written.events}, true intents in {written.truth}, "
        f"items in {written.catalogue}, the intents' themes in {written.themes}"
    )


@app.command(rich_help_panel=OTHER_PANEL)
def forget(
    user: Annotated[
        list[str], typer.Option(help="Id of a user, as in the table events. May be repeated.")
    ] = [],  # noqa: B006
    users_file: Annotated[
        Path | None, typer.Option(help="Text file with one id on each line.")
    ] = None,
    lake: LakeRoot = None,
    changes: Changes = [],  # noqa: B006
    quiet: Quiet = False,
) -> None:
    """Remove people from every table, and from every later night."""
    from tasks.chores.forget import forget as remove
    from tasks.chores.forget import read_users

    _log(quiet)
    users = [*user, *(read_users(users_file) if users_file else [])]
    kept = "no night reads these users again, but some of their rows may still be there"
    with _stoppable("forgetting people", kept):
        removed = remove(settings_from(None, lake, changes), users)
    typer.echo(json.dumps(removed, indent=2))


@app.command(rich_help_panel=OTHER_PANEL)
def name(
    intent: Annotated[int, typer.Argument(help="An intent_id of the newest labelled night.")],
    given: Annotated[
        str, typer.Argument(help='The name. "": take it back, and the automatic one counts.')
    ],
    description: Annotated[
        str | None, typer.Option(help="What the intent is about. Default: what is there stays.")
    ] = None,
    by: Annotated[
        str | None, typer.Option(help="Who names it. Default: the account that runs this.")
    ] = None,
    lake: LakeRoot = None,
    changes: Changes = [],  # noqa: B006
    quiet: Quiet = False,
) -> None:
    """Name an intent: at once in reports, and in the tables from the next night on."""
    from tasks.chores.naming import name as give

    _log(quiet)
    settings = settings_from(None, lake, changes)
    done = give(settings, intent, given, description=description, by=by)
    typer.echo(json.dumps(done, indent=2, ensure_ascii=False))


@app.command(rich_help_panel=OTHER_PANEL)
def rollback(
    to: Annotated[
        str,
        typer.Option(help="A model_version, e.g. 20261119-1f3a0c77.", metavar="VERSION"),
    ],
    night: NewestOfLake = "",
    lake: LakeRoot = None,
    changes: Changes = [],  # noqa: B006
    quiet: Quiet = False,
) -> None:
    """Go back to an earlier model, until a later night's model is promoted."""
    from tasks.registry.choices import roll_back

    _log(quiet)
    settings = settings_from(None, lake, changes)
    date = night_of_lake(night, settings)
    check_night(date)
    place = Lake.there(settings)
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
        str, typer.Option(help="Last night to look at. Default: all nights.", metavar="YYYY-MM-DD")
    ] = "",
    not_known: Annotated[
        bool,
        typer.Option("--not-known", help="Include nights of which nothing is recorded."),
    ] = False,
    lake: LakeRoot = None,
    changes: Changes = [],  # noqa: B006
    quiet: Quiet = False,
) -> None:
    """Run the steps that are stale, night by night, until every night is up to date."""
    from tasks.chores import stale as chore

    _log(quiet)
    last = date_from("--to", to) if to else None
    settings = settings_from(None, lake, changes)
    kept = "what was brought up to date stays so, and the rest is as it was"
    with _stoppable("refreshing nights", kept):
        done = chore.refresh(settings, last=last, not_known=not_known)
    typer.echo(json.dumps(done, indent=2))


@app.command(rich_help_panel=OTHER_PANEL)
def upkeep(
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="List what would be deleted, and delete nothing.")
    ] = False,
    lake: LakeRoot = None,
    changes: Changes = [],  # noqa: B006
    quiet: Quiet = False,
) -> None:
    """Delete what is older than the settings under retention keep."""
    from tasks.chores.upkeep import upkeep as take_out

    _log(quiet)
    with _stoppable("upkeep", "what went so far is gone, and the rest can go later"):
        went = take_out(settings_from(None, lake, changes), dry_run=dry_run)
    typer.echo(json.dumps(went, indent=2))


@app.command("move-lake", rich_help_panel=OTHER_PANEL)
def move_lake(
    source: Annotated[str, typer.Argument(metavar="FROM", help="Folder or URL of the lake.")],
    target: Annotated[str, typer.Argument(metavar="TO", help="An empty folder or URL.")],
    changes: Changes = [],  # noqa: B006
    quiet: Quiet = False,
) -> None:
    """Copy a lake to another place, verify the copy, and let steps use that one alone."""
    from tasks.chores.move import move

    _log(quiet)
    # Each by the rules of lake.root.
    old, new = (settings_from(None, place, changes) for place in (source, target))
    with _stoppable("moving the lake", "what is copied stays, and the lake is where it was"):
        moved = move(old, old.lake.root, new.lake.root)
    typer.echo(json.dumps(moved, indent=2))


@app.command("settings", rich_help_panel=OTHER_PANEL)
def show_settings(changes: Changes = []) -> None:  # noqa: B006
    """Print the value in effect of every setting: --set, else environment, else file."""
    in_effect = settings_from(None, None, changes).model_dump(mode="json")
    for section, values in in_effect.items():
        for key, value in values.items():
            # As TOML has it: JSON has another word for inf.
            shown = value if isinstance(value, float) else json.dumps(value)
            typer.echo(f"{section}.{key} = {shown}")


def main() -> None:
    """Run the command line."""
    try:
        app(prog_name=PYTHON_TASKS)
    except (PipelineError, NotReadyError) as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
    except _StoppedError as stopped:
        print(f"\n{stopped}", file=sys.stderr)
        sys.exit(130)


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
