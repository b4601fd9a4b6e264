"""Training on several processes: as one process, whatever dies."""

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import psutil
import pytest
import torch

from elcrec import Config, ELCRec, ELCRecError, EpochReport, Histories
from elcrec.distributed import RankLostError, Ranks, _watched, leading
from elcrec.histories import leave_one_out
from elcrec.model import Network
from elcrec.parts import Part, cut
from elcrec.training import Trainer
from elcrec.windows import drawn_together, drawn_windows, training_windows
from tests.elcrec.test_training import tiny, walks, weights_of

REPO = Path(__file__).resolve().parents[2]
SOON = 20.0  # seconds: what takes moments may take longer on a machine that does other things


def trained_together(config: Config, ranks: Ranks, histories: Histories, size: int) -> Trainer:
    """Two epochs, between which the intents are placed; alone on the batches of `size` ranks."""
    torch.manual_seed(0)
    network = Network(config, 40)
    task = {"config": config.to_dict(), "n_items": 40, "warmup_epochs": 1, "passes": 1}
    ranks.announce("train", **task)
    trainer = Trainer(network, histories, config, 1, 1, None, ranks)
    trainer.share()
    parts = list(cut(trainer._learnable(histories, None), config, size))
    counts = np.array([len(training_windows(part.known, config)) for part in parts])
    firsts = np.cumsum(counts) - counts
    trainer.seen = []
    for number in (1, 2):
        if ranks.size > 1:
            trainer.seen.append(trainer.epoch(number))
        else:
            trainer.network.train()
            trainer.warming_up = number == 1
            drawn = [
                drawn_windows(config, config.batch_users, number, counts, rank)[0]
                for rank in range(size)
            ]
            steps = len(drawn[0])
            totals: dict[str, float] = {}
            for place, rng in enumerate(drawn_together(config, number, size, steps)):
                whole = [first + own[place] for first, own in zip(firsts, drawn, strict=True)]
                for name, value in trainer.step(np.concatenate(whole), rng).items():
                    totals[name] = totals.get(name, 0.0) + value / steps
            trainer.seen.append(totals)
        if number == 1:
            torch.manual_seed(1)
            trainer.place_centers(torch.randn_like(network.centers))
    metrics, _ = trainer.validate()
    trainer.seen.append(metrics)
    ranks.announce("trained")
    return trainer


def with_details(histories: Histories) -> Histories:
    rng, count = np.random.default_rng(0), histories.items.size
    return replace(
        histories,
        types=rng.integers(0, 4, count).astype(np.int32),
        type_names=("a", "b", "c"),
        weights=rng.random(count, np.float32),
        ts_us=rng.integers(0, 10**12, count).cumsum(),
        until_us=10**18,
    )


@pytest.mark.slow
def test_two_processes_take_the_steps_of_one_on_the_whole_batch(caplog):
    certain = {"dropout": 0.0, "attention_dropout": 0.0, "softmax_precision": "highest"}
    base = tiny(**certain, processes=2)
    histories = with_details(walks(60))
    sampled = replace(base, full_softmax_items=10, negatives=16)
    # With batches of one window, one of two processes has none of it.
    single = replace(sampled, batch_users=1, epoch_windows=20)
    detailed = replace(
        base, weigh_targets=True, target_types=("a", "c"), types=("b", "c"), gap_vectors=True
    )
    published = replace(base, intent_loss="elcm_published", batch_users=1, epoch_windows=20)
    with leading(2, None, 1, False) as ranks:
        for config in (base, sampled, single, detailed, published):
            alone = trained_together(config, Ranks(), histories, 2)
            both = trained_together(config, ranks, histories, 2)
            for one, two in zip(alone.seen, both.seen, strict=True):
                assert one == pytest.approx(two, abs=1e-4)
            expected, found = alone.state(), both.state()
            assert expected.keys() == found.keys()
            for name, value in expected.items():
                torch.testing.assert_close(found[name], value, atol=1e-4, rtol=1e-4, msg=name)
    assert not caplog.records  # both have had the same weights to the bit


@pytest.fixture(scope="module")
def undisturbed() -> ELCRec:
    return ELCRec(together()).fit(walks(), 40)


def together() -> Config:
    """Of the softmax that exchanges rows, whose state is the largest."""
    return tiny(full_softmax_items=10, negatives=16, max_epochs=3, processes=2)


def workers() -> list[psutil.Process]:
    children = psutil.Process().children(recursive=True)
    return [child for child in children if "elcrec.worker" in child.cmdline()]


@pytest.mark.slow
def test_a_process_that_is_killed_ends_the_training_and_the_next_goes_on(tmp_path, undisturbed):
    killed_at = []

    def kill(report: EpochReport) -> None:
        if report.epoch == 2:
            [worker] = workers()
            worker.send_signal(signal.SIGKILL)
            killed_at.append(time.monotonic())

    with pytest.raises(RankLostError, match=r"process 1 of 2 has ended: signal 9 .* goes on after"):
        ELCRec(together()).fit(walks(), 40, checkpoint_dir=tmp_path, on_epoch=kill)
    assert time.monotonic() - killed_at[0] < SOON
    assert not workers()
    epochs: list[int] = []
    resumed = ELCRec(together()).fit(
        walks(), 40, checkpoint_dir=tmp_path, on_epoch=lambda report: epochs.append(report.epoch)
    )
    assert epochs == [3]
    assert [r.metrics for r in resumed.history] == [r.metrics for r in undisturbed.history]
    assert all(map(torch.equal, weights_of(resumed), weights_of(undisturbed)))


