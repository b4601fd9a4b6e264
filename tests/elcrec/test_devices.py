"""What training does for a GPU, tried on a CPU too; on a GPU where there is one."""

import threading

import numpy as np
import pytest
import torch

from elcrec import ELCRec, ELCRecError
from elcrec.batches import Batches
from elcrec.model import Network
from elcrec.training import Trainer, batch_size
from tests.elcrec.test_training import tiny, walks

CPU = torch.device("cpu")
DEVICES = ["cpu", "cuda"] if torch.cuda.is_available() else ["cpu"]


def trainer(**changes) -> Trainer:
    torch.manual_seed(0)
    config = tiny(**{"device": "cpu"} | changes)
    return Trainer(Network(config, 40), walks(60), config, warmup_epochs=1)


@pytest.mark.slow
@pytest.mark.parametrize("changes", [{}, {"full_softmax_items": 10, "negatives": 16}])
def test_reading_ahead_and_looking_seldom_change_no_number(changes, monkeypatch):
    plain, ahead = trainer(**changes), trainer(**changes)
    ahead.ahead, ahead.look_every = True, 50
    read = Batches._read
    threads = []

    def counted(batches, *given):
        threads.append(threading.current_thread() is threading.main_thread())
        return read(batches, *given)

    monkeypatch.setattr(Batches, "_read", counted)
    found = [ahead.epoch(number) for number in (1, 2)]
    assert threads.count(True) == 2  # the first batch of each epoch
    assert len(threads) == ahead.steps
    assert found == [plain.epoch(number) for number in (1, 2)]
    for name, value in plain.state().items():
        assert torch.equal(value, ahead.state()[name]), name


def test_batches_whose_details_are_drawn_are_not_read_ahead():
    config = tiny(idle_vectors=True)
    batches = Batches(walks(), config, CPU)
    batches.read_ahead(np.arange(4), False)
    assert not batches._ahead


def test_a_loss_that_is_not_finite_is_found_where_few_are_looked_at():
    one = trainer(learning_rate=1e18)
    one.look_every = 1_000
    with pytest.raises(ELCRecError, match="not finite"):
        one.epoch(1)


@pytest.mark.slow
@pytest.mark.parametrize("preset", ["default", "paper"])
def test_an_encoder_in_bfloat16_learns_almost_what_one_in_float32_does(preset):
    changes = {"preset": preset, "dropout": 0.0, "attention_dropout": 0.0}
    plain, rounded = trainer(**changes), trainer(**changes)
    rounded.in_bfloat16 = True
    one, other = ([t.epoch(number) for number in (1, 2)] for t in (plain, rounded))
    for exact, near in zip(one, other, strict=True):
        assert near == pytest.approx(exact, rel=0.05, abs=0.02)
        assert near != exact
    assert all(p.dtype == torch.float32 for p in rounded.network.parameters())


def test_a_gpu_has_a_batch_size_of_its_own():
    config = tiny(batch_users=16, gpu_batch_users=256)
    assert batch_size(config, CPU) == 16
    assert batch_size(config, torch.device("cuda")) == 256
    assert batch_size(tiny(batch_users=16), torch.device("cuda")) == 16


@pytest.mark.slow
@pytest.mark.parametrize("device", DEVICES)
def test_the_settings_of_a_gpu_train_a_model_that_recommends_on_each_device(device):
    config = tiny(
        device=device,
        gpu_batch_users=32,
        encoder_precision="bfloat16",
        max_epochs=12,
        learning_rate=5e-3,
        dropout=0.1,
    )
    model = ELCRec(config).fit(walks(300), 40)
    assert model.evaluate(walks(300))["HR@5"] > 0.5
    assert model.network is not None and model.network.centers.device.type == device
