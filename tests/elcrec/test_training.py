import json
from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from elcrec import Config, ELCRec, ELCRecError, Histories
from elcrec.config import PAPER_AS_PUBLISHED, PAPER_AS_WRITTEN
from elcrec.model import Network
from elcrec.packing import pack
from elcrec.training import Trainer
from elcrec.views import View, random_view
from elcrec.windows import training_windows


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
    if preset == "paper":
        settings["warmup_epochs"] = 0
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


@pytest.mark.slow
def test_training_never_sees_the_held_out_events():
    histories = walks()
    trainer = Trainer(Network(tiny(), 41), histories, tiny())
    for user in range(len(histories)):
        assert trainer.known[user].tolist() == histories[user][:-2].tolist()


def test_of_whom_is_not_held_out_every_event_is_learned():
    histories = walks()
    held_out = np.arange(len(histories)) % 3 == 0
    trainer = Trainer(Network(tiny(), 41), histories, tiny(), held_out=held_out)
    for user in range(len(histories)):
        seen = histories[user][:-2] if held_out[user] else histories[user]
        assert trainer.known[user].tolist() == seen.tolist()
    judged = histories.take(np.flatnonzero(held_out))
    assert trainer.validation.targets.tolist() == judged.last(2).tolist()
    with pytest.raises(ELCRecError, match="no user is held out"):
        Trainer(Network(tiny(), 41), histories, tiny(), held_out=np.zeros(len(histories), bool))


@pytest.mark.slow
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


@pytest.mark.slow
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
        {"mask_same_intent": True},
        PAPER_AS_PUBLISHED,
        PAPER_AS_WRITTEN,
        *({name: value} for name, value in PAPER_AS_WRITTEN.items()),
    ],
)
def test_every_switch_of_the_paper_preset_trains(changes):
    model = ELCRec(tiny("paper", max_epochs=1, **changes)).fit(walks(), 40)
    assert all(np.isfinite(loss) for loss in model.history[0].losses.values())


@pytest.mark.parametrize("fusion", ["shift", "concat"])
def test_losses_and_gradients_of_the_paper_preset_are_those_of_the_published_step(
    fusion, monkeypatch
):
    """The published step written out: rectangles with padding, centres as they are."""
    without_chance = {"dropout": 0.0, "attention_dropout": 0.0}
    config = tiny("paper", **PAPER_AS_PUBLISHED, **without_chance, fusion=fusion, n_intents=6)
    torch.manual_seed(0)
    network = Network(config, 40)
    trainer = Trainer(network, walks(), config)
    with torch.no_grad():
        network.items.weight.mul_(10)
        network.centers.copy_(F.normalize(torch.randn(6, 16), dim=1) + 0.1 * torch.randn(6, 16))
    chosen, before = np.arange(16), network.centers.detach().clone()
    views: list[View] = []

    def seen(*given):
        views.append(random_view(*given))
        return views[-1]

    monkeypatch.setattr("elcrec.training.random_view", seen)
    found = trainer.losses(chosen, np.random.default_rng(0))
    unit = network.centers
    assert torch.allclose(unit, F.normalize(before, dim=1))

    def outputs(items: np.ndarray) -> torch.Tensor:
        full = np.full(len(items), config.max_length)
        return network(pack(items.ravel(), full, config.max_length, torch.device("cpu"))).view(
            *items.shape, -1
        )

    def nce(one: torch.Tensor, other: torch.Tensor) -> torch.Tensor:
        rows = torch.cat([one, other])
        scores = (rows @ rows.T).fill_diagonal_(-torch.inf)
        B = len(one)
        return F.cross_entropy(scores, torch.cat([torch.arange(B, 2 * B), torch.arange(B)]))

    known = [trainer.known[user] for user in range(16)]
    histories = [np.pad(h[:-1][-10:], (10 - len(h[:-1][-10:]), 0)) for h in known]
    h = F.normalize(outputs(np.stack(histories)).mean(1), dim=1)
    distances = torch.stack([(row - unit).square().sum(1) for row in h])
    apart = torch.stack([(row - unit).square().sum(1) for row in unit])
    clustering = config.intent_loss_weight * (distances.mean() - apart.mean())
    both = []
    for view in views:
        items = np.zeros((16, 10), np.int64)
        items[np.repeat(np.arange(16), view.lengths), view.positions] = view.items
        both.append(outputs(items))
    fused = []
    for view in both:
        nearest = torch.cdist(view.detach(), before[None]).argmin(-1)
        added = network.centers[nearest]
        # Centres had not been made of unit length when they were added: the difference is fixed.
        added = added + (before[nearest] - added).detach()
        joined = view + added if fusion == "shift" else torch.cat([view, added], dim=-1)
        fused.append(joined.flatten(1))
    own = unit[distances.argmin(1)]
    expected = {
        "clustering": clustering,
        "sequence_contrast": 0.1 * nce(*fused),
        "intent_contrast": 0.1 * (nce(both[0].mean(1), own) + nce(both[1].mean(1), own)) / 2,
    }
    names, parameters = zip(*network.named_parameters(), strict=True)
    for loss, value in expected.items():
        torch.testing.assert_close(found[loss], value, rtol=1e-5, atol=1e-5)
        gradients = [
            torch.autograd.grad(x, parameters, allow_unused=True, retain_graph=True)
            for x in (found[loss], value)
        ]
        for name, ours, theirs in zip(names, *gradients, strict=True):
            assert (ours is None) == (theirs is None), (loss, name)
            if theirs is not None:
                torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5, msg=f"{loss} {name}")


