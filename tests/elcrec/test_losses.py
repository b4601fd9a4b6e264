"""Each loss against values worked out by hand or by the plainest possible code."""

import contextlib
import math

import pytest
import torch
import torch.nn.functional as F

from elcrec import losses


def softplus(x: float) -> float:
    return math.log1p(math.exp(x))


def test_next_item_bce_of_two_positions():
    outputs = torch.tensor([[1.0, 0.0], [0.0, 2.0]])
    positives = torch.tensor([[3.0, 5.0], [1.0, 0.5]])  # dot products 3 and 1
    negatives = torch.tensor([[-1.0, 9.0], [7.0, 0.0]])  # dot products −1 and 0
    expected = (softplus(-3) + softplus(-1) + softplus(-1) + softplus(0)) / 2
    assert losses.next_item_bce(outputs, positives, negatives).item() == pytest.approx(
        expected, rel=1e-6
    )


def test_next_item_softmax_of_one_position():
    outputs = torch.tensor([[1.0, 2.0]])
    items = torch.tensor([[9.0, 9.0], [1.0, 0.0], [0.0, 1.0], [1.0, 1.0]])  # the first is padding
    # Logits 1, 2, 3; the target has the second.
    expected = math.log(math.e + math.e**2 + math.e**3) - 2
    loss = losses.next_item_softmax(outputs, items, torch.tensor([2]))
    assert loss.item() == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("rows", [2, 4, 13, 96])  # of blocks: two chunks, one, one block, filled up
def test_next_item_softmax_has_the_gradients_of_autograd(monkeypatch, rows):
    monkeypatch.setattr(losses._LinearCrossEntropy, "ROWS", rows)
    monkeypatch.setattr(losses._LinearCrossEntropy, "STEP", 1 if rows < 96 else 16)
    outputs, items = torch.randn(13, 4, requires_grad=True), torch.randn(7, 4, requires_grad=True)
    targets = torch.randint(1, 7, (13,))
    expected = torch.autograd.grad(
        3 * F.cross_entropy(outputs @ items[1:].T, targets - 1), (outputs, items)
    )
    found = torch.autograd.grad(
        3 * losses.next_item_softmax(outputs, items, targets), (outputs, items)
    )
    for one, other in zip(expected, found, strict=True):
        torch.testing.assert_close(one, other)


def test_bfloat16_factors_move_the_softmax_and_its_gradients_little(monkeypatch):
    capable = {"avx512_bf16": True}
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: capable)
    outputs, items = torch.randn(70, 32, requires_grad=True), torch.randn(500, 32)
    targets = torch.randint(1, 500, (70,))
    loss, rounded = (
        losses.next_item_softmax(outputs, items, targets, precision)
        for precision in ("highest", "medium")
    )
    assert rounded.item() == pytest.approx(loss.item(), rel=2e-3)
    exact, other = (torch.autograd.grad(value, outputs)[0] for value in (loss, rounded))
    assert (exact - other).norm() < 0.02 * exact.norm()


def test_a_cpu_without_them_multiplies_what_it_is_given(monkeypatch):
    monkeypatch.setattr(torch.cpu, "get_capabilities", dict)
    monkeypatch.setattr(losses, "matmul_precision", lambda wanted: contextlib.nullcontext())
    outputs, items = torch.randn(70, 32, requires_grad=True), torch.randn(500, 32)
    targets = torch.randint(1, 500, (70,))
    exact, other = (
        torch.autograd.grad(losses.next_item_softmax(outputs, items, targets, name), outputs)[0]
        for name in ("highest", "medium")
    )
    assert torch.equal(exact, other)


@pytest.mark.parametrize(
    ("device", "able", "faster"),
    [
        ("cpu", {"avx2": True, "avx512_bf16": False, "amx_bf16": False}, False),
        ("cpu", {"avx512_bf16": True, "amx_bf16": False}, True),
        ("cpu", {"neon": True, "bf16": True}, True),
        ("cpu", {"neon": True, "bf16": False}, False),
        ("cuda", {}, True),
    ],
)
def test_bfloat16_is_for_those_who_multiply_it_faster(monkeypatch, device, able, faster):
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: able)
    assert losses._multiplies_bfloat16(torch.device(device)) == faster


def test_a_precision_is_given_back_after_the_products():
    before = torch.get_float32_matmul_precision()
    with losses.matmul_precision("medium"):
        assert torch.get_float32_matmul_precision() == "medium"
    assert torch.get_float32_matmul_precision() == before


def test_elcm_of_two_opposite_centres_and_one_behaviour():
    centers = torch.tensor(
        [[2.0, 0.0], [-3.0, 0.0]]
    )  # unit: (1, 0) and (−1, 0), squared distance 4
    behaviours = torch.tensor([[0.0, 5.0]])  # squared distance 2 to both
    assert losses.elcm(behaviours, centers).item() == pytest.approx(-4 + 2, abs=1e-6)


