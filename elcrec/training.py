"""Training: mini-batches of histories, the three losses together, early stopping, checkpoints."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from elcrec import checkpoint, losses
from elcrec.batches import Batches, Inputs
from elcrec.config import Config
from elcrec.details import Details, event_weights, is_of
from elcrec.devices import to_device
from elcrec.distributed import ALONE, Ranks
from elcrec.errors import ELCRecError
from elcrec.evaluation import hit_rate_and_ndcg, target_ranks
from elcrec.histories import Histories, leave_one_out, ragged_arange
from elcrec.model import Network
from elcrec.negatives import FrequentItems, UnseenItems
from elcrec.packing import Packed, pack
from elcrec.parts import Part, cut
from elcrec.rows import RowAdam
from elcrec.views import View, random_view
from elcrec.windows import drawn_together, drawn_windows

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class EpochReport:
    """What one epoch did: mean losses, validation metrics, and the time it and the rest take."""

    epoch: int  # from 1
    max_epochs: int
    losses: dict[str, float]
    metrics: dict[str, float]
    best_epoch: int
    seconds: float
    seconds_left: float  # at most, if training runs to max_epochs


LOSSES = ("next_item", "sequence_contrast", "clustering", "intent_contrast")
# Losses by name: numbers, or float64 tensors on a GPU that is not waited for.
Values = dict[str, "float | Tensor"]
LOOK_EVERY = 50  # steps, on a GPU


def batch_size(config: Config, device: torch.device) -> int:
    """Windows a step, of all processes together."""
    on_gpu = device.type == "cuda" and config.gpu_batch_users
    return config.gpu_batch_users if on_gpu else config.batch_users


@dataclass(frozen=True)
class Batch:
    """How large a step's batch is, of all ranks together."""

    windows: int
    weight: float  # of the positions that are predicted: how many, unless they are weighed
    everywhere: bool  # whether every rank has some of it


