from dataclasses import replace

import numpy as np
import pytest
import torch

from elcrec import Config, ELCRec, ELCRecError, Histories
from elcrec.model import Network
from elcrec.training import Trainer, training_windows


def walks(users: int = 120, items: int = 40, seed: int = 0) -> Histories:
    """Histories that walk through the items in order, two steps at most at a time."""
    rng = np.random.default_rng(seed)
    lengths = rng.integers(4, 30, users)
    return Histories.from_lists(
        [1 + (rng.integers(items) + np.cumsum(rng.integers(1, 3, n))) % items for n in lengths]
    )


def tiny(preset: str = "default", **changes) -> Config:
    settings = {
        "dim": 16,
        "max_length": 10,
        "n_intents": 6,
        "max_epochs": 3,
        "batch_users": 16,
        "threads": 1,
    }
    return Config.preset(preset, **settings | changes)


@pytest.mark.parametrize("max_length", [4, 5, 10, 50])
def test_windows_predict_every_event_but_the_first_exactly_once(max_length):
    histories = walks()
    windows = training_windows(histories, tiny(max_length=max_length))
    predicted = np.zeros(histories.items.size, int)
    for start, length, skipped in zip(
        windows.starts, windows.lengths, windows.skipped, strict=True
    ):
        assert 2 <= length <= max_length + 1
        predicted[start + 1 + skipped : start + length] += 1
    expected = np.ones(histories.items.size, int)
    expected[histories.offsets[:-1]] = 0
    assert (predicted == expected).all()


def test_newest_windows_are_the_last_events_of_each_history():
    histories = walks()
    windows = training_windows(histories, tiny(long_histories="newest"))
    assert (windows.starts + windows.lengths == histories.offsets[1:]).all()
    assert (windows.lengths == np.minimum(histories.lengths, 11)).all()


def test_training_never_sees_the_held_out_events():
    histories = walks()
    trainer = Trainer(Network(tiny(), 41), histories, tiny())
    for user in range(len(histories)):
        assert trainer.known[user].tolist() == histories[user][:-2].tolist()


@pytest.mark.parametrize(
    ("preset", "changes"),
    [("default", {"max_epochs": 15}), ("paper", {"max_epochs": 40, "intent_loss_weight": 0.1})],
)
def test_training_learns_what_comes_next(preset, changes):
    histories = walks(300)
    config = tiny(preset, dropout=0.1, attention_dropout=0.1, learning_rate=5e-3, **changes)
    model = ELCRec(config).fit(histories, 40)
    # Two of forty items are possible; five at random hold the right one about once in five times.
    assert model.evaluate(histories)["HR@5"] > 0.5


@pytest.mark.parametrize(
    ("ablation", "expected"),
    [
        ("B", {"next_item"}),
        ("B+ICL", {"next_item", "sequence_contrast", "intent_contrast"}),
        ("B+ELCM", {"next_item", "clustering"}),
        ("full", {"next_item", "clustering", "sequence_contrast", "intent_contrast"}),
    ],
)
def test_ablations_switch_losses_off(ablation, expected):
    config = tiny("paper", max_epochs=1).ablation(ablation)
    model = ELCRec(config).fit(walks(), 40)
    assert set(model.history[0].losses) == expected


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"fusion": "concat"},
        {"pooling": "padded_outputs"},
        {"mask_same_intent": True},
        {"intent_contrast_negatives": "both", "held_out_negatives": False},
    ],
)
def test_every_switch_of_the_paper_preset_trains(changes):
    model = ELCRec(tiny("paper", max_epochs=1, **changes)).fit(walks(), 40)
    assert all(np.isfinite(loss) for loss in model.history[0].losses.values())


class KilledError(Exception):
    pass


@pytest.mark.parametrize(
    ("preset", "changes"), [("default", {}), ("paper", {}), ("default", {"full_softmax_items": 10})]
)
def test_training_that_was_killed_ends_with_the_weights_of_one_that_was_not(
    tmp_path, preset, changes
):
    def kill_after_two(report):
        if report.epoch == 2:
            raise KilledError

    config = tiny(preset, max_epochs=4, **changes)
    undisturbed = ELCRec(config).fit(walks(), 40)
    with pytest.raises(KilledError):
        ELCRec(config).fit(walks(), 40, checkpoint_dir=tmp_path, on_epoch=kill_after_two)
    resumed = ELCRec(config).fit(walks(), 40, checkpoint_dir=tmp_path)
    assert [r.epoch for r in resumed.history] == [1, 2, 3, 4]
    for name, value in undisturbed.network.state_dict().items():
        assert torch.equal(value, resumed.network.state_dict()[name]), name


