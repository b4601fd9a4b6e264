import json

import numpy as np
import pytest
import torch

from elcrec import Config, ELCRec, ELCRecError, Histories, Labels
from elcrec.estimator import _largest
from elcrec.intents import label_survival
from tests.elcrec.test_training import tiny, walks


@pytest.fixture(scope="module")
def model() -> ELCRec:
    return ELCRec(tiny()).fit(walks(), 40)


def test_labels_name_an_intent_its_confidence_and_the_runner_up(model):
    labels = model.transform(walks())
    assert ((labels.intent >= 0) & (labels.intent < 6)).all()
    assert (labels.intent != labels.runner_up).all()
    assert (labels.confidence >= labels.runner_up_confidence).all()
    assert (labels.confidence + labels.runner_up_confidence <= 1 + 1e-6).all()


def test_one_known_item_is_enough_for_a_label_and_none_gets_none(model):
    labels = model.transform(Histories.from_lists([[7], [], [999], [999, 7]]))
    assert (labels.intent >= 0).tolist() == [True, False, False, True]
    assert np.isnan(labels.confidence).tolist() == [False, True, True, False]
    assert labels.intent[3] == labels.intent[0]


def test_a_previous_intent_is_kept_until_another_is_probable_enough(model):
    histories = walks()
    free = model.transform(histories)
    n = len(histories)
    held = model.transform(histories, free.runner_up, np.inf)
    assert (held.intent == free.runner_up).all()
    assert (held.runner_up == free.intent).all()
    np.testing.assert_allclose(held.confidence, free.runner_up_confidence)
    found = free.confidence / free.runner_up_confidence
    enough = (np.arange(n) % 2 == 1) & (found > 1.2)
    some = model.transform(histories, free.runner_up, found * np.where(enough, 0.9, 1.1))
    assert enough.any()
    assert (some.intent == np.where(enough, free.intent, free.runner_up)).all()
    assert (model.transform(histories, free.runner_up).intent == free.intent).all()


def test_an_infinite_ratio_keeps_an_intent_whose_probability_is_zero(model, monkeypatch):
    certain = torch.eye(6)[[3]]
    monkeypatch.setattr(model.network, "intent_probabilities", lambda h: certain.expand(len(h), 6))
    histories = walks()
    previous = np.full(len(histories), 1)
    assert (model.transform(histories, previous, np.inf).intent == 1).all()
    assert (model.transform(histories, previous, 1e30).intent == 3).all()


@pytest.mark.parametrize("ratio", [0.0, 0.99, float("nan")])
def test_ratios_below_one_are_refused(model, ratio):
    histories = walks()
    previous = np.zeros(len(histories), int)
    with pytest.raises(
        ELCRecError, match=f"ratio of probabilities must be at least 1, not {ratio:g}"
    ):
        model.transform(histories, previous, ratio)
    with pytest.raises(
        ELCRecError, match=f"ratio of probabilities must be at least 1, not {ratio:g}"
    ):
        model.transform(histories, previous, np.inf, np.full(6, ratio))


def test_an_intent_can_cap_the_ratio_that_a_user_has(model):
    histories = walks()
    free = model.transform(histories)
    most = np.where(np.arange(6) == 2, 1.0, np.inf)
    held = model.transform(histories, free.runner_up, np.inf, most)
    assert 0 < (free.intent == 2).sum() < len(histories)
    assert (held.intent == np.where(free.intent == 2, 2, free.runner_up)).all()


def strangers(users: int) -> list[np.ndarray]:
    """Histories of items that nobody of `walks` has had."""
    rng = np.random.default_rng(1)
    return [41 + rng.integers(12, size=12) for _ in range(users)]


@pytest.mark.slow
def test_users_who_fit_no_intent_get_a_new_one_and_all_others_keep_theirs():
    known = [*walks()]
    before = ELCRec(tiny(max_epochs=6)).fit(Histories.from_lists(known), 60)
    assert before.open_intents(Histories.from_lists(known), 4) == 0
    everyone = Histories.from_lists([*known, *strangers(20)])
    earlier = before.transform(everyone)
    assert before.open_intents(everyone, 4) == 1
    assert before.config.n_intents == before.network.config.n_intents == 7
    labels = before.transform(everyone)
    assert (labels.intent[-20:] == 6).mean() > 0.9
    old = labels.intent < 6
    assert old[:-20].mean() > 0.9
    assert (labels.intent[old] == earlier.intent[old]).all()
    again = ELCRec(before.config).fit(everyone, 60, initial=before)
    assert again.transform(everyone).intent.max() == 6


def test_intents_start_from_the_groups_that_users_are_known_to_have():
    rng = np.random.default_rng(0)
    group = rng.integers(0, 6, 150)
    histories = Histories.from_lists([1 + 8 * g + rng.integers(8, size=12) for g in group])
    config = tiny(max_epochs=4, learning_rate=5e-3)
    anew = ELCRec(config).fit(histories, 48, groups=group).transform(histories).intent
    unlike = ELCRec(config).fit(histories, 48).transform(histories).intent
    assert (anew == group).mean() > 0.9 > 2 * (unlike == group).mean()


