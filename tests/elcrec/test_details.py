"""What events say beside their items: how it is read, and that each switch does what it says."""

from dataclasses import replace

import numpy as np
import pyarrow as pa
import pytest
import torch
import torch.nn.functional as F

from elcrec import Config, ELCRec, Histories, losses
from elcrec.details import DAY_US, TIMES, event_weights, read_details, time_numbers
from elcrec.errors import ELCRecError
from elcrec.evaluation import behaviours, newest_outputs
from elcrec.histories import ragged_arange
from elcrec.model import Network
from elcrec.packing import pack
from elcrec.training import Trainer

CPU = torch.device("cpu")
SECOND_US, HOUR_US = 1_000_000, 3_600_000_000
SWITCHES = [
    {"types": ("view", "purchase")},
    {"gap_vectors": True},
    {"idle_vectors": True},
    {"half_life_days": 2.0},
    {"weigh_events": True},
    {"weigh_targets": True},
    {"target_types": ("purchase",)},
]


def histories(users: int = 60, items: int = 30) -> Histories:
    """Histories in which the next item follows from the last; an hour lies between events."""
    rng = np.random.default_rng(0)
    lengths = rng.integers(4, 12, users)
    within = ragged_arange(np.zeros_like(lengths), lengths)
    return Histories(
        (np.repeat(rng.integers(0, items, users), lengths) + within) % items + 1,
        np.concatenate([[0], lengths.cumsum()]),
        types=rng.integers(1, 3, lengths.sum()),
        type_names=("view", "purchase"),
        weights=rng.uniform(0.5, 3.0, lengths.sum()).astype(np.float32),
        ts_us=within * HOUR_US,
    )


def tiny(**changes) -> Config:
    settings = {"dim": 16, "n_intents": 4, "max_length": 6, "max_epochs": 2, "init_std": 0.3}
    return Config(**settings | changes)


def details_of(known: Histories, **switches):
    rows = np.arange(known.items.size)
    return read_details(tiny(**switches), known, rows, known.lengths)


def test_nothing_is_read_where_nothing_is_asked_for_or_there_is_nothing():
    known = histories()
    assert details_of(known) is None
    items_alone = Histories(known.items, known.offsets)
    every = {"types": ("view",), "gap_vectors": True, "idle_vectors": True, "half_life_days": 1.0}
    assert details_of(items_alone, **every, weigh_events=True) is None


def test_types_go_by_their_names_and_one_without_a_vector_is_not_known():
    known = Histories(
        np.ones(4, np.int32),
        np.array([0, 4]),
        types=np.array([0, 1, 2, 3]),
        type_names=("purchase", "view", "share"),
    )
    assert details_of(known, types=("view", "purchase")).types.tolist() == [0, 2, 1, 0]


def test_details_come_from_arrow_beside_their_items():
    items = pa.array([[1, 2], [3]], pa.list_(pa.int32()))
    types = pa.array([["view", None], ["cart"]])
    weights = pa.array([[1.5, None], [2.0]], pa.list_(pa.float32()))
    times = pa.array([[1, 2], [3]]).cast(pa.list_(pa.timestamp("us", "UTC")))
    known = Histories.from_arrow(items, types, weights, times)
    assert known.type_names == ("view", "cart")
    assert known.types.tolist() == [1, 0, 2]
    assert np.isnan(known.weights[1])
    assert known.ts_us.tolist() == [1, 2, 3]
    nothing = pa.nulls(2, times.type)
    assert Histories.from_arrow(items, times=nothing).ts_us is None
    later = Histories.from_arrow(items[1:], types[1:])
    assert (later.type_names, later.types.tolist()) == (("cart",), [1])
    with pytest.raises(ELCRecError, match="not as many types as items"):
        Histories.from_arrow(items, types=pa.array([["view"], ["cart", "view"]]))
    with pytest.raises(ELCRecError, match="1 events have no time"):
        Histories.from_arrow(items, times=pa.array([[1, None], [3]]).cast(times.type))


def test_stretches_of_time_are_told_apart_by_powers_of_two():
    seconds = np.array([-5, 0, 1, 2, 3, 7, 86_400, 2**60])
    assert time_numbers(seconds * SECOND_US)[:-1].tolist() == [1, 1, 2, 2, 3, 4, 17]
    assert time_numbers(np.array([2**62]))[0] == TIMES - 1


