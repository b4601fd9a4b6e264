"""All settings of the pipeline: one typed object, read from `settings.toml` and the environment.

Order of precedence, highest first: what a run passes to `load_settings`, the environment
(`ELCREC_SOURCE__PATH` for `source.path`), the file, the defaults below. Each key is explained in
`settings.toml`, which holds every key with its default.
"""

import difflib
import json
import math
import os
import re
import tomllib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, TypeVar
from zoneinfo import available_timezones

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    ValidationError,
    ValidationInfo,
    field_validator,
    model_validator,
)
from pydantic_settings import (
    BaseSettings,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    TomlConfigSettingsSource,
)
from pydantic_settings import SettingsError as EnvironmentParseError

from tasks.errors import SettingsError

REPO = Path(__file__).resolve().parent.parent
PROFILES = REPO / "tasks" / "sources" / "profiles"
CATALOGUE_PROFILES = REPO / "tasks" / "sources" / "catalogue_profiles"
ENV_PREFIX = "ELCREC_"
# Names with the prefix that are no settings: where the file is, where test data lies, and what is
# filled in in the trigger form.
OTHER_ENV = frozenset({"ELCREC_SETTINGS", "ELCREC_DATA", "ELCREC_FORM"})
# What to write, by the beginning of the name that pydantic gives a fault.
KINDS = {
    "int_": "a whole number",
    "float_": "a number",
    "finite_number": "a finite number",
    "bool_": "true or false",
    "string_too_short": "a name, for it cannot be empty",
    "string_": 'text, such as "name"',
    "path_": 'the path of a folder, such as "lake"',
    "tuple_": 'a list, such as ["first", "second"]',
    "list_": 'a list, such as ["first", "second"]',
    "dict_": "a table, such as { view = 1, cart = 3 }",
    "model_": "a table of settings, such as [source] with keys below it",
}
LIMITS = {"ge": "of at least", "gt": "above", "le": "of at most", "lt": "below"}
# Keys of earlier versions, and what to write today.
RENAMED = {
    "label.odds": "label.probability_ratio",
    "label.idle_odds": "label.idle_probability_ratio",
}


class Section(BaseModel):
    """A table of the settings file; a key it does not know is an error."""

    model_config = ConfigDict(extra="forbid", frozen=True, protected_namespaces=())


# What DuckDB's strptime knows in a format; to ask it here would load it with each reading of a DAG.
TIME_SPECIFIERS = re.compile("%([aAbBcdfgGhHIjmMnpSTuUVwWxXyYz%]|-[dHIjmMSy])")


# What the URL of a place that is written to may be: letters that mean the same to every library.
URL = re.compile(r"(s3|az)://[a-z0-9][a-z0-9.-]+(/(?!\.\.?(/|$))[A-Za-z0-9_.-]+)*/?")


def _place(value: object) -> Path | str:
    """Tell a folder from the URL of an object store; ValueError for what is neither."""
    if not isinstance(value, str | Path):
        raise ValueError('write the path of a folder, such as "lake", or a URL')
    if "://" not in str(value):
        return Path(value)
    if not URL.fullmatch(str(value)):
        raise ValueError(
            "write a URL as s3://bucket/folder or az://container/folder, in letters, digits and "
            "- _ ."
        )
    return str(value).rstrip("/")


# A host that images of a catalogue may come from; a policy of the browser is made of it.
IMAGE_HOST = r"^(\*\.)?[a-z0-9]([a-z0-9-]*[a-z0-9])?(\.[a-z0-9]([a-z0-9-]*[a-z0-9])?)*$"


class LakeSettings(Section):
    """Where the tables are: a folder, or the URL of an object store."""

    root: Path | str = Path("lake")
    endpoint: str = ""
    region: str = ""
    connection: str = ""

    @field_validator("root", mode="before")
    @classmethod
    def _is_a_place(cls, root: object) -> object:
        return _place(root)