class Trainer:
    """Trains a network in place on all but the last two events of the histories held out.

    histories: users with at least three events. Of those held out `s_1 … s_{T−2}` is trained on and
        `s_{T−1}` validates; of the others the whole history is trained on. None on a rank that does
        not lead: it gets its part from the one that does.
    held_out: bool `[n]`, None for everybody.
    passes: into how many parts a batch is cut, of which one at a time is in memory.
    ranks: the processes that train together. Where there are several, each makes the gradients of
        its windows of a batch, all take the step of the whole batch, and so all have the same
        weights.
    """

    def __init__(
        self,
        network: Network,
        histories: Histories | None,
        config: Config,
        warmup_epochs: int = 0,
        passes: int = 1,
        held_out: NDArray[np.bool_] | None = None,
        ranks: Ranks = ALONE,
    ) -> None:
        self.ranks = ranks
        self.warmup_epochs = warmup_epochs
        self.passes = passes
        self.warming_up = False
        self.network = network
        self.config = config
        self.device = network.centers.device
        if histories is None:
            part = Part.of_arrays(ranks.receive())
        else:
            whole = self._learnable(histories, held_out)
            self.all_known = whole.known
            part = whole
            if ranks.size > 1:
                part, *others = cut(whole, config, ranks.size)
                for rank, other in enumerate(others, start=1):
                    ranks.send(other.arrays(), rank)
        self.known, self.validation = part.known, part.validation
        self.batches = Batches(self.known, config, self.device)
        self.windows = self.batches.windows
        # How many windows each rank has, int64 [ranks].
        self._all_windows = ranks.gather(torch.tensor([len(self.windows)])).numpy()
        if not self._all_windows.sum():
            raise ELCRecError(
                "no history has the four events it takes to train on: two, and two held out"
            )
        if part.had is not None:
            self._unseen = UnseenItems(self.known, network.n_items, part.had)
        elif part.frequencies is not None:
            self._frequent = FrequentItems(part.frequencies)
        self.rows: RowAdam | None = None
        if config.next_item == "softmax" and network.n_items > config.full_softmax_items:
            # A step needs few rows of such a table, so it reads and writes no others.
            averaged = config.average_decay > 0
            self.rows = RowAdam(network.items, config.learning_rate, averaged)
        dense = {
            name: parameter
            for name, parameter in network.named_parameters()
            if self.rows is None or parameter is not self.rows.weight
        }
        groups: list[dict[str, Any]] = [
            {"params": [p for p in dense.values() if p is not network.centers]},
            {"params": [network.centers], "lr": config.center_learning_rate},
        ]
        self.optimizer = torch.optim.AdamW(
            groups,
            lr=config.learning_rate,
            weight_decay=config.weight_decay,
            fused=True,
        )
        self.average = (
            {name: p.detach().clone() for name, p in dense.items()} if config.average_decay else {}
        )
        # What the warm-up ended with, by name, where the kept weights are to have a share of it.
        self.warmed_up: dict[str, Tensor] = {}
        self.steps = 0
        # Whose gradients are sparse, and what share of a batch's users each intent has just had.
        self._table = None if self.rows is None else self.rows.weight
        self._assigned = torch.zeros_like(network.shares)
        # A GPU goes on while this process makes the next step ready: it is asked for few numbers.
        self.ahead = self.device.type == "cuda"
        self.look_every = LOOK_EVERY if self.ahead else 1
        self.in_bfloat16 = self.ahead and config.encoder_precision == "bfloat16"

    def _learnable(self, histories: Histories, held_out: NDArray[np.bool_] | None) -> Part:
        """What there is to learn from all histories."""
        config, n_items = self.config, self.network.n_items
        known = histories.drop_last(2, held_out)
        checked = np.arange(len(histories)) if held_out is None else np.flatnonzero(held_out)
        if config.target_types and histories.types is not None:
            asked = is_of(histories, config.target_types, histories.offsets[1:] - 2)
            checked = checked[asked[checked]]
            if not checked.size:
                raise ELCRecError(
                    "no user who is held out has an event of target_types next to the newest, so "
                    "nothing can validate what is learned"
                )
        if not checked.size:
            raise ELCRecError("no user is held out, so nothing can validate what is learned")
        if checked.size > config.validation_users:
            rng = np.random.default_rng(config.seed)
            checked = np.sort(rng.choice(checked, config.validation_users, replace=False))
        validation = leave_one_out(histories.take(checked), "validation")
        had = frequencies = None
        if config.next_item == "bce":
            had = known if config.held_out_negatives else histories
        elif n_items > config.full_softmax_items:
            frequencies = np.bincount(known.items, minlength=n_items + 1)
        return Part(known, validation, had, frequencies)

    def epoch(self, number: int) -> dict[str, float]:
        """One pass over the windows, at most `epoch_windows` of them; mean losses by name."""
        self.ranks.announce("epoch", number=number)
        if self.ranks.size > 1:
            return self._epoch_of_all(number)
        # Seeded by epoch: training that goes on from a checkpoint draws what it would have drawn.
        rng = np.random.default_rng([self.config.seed, number])
        torch.manual_seed(int(rng.integers(2**62)))
        self.network.train()
        self.warming_up = number <= self.warmup_epochs
        order = rng.permutation(len(self.windows))[: self.config.epoch_windows]
        size = batch_size(self.config, self.device)
        batches = [order[first : first + size] for first in range(0, order.size, size)]
        totals: Values = {}
        for place, chosen in enumerate(batches):
            self._read_ahead(batches, place)
            for name, value in self.step(chosen, rng).items():
                totals[name] = totals.get(name, 0.0) + value
        return self._means(totals, len(batches))

    def _read_ahead(self, batches: list[NDArray[np.int64]], place: int) -> None:
        """Begin to read the next batch, where a GPU has this one's step to do meanwhile."""
        if self.ahead and self.passes == 1:
            for chosen in batches[place + 1 : place + 2]:
                self.batches.read_ahead(chosen, self.padding)

    def _means(self, totals: Values, steps: int) -> dict[str, float]:
        means = {name: float(total) / steps for name, total in totals.items()}
        if not np.isfinite(sum(means.values())):
            raise self._not_finite(means)
        return means

    def _epoch_of_all(self, number: int) -> dict[str, float]:
        """`epoch`, of which this rank does its part."""
        ranks = self.ranks
        size = batch_size(self.config, self.device)
        batches, rng = drawn_windows(self.config, size, number, self._all_windows, ranks.rank)
        torch.manual_seed(int(rng.integers(2**62)))
        self.network.train()
        self.warming_up = number <= self.warmup_epochs
        totals: Values = {}
        wholes = self._whole_batches(batches)
        together = drawn_together(self.config, number, ranks.size, len(batches))
        for place, (chosen, whole, shared) in enumerate(
            zip(batches, wholes, together, strict=True)
        ):
            self._read_ahead(batches, place)
            for name, value in self._step_of_all(chosen, rng, shared, whole).items():
                totals[name] = totals.get(name, 0.0) + value
        self._agree()
        return self._means(totals, len(batches))

    def _agree(self) -> None:
        """Give all ranks the state of the one that leads, where theirs is another.

        It is not, to the bit, on processors of one kind. Others round differently, and what is
        added up for long drifts apart.
        """
        state = self.state()
        own = sum(_checksum(state[name]) * place for place, name in enumerate(sorted(state), 1))
        sums = self.ranks.gather(torch.tensor([own % 2**62]))
        if (sums != sums[0]).any():
            log.warning("training processes round differently: all go on with rank 0's weights")
            self._take_over(state)

    def _whole_batches(self, batches: list[NDArray[np.int64]]) -> list[Batch]:
        """What all ranks together have of the batches of which this one has the windows given."""
        own = [[chosen.size, self.batches.weight(chosen), chosen.size > 0] for chosen in batches]
        sums = self.ranks.sum(torch.tensor(own, dtype=torch.float64)).tolist()
        return [Batch(int(w), weight, ranks == self.ranks.size) for w, weight, ranks in sums]

    def _step_of_all(
        self,
        chosen: NDArray[np.int64],
        rng: np.random.Generator,
        shared: np.random.Generator,
        whole: Batch,
    ) -> Values:
        """One optimiser step on a batch of which this rank has the windows `chosen`, maybe none.

        rng: of this rank; shared: alike on all ranks.

        Each loss is a mean, of the predicted positions or of the windows. So a part's gradient
        counts by its share of those of the whole batch, and the sum over ranks is the batch's.
        """
        values = torch.zeros(len(LOSSES), device=self.device)
        assigned = torch.zeros_like(self.network.shares)
        self.optimizer.zero_grad(set_to_none=True)
        if not chosen.size and not self.warming_up:
            self._publish_centers()  # as `losses` does where there is some of the batch
        for part in np.array_split(chosen, min(self.passes, max(chosen.size, 1))):
            if not part.size:
                break
            of_windows = part.size / whole.windows
            of_positions = self.batches.weight(part) / whole.weight if whole.weight else 0.0
            parts = self.losses(part, rng, shared)
            shares = dict.fromkeys(parts, of_windows) | {"next_item": of_positions}
            total = torch.stack([shares[name] * value for name, value in parts.items()])
            total.sum().backward()  # type: ignore[no-untyped-call]
            places = [LOSSES.index(name) for name in parts]
            values[places] += total.detach()
            assigned += of_windows * self._assigned
        parameters = [p for p in self.network.parameters() if p is not self._table]
        sums = self.ranks.sum_gradients(
            parameters, self._table, torch.cat([values, assigned]), whole.everywhere
        )
        found, assigned = sums[: len(LOSSES)], sums[len(LOSSES) :]
        active = self.active
        named = {
            name: self._read(value)
            for name, value in zip(LOSSES, found, strict=True)
            if name in active
        }
        self._check(named)
        if "clustering" in named and self.config.intent_loss == "attraction":
            self._move_shares(assigned, whole.windows)
        self._update()
        return named

    def step(self, chosen: NDArray[np.int64], rng: np.random.Generator) -> Values:
        """One optimiser step on the windows `chosen`; the losses by name."""
        values: Values = {}
        self.optimizer.zero_grad(set_to_none=True)
        for part in np.array_split(chosen, min(self.passes, chosen.size)):
            share = part.size / chosen.size
            parts = self.losses(part, rng)
            for name, value in parts.items():
                values[name] = values.get(name, 0.0) + share * self._read(value)
            self._check(values)
            total = share * torch.stack(list(parts.values())).sum()
            total.backward()  # type: ignore[no-untyped-call]
        self._update()
        return values

    def _read(self, value: Tensor) -> float | Tensor:
        """A loss as a number, which waits until a GPU has it, or to be read later."""
        return value.item() if self.look_every == 1 else value.detach().double()

    def _check(self, values: Values) -> None:
        """Raise ELCRecError for a loss that is not finite, in one of `look_every` steps."""
        if self.steps % self.look_every == 0:
            found = {name: float(value) for name, value in values.items()}
            if not np.isfinite(sum(found.values())):
                raise self._not_finite(found)

    def _not_finite(self, values: dict[str, float]) -> ELCRecError:
        # A GPU that no longer waits for a process which has ended gives no numbers, either.
        self.ranks.sum(torch.zeros(1))
        return ELCRecError(
            f"a loss is not finite at step {self.steps}: {values}; lower learning_rate"
        )

    def _update(self) -> None:
        """Let the optimiser use the gradients, and the average follow the weights."""
        self.optimizer.step()
        self.steps += 1
        # Early averages follow the weights closely, so that the untrained start is forgotten.
        decay = min(self.config.average_decay, (1 + self.steps) / (10 + self.steps))
        if self.rows is not None:
            self.rows.step(decay)
        if self.average:
            weights = [self.network.get_parameter(name).detach() for name in self.average]
            torch._foreach_lerp_(list(self.average.values()), weights, 1 - decay)

    def losses(
        self,
        chosen: NDArray[np.int64],
        rng: np.random.Generator,
        shared: np.random.Generator | None = None,
    ) -> dict[str, Tensor]:
        """Every loss of the config on the windows `chosen`, weighted, by name.

        While warming up all but the clustering's, without padding.

        shared: draws what all ranks share, by default as `rng`.
        """
        config, network = self.config, self.network
        inputs = self.batches.read(chosen, self.padding, rng)
        batch = inputs.packed
        # Looked up once: the gradient of a look-up costs as much as the whole table is large.
        embedded = network.items(batch.items)  # [N, d]
        outputs = self._encode(batch, embedded)  # [N, d]

        parts = {"next_item": self._next_item(inputs, outputs, rng, shared or rng)}
        contrasts = config.sequence_contrast_weight or config.intent_contrast_weight
        if self.warming_up and not contrasts:
            return parts
        behaviours = network.behaviours(batch, outputs, embedded)  # [B, d]
        views: Packed | None = None
        if contrasts:
            views, of_views = self._views(inputs.items, inputs.lengths, inputs.details, rng)
        if config.sequence_contrast_weight:
            assert views is not None
            parts["sequence_contrast"] = config.sequence_contrast_weight * self._sequence_contrast(
                views, of_views
            )
        # After the contrast of sequences, which the published code gives what a step left.
        self._publish_centers()
        if config.intent_loss != "none" and not self.warming_up:
            parts["clustering"] = config.intent_loss_weight * self.clustering(behaviours)
        if config.intent_contrast_weight:
            assert views is not None
            intents = network.nearest_centers(behaviours)[torch.from_numpy(_inverse(batch.order))]
            parts["intent_contrast"] = config.intent_contrast_weight * self._intent_contrast(
                views, of_views, intents
            )
        return parts

    @property
    def active(self) -> set[str]:
        """The names of the losses that `losses` gives."""
        config = self.config
        asked = {
            "next_item": True,
            "sequence_contrast": config.sequence_contrast_weight > 0,
            "clustering": config.intent_loss != "none" and not self.warming_up,
            "intent_contrast": config.intent_contrast_weight > 0,
        }
        return {name for name, yes in asked.items() if yes}

    @torch.no_grad()
    def _publish_centers(self) -> None:
        """Make the centres of unit length, where the published clustering loss is asked for."""
        if self.config.intent_loss == "elcm_published":
            centers = self.network.centers
            centers.copy_(F.normalize(centers, dim=-1))

    def _encode(self, batch: Packed, embedded: Tensor | None = None) -> Tensor:
        """The network's outputs in float32, `[N, d]`."""
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.in_bfloat16):
            outputs: Tensor = self.network(batch, embedded)
        return outputs.float()

    @property
    def padding(self) -> bool:
        """Whether a batch has item 0 wherever a history has no event."""
        return self.config.pooling == "padded_outputs" and not self.warming_up

    @torch.no_grad()
    def place_centers(self, centers: Tensor | None) -> None:
        """Put the intent centres, `[k, d]`, where training goes on from; in the average too.

        centers: None on a rank that does not lead, which gets them from the one that does.
        """
        self.ranks.announce("place_centers")
        given = None if centers is None else {"centers": centers}
        centers = self.ranks.broadcast(given)["centers"]
        self.network.centers.copy_(centers)
        if self.average:
            self.average["centers"].copy_(centers)

    def clustering(self, behaviours: Tensor) -> Tensor:
        """Loss 2 as the config has it: `[B, d]` to a scalar. Moves the intents' running shares."""
        config, network = self.config, self.network
        if config.intent_loss_moves == "centers":
            behaviours = behaviours.detach()
        if config.intent_loss == "elcm":
            return losses.elcm(behaviours, network.centers)
        if config.intent_loss == "elcm_published":
            return losses.elcm_of_unit_centers(behaviours, network.centers)
        temperature = config.intent_temperature
        log_shares = config.intent_balance * network.shares.log()
        scores = losses.intent_scores(behaviours, network.centers, temperature) - log_shares
        self._assigned = scores.detach().softmax(1).mean(0)  # [k]
        if self.ranks.size == 1:
            self._move_shares(self._assigned, behaviours.shape[0])
        return losses.intent_attraction(scores, temperature)

    def _move_shares(self, assigned: Tensor, users: int) -> None:
        """Let the intents' running shares follow those of so many users, `[k]`."""
        # The memory spans about eight users an intent, enough to tell large from small.
        pace = min(1.0, users / (8 * self.config.n_intents))
        self.network.shares.lerp_(assigned, pace).clamp_(min=1e-6)

    def _views(
        self,
        items: NDArray[np.int32],
        lengths: NDArray[np.int64],
        details: Details | None,
        rng: np.random.Generator,
    ) -> tuple[Packed, Tensor]:
        """Two augmented views of every history, `2B` sequences, and the encoder's outputs of them.

        One pass gives what both contrasts need; the published code makes one for each, which
        differ in their dropout alone.
        """
        both = [random_view(items, lengths, self.config, rng) for _ in range(2)]
        if self.padding:
            both = [padded_view(view, self.config.max_length) for view in both]
        views = pack(
            np.concatenate([v.items for v in both]),
            np.concatenate([v.lengths for v in both]),
            self.config.max_length,
            self.device,
            np.concatenate([v.positions for v in both]),
            details and details.take(np.concatenate([v.rows for v in both])),
        )
        return views, self._encode(views)

    def _sequence_contrast(self, views: Packed, outputs: Tensor) -> Tensor:
        """Loss 3a."""
        similarities = sequence_similarities(self.network.fuse(outputs), views)  # [2B, 2B]
        B = views.lengths.numel() // 2
        return losses.info_nce_of_similarities(
            similarities[:B, :B],
            similarities[B:, B:],
            similarities[:B, B:],
            self.config.contrast_temperature,
        )

    def _intent_contrast(self, views: Packed, outputs: Tensor, intents: Tensor) -> Tensor:
        """Loss 3b; intents: int64 `[B]`."""
        config, network = self.config, self.network
        h = network.behaviours(views, outputs)[torch.from_numpy(_inverse(views.order))]  # [2B, d]
        own = network.centers[intents]  # [B, d]
        if config.intent_loss != "elcm_published":
            own = F.normalize(own, dim=-1)
        same = intents[:, None] == intents[None, :] if config.mask_same_intent else None
        contrast = (
            losses.intent_contrast
            if config.intent_contrast_negatives == "centers"
            else losses.info_nce
        )
        contrasts = [
            contrast(view, own, config.contrast_temperature, same)
            for view in (h[: intents.numel()], h[intents.numel() :])
        ]
        return torch.stack(contrasts).mean()

    def _next_item(
        self,
        inputs: Inputs,
        outputs: Tensor,
        rng: np.random.Generator,
        shared: np.random.Generator,
    ) -> Tensor:
        rows, lengths, predicted = inputs.rows, inputs.lengths, inputs.predicted
        # Packing sorts sequences by length: where did each row of the caller's go?
        order = inputs.packed.order
        ends = np.cumsum(inputs.packed_lengths[order])[_inverse(order)]
        where = ragged_arange(ends - lengths, lengths)[predicted]
        if not where.size:  # of the types that are asked for
            return outputs.sum() * 0.0
        targets = self.known.items[rows[predicted] + 1].astype(np.int64)
        states = outputs.index_select(0, to_device(where, self.device))  # [M, d]
        target_items = to_device(targets, self.device)
        weights: Tensor | None = None
        if self.config.weigh_targets and self.known.weights is not None:
            of_targets = event_weights(self.known.weights[rows[predicted] + 1])
            weights = to_device(of_targets, self.device)
        if self.config.next_item == "bce":
            negatives = to_device(self._unseen.draw(rows[predicted], rng), self.device)
            return losses.next_item_bce(
                states, self.network.items(target_items), self.network.items(negatives), weights
            )
        if self.network.n_items <= self.config.full_softmax_items:
            return losses.next_item_softmax(
                states,
                self.network.items.weight,
                target_items,
                self.config.softmax_precision,
                weights,
            )
        items, log_expected = self._frequent.draw(self.config.negatives, shared)
        drawn = to_device(items, self.device)
        return losses.next_item_sampled_softmax(
            states,
            self.network.items(target_items),
            self.network.items(drawn),
            target_items[:, None] == drawn[None, :],
            to_device(log_expected, self.device),
            weights,
        )

    @torch.no_grad()
    def validate(self) -> tuple[dict[str, float], dict[str, Tensor]]:
        """Metrics on the validation split and the weights they belong to: the average, if kept.

        A rank that does not lead gets no weights: nobody asks it for them.
        """
        self.ranks.announce("validate")
        kept = self._kept()
        parameters: list[Tensor] = [self.network.get_parameter(name) for name in kept]
        trained = [p.detach().clone() for p in parameters]
        if kept:
            torch._foreach_copy_(parameters, list(kept.values()))
        self.network.eval()
        of_targets = torch.from_numpy(target_ranks(self.network, self.validation))
        metrics = hit_rate_and_ndcg(self.ranks.gather(of_targets).numpy(), (5, 10, 20))
        state: dict[str, Tensor] = {}
        if self.ranks.leads:
            state = {name: value.clone() for name, value in self.network.state_dict().items()}
        if kept:
            torch._foreach_copy_(parameters, trained)
        return metrics, state

    def _kept(self) -> dict[str, Tensor]:
        """The weights of an epoch that are kept, by name, where they are not those it trained."""
        kept = dict(self.average)
        if self.rows is not None and kept:
            kept["items.weight"] = self.rows.average()
        share = self.config.warmup_share
        if not share:
            return kept
        kept = kept or {name: p.detach() for name, p in self.network.named_parameters()}
        if self.warming_up:
            self.warmed_up = {name: value.clone() for name, value in kept.items()}
        return {
            name: value.lerp(self.warmed_up.get(name, value), share) for name, value in kept.items()
        }

    def state(self) -> dict[str, Tensor]:
        """Everything the next epoch depends on, by name."""
        tensors: dict[str, Tensor] = {
            "steps": torch.tensor(self.steps),
            "shares": self.network.shares,
        }
        for name, parameter in self.network.named_parameters():
            tensors[f"weight.{name}"] = parameter.detach()
            for key, value in self.optimizer.state.get(parameter, {}).items():
                tensors[f"optimizer.{name}.{key}"] = value
        tensors |= {f"average.{name}": value for name, value in self.average.items()}
        tensors |= {f"warmed_up.{name}": value for name, value in self.warmed_up.items()}
        if self.rows is not None:
            tensors |= {f"rows.{name}": value for name, value in self.rows.state.items()}
        return tensors

    @torch.no_grad()
    def restore(self, tensors: dict[str, Tensor]) -> None:
        """Go on from what `state` gave."""
        self.steps = int(tensors["steps"])
        self.network.shares.copy_(tensors["shares"])
        for name, parameter in self.network.named_parameters():
            parameter.copy_(tensors[f"weight.{name}"])
            moments = {
                key: value.to(parameter.device)
                for key, value in checkpoint.under(tensors, f"optimizer.{name}.").items()
            }
            if moments:
                self.optimizer.state[parameter] = moments
        for name, average in self.average.items():
            average.copy_(tensors[f"average.{name}"])
        self.warmed_up = {
            name: value.to(self.device)
            for name, value in checkpoint.under(tensors, "warmed_up.").items()
        }
        if self.rows is not None:
            for name, value in self.rows.state.items():
                value.copy_(tensors[f"rows.{name}"])

    def share(self, passes: int | None = None) -> None:
        """Give all ranks the state of the one that leads.

        passes: into how many parts to cut batches, on a rank that does not lead.
        """
        if self.ranks.size == 1:
            return
        self.ranks.announce("share", passes=self.passes)
        if passes is not None:
            self.passes = passes
        self._take_over(self.state())

    def _take_over(self, state: dict[str, Tensor]) -> None:
        """On all ranks the `state` of the one that leads."""
        given = self.ranks.broadcast(state if self.ranks.leads else None)
        if not self.ranks.leads:
            self.restore(given)


