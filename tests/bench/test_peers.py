"""What peers are asked and how they are judged; none of their packages is needed."""

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bench import peer_models, peers
from bench.peers import PEERS, learn, list_ranks, measure, popularity, read_answers, to_run
from bench.splits import Side, left_out
from elcrec import Histories
from elcrec.evaluation import popularity_ranks
from elcrec.histories import Split

N_ITEMS = 120

# A peer that knows what was frequent: it reads and writes the same files, by numpy alone.
PROGRAM = """
import json, sys
from pathlib import Path
import numpy as np
name, folder = sys.argv[1], Path(sys.argv[2])
settings = json.loads((folder / "settings.json").read_text())
learned = np.load(folder / "learn.npz")
assert "targets" not in learned
counts = np.bincount(learned["items"], minlength=int(learned["n_items"]) + 1).astype(np.float32)
counts *= settings.get("alpha", 1.0)
counts[0] = -1
np.savez(folder / "labels.npz", labels=np.arange(len(learned["offsets"]) - 1) % settings["k"]) \
    if "k" in settings else None
for side in ("validation", "test"):
    if not (folder / f"{side}.npz").exists():
        continue
    asked = np.load(folder / f"{side}.npz")
    assert ("targets" in asked) == (side == "validation")
    items, scores = [], []
    for begin, end in zip(asked["offsets"], asked["offsets"][1:]):
        own = counts.copy()
        own[asked["items"][begin:end]] = -1
        best = np.argsort(-own, kind="stable")[:100]
        items.append(np.where(own[best] >= 0, best, 0))
        scores.append(own[best])
    np.savez(folder / f"recommended-{side}.npz", items=np.array(items), scores=np.array(scores))
(folder / "report.json").write_text(json.dumps({"seconds": 1.5, "settings": settings}))
"""


@pytest.fixture
def environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    def use(program: str) -> None:
        (tmp_path / "program.py").write_text(program)
        monkeypatch.setattr(peers, "PROGRAM", tmp_path / "program.py")
        monkeypatch.setattr(peers, "PYTHON", Path(sys.executable))

    return use


@pytest.fixture(scope="module")
def both() -> tuple[Side, Side]:
    rng = np.random.default_rng(5)
    weights = 1 / np.arange(1, N_ITEMS + 1)
    return left_out(
        Histories.from_lists(
            [
                1 + rng.choice(N_ITEMS, 9, replace=False, p=weights / weights.sum())
                for _ in range(80)
            ]
        ),
        N_ITEMS,
    )


def one_row(history: list[int], target: int) -> Side:
    asked = Split(Histories.from_lists([history]), np.array([target], np.int32))
    return Side(asked.histories, 9, asked, np.array([0]))


def test_a_target_ranks_behind_all_that_score_as_high() -> None:
    side = one_row([1, 2], 5)
    assert list_ranks(np.array([[5, 3, 4]]), np.array([[3.0, 2, 1]]), side).tolist() == [0]
    assert list_ranks(np.array([[5, 3, 4]]), np.array([[2.0, 2, 1]]), side).tolist() == [1]
    assert list_ranks(np.array([[5, 3, 4]]), np.array([[2.0, 2, 2]]), side).tolist() == [2]


def test_a_target_that_is_not_in_the_list_ranks_behind_it() -> None:
    side = one_row([1, 2], 5)
    assert list_ranks(np.array([[3, 4, 0]]), np.array([[2.0, 1, -np.inf]]), side).tolist() == [3]


@pytest.mark.parametrize(
    ("items", "why"), [([3, 2, 5], "is had"), ([3, 3, 5], "twice")], ids=["had", "twice"]
)
def test_lists_that_break_the_protocol_are_refused(items: list[int], why: str) -> None:
    with pytest.raises(ValueError, match=why):
        list_ranks(np.array([items]), np.array([[3.0, 2, 1]]), one_row([1, 2], 5))


def test_lists_cannot_be_asked_to_find_what_they_leave_out() -> None:
    with pytest.raises(ValueError, match="repeat"):
        list_ranks(np.array([[3]]), np.array([[1.0]]), one_row([5, 2], 5))


@pytest.mark.slow
def test_a_peer_of_another_environment_is_judged_as_the_projects_own(
    environment: Callable[[str], None], both: tuple[Side, Side]
) -> None:
    environment(PROGRAM)
    validation, test = both
    found = measure("als", validation, test, intents=4, seed=1)
    counts = np.bincount(test.learn.items, minlength=N_ITEMS + 1)
    expected = test.figures(popularity_ranks(test.asked, counts))
    assert {name: found[name] for name in expected} == pytest.approx(expected)
    assert expected.items() <= popularity(test).items()
    assert found["seconds"] == 1.5
    assert [one["settings"] for one in found["tried"]] == list(PEERS["als"].choices)


@pytest.mark.slow
def test_settings_are_chosen_on_validation_and_never_by_the_test(
    environment: Callable[[str], None], both: tuple[Side, Side]
) -> None:
    # With alpha 10 nothing is known of the validation's side, and all of the test's.
    environment(
        PROGRAM.replace(
            "own = counts.copy()",
            "own = np.zeros_like(counts) if settings['alpha'] > 1 and side == 'validation' "
            "else counts.copy(); own[0] = -1",
        )
    )
    assert measure("als", *both, intents=4, seed=1)["settings"]["alpha"] == 1.0