class ReadSettings(Section):
    """Where rows are and how they are read, of events and of the catalogue alike.

    roles: what the columns of a row can be; `<role>_columns` name them. needed: those without which
    a row is none. known_by: those by which a first line is known to name the columns.
    """

    roles: ClassVar[tuple[str, ...]]
    needed: ClassVar[tuple[str, ...]]
    known_by: ClassVar[tuple[str, ...]]

    kind: Literal["files", "postgres", "delta"] = "files"
    path: str = ""
    day_folders: str = "dt"
    endpoint: str = ""
    region: str = ""
    connection: str = ""
    table: str = ""
    query: str = ""
    profile: str = ""
    format: str = "auto"
    columns: tuple[str, ...] = ()
    skip_rows: int = Field(0, ge=0)
    encoding: str = "utf-8"
    item_columns: tuple[str, ...] = ("item_id", "item", "itemId", "itemid", "product_id", "movieId")
    null_values: tuple[str, ...] = ("\\N", "NULL", "null", "None", "NaN", "nan", "NA", "N/A")
    separator: str = "auto"
    quote: str = "auto"
    escape: str = ""
    broken_rows: Literal["stop", "quarantine"] = "stop"

    @field_validator("*")
    @classmethod
    def _have_names(cls, names: object, about: ValidationInfo) -> object:
        if str(about.field_name).endswith("_columns") and isinstance(names, tuple) and "" in names:
            raise ValueError(
                "leave the empty name out: a column without a name is named by position"
            )
        return names

    @field_validator("columns")
    @classmethod
    def _differ(cls, names: tuple[str, ...]) -> tuple[str, ...]:
        if twice := next((name for name in names if name and names.count(name) > 1), None):
            raise ValueError(f"two columns are named {twice}: rename one of them")
        return names

    @field_validator("separator")
    @classmethod
    def _separates(cls, separator: str) -> str:
        if not separator or set(separator) & set('"\r\n'):
            raise ValueError(
                'write "auto" or one or more characters, which are no quote and no line end'
            )
        return separator

    @field_validator("quote", "escape")
    @classmethod
    def _is_one_character(cls, sign: str) -> str:
        if sign != "auto" and (len(sign) > 1 or not sign.isascii() or sign in ("\r", "\n")):
            raise ValueError('write one ASCII character, or "" for none')
        return sign

    @field_validator("encoding")
    @classmethod
    def _is_known(cls, encoding: str) -> str:
        try:
            "a".encode(encoding)
        except (LookupError, UnicodeError):
            raise ValueError('write the name of an encoding, such as "latin-1"') from None
        return encoding


Read = TypeVar("Read", bound=ReadSettings)


class SourceSettings(ReadSettings):
    """Where events come from and how their columns are named."""

    roles = ("user", "item", "time", "type", "weight", "session")
    needed = ("user", "item", "time")
    known_by = ("item", "time")

    reread: bool = False
    changes: Literal["refuse", "follow"] = "refuse"
    format: Literal["auto", "parquet", "csv", "jsonl", "json", "recbole", "sequences"] = "auto"
    user_columns: tuple[str, ...] = ("user_id", "user", "userId", "visitorid", "customer_id")
    time_columns: tuple[str, ...] = ("timestamp", "ts", "time", "event_time", "datetime")
    type_columns: tuple[str, ...] = ("event_type", "event", "type")
    weight_columns: tuple[str, ...] = ("weight", "rating", "score")
    session_columns: tuple[str, ...] = ()
    time_unit: str = "auto"
    time_zone: str = "UTC"
    event_types: tuple[str, ...] = ()
    event_weights: dict[str, Annotated[float, Field(allow_inf_nan=False)]] = {}

    @property
    def time_format(self) -> str:
        """The format of times that `time_unit` gives; empty when it is a unit."""
        return self.time_unit if "%" in self.time_unit else ""

    @field_validator("time_unit")
    @classmethod
    def _is_a_unit(cls, unit: str) -> str:
        if "%Z" in unit:
            raise ValueError(
                "names of zones have several meanings: have offsets (%z), or time_zone"
            )
        if "%" in (rest := TIME_SPECIFIERS.sub("", unit)):
            raise ValueError(
                f"no times are read by {rest[rest.index('%') :][:2]}: write a format of DuckDB's "
                'strptime such as "%m/%d/%Y %H:%M", for numbers "s", "ms", "us" or "ns"'
            )
        if "%" not in unit and unit not in ("auto", "s", "ms", "us", "ns", "iso"):
            raise ValueError(
                'write "auto", "s", "ms", "us", "ns", "iso" or a format such as "%m/%d/%Y %H:%M"'
            )
        return unit

    @field_validator("time_zone")
    @classmethod
    def _is_a_zone(cls, zone: str) -> str:
        if zone != "UTC" and ("/" not in zone or zone not in available_timezones()):
            raise ValueError('write "UTC" or a name such as "Europe/London"')
        return zone