def test_the_last_epoch_is_kept_where_the_number_of_epochs_is_known():
    one_user = np.arange(len(walks())) == 0
    config = tiny(max_epochs=3, patience=1)
    model = ELCRec(config).fit(walks(), 40, held_out=one_user, keep_last=True)
    assert [report.best_epoch for report in model.history] == [1, 2, 3]


def test_who_had_no_intent_before_gets_the_surest(model):
    histories = Histories.from_lists([[7, 8], [], [9]])
    free = model.transform(histories)
    held = model.transform(histories, np.array([-1, 2, -1]), 1.0)
    assert held.intent.tolist() == free.intent.tolist()


def test_survival_counts_the_labels_that_outlive_an_event():
    def by_first_item(histories: Histories) -> Labels:
        first = np.array([histories[u][0] for u in range(len(histories))], np.int32)
        sure = np.where(first == 1, 0.9, 0.2).astype(np.float32)
        return Labels(first, sure, first, sure)

    histories = Histories.from_lists([[1, 1, 2], [1, 2], [3, 3], [4, 5], [6]])
    everyone, sure = label_survival(by_first_item, histories, (0.0, 0.5))
    assert (everyone.users, everyone.without_oldest, everyone.without_newest) == (1.0, 0.5, 1.0)
    assert (sure.users, sure.without_oldest, sure.without_newest) == (0.5, 0.5, 1.0)


def test_nobody_gets_no_labels(model):
    assert len(model.transform(Histories.from_lists([]))) == 0


def test_a_label_does_not_depend_on_who_else_is_labelled(model, monkeypatch):
    together = model.transform(walks())
    monkeypatch.setattr("elcrec.estimator.BLOCK_USERS", 7)
    apart = model.transform(walks())
    assert (together.intent == apart.intent).all()
    np.testing.assert_allclose(together.confidence, apart.confidence, rtol=1e-5)


def test_recommendations_leave_out_what_the_user_has_had_and_come_best_first(model):
    histories = walks()
    items, scores = model.recommend(histories, k=8)
    assert (np.diff(scores, axis=1) <= 0).all()
    for user, row in enumerate(items):
        assert not set(row) & set(histories[user][-model.config.max_length :].tolist())
        assert 0 not in row


def test_recommendations_exclude_items_older_than_the_encoder_sees(model):
    history = list(range(1, 31))
    items, _ = model.recommend(Histories.from_lists([history]), k=10)
    assert not set(items[0]) & set(history)


def test_where_nothing_is_left_to_recommend_there_is_no_item(model):
    history = list(range(1, 38))  # three items of 40 are left
    items, scores = model.recommend(Histories.from_lists([history, [1]]), k=6)
    assert set(items[0][:3].tolist()) == {38, 39, 40} and items[0][3:].tolist() == [0, 0, 0]
    assert np.isfinite(scores[0][:3]).all() and np.isnan(scores[0][3:]).all()
    assert items[1].all() and np.isfinite(scores[1]).all()


@pytest.mark.parametrize("k", [1, 4, 7, 12])
def test_of_equally_good_items_the_lower_number_comes_first(k):
    scores = np.random.default_rng(0).integers(-3, 3, (500, 12)).astype(np.float32)
    scores[0], scores[1, 2:] = 1, -np.inf
    values, places = _largest(torch.from_numpy(scores), k)
    expected = np.lexsort((np.broadcast_to(np.arange(12), scores.shape), -scores))[:, :k]
    assert (places.numpy() == expected).all()
    assert (values.numpy() == np.take_along_axis(scores, expected, 1)).all()


def test_recommendations_do_not_depend_on_who_else_gets_some(model):
    histories = walks()
    items, scores = model.recommend(histories, k=8)
    apart = [model.recommend(histories.slice(at, at + 7), k=8) for at in range(0, 70, 7)]
    assert (np.concatenate([part for part, _ in apart]) == items[:70]).all()
    np.testing.assert_allclose(np.concatenate([part for _, part in apart]), scores[:70], rtol=1e-4)


def test_a_user_without_a_known_item_gets_no_recommendation(model):
    items, scores = model.recommend(Histories.from_lists([[], [3]]), k=2)
    assert items[0].tolist() == [0, 0]
    assert np.isnan(scores[0]).all()
    assert (items[1] > 0).all()


def test_items_of_a_centre_are_the_best_of_those_that_are_looked_at(model):
    items, scores = model.center_items(k=model.n_items)
    assert (np.diff(scores, axis=1) <= 0).all()
    among = np.array([3, 17, 30, 31])
    few, their_scores = model.center_items(k=2, among=among)
    for row, best, of_best in zip(items, few, their_scores, strict=True):
        assert best.tolist() == [item for item in row if item in among][:2]
        assert (np.diff(of_best) <= 0).all()
    with pytest.raises(ELCRecError, match="from 1 to the number of items \\(4\\), not 5"):
        model.center_items(k=5, among=among)


