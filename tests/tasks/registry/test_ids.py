"""Contract 4: an id that a model of the registry has is given to no other intent, come what may."""

import datetime as dt
import random
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from hypothesis import given, seed, settings
from hypothesis import strategies as st

from elcrec.matching import Matching, first_ids
from tasks.lake import Lake, tables
from tasks.lake.tables import Table
from tasks.registry import identity as identities
from tasks.registry.free_ids import first_free_id
from tasks.registry.histories import Fingerprint
from tasks.registry.identity import Identity, identify, register
from tasks.registry.intent_ids import Intents, named, write
from tasks.registry.versions import anchor, promoted, registered
from tasks.settings import Settings
from tests.tasks.nights import small_settings

FIRST = dt.date(2026, 11, 1)
NIGHTS = 5


class Registry(Lake):
    """The tables of the registry in memory, with the part of `Lake` that the registry's rules use.

    A Delta table takes a hundred times as long to write as all that is tried here.
    """

    def __init__(self, root: Path) -> None:
        super().__init__(root)
        self.tables: dict[str, pl.DataFrame] = {}

    def scan(
        self, table: Table, first: dt.date | None = None, last: dt.date | None = None
    ) -> pl.LazyFrame:
        empty: Any = pl.from_arrow(table.schema.empty_table())
        rows = self.tables.get(table.name, empty).lazy()
        return rows.filter(
            pl.col("dt") >= (first or dt.date.min), pl.col("dt") <= (last or dt.date.max)
        )

    def replace(self, table: Table, data: pl.DataFrame, *, nights: Any, within: Any = None) -> None:
        others = self.scan(table).filter(~pl.col("dt").is_in(nights)).collect()
        self.tables[table.name] = pl.concat([others, data.select(others.columns)])


@dataclass
class World:
    """Nights as they are run on a registry: what a training makes is a matching at random.

    The same model is the same each time it is trained, so chance is drawn by its version.
    """

    lake: Registry
    settings: Settings
    chance: int = 0
    intents: dict[str, Intents] = field(default_factory=dict)  # by version
    data: dict[dt.date, int] = field(default_factory=dict)  # how often events of a night came late

    def identity(self, night: dt.date) -> Identity:
        data = f"{night} {self.data.get(night, 0)}"
        found = Fingerprint(data, 9, 9, "")
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(identities, "fingerprint", lambda *_: found)
            patch.setattr(identities, "settings_fingerprint", lambda given: str(given.model.seed))
            patch.setattr(Lake, "of", lambda _: self.lake)
            return identify(self.settings, night)

    def train(self, night: dt.date, kept: list[bool] | None = None, k: int = 0) -> str:
        """Do as `train` does: nothing for a model that is there.

        kept: which of the parent's intents live on; k: how many there are then.
        """
        identity = self.identity(night)
        rng = random.Random(f"{self.chance} {identity.version}")
        if identity.version not in self.intents:
            drawn = [rng.random() < 0.6 for _ in range(6)]
            self.intents[identity.version] = self.made(
                identity, night, drawn if kept is None else kept, k or rng.randint(1, 6)
            )
        intents = self.intents[identity.version]
        register(self.lake, night, identity, intents.next_id)
        return identity.version

    def made(self, identity: Identity, night: dt.date, kept: list[bool], k: int) -> Intents:
        if identity.parent_version is None:
            return named(first_ids(k, identity.first_free_id), night, None)
        before = self.intents[identity.parent_version]
        carried = [number for number, keep in zip(before.ids, kept, strict=False) if keep][:k]
        inherited = np.arange(k) < len(carried)
        born = k - len(carried)
        free = max(before.next_id, identity.first_free_id)
        ids = np.array([*carried, *range(free, free + born)], np.int32)
        origins = np.zeros((k, before.ids.size))
        retired = np.setdiff1d(before.ids, ids)
        return named(Matching(ids, inherited, retired, origins, free + born), night, before)

    def promote(self, night: dt.date, version: str | None) -> None:
        rows = registered(self.lake, night)
        chosen = pl.col("model_version") == version if version else pl.lit(False)
        self.lake.replace(tables.MODELS, rows.with_columns(promoted=chosen), nights=[night])

    def choose(self, night: dt.date, version: str) -> None:
        """Do as a rollback does."""
        every = max(intents.next_id for intents in self.intents.values())
        row = {"dt": [night], "model_version": [version], "next_intent_id": [every]}
        rows = pl.DataFrame(row, schema_overrides={"next_intent_id": pl.Int32})
        self.lake.replace(tables.CHOICES, rows, nights=[night])