PROGRAM = """
import sys
from elcrec import ELCRec
from tests.elcrec.test_distributed import together, workers
from tests.elcrec.test_training import walks

def told(report):
    print(workers()[0].pid, flush=True)
    sys.stdin.read()

ELCRec(together()).fit(walks(), 40, on_epoch=told)
"""


@pytest.mark.slow
def test_the_others_end_when_the_process_that_leads_is_killed():
    leader = subprocess.Popen(
        [sys.executable, "-c", PROGRAM],
        cwd=REPO,
        env=os.environ | {"PYTHONPATH": str(REPO)},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    assert leader.stdout is not None
    worker = psutil.Process(int(leader.stdout.readline()))
    leader.kill()
    leader.communicate()
    worker.wait(SOON)


@pytest.mark.slow
def test_processes_that_are_started_elsewhere_train_the_same_model(undisturbed):
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port = found.getsockname()[1]
    environment = os.environ | {
        "PYTHONPATH": str(REPO),
        "RANK": "1",
        "WORLD_SIZE": "2",
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
    }
    command = [sys.executable, "-m", "elcrec.worker"]
    worker = subprocess.Popen(command, cwd=REPO, env=environment)
    found_weights = weights_of(ELCRec(together()).fit(walks(), 40, rendezvous=f"127.0.0.1:{port}"))
    assert worker.wait(SOON) == 0
    assert all(map(torch.equal, found_weights, weights_of(undisturbed)))


@pytest.mark.parametrize(
    ("told", "error", "message"),
    [
        ({"kind": "MemoryError", "message": "no more"}, MemoryError, "no more"),
        ({"kind": "ELCRecError", "message": "of 3 events"}, ELCRecError, "of 3 events$"),
        (None, RankLostError, "ended with status 1"),
    ],
)
def test_what_ended_another_process_is_said(tmp_path, told, error, message):
    if told is not None:
        (tmp_path / "rank-1.json").write_text(json.dumps(told))
    ended = subprocess.Popen([sys.executable, "-c", "raise SystemExit(1)"])
    ranks = Ranks(0, 2, folder=tmp_path, local={1: ended})
    with pytest.raises(error, match=message), ranks._talking():
        raise RuntimeError("Connection closed by peer")


def test_a_gpu_does_not_wait_for_a_process_that_has_ended():
    class Gradients:
        let_go = threading.Event()

        def abort(self) -> None:
            self.let_go.set()

    ended = subprocess.Popen([sys.executable, "-c", ""])
    with _watched(Ranks(0, 2, Gradients(), local={1: ended})):
        assert Gradients.let_go.wait(SOON)


@pytest.mark.parametrize("next_item", ["softmax", "bce"])
@pytest.mark.parametrize("size", [1, 2, 3, 7])
def test_every_user_is_in_one_part_and_a_part_comes_over_whole(next_item, size):
    histories = with_details(walks(50))
    config = tiny(next_item=next_item, full_softmax_items=10)
    whole = Trainer(Network(config, 40), histories, config)._learnable(histories, None)
    parts = [Part.of_arrays(part.arrays()) for part in cut(whole, config, size)]
    assert len(parts) == size
    for name in ("known", "had"):
        if (of_all := getattr(whole, name)) is not None:
            for kind in ("items", "types", "weights", "ts_us", "lengths"):
                found = [getattr(getattr(part, name), kind) for part in parts]
                assert np.array_equal(np.concatenate(found), getattr(of_all, kind))
            for part in parts:
                found = getattr(part, name)
                assert found.until_us == of_all.until_us
                assert found.type_names == of_all.type_names
    assert np.array_equal(
        np.concatenate([part.validation.targets for part in parts]),
        leave_one_out(histories, "validation").targets,
    )
    counts = [len(training_windows(part.known, config)) for part in parts]
    assert sum(counts) == len(training_windows(whole.known, config))
    longest = max(len(training_windows(whole.known.slice(u, u + 1), config)) for u in range(50))
    assert max(counts) - min(counts) <= 2 * longest
    if next_item == "softmax":
        assert all((part.frequencies == whole.frequencies).all() for part in parts)


@pytest.mark.parametrize("epoch_windows", [50_000, 37])
def test_all_windows_of_an_epoch_are_drawn_once_by_all_ranks_together(epoch_windows):
    config, counts = tiny(epoch_windows=epoch_windows), np.array([60, 9, 0, 31])
    drawn = [drawn_windows(config, 16, 1, counts, rank)[0] for rank in range(4)]
    assert {len(batches) for batches in drawn} == {-(-min(100, epoch_windows) // 16)}
    windows = [np.concatenate(batches) for batches in drawn]
    assert sum(map(len, windows)) == min(100, epoch_windows)
    assert all(len(set(own)) == len(own) for own in windows)
    sizes = np.array([[len(batch) for batch in batches] for batches in drawn])
    assert (sizes.sum(0)[:-1] == 16).all()
    assert (np.ptp(sizes[:, :-1], axis=1) <= 1).all()  # a rank's share is the same in all steps


def test_contrasts_of_a_whole_batch_are_refused_on_several_processes():
    with pytest.raises(ELCRecError, match="compare all users of a batch"):
        ELCRec(tiny("paper", processes=2)).fit(walks(), 40)