def test_an_unknown_target_is_a_miss(model):
    histories = Histories.from_lists([[1, 2, 3, 4, 99]])
    assert model.evaluate(histories) == dict.fromkeys(model.evaluate(histories), 0.0)


def test_a_saved_model_labels_as_before(model, tmp_path):
    model.save(tmp_path)
    loaded = ELCRec.load(tmp_path)
    assert (loaded.transform(walks()).intent == model.transform(walks()).intent).all()
    assert loaded.evaluate(walks()) == model.evaluate(walks())


def test_a_warm_start_keeps_the_known_items_and_takes_new_ones(model):
    grown = Histories.from_lists([*(walks()[u] for u in range(100)), [41, 42, 43, 44, 45]])
    warm = ELCRec(tiny(max_epochs=1, learning_rate=1e-12)).fit(grown, 45, initial=model)
    torch.testing.assert_close(
        warm.network.items.weight[:41], model.network.items.weight, atol=1e-6, rtol=0
    )
    assert warm.network.items.weight.shape[0] == 46


@pytest.mark.parametrize(
    ("act", "sentence"),
    [
        (lambda m: ELCRec().transform(walks()), "not fitted"),
        (lambda m: ELCRec(tiny()).fit(walks(), 10), "n_items is 10"),
        (
            lambda m: ELCRec(tiny(n_intents=500)).fit(walks(), 40),
            "500 intents need at least as many users",
        ),
        (
            lambda m: ELCRec(tiny(n_intents=1)).fit(Histories.from_lists([[1, 2, 3]]), 3),
            "no history has the four",
        ),
        (lambda m: m.recommend(walks(), k=41), "k must be from 1"),
        (lambda m: ELCRec(tiny(dim=32)).fit(walks(), 40, initial=m), "cannot start from"),
        (lambda m: Config.preset("fast"), "unknown preset 'fast'"),
        (lambda m: Config.preset("paper", dataset="books"), "'books'"),
        (lambda m: Config.preset("default", widht=3), "unknown config field 'widht'"),
        (lambda m: Config(dim=10, heads=4), "multiple of heads"),
        (lambda m: Config(dropout=1.5), "dropout must be in"),
        (lambda m: Config(pooling="max"), "pooling must be one of"),
        (lambda m: Config(recency="a"), "recency must be of type float, not 'a'"),
        (lambda m: Config(dim=16.0), "dim must be of type int, not 16.0"),
        (lambda m: Config(layers=True), "layers must be of type int, not True"),
        (lambda m: Config(threads=-2), "threads must be at least 0, not -2"),
        (lambda m: Config(intent_balance=float("nan")), "intent_balance must be at least 0"),
        (lambda m: Config(intent_temperature=0), "intent_temperature must be above 0"),
        (lambda m: Config().ablation("C"), "unknown ablation 'C'"),
    ],
)
def test_wrong_use_is_named(model, act, sentence):
    with pytest.raises(ELCRecError, match=sentence):
        act(model)


def test_users_who_are_all_alike_get_one_label():
    alike = Histories.from_lists([[1, 2, 3, 4, 5]] * 20)
    labels = ELCRec(tiny(n_intents=3)).fit(alike, 5).transform(alike)
    assert np.unique(labels.intent).size == 1


def damage_json(folder):
    (folder / "model.json").write_text("{")


def other_format(folder):
    facts = json.loads((folder / "model.json").read_text())
    (folder / "model.json").write_text(json.dumps(facts | {"format": 99}))


def other_vocabulary(folder):
    facts = json.loads((folder / "model.json").read_text())
    (folder / "model.json").write_text(json.dumps(facts | {"n_items": 41}))


def damage_weights(folder):
    for path in folder.glob("*.safetensors"):
        path.write_bytes(path.read_bytes()[:100])


def lose_weights(folder):
    for path in folder.glob("*.safetensors"):
        path.unlink()


def lose_json(folder):
    (folder / "model.json").unlink()


@pytest.mark.parametrize(
    ("harm", "sentence"),
    [
        (damage_json, "is damaged"),
        (other_format, "has format 99"),
        (other_vocabulary, "items.weight has shape"),
        (damage_weights, "is damaged"),
        (lose_weights, "lacks"),
        (lose_json, "no saved model"),
    ],
)
def test_a_harmed_model_folder_is_named(model, tmp_path, harm, sentence):
    model.save(tmp_path)
    harm(tmp_path)
    with pytest.raises(ELCRecError, match=sentence):
        ELCRec.load(tmp_path)


def test_nan_never_reaches_a_saved_model(model, tmp_path):
    model.save(tmp_path / "good")
    harmed = ELCRec.load(tmp_path / "good")
    with torch.no_grad():
        harmed.network.centers[0, 0] = float("nan")
    with pytest.raises(ELCRecError, match="centers holds NaN"):
        harmed.save(tmp_path / "bad")
    assert not (tmp_path / "bad").exists()