def test_a_checkpoint_of_another_start_is_refused(tmp_path):
    config = tiny(max_epochs=1, warmup_epochs=0)
    groups = np.arange(len(walks())) % config.n_intents
    one, other = (ELCRec(tiny(max_epochs=1, seed=seed)).fit(walks(), 40) for seed in (1, 2))
    starts = [{}, {"groups": groups}, {"groups": groups[::-1]}, {"initial": one}]
    for number, start in enumerate([*starts, {"initial": other}]):
        folder = tmp_path / str(number)
        ELCRec(config).fit(walks(), 40, checkpoint_dir=folder, **start)
        ELCRec(config).fit(walks(), 40, checkpoint_dir=folder, **start)
        for another in starts:
            if another is not start:
                with pytest.raises(ELCRecError, match=r"has another (initial|groups)"):
                    ELCRec(config).fit(walks(), 40, checkpoint_dir=folder, **another)


def test_a_checkpoint_of_other_histories_is_refused(tmp_path):
    ELCRec(tiny(max_epochs=1)).fit(walks(), 40, checkpoint_dir=tmp_path)
    with pytest.raises(ELCRecError, match="another histories"):
        ELCRec(tiny(max_epochs=1)).fit(walks(seed=1), 40, checkpoint_dir=tmp_path)


def test_a_loss_that_is_not_finite_stops_training_and_names_it():
    with pytest.raises(ELCRecError, match="not finite"):
        ELCRec(tiny(learning_rate=1e18, max_epochs=5)).fit(walks(), 40)


def test_training_stops_when_validation_no_longer_improves():
    model = ELCRec(tiny(learning_rate=1e-9, patience=2, max_epochs=30)).fit(walks(), 40)
    assert len(model.history) < 30
    assert len(model.history) - model.history[-1].best_epoch == 2


def test_patience_counts_from_the_end_of_the_warm_up():
    model = ELCRec(tiny(warmup_epochs=4, patience=2, max_epochs=5)).fit(walks(), 40)
    assert len(model.history) == 5


def test_the_same_seed_gives_the_same_weights_and_another_gives_others():
    one, same, other = (
        ELCRec(tiny(max_epochs=1, seed=s)).fit(walks(), 40).network for s in (1, 1, 2)
    )
    assert torch.equal(one.items.weight, same.items.weight)
    assert not torch.equal(one.items.weight, other.items.weight)


def test_an_epoch_draws_no_more_windows_than_it_may():
    histories, config = walks(), tiny(epoch_windows=32, validation_users=10)
    trainer = Trainer(Network(config, 41), histories, config)
    trainer.epoch(1)
    assert trainer.steps == 2
    assert len(trainer.validation.histories) == 10


def test_with_many_items_the_sampled_softmax_learns_too():
    config = tiny(
        full_softmax_items=10, negatives=16, max_epochs=12, learning_rate=5e-3, dropout=0.1
    )
    model = ELCRec(config).fit(walks(300), 40)
    assert model.evaluate(walks(300))["HR@5"] > 0.5


def test_intents_are_placed_after_a_warm_up_on_the_next_item_alone():
    model = ELCRec(tiny(warmup_epochs=1, max_epochs=2)).fit(walks(), 40)
    assert set(model.history[0].losses) == {"next_item"}
    assert set(model.history[1].losses) == {"next_item", "clustering"}


def test_a_model_that_ends_with_its_warm_up_has_placed_intents():
    alone = ELCRec(tiny(warmup_epochs=3, max_epochs=1)).fit(walks(), 40)
    assert len(set(alone.transform(walks()).intent)) == alone.config.n_intents


def test_training_goes_on_with_other_threads(tmp_path):
    ELCRec(tiny(max_epochs=1)).fit(walks(), 40, checkpoint_dir=tmp_path)
    again = ELCRec(tiny(max_epochs=1, threads=1)).fit(walks(), 40, checkpoint_dir=tmp_path)
    assert len(again.history) == 1