@pytest.mark.slow
def test_a_split_by_time_learns_again_before_the_test(
    environment: Callable[[str], None], both: tuple[Side, Side]
) -> None:
    environment(PROGRAM)
    validation, test = both
    shorter = Side(test.learn.drop_last(1), test.n_items, validation.asked, validation.users)
    found = measure("als", shorter, test, intents=4, seed=1)
    counts = np.bincount(test.learn.items, minlength=N_ITEMS + 1)
    assert found["HR@20"] == pytest.approx(
        test.figures(popularity_ranks(test.asked, counts))["HR@20"]
    )


def test_labels_are_measured_by_the_definitions_of_the_project(
    environment: Callable[[str], None], both: tuple[Side, Side]
) -> None:
    environment(PROGRAM)
    validation, test = both
    found = measure("lda", validation, test, intents=4, seed=1)
    assert found["utilisation"] == pytest.approx(1)  # users of the peer above take turns
    assert found["largest_share"] == pytest.approx(1 / 4)
    assert found["lift@20"] == pytest.approx(test.lift(np.arange(80) % 4))
    assert found["intents"] == 4
    assert found["unlabelled"] == 0


def test_utilisation_of_a_method_that_finds_its_number_is_of_those_in_use(both) -> None:
    labels = np.where(np.arange(80) < 20, -1, np.arange(80) % 3)
    found = peers.label_figures(labels, both[1], 0)
    assert found["utilisation"] == pytest.approx(1)
    assert found["unlabelled"] == 0.25


def test_a_peer_that_fails_is_no_result(
    environment: Callable[[str], None], both: tuple[Side, Side]
) -> None:
    environment("raise SystemExit(3)")
    with pytest.raises(SystemExit, match="als ended with exit status 3"):
        learn("als", {}, both[0], {"validation": both[0]})


@pytest.mark.parametrize(
    ("answer", "why"),
    [
        ({"labels": np.zeros(3, int)}, "80 users"),
        ({"labels": np.zeros(80)}, "80 users"),
        ({"labels": np.full(80, -2)}, "80 users"),
    ],
    ids=["too few", "no integers", "no label"],
)
def test_labels_that_do_not_fit_are_refused(
    tmp_path: Path, both: tuple[Side, Side], answer: dict[str, Any], why: str
) -> None:
    np.savez(tmp_path / "labels.npz", **answer)
    (tmp_path / "report.json").write_text("{}")
    with pytest.raises(ValueError, match=why):
        read_answers(tmp_path, both[0], {})


def test_objects_are_not_read(tmp_path: Path, both: tuple[Side, Side]) -> None:
    np.savez(tmp_path / "labels.npz", labels=np.array([object()] * 80), allow_pickle=True)
    (tmp_path / "report.json").write_text("{}")
    with pytest.raises(ValueError, match="allow_pickle"):
        read_answers(tmp_path, both[0], {})


def test_items_beyond_those_there_are_are_refused(tmp_path: Path, both: tuple[Side, Side]) -> None:
    items = np.full((80, 2), N_ITEMS + 1)
    np.savez(tmp_path / "recommended-test.npz", items=items, scores=items.astype(float))
    (tmp_path / "report.json").write_text("{}")
    with pytest.raises(ValueError, match="beyond 120"):
        read_answers(tmp_path, both[1], {"test": both[1]})


def test_a_peer_that_is_done_is_not_run_again(tmp_path: Path) -> None:
    (tmp_path / "kept-beauty-als.json").write_text("{}")
    assert to_run("beauty", ["als", "ease"], "kept", tmp_path) == ["ease"]
    assert to_run("sports", ["als", "ease"], "kept", tmp_path) == ["als", "ease"]
    assert to_run("beauty", ["als", "ease"], None, tmp_path) == ["als", "ease"]


def test_every_peer_of_the_table_has_its_function() -> None:
    functions = {"items": peer_models.RECOMMENDERS, "labels": peer_models.LABELLERS}
    for name, peer in PEERS.items():
        assert name in functions[peer.gives]
        json.dumps(peer.choices)


def test_what_is_recommended_is_the_best_that_a_history_does_not_have() -> None:
    lists = peer_models.Lists(np.array([1, 2, 3]), np.array([0, 2, 3]), n_items=4)
    scores = np.array([9.0, 9, 9, 1, 2], np.float32)
    recommend = peer_models.best_of(lambda rows: np.tile(scores, (rows.shape[0], 1)))
    items, found = recommend(lists)
    assert items[:, :4].tolist() == [[4, 3, 0, 0], [1, 2, 4, 0]]
    assert found[0, :2].tolist() == [2, 1]
    assert items.shape == found.shape == (2, peer_models.TOP)


def test_the_mean_of_a_history_counts_each_of_its_items() -> None:
    lists = peer_models.Lists(np.array([1, 1, 2]), np.array([0, 3, 3]), n_items=2)
    vectors = np.array([[0.0], [3], [9]])
    assert lists.means(vectors).ravel().tolist() == [5, 0]