class CatalogueSettings(ReadSettings):
    """Where the catalogue of items is, if there is one, and how its columns are named."""

    roles = ("item", "title", "category")
    needed = ("item",)
    known_by = ("item", "title")

    format: Literal["auto", "parquet", "csv", "jsonl", "json", "recbole"] = "auto"
    title_columns: tuple[str, ...] = (
        *("title", "name", "item_title", "item_name", "product_title", "product_name"),
        "movie_title",
    )
    category_columns: tuple[str, ...] = (
        *("categories", "category", "genres", "genre", "tags", "class"),
    )
    category_separator: str = "auto"

    @property
    def is_set(self) -> bool:
        """Whether there is a catalogue."""
        return bool(self.path) or self.kind == "postgres"


# What a profile may say: how files are read, not where they are.
PROFILE_KEYS = frozenset(
    {
        *(f"{role}_columns" for role in SourceSettings.roles),
        *("format", "encoding", "columns", "skip_rows", "time_unit", "time_zone", "null_values"),
        *("event_types", "event_weights", "separator", "quote", "escape"),
    }
)
CATALOGUE_PROFILE_KEYS = frozenset(
    {
        *(name for name in CatalogueSettings.model_fields if name.endswith("_columns")),
        *("format", "encoding", "columns", "skip_rows", "null_values", "category_separator"),
        *("separator", "quote", "escape"),
    }
)


class IngestSettings(Section):
    """What of the source a night takes."""

    late_days: int = Field(3, ge=0, le=60)
    settle_minutes: float = Field(0, ge=0)
    max_quiet_days: int = Field(7, ge=0)
    max_user_events: int = Field(10_000, ge=0)
    max_repeats: int = Field(1_000, ge=0)


class SequenceSettings(Section):
    """How events become histories."""

    last_events: int = Field(256, ge=1)
    min_user_events: int = Field(1, ge=1)
    min_item_events: int = Field(1, ge=1)
    session_minutes: float = Field(0, ge=0)

    @property
    def has_core(self) -> bool:
        """Whether users and items with few events are left out."""
        return self.min_user_events > 1 or self.min_item_events > 1

    def rules(self) -> dict[str, Any]:
        """Return what decides the histories of given events, to take fingerprints of.

        Without sessions it is what it was before there were any: so are the histories.
        """
        off = set() if self.session_minutes else {"session_minutes"}
        return self.model_dump(mode="json", exclude=off)


# Fields of the library's Config for which histories need types, weights and times.
DETAILS = (
    "types",
    "gap_vectors",
    "idle_vectors",
    "half_life_days",
    "weigh_events",
    "weigh_targets",
)
RENDEZVOUS = r"^([^\s:/]+:[0-9]{1,5})?$"  # host:port, or nothing
FEWEST_HELD_OUT = 100  # by fewer users, no two models can be told apart