def _checksum(values: Tensor) -> int:
    """Of the bits of a float32 or integer tensor."""
    bits = values.detach().reshape(-1)
    whole = bits.view(torch.int32) if bits.element_size() == 4 else bits.view(torch.int64)
    return int(whole.sum(dtype=torch.int64))


def out_of_memory(error: BaseException) -> bool:
    """Whether Python or torch, on a GPU or a CPU, found no memory."""
    known = isinstance(error, MemoryError | torch.OutOfMemoryError)
    # On a CPU torch has no error of its own for it.
    return known or (isinstance(error, RuntimeError) and "DefaultCPUAllocator" in str(error))


def _inverse(permutation: NDArray[np.int64]) -> NDArray[np.int64]:
    inverse = np.empty_like(permutation)
    inverse[permutation] = np.arange(permutation.size)
    return inverse


def padded_view(view: View, width: int) -> View:
    """A view with item 0 at every position of `width` that it has no event at."""
    full = np.zeros((view.lengths.size, width), view.items.dtype)
    full[np.repeat(np.arange(view.lengths.size), view.lengths), view.positions] = view.items
    lengths = np.full(view.lengths.size, width, np.int64)
    return View(full.ravel(), view.rows, ragged_arange(np.zeros_like(lengths), lengths), lengths)