def test_elcm_equals_its_double_sums():
    h, c = torch.randn(6, 5), torch.randn(4, 5)
    unit_h, unit_c = F.normalize(h, dim=1), F.normalize(c, dim=1)
    apart = sum(
        (unit_c[i] - unit_c[j]).square().sum() for i in range(4) for j in range(4) if i != j
    )
    pull = sum((unit_h[i] - unit_c[j]).square().sum() for i in range(6) for j in range(4))
    expected = -apart / (4 * 3) + pull / (6 * 4)
    torch.testing.assert_close(losses.elcm(h, c), expected)


def test_elcm_of_unit_centers_equals_its_double_sums_and_feels_their_lengths():
    h, c = torch.randn(6, 5), torch.randn(4, 5, requires_grad=True)
    unit_h = F.normalize(h, dim=1)
    apart = sum((c[i] - c[j]).square().sum() for i in range(4) for j in range(4))
    pull = sum((unit_h[i] - c[j]).square().sum() for i in range(6) for j in range(4))
    expected = -apart / (4 * 4) + pull / (6 * 4)
    found = losses.elcm_of_unit_centers(h, c)
    torch.testing.assert_close(found, expected)
    [gradient], [plain] = (torch.autograd.grad(loss, c) for loss in (found, expected))
    torch.testing.assert_close(gradient, plain)
    assert (gradient * c).sum(1).abs().max() > 0.01  # elcm's is at right angles to every centre


def test_intent_attraction_of_one_behaviour_between_two_centres():
    behaviours, centers = (
        torch.tensor([[4.0, 0.0]]),
        torch.tensor([[1.0, 0.0], [0.0, 1.0]]),
    )  # cosines 1 and 0
    shares = torch.tensor([0.25, 0.75])
    expected = -0.5 * math.log(math.exp(1 / 0.5) / 0.25 + math.exp(0) / 0.75)
    scores = losses.intent_scores(behaviours, centers, 0.5) - shares.log()
    loss = losses.intent_attraction(scores, 0.5)
    assert loss.item() == pytest.approx(expected, rel=1e-6)


def test_intent_attraction_moves_a_centre_towards_its_behaviour():
    centers = torch.tensor([[1.0, 0.0], [0.0, 1.0]], requires_grad=True)
    behaviours = torch.tensor([[1.0, 0.5]])
    losses.intent_attraction(losses.intent_scores(behaviours, centers, 0.1), 0.1).backward()
    moved = centers.detach() - 0.1 * centers.grad
    assert F.cosine_similarity(moved[0], behaviours[0], dim=0) > F.cosine_similarity(
        centers[0].detach(), behaviours[0], dim=0
    )


def test_info_nce_of_two_pairs():
    first, second = torch.tensor([[1.0], [2.0]]), torch.tensor([[3.0], [0.0]])
    # Row by row: the partner against the other three of the four rows.
    expected = (
        -(3 - math.log(math.exp(3) + math.exp(0) + math.exp(2)))
        - (0 - math.log(math.exp(0) + math.exp(6) + math.exp(2)))
        - (3 - math.log(math.exp(3) + math.exp(6) + math.exp(0)))
        - (0 - math.log(math.exp(0) + math.exp(0) + math.exp(0)))
    ) / 4
    assert losses.info_nce(first, second).item() == pytest.approx(expected, rel=1e-6)


def test_info_nce_leaves_out_pairs_marked_as_the_same():
    first, second = torch.randn(3, 4), torch.randn(3, 4)
    same = torch.tensor([[True, True, False], [True, True, False], [False, False, True]])
    kept = losses.info_nce(first[[0, 2]], second[[0, 2]])
    row = losses.info_nce(first, second, same=same)
    # User 0 of the masked batch sees what it sees when user 1 is not there.
    alone = losses.info_nce_of_similarities(
        first[[0, 2]] @ first[[0, 2]].T,
        second[[0, 2]] @ second[[0, 2]].T,
        first[[0, 2]] @ second[[0, 2]].T,
    )
    torch.testing.assert_close(kept, alone)
    assert row.isfinite()
    assert row < losses.info_nce(first, second)


def test_intent_contrast_of_two_users():
    behaviours, centers = torch.tensor([[1.0], [2.0]]), torch.tensor([[1.0], [-1.0]])
    expected = (
        math.log(math.exp(1) + math.exp(-1)) - 1 + math.log(math.exp(2) + math.exp(-2)) + 2
    ) / 2
    assert losses.intent_contrast(behaviours, centers).item() == pytest.approx(expected, rel=1e-6)


def test_intent_contrast_without_negatives_of_the_same_intent_is_nothing():
    behaviours, centers = torch.randn(3, 4), torch.randn(1, 4).expand(3, 4)
    same = torch.ones(3, 3, dtype=torch.bool)
    assert losses.intent_contrast(behaviours, centers, same=same).item() == pytest.approx(
        0, abs=1e-6
    )


def test_sampled_softmax_over_every_other_item_is_the_full_softmax():
    outputs, items = torch.randn(5, 3), torch.randn(4, 3)
    targets = torch.tensor([0, 1, 2, 3, 0])
    collisions = targets[:, None] == torch.arange(4)[None, :]
    sampled = losses.next_item_sampled_softmax(
        outputs, items[targets], items, collisions, torch.zeros(4)
    )
    torch.testing.assert_close(sampled, F.cross_entropy(outputs @ items.T, targets))
