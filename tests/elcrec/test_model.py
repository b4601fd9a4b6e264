"""The packed encoder against the plainest padded one, and the promises the model rests on."""

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from elcrec import Config
from elcrec.config import PAPER_AS_WRITTEN
from elcrec.evaluation import padded
from elcrec.model import Network
from elcrec.packing import pack
from elcrec.training import sequence_similarities

CPU = torch.device("cpu")
L = 12


def network(**changes) -> Network:
    torch.manual_seed(0)
    settings = {"dim": 8, "layers": 2, "heads": 2, "max_length": L, "n_intents": 3, "init_std": 0.5}
    config = Config.preset("paper", **PAPER_AS_WRITTEN | settings | changes)
    return Network(config, n_items=30).eval()


def random_sequences(count: int = 9) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    lengths = rng.integers(1, L + 1, count)
    return rng.integers(1, 31, lengths.sum()), lengths


def reference(net: Network, items: np.ndarray) -> torch.Tensor:
    """SASRec of one padded sequence `[L]` as the published code has it, written out: `[L, d]`."""
    ids = torch.from_numpy(items)
    d, heads = net.config.dim, net.config.heads
    x = net.norm(net.items.weight[ids] + net.positions.weight)
    hidden = (ids == 0)[None, :] | torch.ones(L, L, dtype=torch.bool).triu(1)
    for block in net.blocks:
        q, k, v = block.attention.query_key_value(x).chunk(3, dim=1)
        mixed = []
        for part in range(heads):
            columns = slice(part * d // heads, (part + 1) * d // heads)
            scores = q[:, columns] @ k[:, columns].T / math.sqrt(d // heads) - 10_000.0 * hidden
            mixed.append(scores.softmax(-1) @ v[:, columns])
        x = block.attention.norm(x + block.attention.output(torch.cat(mixed, dim=1)))
        x = block.norm(x + block.contract(F.gelu(block.expand(x))))
    return x


def test_packed_outputs_are_those_of_the_padded_encoder():
    net = network()
    items, lengths = random_sequences()
    batch = pack(items, lengths, L, CPU)
    outputs = net(batch)
    full = padded(items, lengths, L)[0].reshape(-1, L)
    for place, sequence in enumerate(batch.order):
        expected = reference(net, full[sequence])[-lengths[sequence] :]
        torch.testing.assert_close(outputs[batch.owners == place], expected, atol=1e-5, rtol=1e-4)


def test_padding_on_request_is_computed_as_the_published_code_does():
    net = network(pooling="padded_outputs")
    items, lengths = random_sequences()
    full, full_lengths = padded(items, lengths, L)
    batch = pack(full, full_lengths, L, CPU)
    h = net.behaviours(batch, net(batch))
    expected = torch.stack([reference(net, row).mean(0) for row in full.reshape(-1, L)])
    torch.testing.assert_close(h, expected, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"layers": 1},
        {"positions": "relative"},
        {"positions": "relative", "low_pass": 0.7, "filters": 4},
        {"pooling": "padded_outputs"},
    ],
)
def test_the_newest_events_alone_give_what_a_whole_pass_gives_for_them(changes):
    net = network(**changes)
    for name, parameter in net.named_parameters():
        if "distance_bias" in name:
            torch.nn.init.normal_(parameter)
    items, lengths = random_sequences(70)  # of every length: two groups and more
    if net.config.pooling == "padded_outputs":
        items, lengths = padded(items, lengths, L)
    batch = pack(items, lengths, L, CPU)
    expected = net(batch)[batch.last_rows]
    torch.testing.assert_close(net.newest(batch), expected, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("pooling", ["blend", "outputs"])
def test_labels_come_from_the_behaviours_that_training_learns_on(pooling):
    net = network(pooling=pooling)
    batch = pack(*random_sequences(), L, CPU)
    expected = net.behaviours(batch, net(batch))
    torch.testing.assert_close(net.label_behaviours(batch)[0], expected, atol=1e-5, rtol=1e-4)


def test_the_low_pass_is_a_mean_over_what_came_before_by_how_long_ago_it_was():
    net = network(positions="relative", layers=1, low_pass=0.5, filters=2)
    low_pass = net.blocks[0].low_pass
    torch.nn.init.normal_(low_pass.distance_bias)
    x = torch.randn(3, 8)
    batch = pack(np.array([1, 2, 3]), np.array([3]), L, CPU)
    for t in range(3):
        weights = low_pass.distance_bias[:, : t + 1].flip(1).softmax(1)  # [filters, t + 1]
        low = torch.cat([weights[0] @ x[: t + 1, :4], weights[1] @ x[: t + 1, 4:]])
        expected = low_pass.norm(x[t] + low + low_pass.high.square() * (x[t] - low))
        torch.testing.assert_close(low_pass(x, batch.groups)[t], expected, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("low_pass", [0.0, 0.7])
def test_with_relative_positions_one_pass_sees_what_passes_over_all_prefixes_see(low_pass):
    net = network(positions="relative", low_pass=low_pass, filters=4)
    for name, parameter in net.named_parameters():
        if "distance_bias" in name:
            torch.nn.init.normal_(parameter)
    items = np.arange(1, L + 1)
    together = net(pack(items, np.array([L]), L, CPU))
    for length in range(1, L + 1):
        alone = net(pack(items[:length], np.array([length]), L, CPU))[-1]
        torch.testing.assert_close(together[length - 1], alone, atol=1e-5, rtol=1e-4)


def test_no_output_depends_on_later_events():
    net = network()
    items = np.arange(1, L + 1)
    changed = items.copy()
    changed[-1] = 30
    before, after = (
        net(pack(items, np.array([L]), L, CPU)),
        net(pack(changed, np.array([L]), L, CPU)),
    )
    torch.testing.assert_close(before[:-1], after[:-1])
    assert not torch.allclose(before[-1], after[-1])


def test_packing_wastes_less_than_half_of_every_rectangle(monkeypatch):
    monkeypatch.setattr("elcrec.packing.SMALLEST_GROUP", 1)
    lengths = np.array([1, 1, 2, 3, 5, 8, 12, 12, 7, 4])
    batch = pack(np.ones(lengths.sum(), np.int64), lengths, L, CPU)
    assert sum(g.count for g in batch.groups) == lengths.size
    for group in batch.groups:
        assert group.cells.numel() > group.count * group.width / 2


def test_a_blended_behaviour_is_recent_items_and_the_newest_output_in_equal_parts():
    net = network(pooling="blend", recency=1.0)
    batch = pack(np.array([4, 9]), np.array([2]), L, CPU)
    outputs = torch.randn(2, 8)
    had = 0.5 * net.items.weight[4] + net.items.weight[9]
    expected = F.normalize(had, dim=0) + F.normalize(outputs[1], dim=0)
    torch.testing.assert_close(net.behaviours(batch, outputs)[0], expected)


@pytest.mark.parametrize("fusion", ["shift", "concat"])
@pytest.mark.parametrize("intent_loss", ["elcm", "elcm_published"])
def test_fusion_joins_each_output_with_its_nearest_centre(fusion, intent_loss):
    net = network(fusion=fusion, intent_loss=intent_loss)
    rows = torch.randn(5, 8)
    centers = F.normalize(net.centers, dim=1) if intent_loss == "elcm" else net.centers
    distances = torch.cdist(rows, centers)
    nearest = net.centers[distances.argmin(1)]
    expected = rows + nearest if fusion == "shift" else torch.cat([rows, nearest], dim=1)
    torch.testing.assert_close(net.fuse(rows), expected)


def test_sequence_similarities_are_dot_products_of_right_aligned_sequences():
    items, lengths = random_sequences()
    batch = pack(items, lengths, L, CPU)
    rows = torch.randn(items.size, 4)
    flat = torch.zeros(lengths.size, L, 4)
    flat[torch.from_numpy(batch.order)[batch.owners], batch.positions] = rows
    flat = flat.flatten(1)
    torch.testing.assert_close(
        sequence_similarities(rows, batch), flat @ flat.T, atol=1e-5, rtol=1e-4
    )