ACTS = st.tuples(
    st.sampled_from(["night", "refused", "backfill", "late events", "other settings", "rollback"]),
    st.integers(0, NIGHTS - 1),
    st.integers(0, 100),
)


def usable(world: World, until: dt.date | None = None) -> set[str]:
    """Return the models that may label: those that `relabel` and a rollback take."""
    rows = world.lake.scan(tables.MODELS, last=until).filter(~pl.col("superseded")).collect()
    return set(rows["model_version"])


def play(world: World, acts: list[Any]) -> list[str]:
    """Play the acts; return the version that each trained or chose."""
    played = []
    for act, offset, which in acts:
        night = FIRST + dt.timedelta(days=offset)
        if act == "rollback":
            there = (
                world.lake.scan(tables.MODELS, last=night).filter(~pl.col("superseded")).collect()
            )
            if there.is_empty():
                continue
            version = there.sort("model_version")["model_version"][which % there.height]
            world.choose(night, version)
            continue
        if act == "late events":
            world.data[night] = world.data.get(night, 0) + 1
        if act == "other settings":
            model = world.settings.model.model_copy(update={"seed": which})
            world.settings = world.settings.model_copy(update={"model": model})
        version = world.train(night)
        world.promote(night, None if act == "refused" else version)
        played.append(version)
    return played


def new_world(root: Path, chance: int = 0) -> World:
    return World(Registry(root), small_settings(root), chance)


def born(world: World, version: str) -> set[int]:
    """Return the ids that are this model's own: it did not take them over."""
    parent = dict(
        world.lake.scan(tables.MODELS).select("model_version", "parent_version").collect().rows()
    )[version]
    before = set(world.intents[parent].ids.tolist()) if parent else set()
    return set(world.intents[version].ids.tolist()) - before


@pytest.mark.slow
@seed(16)
@settings(deadline=None, max_examples=40)
@given(acts=st.lists(ACTS, min_size=1, max_size=14), chance=st.integers(0, 10_000))
def test_no_sequence_of_runs_gives_an_id_that_a_registered_model_has_to_another_intent(
    acts: list[Any], chance: int
) -> None:
    """Nights, refusals, backfills, late events, other settings and rollbacks, in any order.

    A model may come to label any night by `relabel`. So what counts is what is registered, not what
    was promoted. Of a night that is run after later ones those may not count (contract 3).
    """
    world = new_world(Path("lake"), chance)
    trained: set[str] = set()
    for act in acts:
        for version in set(play(world, [act])) - trained:
            trained.add(version)
            own = born(world, version)
            for other in usable(world) - {version}:
                if other[:8] <= version[:8]:
                    intents = world.intents[other]
                    theirs = {
                        intent.intent_id for intent in (*intents.of_centers, *intents.retired)
                    }
                    assert not own & theirs, f"{version} gives ids of {other} anew"
    # What a model was given stays: whatever was run since, it finds the same when it runs again.
    made = dict(
        world.lake.scan(tables.MODELS)
        .select("model_version", "settings_fingerprint")
        .collect()
        .iter_rows()
    )
    for version in trained:
        night = dt.datetime.strptime(version[:8], "%Y%m%d").date()
        first = first_free_id(world.lake, night, version, made[version])
        assert all(number >= first for number in born(world, version))


