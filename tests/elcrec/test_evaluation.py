"""Metrics against a second, plain computation user by user."""

import math

import numpy as np
import pytest
import torch

from elcrec import Config, ELCRecError, Histories
from elcrec.baselines import cooccurrence_ranks, last_item_ranks, most_frequent_ranks
from elcrec.evaluation import (
    hit_rate_and_ndcg,
    is_repeat,
    newest_outputs,
    popularity_baseline,
    popularity_ranks,
    target_ranks,
)
from elcrec.histories import leave_one_out
from elcrec.intents import intent_hits, intent_lift
from elcrec.model import Network

V = 25


@pytest.fixture(scope="module")
def histories() -> Histories:
    rng = np.random.default_rng(3)
    # Repeats within a history, and so repeated targets, on purpose.
    return Histories.from_lists([rng.integers(1, V + 1, rng.integers(3, 9)) for _ in range(60)])


def rank_among_unseen(scores: dict[int, float], target: int, seen: set[int]) -> int:
    return sum(
        score >= scores[target]
        for item, score in scores.items()
        if item != target and item not in seen
    )


@pytest.mark.parametrize("split", ["validation", "test"])
@pytest.mark.parametrize("block_cells", [V, 10**6])
def test_model_ranks_equal_a_plain_ranking(histories, split, block_cells):
    net = Network(Config.preset("default", dim=8, n_intents=2, init_std=0.5), V).eval()
    side = leave_one_out(histories, split)
    ranks = target_ranks(net, side, block_cells)
    with torch.no_grad():
        scores = newest_outputs(net, side.histories) @ net.items.weight.T
    for user, target in enumerate(side.targets):
        by_item = {item: float(scores[user, item]) for item in range(1, V + 1)}
        assert ranks[user] == rank_among_unseen(
            by_item, target, set(side.histories[user].tolist()) - {target}
        )


def test_a_model_that_scores_all_items_alike_gets_nothing(histories):
    net = Network(Config.preset("default", dim=8, n_intents=2), V).eval()
    torch.nn.init.zeros_(net.items.weight)
    ranks = target_ranks(net, leave_one_out(histories, "test"))
    assert hit_rate_and_ndcg(ranks, [5])["HR@5"] == 0


def test_scores_that_are_no_numbers_are_refused(histories):
    net = Network(Config.preset("default", dim=8, n_intents=2), V).eval()
    torch.nn.init.constant_(net.items.weight, float("nan"))
    with pytest.raises(ELCRecError, match="not finite"):
        target_ranks(net, leave_one_out(histories, "test"))


def test_hit_rate_and_ndcg_by_hand():
    metrics = hit_rate_and_ndcg(np.array([0, 2, 9, 100]), [5, 10])
    assert metrics["HR@5"] == 0.5
    assert metrics["HR@10"] == 0.75
    assert metrics["NDCG@5"] == pytest.approx((1 + 1 / 2) / 4)
    assert metrics["NDCG@10"] == pytest.approx((1 + 1 / 2 + 1 / math.log2(11)) / 4)


def popularity_scores(histories: Histories) -> dict[int, float]:
    counts = np.bincount(histories.items, minlength=V + 1)
    return {item: float(counts[item]) for item in range(1, V + 1)}


def test_popularity_baseline_equals_a_plain_ranking(histories):
    side = leave_one_out(histories, "test")
    scores = popularity_scores(side.histories)
    ranks = [
        rank_among_unseen(scores, target, set(side.histories[user].tolist()) - {target})
        for user, target in enumerate(side.targets)
    ]
    assert popularity_baseline(histories, V) == hit_rate_and_ndcg(np.array(ranks), (5, 10, 20))


@pytest.mark.parametrize("cutoff", [3, 5])
def test_intent_lift_equals_its_definition_user_by_user(histories, cutoff):
    labels = np.random.default_rng(0).integers(0, 4, len(histories))
    known, side = histories.drop_last(2), leave_one_out(histories, "test")
    popularity = popularity_scores(known)
    highest = max(popularity.values())
    hits = {"intent": 0, "popularity": 0}
    for user, target in enumerate(side.targets):
        seen = set(side.histories[user].tolist()) - {target}
        scores = {item: 1e-3 * count / highest for item, count in popularity.items()}
        for other in range(len(known)):
            if other != user and labels[other] == labels[user]:
                for item in known[other].tolist():
                    scores[item] += 1
        hits["intent"] += rank_among_unseen(scores, target, seen) < cutoff
        hits["popularity"] += rank_among_unseen(popularity, target, seen) < cutoff
    assert intent_lift(labels, histories, V, cutoff) == pytest.approx(
        hits["intent"] / hits["popularity"]
    )