class ModelSettings(Section):
    """What is trained, for how long and on what."""

    preset: Literal["default", "paper"] = "default"
    dataset: Literal["", "beauty", "sports", "toys", "yelp"] = ""
    ablation: Literal["full", "B", "B+ICL", "B+ELCM"] = "full"
    n_intents: int = Field(0, ge=0)
    max_epochs: int = Field(0, ge=0)
    patience: int = Field(0, ge=0)
    warm_epochs: int = Field(3, ge=1)
    retrain_nights: int = Field(28, ge=0)
    from_scratch: bool = False
    least_overlap: float = Field(0.15, gt=0, le=1)
    least_share: float = Field(0.1, gt=0, le=1)
    left_nights: int = Field(14, ge=1)
    held_out_users: int = Field(5_000, ge=0)
    seed: int = Field(42, ge=0)
    device: Literal["auto", "cpu", "cuda"] = "auto"
    threads: int = Field(0, ge=0)
    processes: int = Field(1, ge=1)
    rendezvous: str = Field("", pattern=RENDEZVOUS)
    max_length: int = Field(50, ge=3)
    target_types: tuple[str, ...] = ()
    overrides: dict[str, Any] = {}

    @property
    def reads_details(self) -> bool:
        """Whether the model looks at types, weights and times of events, and not at items alone."""
        return bool(self.target_types) or any(self.overrides.get(name) for name in DETAILS)

    @field_validator("held_out_users")
    @classmethod
    def _can_be_judged_by(cls, users: int) -> int:
        if 0 < users < FEWEST_HELD_OUT:
            raise ValueError(
                f"models cannot be judged by so few users: write {FEWEST_HELD_OUT} or more, or 0 "
                "for all"
            )
        return users

    @field_validator("overrides")
    @classmethod
    def _are_no_keys_of_their_own(cls, overrides: dict[str, Any]) -> dict[str, Any]:
        """Turn what the environment gives as text (ELCREC_MODEL__OVERRIDES__DIM) into values.

        A name that is a key of `model` is refused: the steps would go by that key, and the model by
        the override.
        """
        if own := sorted(overrides.keys() & cls.model_fields.keys()):
            raise ValueError(f"{own[0]} has a key of its own: set model.{own[0]}")
        return {name: _from_json(value) for name, value in overrides.items()}


class LabelSettings(Section):
    """How a user's label follows from the model's."""

    probability_ratio: float = Field(20, ge=1)
    idle_probability_ratio: float = Field(math.inf, ge=1)
    rename_below: float = Field(0.5, ge=0, le=1)
    clear_above: float = Field(0.5, ge=0, le=1)


class RecommendSettings(Section):
    """What each user is recommended; nothing unless a number of items is asked for."""

    top_k: int = Field(0, ge=0, le=1000)
    leave_out_had: bool = True


class EvaluateSettings(Section):
    """How a model is judged."""

    cutoffs: tuple[Annotated[int, Field(ge=1)], ...] = Field((5, 10, 20), min_length=1)
    resamples: int = Field(1_000, ge=100, le=100_000)
    confidence: float = Field(0.95, gt=0.5, lt=1)
    max_repeat_share: float = Field(0.7, ge=0, le=1)
    types: tuple[str, ...] = ()


class PromoteSettings(Section):
    """When a new model may label users."""

    max_ndcg_drop: float = Field(0.05, ge=0, le=1)
    max_lift_drop: float = Field(0.10, ge=0, le=1)
    max_churn: float = Field(0.5, ge=0, le=1)
    max_idle_churn: float = Field(0.3, ge=0, le=1)
    min_utilisation: float = Field(0.2, ge=0, le=1)
    max_largest_share: float = Field(0.5, gt=0, le=1)
    force: bool = False
    version: str = ""


class QualitySettings(Section):
    """Limits of the data-quality checks; which stop and which warn is written in the suites."""

    min_events: int = Field(1, ge=1)
    max_id_length: int = Field(1000, ge=1)
    max_duplicate_share: float = Field(0.05, ge=0, le=1)
    max_quarantined_share: float = Field(0.05, ge=0, le=1)
    min_compared_events: int = Field(100, ge=1)
    stop_volume_below: float = Field(0.1, ge=0)
    warn_volume_below: float = Field(0.5, ge=0)
    warn_volume_above: float = Field(2, gt=0)
    max_silent_hours: float = Field(6, gt=0)
    max_new_user_share: float = Field(0.9, ge=0, le=1)
    max_new_item_share: float = Field(0.9, ge=0, le=1)
    max_user_share: float = Field(0.2, gt=0, le=1)
    max_item_share: float = Field(0.5, gt=0, le=1)
    max_type_shift: float = Field(0.2, ge=0, le=1)
    max_label_share: float = Field(0.9, gt=0, le=1)
    max_unlabelled_share: float = Field(0.5, ge=0, lt=1)
    min_label_utilisation: float = Field(0.1, ge=0, le=1)
    min_kept_meaning: float = Field(0.5, ge=0, le=1)
    stop_catalogue_below: float = Field(0.1, gt=0, le=1)
    max_untitled_share: float = Field(0.2, ge=0, le=1)