def test_the_first_event_of_a_sequence_has_no_gap():
    known = Histories(
        np.ones(4, np.int32), np.array([0, 3, 4]), ts_us=np.array([5, 5, 5 + SECOND_US, 9])
    )
    assert details_of(known, gap_vectors=True).gaps.tolist() == [0, 1, 2, 0]


def test_an_event_of_a_half_life_ago_weighs_half_and_one_without_a_weight_one():
    known = Histories(
        np.ones(3, np.int32),
        np.array([0, 3]),
        weights=np.array([4, np.nan, -1], np.float32),
        ts_us=np.array([0, 2, 4]) * DAY_US,
    )
    assert details_of(known, half_life_days=2.0).weights.tolist() == [0.25, 0.5, 1.0]
    assert details_of(known, weigh_events=True).weights.tolist() == [4.0, 1.0, 0.0]
    both = details_of(known, half_life_days=2.0, weigh_events=True)
    assert both.weights.tolist() == [1.0, 0.5, 0.0]
    assert event_weights(np.array([np.nan, -2, 3], np.float32)).tolist() == [1.0, 0.0, 3.0]


def test_how_long_ago_the_newest_event_was_is_known_at_the_end_of_a_night_alone():
    known = replace(histories(3), until_us=10 * DAY_US)
    idle = details_of(known, idle_vectors=True).idle
    newest = known.offsets[1:] - 1
    assert (idle[newest] == time_numbers(10 * DAY_US - known.ts_us[newest])).all()
    assert not np.delete(idle, newest).any()
    assert known.take(np.array([1])).until_us == 10 * DAY_US
    # Without their newest events nobody knows when the next were asked for.
    assert not details_of(known.drop_last(1), idle_vectors=True).idle.any()


def test_in_training_the_next_event_is_asked_for_at_the_end_of_a_night_before_it():
    ts_us = np.array([0, HOUR_US, 3 * DAY_US])
    known = Histories(np.ones(3, np.int32), np.array([0, 3]), ts_us=ts_us)
    rng, seen = np.random.default_rng(0), set()
    for _ in range(200):
        found = read_details(
            tiny(idle_vectors=True), known, np.arange(2), np.array([2]), learning=rng
        )
        seen.add(tuple(found.idle.tolist()))
    first, second = (set(column) for column in zip(*seen, strict=True))
    assert first == {0, 1}  # not known, or at once: the next event is of the same day
    ends = np.array([1, 2, 3]) * DAY_US - HOUR_US
    assert second == {0, *time_numbers(ends).tolist()}


@pytest.mark.slow
@pytest.mark.parametrize("switch", SWITCHES, ids=lambda switch: next(iter(switch)))
def test_each_switch_trains_and_is_kept(switch, tmp_path):
    known = histories()
    config = tiny(**switch)
    model = ELCRec(config).fit(known, 30, checkpoint_dir=tmp_path / "training")
    with_nothing = ELCRec(tiny()).fit(known, 30)
    moved = [
        not torch.equal(one, with_nothing.network.state_dict()[name])
        for name, one in model.network.state_dict().items()
        if name in with_nothing.network.state_dict()
    ]
    assert any(moved)
    model.save(tmp_path / "model")
    read = ELCRec.load(tmp_path / "model")
    assert read.config == config
    assert (read.transform(known).intent == model.transform(known).intent).all()


@pytest.mark.parametrize("switch", SWITCHES, ids=lambda switch: next(iter(switch)))
def test_without_details_a_switch_changes_nothing(switch):
    known = histories()
    items_alone = Histories(known.items, known.offsets)
    with_it, without = (ELCRec(c).fit(items_alone, 30) for c in (tiny(**switch), tiny()))
    if not switch.keys() & {"types", "gap_vectors", "idle_vectors"}:  # those draw vectors
        for one, other in zip(
            with_it.network.parameters(), without.network.parameters(), strict=True
        ):
            assert torch.equal(one, other)
    assert with_it.transform(items_alone).intent.min() >= 0


@pytest.mark.parametrize("switch", SWITCHES[:5], ids=lambda switch: next(iter(switch)))
def test_the_newest_output_is_that_of_the_whole_pass(switch):
    torch.manual_seed(0)
    network = Network(tiny(**switch), 30).eval()
    known = replace(histories().newest(6), until_us=3 * DAY_US)
    rows, lengths = np.arange(known.items.size), known.lengths
    details = read_details(network.config, known, rows, lengths)
    batch = pack(known.items, lengths, 6, CPU, details=details)
    expected = torch.empty(len(known), 16)
    expected[torch.from_numpy(batch.order)] = network(batch)[batch.last_rows]
    torch.testing.assert_close(newest_outputs(network, known), expected, atol=1e-5, rtol=1e-4)