def sparse_scores(name: str, histories: Histories, history: list[int]) -> dict[int, float]:
    """Score items for a user as a baseline says, before popularity breaks ties."""
    if name == "last item":
        return {history[-1]: 1.0}
    if name == "most frequent":
        return {item: float(history.count(item)) for item in history}
    together: dict[int, float] = {}
    for user in range(len(histories)):
        items = histories[user].tolist()
        for i, item in enumerate(items):
            for j, other in enumerate(items):
                if item == history[-1] != other and i != j and abs(i - j) <= 5:
                    together[other] = together.get(other, 0) + 1
    return together


RANKS = {
    "last item": last_item_ranks,
    "most frequent": most_frequent_ranks,
    "co-occurrence": cooccurrence_ranks,
}


@pytest.mark.parametrize("name", list(RANKS))
@pytest.mark.parametrize("block", [7, 10**6])
def test_baselines_equal_a_plain_ranking(histories, monkeypatch, name, block):
    monkeypatch.setattr("elcrec.baselines.BLOCK_USERS", block)
    side = leave_one_out(histories, "test")
    repeats = is_repeat(side)
    assert 0 < repeats.sum() < len(repeats)
    counts = np.bincount(side.histories.items, minlength=V + 1)
    ranks = RANKS[name](side, counts, repeats)
    for user, target in enumerate(side.targets):
        history = side.histories[user].tolist()
        assert repeats[user] == (target in history)
        scores = {item: counts[item] / 1e6 for item in range(1, V + 1)}
        for item, score in sparse_scores(name, side.histories, history).items():
            scores[item] += score
        seen = set() if repeats[user] else set(history)
        assert ranks[user] == rank_among_unseen(scores, target, seen)


def test_some_users_are_judged_by_what_all_of_them_had(histories):
    rng = np.random.default_rng(5)
    labels = rng.integers(-1, 3, len(histories))
    users = np.flatnonzero(rng.random(len(histories)) < 0.4)
    held_out = np.isin(np.arange(len(histories)), users)
    known = histories.drop_last(2, held_out)
    for user in range(len(histories)):
        expected = histories[user][:-2] if held_out[user] else histories[user]
        assert known[user].tolist() == expected.tolist()
    everybody, some = (leave_one_out(of, "test") for of in (histories, histories.take(users)))
    repeats = is_repeat(everybody)
    of_all = intent_hits(labels, known, everybody, V, 5, repeats)
    of_some = intent_hits(labels, known, some, V, 5, repeats[users], users)
    assert (of_some.by_intent == of_all.by_intent[users]).all()
    assert (of_some.by_popularity == of_all.by_popularity[users]).all()
    counts = np.bincount(everybody.histories.items, minlength=V + 1)
    for rank in (last_item_ranks, most_frequent_ranks):
        assert (rank(some, counts) == rank(everybody, counts)[users]).all()
    together = cooccurrence_ranks(some, counts, known=everybody.histories)
    assert (together == cooccurrence_ranks(everybody, counts)[users]).all()


def test_a_repeat_is_ranked_among_all_items(histories):
    side = leave_one_out(histories, "test")
    repeats = is_repeat(side)
    net = Network(Config.preset("default", dim=8, n_intents=2, init_std=0.5), V).eval()
    ranks = target_ranks(net, side, among_all=repeats)
    assert (ranks[~repeats] == target_ranks(net, side)[~repeats]).all()
    with torch.no_grad():
        scores = newest_outputs(net, side.histories) @ net.items.weight.T
    counts = popularity_scores(side.histories)
    popular = popularity_ranks(side, np.array([0, *counts.values()]), repeats)
    for user in np.flatnonzero(repeats):
        by_item = {item: float(scores[user, item]) for item in range(1, V + 1)}
        assert ranks[user] == rank_among_unseen(by_item, side.targets[user], set())
        assert popular[user] == rank_among_unseen(counts, side.targets[user], set())


def test_who_has_had_the_target_finds_it_by_default_only_where_it_is_not_ranked_among_all():
    """Users who have had nearly every item: without their own they have one candidate."""
    side = leave_one_out(Histories.from_lists([[*range(1, V + 1), 1]] * 3), "test")
    counts = np.arange(V + 1)[::-1]
    assert (popularity_ranks(side, counts[::-1].copy()) == 0).all()
    assert (popularity_ranks(side, counts[::-1].copy(), is_repeat(side)) == V - 1).all()


def test_cooccurrence_of_very_many_events_counts_those_of_users_drawn_by_the_seed(monkeypatch):
    rng = np.random.default_rng(1)
    many = Histories.from_lists([rng.integers(1, V + 1, 9) for _ in range(200)])
    side = leave_one_out(many, "test")
    counts = np.bincount(side.histories.items, minlength=V + 1)
    monkeypatch.setattr("elcrec.baselines.MOST_EVENTS", 400)
    drawn = [cooccurrence_ranks(side, counts, seed=seed).tolist() for seed in (0, 0, 1)]
    assert drawn[0] == drawn[1] != drawn[2]