class PublishSettings(Section):
    """Where labels go besides the lake; an empty one is not asked for."""

    parquet: str = ""
    parquet_connection: str = ""
    parquet_with: str = ""
    postgres_connection: str = ""
    postgres_table: str = "intent_labels"

    @field_validator("parquet", "parquet_with")
    @classmethod
    def _is_a_place(cls, place: str) -> str:
        return str(_place(place)) if place else ""

    @field_validator("postgres_table")
    @classmethod
    def _is_a_name(cls, table: str) -> str:
        name = (
            r"[A-Za-z_][A-Za-z0-9_]{0,53}"  # with _evidence behind it no longer than the server's
        )
        if not re.fullmatch(rf"({name}\.)?{name}", table):
            raise ValueError(
                "write the name of a table, name or schema.name, of at most 54 letters, digits "
                "and _ each"
            )
        return table

    @model_validator(mode="after")
    def _both_are_of_a_kind(self) -> "PublishSettings":
        urls = ["://" in place for place in (self.parquet, self.parquet_with) if place]
        if len(set(urls)) > 1:
            raise ValueError(
                f"parquet is {self.parquet} and parquet_with is {self.parquet_with}: name two "
                "folders or two URLs, or leave parquet_with empty"
            )
        return self


class RetentionSettings(Section):
    """How many nights stay in the lake, back from the newest ingested one; 0: all."""

    events_nights: int = Field(0, ge=0)
    quarantine_nights: int = Field(0, ge=0)
    sequences_nights: int = Field(30, ge=0)
    left_out_nights: int = Field(7, ge=0)
    labels_nights: int = Field(0, ge=0)
    steps_nights: int = Field(0, ge=0)
    models_nights: int = Field(30, ge=0)
    pages_nights: int = Field(90, ge=0)
    min_age_hours: int = Field(168, ge=0)


class DuckDBSettings(Section):
    """What DuckDB may use."""

    memory_limit: str = ""
    threads: int = Field(0, ge=0)
    temp_directory: str = ""

    @field_validator("memory_limit")
    @classmethod
    def _is_a_size(cls, limit: str) -> str:
        size = re.fullmatch(r"(\d+(?:\.\d+)?) ?([KMGT]i?B|%)", limit.strip(), re.IGNORECASE)
        if limit.strip() and not (size and float(size[1]) > 0):
            raise ValueError('write a size such as "8GB", "512MB" or "50%", or "" for no own limit')
        return limit.strip()


# A place where Spark Connect answers: host and port, and what its client is to be told.
SPARK_URL = re.compile(r"sc://[A-Za-z0-9.-]+(:[0-9]{1,5})?(/(;[a-z_-]+=[^;\s]+)*)?")


class EngineSettings(Section):
    """What the steps that read all users run on."""

    kind: Literal["duckdb", "spark"] = "duckdb"
    url: str = ""

    @field_validator("url")
    @classmethod
    def _is_a_place_of_spark(cls, url: str) -> str:
        if url and not SPARK_URL.fullmatch(url):
            raise ValueError(
                'write the address of a Spark Connect server, such as "sc://host:15002"'
            )
        # What is in a setting is shown to people.
        if ";token=" in url:
            raise ValueError(
                "leave the token out, and put it into the environment as "
                "SPARK_CONNECT_AUTHENTICATE_TOKEN"
            )
        return url

    @model_validator(mode="after")
    def _spark_has_a_place(self) -> "EngineSettings":
        if self.kind == "spark" and not self.url:
            raise ValueError(
                'kind is "spark", so set engine.url, too: the address of a Spark Connect server, '
                'such as "sc://host:15002"'
            )
        return self