def test_pooling_leaves_out_what_weighs_nothing():
    torch.manual_seed(0)
    network = Network(tiny(pooling="outputs", weigh_events=True), 30).eval()
    known = Histories(
        np.array([3, 4, 5]), np.array([0, 3]), weights=np.array([0, 0, 2], np.float32)
    )
    h = F.normalize(behaviours(network, known), dim=1)
    torch.testing.assert_close(h, F.normalize(newest_outputs(network, known), dim=1))


def test_views_keep_the_details_of_their_events():
    known = histories()
    config = tiny(types=("view", "purchase"), sequence_contrast_weight=0.1, pooling="outputs")
    trainer = Trainer(Network(config, 30), known, config)
    seen = trainer.known
    items, lengths = seen.items[:4], np.array([4])
    details = read_details(config, seen, np.arange(4), lengths)
    views, _ = trainer._views(items, lengths, details, np.random.default_rng(0))
    of_item = dict(zip(items.tolist(), details.types.tolist(), strict=True))
    expected = [of_item[item] for item in views.items.tolist()]
    assert views.details.types.tolist() == expected


def test_loss_1_is_of_the_asked_types_alone_and_so_is_validation():
    known = histories()
    config = tiny(types=("view",), target_types=("purchase",))
    trainer = Trainer(Network(config, 30), known, config)
    assert len(trainer.validation.targets) == (known.types[known.offsets[1:] - 2] == 2).sum()
    none = tiny(types=("a", "b"), target_types=("c",))
    with pytest.raises(ELCRecError, match="target_types"):
        Trainer(Network(none, 30), known, none)


def test_a_batch_without_the_asked_types_teaches_nothing():
    known = histories()
    known.types[:] = 1
    known.types[known.offsets[1:] - 2] = 2  # held out
    config = tiny(types=("view",), target_types=("purchase",), intent_loss="none")
    trainer = Trainer(Network(config, 30), known, config)
    assert trainer.step(np.arange(8), np.random.default_rng(0))["next_item"] == 0.0


@pytest.mark.parametrize("rows", [2, 13, 96])
def test_weighted_softmax_has_the_gradients_of_autograd(monkeypatch, rows):
    monkeypatch.setattr(losses._LinearCrossEntropy, "ROWS", rows)
    monkeypatch.setattr(losses._LinearCrossEntropy, "STEP", 1 if rows < 96 else 16)
    outputs, items = torch.randn(13, 4, requires_grad=True), torch.randn(7, 4, requires_grad=True)
    targets, weights = torch.randint(1, 7, (13,)), torch.rand(13)
    each = F.cross_entropy(outputs @ items[1:].T, targets - 1, reduction="none")
    wanted = (each * weights).sum() / weights.sum()
    loss = losses.next_item_softmax(outputs, items, targets, weights=weights)
    torch.testing.assert_close(loss, wanted)
    expected = torch.autograd.grad(wanted, (outputs, items))
    for one, other in zip(expected, torch.autograd.grad(loss, (outputs, items)), strict=True):
        torch.testing.assert_close(one, other)


def test_weights_that_are_all_nothing_give_nothing():
    assert losses.weighted_mean(torch.tensor([2.0, 3.0]), torch.zeros(2)).item() == 0.0


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        ({"types": np.ones(2, np.int32)}, "types has 2 values for 3 items"),
        ({"types": np.array([1, -1, 1])}, "types are numbers of 0 type_names"),
    ],
)
def test_details_that_fit_no_items_are_refused(given, sentence):
    with pytest.raises(ELCRecError, match=sentence):
        Histories(np.ones(3, np.int32), np.array([0, 3]), **given)


@pytest.mark.parametrize("types", [(0,), "view"])
def test_target_types_are_names(types):
    with pytest.raises(ELCRecError, match="target_types must be names of types"):
        tiny(target_types=types)


def test_padding_has_no_details():
    with pytest.raises(ELCRecError, match="padding has no type"):
        Config.preset("paper", pooling="padded_outputs", gap_vectors=True)