class KilledError(Exception):
    pass


@pytest.mark.slow
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


@pytest.mark.slow
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


@pytest.mark.slow
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


def test_a_warm_up_with_contrasts_has_all_losses_but_clustering_and_no_padding(monkeypatch):
    config = tiny("paper", **PAPER_AS_PUBLISHED | {"warmup_epochs": 1}, max_epochs=2)
    sequences: list[int] = []
    whole = Network.forward

    def counted(network, batch, rows=None):
        if network.training:
            sequences.append(int((batch.items == 0).sum()))
        return whole(network, batch, rows)

    monkeypatch.setattr(Network, "forward", counted)
    model = ELCRec(config).fit(walks(), 40)
    contrasts = {"next_item", "sequence_contrast", "intent_contrast"}
    assert set(model.history[0].losses) == contrasts
    assert set(model.history[1].losses) == contrasts | {"clustering"}
    of_warm_up, of_rest = np.array_split(np.array(sequences), 2)
    assert not of_warm_up.any() and of_rest.all()


def test_a_clustering_loss_that_moves_the_centres_alone_leaves_the_items_as_they_are():
    def gradients(moves: str) -> dict[str, torch.Tensor | None]:
        config = tiny("paper", pooling="outputs", intent_loss_moves=moves)
        trainer = Trainer(Network(config, 41), walks(), config)
        parts = trainer.losses(np.arange(16), np.random.default_rng(0))
        parts["clustering"].backward()
        return {name: weight.grad for name, weight in trainer.network.named_parameters()}

    alone, both = gradients("centers"), gradients("both")
    assert {name for name, gradient in alone.items() if gradient is not None} == {"centers"}
    assert both["items.weight"] is not None
    assert both["items.weight"].abs().max() > 0


def test_a_model_that_ends_with_its_warm_up_has_placed_intents():
    alone = ELCRec(tiny(warmup_epochs=3, max_epochs=1)).fit(walks(), 40)
    assert len(set(alone.transform(walks()).intent)) == alone.config.n_intents


def test_training_goes_on_with_other_threads(tmp_path):
    ELCRec(tiny(max_epochs=1)).fit(walks(), 40, checkpoint_dir=tmp_path)
    threads = torch.get_num_threads()
    try:
        again = ELCRec(tiny(max_epochs=1, threads=2)).fit(walks(), 40, checkpoint_dir=tmp_path)
    finally:
        torch.set_num_threads(threads)
    assert len(again.history) == 1


def test_training_goes_on_from_a_checkpoint_from_before_a_field_came(tmp_path):
    ELCRec(tiny(max_epochs=1)).fit(walks(), 40, checkpoint_dir=tmp_path)
    path = tmp_path / "training.json"
    facts = json.loads(path.read_text())
    del facts["config"]["warmup_share"]
    path.write_text(json.dumps(facts))
    again = ELCRec(tiny(max_epochs=1)).fit(walks(), 40, checkpoint_dir=tmp_path)
    assert len(again.history) == 1
    with pytest.raises(ELCRecError, match="another config"):
        ELCRec(tiny(max_epochs=1, warmup_share=0.5)).fit(walks(), 40, checkpoint_dir=tmp_path)


@pytest.mark.parametrize("average", [0.0, 0.9])
def test_kept_weights_lie_between_the_warm_ups_and_the_last(average, tmp_path):
    def kept(share: float, epochs: int) -> dict[str, torch.Tensor]:
        changes = {"warmup_epochs": 2, "max_epochs": epochs, "average_decay": average}
        model = ELCRec(tiny(warmup_share=share, **changes))
        return model.fit(walks(), 40, keep_last=True).network.state_dict()

    warm, last, between = kept(0.25, 2), kept(0.0, 4), kept(0.25, 4)
    assert all(torch.equal(value, warm[name]) for name, value in kept(0.0, 2).items())
    assert not torch.equal(warm["items.weight"], last["items.weight"])
    for name in set(last) - {"shares"}:
        expected = 0.75 * last[name] + 0.25 * warm[name]
        torch.testing.assert_close(between[name], expected)


def test_a_training_that_was_killed_after_its_warm_up_keeps_the_same_weights(tmp_path):
    def killed(report):
        if report.epoch == 2:
            raise KeyboardInterrupt

    config = tiny(warmup_epochs=1, max_epochs=3, warmup_share=0.5)
    expected = weights_of(ELCRec(config).fit(walks(), 40, keep_last=True))
    with pytest.raises(KeyboardInterrupt):
        ELCRec(config).fit(walks(), 40, keep_last=True, checkpoint_dir=tmp_path, on_epoch=killed)
    again = ELCRec(config).fit(walks(), 40, keep_last=True, checkpoint_dir=tmp_path)
    assert all(map(torch.equal, weights_of(again), expected))


def weights_of(model: ELCRec) -> list[torch.Tensor]:
    assert model.network is not None
    return list(model.network.state_dict().values())


def no_memory_on_a_gpu() -> Exception:
    return torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")


def no_memory_for_torch() -> Exception:
    with pytest.raises(RuntimeError) as raised:
        torch.empty(2**60, dtype=torch.uint8)
    return raised.value


@pytest.mark.slow
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


@pytest.mark.slow
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