class AirflowSettings(Section):
    """When the DAG runs, how often a task is tried again, and where the training runs."""

    schedule: str = "@daily"
    upkeep_schedule: str = "@weekly"
    relabel_at_once: int = Field(2, ge=1)
    retries: int = Field(2, ge=0)
    retry_delay_minutes: float = Field(5, ge=0)
    training_queue: str = Field("default", min_length=1)
    training_pod: dict[str, Any] = {}

    @field_validator("schedule", "upkeep_schedule")
    @classmethod
    def _is_a_cron_expression(cls, schedule: str) -> str:
        if schedule not in ("", "@daily", "@weekly"):
            from croniter import croniter  # Airflow's own

            if not croniter.is_valid(schedule):
                raise ValueError(
                    'write a cron expression such as "30 2 * * *", a preset such as "@daily", '
                    'or "" for no schedule'
                )
        return schedule


class PageSettings(Section):
    """What the page of intents shows."""

    min_users: int = Field(10, ge=1)
    image_hosts: tuple[Annotated[str, Field(pattern=IMAGE_HOST)], ...] = ()
    image_column: str = Field("image_url", min_length=1)


class AlertSettings(Section):
    """Who is told of failures, late nights, refused models and warnings."""

    webhook: str = ""
    mail: str = ""
    mail_to: tuple[str, ...] = ()
    late_minutes: float = Field(0, ge=0)

    @model_validator(mode="after")
    def _mail_has_readers(self) -> "AlertSettings":
        if bool(self.mail) != bool(self.mail_to):
            raise ValueError("mail and mail_to go together: set both, or neither")
        return self


class Settings(BaseSettings):
    """Every setting of the pipeline, validated, with absolute paths."""

    model_config = SettingsConfigDict(
        env_prefix=ENV_PREFIX,
        env_nested_delimiter="__",
        extra="forbid",
        frozen=True,
        protected_namespaces=(),
    )

    lake: LakeSettings = LakeSettings()
    source: SourceSettings = SourceSettings()
    catalogue: CatalogueSettings = CatalogueSettings()
    ingest: IngestSettings = IngestSettings()
    sequences: SequenceSettings = SequenceSettings()
    model: ModelSettings = ModelSettings()
    label: LabelSettings = LabelSettings()
    recommend: RecommendSettings = RecommendSettings()
    evaluate: EvaluateSettings = EvaluateSettings()
    promote: PromoteSettings = PromoteSettings()
    quality: QualitySettings = QualitySettings()
    publish: PublishSettings = PublishSettings()
    retention: RetentionSettings = RetentionSettings()
    duckdb: DuckDBSettings = DuckDBSettings()
    engine: EngineSettings = EngineSettings()
    airflow: AirflowSettings = AirflowSettings()
    alerts: AlertSettings = AlertSettings()
    page: PageSettings = PageSettings()

    @property
    def keeps_details(self) -> bool:
        """Whether histories hold types, weights and times: the model or the evaluation asks."""
        return self.model.reads_details or bool(self.evaluate.types)

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Read the run's own values, then the environment, then the file."""
        file = settings_file()
        layers = (init_settings, env_settings)
        return (*layers, TomlConfigSettingsSource(settings_cls, file)) if file else layers


def settings_file() -> Path | None:
    """Return the settings file: the one `ELCREC_SETTINGS` names, or `settings.toml` of the repo.

    Raises
    ------
    SettingsError
        `ELCREC_SETTINGS` names a file that does not exist.
    """
    named = os.environ.get("ELCREC_SETTINGS")
    if not named:
        default = REPO / "settings.toml"
        return default if default.is_file() else None
    file = Path(named).resolve()
    if not file.is_file():
        raise SettingsError(
            f"ELCREC_SETTINGS names {named}, which is no file: correct the path, or unset it"
        )
    return file


def load_settings(**overrides: Any) -> Settings:
    """Read and validate all settings; relative paths are taken from the settings file's folder.

    Parameters
    ----------
    overrides
        Values of this run, by section: `load_settings(source={"path": "events/"})`, or by dotted
        key: `load_settings(**{"source.path": "events/"})`.

    Raises
    ------
    SettingsError
        A key is unknown or a value is not valid; the message names it and says what is.
    """
    given = _by_section(overrides)
    _refuse_unknown_environment()
    file = settings_file()
    try:
        settings = Settings(**given)
    except ValidationError as error:
        raise SettingsError(_explain(error, given, file)) from None
    except tomllib.TOMLDecodeError as error:
        raise SettingsError(f"{file} is no valid TOML: {error}") from None
    except EnvironmentParseError as error:
        raise SettingsError(
            f"{error}: a list or table in the environment is written as JSON, "
            'for example ELCREC_EVALUATE__CUTOFFS="[5, 10]"'
        ) from None
    return _with_profiles(_with_absolute_paths(settings, file.parent if file else REPO))