@pytest.mark.slow
@seed(18)
@settings(deadline=None, max_examples=20)
@given(chance=st.integers(0, 10_000), late=st.integers(0, NIGHTS - 1))
def test_nights_that_run_again_on_late_events_give_the_ids_of_nights_that_had_them_in_time(
    chance: int, late: int
) -> None:
    """What a night gave on fewer events is superseded, and takes no id from anybody."""
    nights = [("night", number, 0) for number in range(NIGHTS)]
    came_late, in_time = (new_world(Path("lake"), chance) for _ in range(2))
    play(came_late, nights)
    came_late.data[FIRST + dt.timedelta(days=late)] = 1
    in_time.data = dict(came_late.data)
    again, expected = play(came_late, nights[late:]), play(in_time, nights)
    assert again == expected[late:]
    for version in again:
        assert came_late.intents[version] == in_time.intents[version]


@pytest.mark.slow
@seed(17)
@settings(deadline=None, max_examples=20)
@given(acts=st.lists(ACTS, min_size=1, max_size=10), act=ACTS)
def test_what_a_night_gives_does_not_depend_on_later_nights(acts: list[Any], act: Any) -> None:
    night = FIRST + dt.timedelta(days=act[1])
    with_later, without = new_world(Path("lake")), new_world(Path("lake"))
    play(with_later, acts)
    without.settings, without.data = with_later.settings, dict(with_later.data)
    without.intents = dict(with_later.intents)
    for table in (tables.MODELS, tables.CHOICES):
        until = with_later.lake.scan(table, last=night).collect()
        without.lake.replace(table, until, nights=sorted(set(until["dt"])))
    act = ("night", *act[1:])
    one, other = play(with_later, [act]), play(without, [act])
    assert one == other
    assert with_later.intents[one[0]] == without.intents[other[0]]


def test_a_refused_model_keeps_its_ids_from_the_night_after() -> None:
    """A model that `relabel` may take, though it never was promoted."""
    world = new_world(Path("lake"))
    first, second, third = (FIRST + dt.timedelta(days=days) for days in range(3))
    world.promote(first, world.train(first, [], 3))
    refused = world.train(second, [True, True, False], 4)
    assert world.intents[refused].ids.tolist() == [0, 1, 3, 4]
    went_on = world.train(third, [True, False, False], 3)
    assert world.intents[went_on].ids.tolist() == [0, 5, 6]


def test_models_from_before_ids_were_reserved_are_told_by_their_folders(tmp_path: Path) -> None:
    world = new_world(tmp_path)
    version = world.train(FIRST, [], 3)
    world.promote(FIRST, version)
    folder = world.lake.model_dir(version)
    folder.mkdir(parents=True)
    write(world.intents[version], folder)
    rows = registered(world.lake, FIRST)
    none = pl.lit(None, pl.Int32)
    rows = rows.with_columns(first_free_id=none, next_intent_id=none, warm=pl.lit(None, pl.Boolean))
    world.lake.replace(tables.MODELS, rows, nights=[FIRST])
    night = FIRST + dt.timedelta(days=1)
    assert world.identity(night).first_free_id == 3
    # Its own night runs again as it ran then.
    assert world.identity(FIRST).first_free_id == 0


def test_the_anchor_is_the_last_training_from_scratch_that_a_model_goes_back_to() -> None:
    world = new_world(Path("lake"))
    nights = [FIRST + dt.timedelta(days=days) for days in range(5)]
    versions = []
    for night, warm in zip(nights, (False, True, True, False, True), strict=True):
        identity = replace(world.identity(night), warm=warm)
        register(world.lake, night, identity, 8)
        world.promote(night, identity.version)
        versions.append(identity.version)
    assert promoted(world.lake, until=nights[-1]) == (versions[-1], nights[-1])
    found = [anchor(world.lake, version) for version in versions]
    assert found == [versions[0]] * 3 + [versions[3]] * 2
    assert anchor(world.lake, "20260101-unknown") is None