def weights_of(model: ELCRec) -> list[torch.Tensor]:
    assert model.network is not None
    return list(model.network.state_dict().values())


def no_memory_on_a_gpu() -> Exception:
    return torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")


def no_memory_for_torch() -> Exception:
    with pytest.raises(RuntimeError) as raised:
        torch.empty(2**60, dtype=torch.uint8)
    return raised.value


@pytest.mark.parametrize("error", [no_memory_on_a_gpu, no_memory_for_torch, MemoryError])
def test_with_too_little_memory_batches_are_cut_and_training_goes_on_from_the_checkpoint(
    error, tmp_path, monkeypatch, caplog
):
    histories, config = walks(), tiny(max_epochs=3, patience=3)
    losses, seen = Trainer.losses, []

    def too_little(trainer, chosen, rng):
        # Enough for the first epoch, then for four histories at a time.
        if trainer.steps > 10 and chosen.size > 4:
            raise error()
        seen.append(chosen.size)
        return losses(trainer, chosen, rng)

    def fitted(folder) -> list[torch.Tensor]:
        epochs.clear()
        model = ELCRec(config)
        return weights_of(
            model.fit(
                histories,
                checkpoint_dir=tmp_path / folder,
                on_epoch=lambda report: epochs.append(report.epoch),
            )
        )

    epochs: list[int] = []
    monkeypatch.setattr(Trainer, "losses", too_little)
    ends = fitted("once")
    assert epochs == [1, 2, 3]
    assert max(seen) == 16 and seen[-1] <= 4
    told = [record.message for record in caplog.records if record.levelname == "WARNING"]
    assert [text.rsplit("with ", 1)[-1] for text in told] == ["8 at a time", "4 at a time"]
    assert all(map(torch.equal, ends, fitted("twice")))


def test_a_training_that_was_killed_with_cut_batches_goes_on_with_them(tmp_path, monkeypatch):
    histories, config = walks(), tiny(max_epochs=3, patience=3, full_softmax_items=1)
    losses, memory = Trainer.losses, [4]

    def too_little(trainer, chosen, rng):
        if chosen.size > memory[0]:
            raise MemoryError
        return losses(trainer, chosen, rng)

    def killed(report):
        raise KeyboardInterrupt

    monkeypatch.setattr(Trainer, "losses", too_little)
    expected = weights_of(ELCRec(config).fit(histories))
    with pytest.raises(KeyboardInterrupt):
        ELCRec(config).fit(histories, checkpoint_dir=tmp_path, on_epoch=killed)
    memory[0] = 16
    resumed = ELCRec(config).fit(histories, checkpoint_dir=tmp_path)
    assert all(map(torch.equal, weights_of(resumed), expected))


def test_too_little_memory_for_one_history_ends_in_a_sentence(monkeypatch):
    def none(trainer, chosen, rng):
        raise MemoryError

    monkeypatch.setattr(Trainer, "losses", none)
    with pytest.raises(ELCRecError, match="too little memory to train with 120 users and 40 items"):
        ELCRec(tiny()).fit(walks())


def test_another_error_of_torch_comes_through(monkeypatch):
    def wrong(trainer, chosen, rng):
        raise RuntimeError("mat1 and mat2 shapes cannot be multiplied")

    monkeypatch.setattr(Trainer, "losses", wrong)
    with pytest.raises(RuntimeError, match="cannot be multiplied"):
        ELCRec(tiny()).fit(walks())


def test_a_batch_in_parts_takes_the_step_of_the_whole():
    alike = Histories.from_lists([1 + (user + np.arange(8)) % 40 for user in range(60)])
    config = tiny(dropout=0.0, attention_dropout=0.0, intent_loss="none", next_item="softmax")
    config = replace(config, softmax_precision="highest")
    ends = []
    for passes in (1, 3):
        torch.manual_seed(0)
        trainer = Trainer(Network(config, 40), alike, config, passes=passes)
        loss = trainer.step(np.arange(16), np.random.default_rng(0))["next_item"]
        gradient = trainer.network.items.weight.grad
        assert gradient is not None
        ends.append((torch.tensor(loss), gradient))
    torch.testing.assert_close(*ends)