def _with_profiles(settings: Settings) -> Settings:
    """Take over what the profiles of source and catalogue say for keys at their defaults."""
    return settings.model_copy(
        update={
            "source": _with_profile(settings.source, "source", PROFILES, PROFILE_KEYS),
            "catalogue": _with_profile(
                settings.catalogue, "catalogue", CATALOGUE_PROFILES, CATALOGUE_PROFILE_KEYS
            ),
        }
    )


def _with_profile(section: Read, named: str, folder: Path, allowed: frozenset[str]) -> Read:
    if not (name := section.profile):
        return section
    kind = type(section)
    file = folder / f"{name}.toml" if "/" not in name else Path(name)
    try:
        said = tomllib.loads(file.read_text("utf-8"))
        profile = kind(**{**said, "profile": name})
    except OSError:
        known = ", ".join(sorted(path.stem for path in folder.glob("*.toml")))
        raise SettingsError(
            f"{named}.profile is {name}, which is no profile: name one of {known}, or the path of "
            "a TOML file of your own"
        ) from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, TypeError) as error:
        raise SettingsError(f"the profile {file} is no valid TOML: {error}") from None
    except ValidationError as error:
        fault = error.errors()[0]
        key = ".".join(map(str, fault["loc"]))
        if fault["type"] == "extra_forbidden":
            known = _nearest(key, [*kind.model_fields])
            raise SettingsError(
                f"unknown setting {named}.{key} in the profile {file}{known}"
            ) from None
        raise SettingsError(
            f"{named}.{key} in the profile {file} is {fault['input']!r}: {_what_to_write(fault)}"
        ) from None
    if foreign := sorted(set(said) - allowed):
        raise SettingsError(
            f"the profile {file} has {', '.join(foreign)}, which it cannot say: remove it; it says "
            f"how files are read, by {', '.join(sorted(allowed))}"
        )
    defaults = kind()
    taken = {
        key: getattr(profile, key)
        for key in said
        if getattr(section, key) == getattr(defaults, key)
    }
    return section.model_copy(update=taken)


def known_keys() -> Iterator[str]:
    """Yield every setting as `section.key`."""
    for section, field in Settings.model_fields.items():
        assert isinstance(field.annotation, type) and issubclass(field.annotation, Section)
        for key in field.annotation.model_fields:
            yield f"{section}.{key}"


def _from_json(value: Any) -> Any:
    try:
        return json.loads(value) if isinstance(value, str) else value
    except json.JSONDecodeError:
        return value


def _by_section(overrides: Mapping[str, Any]) -> dict[str, Any]:
    sections: dict[str, Any] = {}
    for name, value in overrides.items():
        section, dot, key = name.partition(".")
        values = {key: value} if dot else value
        if not isinstance(values, Mapping):
            raise SettingsError(f"unknown setting {name}{_nearest(name, known_keys())}")
        sections.setdefault(section, {}).update(values)
    return sections


def _refuse_unknown_environment() -> None:
    # pydantic-settings ignores names that it does not know; a misspelt one would do nothing.
    known = {ENV_PREFIX + key.replace(".", "__").upper(): key for key in known_keys()}
    free = tuple(name + "__" for name in known if name.endswith("__OVERRIDES"))
    for name in sorted(os.environ):
        upper = name.upper()
        if not upper.startswith(ENV_PREFIX) or upper in OTHER_ENV or upper.startswith(free):
            continue
        if upper not in known:
            if new := RENAMED.get(upper.removeprefix(ENV_PREFIX).lower().replace("__", ".")):
                new = ENV_PREFIX + new.replace(".", "__").upper()
                raise SettingsError(f"{name} in the environment is called {new} now: rename it")
            raise SettingsError(
                f"unknown setting in the environment: {name}"
                f"{_nearest(upper, [*known, *OTHER_ENV])}; unset it or correct the name"
            )


