"""Metrics against a second, plain computation user by user."""

import math

import numpy as np
import pytest
import torch

from elcrec import Config, ELCRecError, Histories
from elcrec.evaluation import hit_rate_and_ndcg, newest_outputs, popularity_baseline, target_ranks
from elcrec.histories import leave_one_out
from elcrec.intents import intent_lift
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