def sequence_similarities(rows: Tensor, batch: Packed) -> Tensor:
    """Dot products of sequences flattened over positions, `[B, B]` in the caller's order.

    rows: `[N, d]`. A position counts where both sequences have an event. Sequences are aligned
    right, so few reach far back: positions are taken in stretches that double in length, each with
    only the sequences that reach it.
    """
    count, d = batch.lengths.numel(), rows.shape[1]
    newest = int(batch.positions.max()) + 1
    age = newest - 1 - batch.positions  # [N], 0 is the newest
    reach = torch.zeros(count, dtype=torch.long, device=rows.device).scatter_reduce_(
        0, batch.owners, age, "amax"
    )
    by_reach = reach.argsort(descending=True)
    place = torch.empty_like(by_reach)
    place[by_reach] = torch.arange(count, device=rows.device)
    similarities = rows.new_zeros(count, count)
    low, high = 0, 4
    while low < newest:
        inside = ((age >= low) & (age < high)).nonzero().squeeze(1)
        reaching = int((reach >= low).sum())
        width = min(high, newest) - low
        cells = place[batch.owners[inside]] * width + age[inside] - low
        flat = rows.new_zeros(reaching * width, d).index_copy(
            0, cells, rows.index_select(0, inside)
        )
        flat = flat.view(reaching, width * d)
        rest = count - reaching
        similarities = similarities + F.pad(flat @ flat.T, (0, rest, 0, rest))
        low, high = high, 2 * high
    where = place[torch.from_numpy(_inverse(batch.order)).to(rows.device)]
    return similarities[where][:, where]