def _explain(error: ValidationError, given: Mapping[str, Any], file: Path | None) -> str:
    """Put the first fault of a validation into one sentence that names its key and its origin."""
    fault = error.errors()[0]
    path = [str(part) for part in fault["loc"]]
    key = ".".join(path)
    place = _origin(path, given, file)
    if key in RENAMED:
        return f"setting {key} in {place} is called {RENAMED[key]} now: rename it"
    if fault["type"] == "extra_forbidden":
        return f"unknown setting {key} in {place}{_nearest(key, known_keys())}"
    value = fault["input"]
    if len(path) > 2:  # an element of a list, or a value of a table
        key = f"{path[0]}.{path[1]}, element {_place_in(path[2:])},"
    return f"setting {key} in {place} is {value!r}: {_what_to_write(fault)}"


def _place_in(path: list[str]) -> str:
    """Name an element as a person counts, and a key as it is written."""
    return " ".join(str(int(part) + 1) if part.isdigit() else part for part in path)


def _what_to_write(fault: Mapping[str, Any]) -> str:
    """Say what a value has to be, in place of pydantic's sentence on what it is not."""
    kind, limits = fault["type"], fault.get("ctx", {})
    if kind == "value_error":
        return str(fault["msg"]).removeprefix("Value error, ")
    if kind == "literal_error":
        return f"write one of {limits['expected']}"
    for name, words in LIMITS.items():
        if name in limits:
            return f"write a number {words} {limits[name]:g}"
    if kind in ("too_short", "too_long"):
        what = "at least" if kind == "too_short" else "at most"
        number = limits["min_length" if kind == "too_short" else "max_length"]
        return f"write {what} {number} element{'' if number == 1 else 's'}"
    for prefix, words in KINDS.items():
        if kind.startswith(prefix):
            return f"write {words}"
    raise LookupError(f"say in KINDS what to write for {kind}: {fault['msg']}")


def _origin(path: list[str], given: Mapping[str, Any], file: Path | None) -> str:
    section, keys = path[0], path[1:2]
    if section in given and (not keys or keys[0] in given[section]):
        return "the values given to this run"
    name = ENV_PREFIX + "__".join([section, *keys]).upper()
    if any(known.upper() == name for known in os.environ):
        return f"the environment ({name})"
    return str(file)


def _nearest(name: str, known: Iterator[str] | list[str]) -> str:
    close = difflib.get_close_matches(name, list(known), n=1, cutoff=0.5)
    return f": did you mean {close[0]}?" if close else ""


def _with_absolute_paths(settings: Settings, base: Path) -> Settings:
    root = settings.lake.root
    if isinstance(root, Path):
        root = _absolute(root, base)
    if unusable := sorted(set("%[]^|\\") & set(str(root))):
        # Delta addresses files by URL; these do not survive the way there and back.
        raise SettingsError(
            f"lake.root is {root}: a folder of tables cannot have {' '.join(unusable)} in its path"
        )
    temp = settings.duckdb.temp_directory
    return settings.model_copy(
        update={
            "lake": settings.lake.model_copy(update={"root": root}),
            "source": _with_absolute_paths_of(settings.source, base),
            "catalogue": _with_absolute_paths_of(settings.catalogue, base),
            "publish": settings.publish.model_copy(
                update={
                    "parquet": _located(settings.publish.parquet, base),
                    "parquet_with": _located(settings.publish.parquet_with, base),
                }
            ),
            "duckdb": settings.duckdb.model_copy(
                update={"temp_directory": temp and str(_absolute(temp, base))}
            ),
        }
    )


def _with_absolute_paths_of(section: Read, base: Path) -> Read:
    located = {
        "path": _located(section.path, base),
        "profile": _profile_path(section.profile, base),
    }
    return section.model_copy(update=located)


def _located(path: str, base: Path) -> str:
    return path if not path or "://" in path else str(_absolute(path, base))


def _profile_path(name: str, base: Path) -> str:
    return str(_absolute(name, base)) if "/" in name or name.endswith(".toml") else name


def _absolute(path: str | Path, base: Path) -> Path:
    # Not resolved: a link named by the settings stays the name that messages show.
    return Path(os.path.normpath(base / Path(path).expanduser()))
