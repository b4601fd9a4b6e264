"""Training: mini-batches of histories, the three losses together, early stopping, checkpoints."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from elcrec import losses
from elcrec.config import Config
from elcrec.details import Details, event_weights, read_details
from elcrec.errors import ELCRecError
from elcrec.evaluation import hit_rate_and_ndcg, padded, target_ranks
from elcrec.histories import Histories, leave_one_out, ragged_arange
from elcrec.model import Network
from elcrec.negatives import FrequentItems, UnseenItems
from elcrec.packing import Packed, pack
from elcrec.rows import RowAdam
from elcrec.views import View, random_view


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


@dataclass(frozen=True)
class Windows:
    """Stretches of histories to train on: window w predicts the events after its first.

    A history longer than L + 1 is cut into windows that overlap by half, and only the newer half of
    a later window is predicted, so that every event but the first is predicted once, from at least
    L/2 events before it.
    """

    starts: NDArray[np.int64]  # [W], into Histories.items
    lengths: NDArray[np.int64]  # [W], inputs and the last target: 2 … L + 1
    skipped: NDArray[np.int64]  # [W], leading positions that are not predicted here

    def __len__(self) -> int:
        return self.starts.size


def training_windows(histories: Histories, config: Config) -> Windows:
    """The windows of every history with at least two events."""
    L, lengths = config.max_length, histories.lengths
    users = np.flatnonzero(lengths >= 2)
    ends, lengths = histories.offsets[1:][users], lengths[users]
    if config.long_histories == "newest":
        kept = np.minimum(lengths, L + 1)
        return Windows(ends - kept, kept, np.zeros_like(kept))
    step = max(L // 2, 1)
    windows = 1 + np.maximum(-(-(lengths - (L + 1)) // step), 0)
    owner = np.repeat(np.arange(users.size), windows)
    place = ragged_arange(np.zeros_like(windows), windows)  # 0 is a history's oldest window
    end = np.minimum(L + 1 + place * step, lengths[owner])
    begin = np.maximum(end - (L + 1), 0)
    predicted_before = np.where(place > 0, L + 1 + (place - 1) * step, 1)
    return Windows(
        histories.offsets[users][owner] + begin, end - begin, predicted_before - begin - 1
    )


class Trainer:
    """Trains a network in place on all but the last two events of the histories held out.

    histories: users with at least three events. Of those held out `s_1 … s_{T−2}` is trained on and
        `s_{T−1}` validates; of the others the whole history is trained on.
    held_out: bool `[n]`, None for everybody.
    passes: into how many parts a batch is cut, of which one at a time is in memory.
    """

    def __init__(
        self,
        network: Network,
        histories: Histories,
        config: Config,
        warmup_epochs: int = 0,
        passes: int = 1,
        held_out: NDArray[np.bool_] | None = None,
    ) -> None:
        self.warmup_epochs = warmup_epochs
        self.passes = passes
        self.warming_up = False
        self.network = network
        self.config = config
        self.device = network.centers.device
        self.known = histories.drop_last(2, held_out)
        names = enumerate(histories.type_names, 1)
        self._target_types = [number for number, name in names if name in config.target_types]
        checked = np.arange(len(histories)) if held_out is None else np.flatnonzero(held_out)
        if config.target_types and histories.types is not None:
            asked = np.isin(histories.types[histories.offsets[1:] - 2], self._target_types)
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
        self.validation = leave_one_out(histories.take(checked), "validation")
        self.windows = training_windows(self.known, config)
        if not len(self.windows):
            raise ELCRecError(
                "no history has the four events it takes to train on: two, and two held out"
            )
        if config.next_item == "bce":
            had = self.known if config.held_out_negatives else histories
            self._unseen = UnseenItems(self.known, network.n_items, had)
        elif network.n_items > config.full_softmax_items:
            self._frequent = FrequentItems(self.known, network.n_items)
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
        self.steps = 0

    def epoch(self, number: int) -> dict[str, float]:
        """One pass over the windows, at most `epoch_windows` of them; mean losses by name."""
        # Seeded by epoch: training that goes on from a checkpoint draws what it would have drawn.
        rng = np.random.default_rng([self.config.seed, number])
        torch.manual_seed(int(rng.integers(2**62)))
        self.network.train()
        self.warming_up = number <= self.warmup_epochs
        order = rng.permutation(len(self.windows))[: self.config.epoch_windows]
        totals: dict[str, float] = {}
        batches = 0
        for first in range(0, order.size, self.config.batch_users):
            parts = self.step(order[first : first + self.config.batch_users], rng)
            batches += 1
            for name, value in parts.items():
                totals[name] = totals.get(name, 0.0) + value
        return {name: total / batches for name, total in totals.items()}

    def step(self, chosen: NDArray[np.int64], rng: np.random.Generator) -> dict[str, float]:
        """One optimiser step on the windows `chosen`; the losses by name."""
        values: dict[str, float] = {}
        self.optimizer.zero_grad(set_to_none=True)
        for part in np.array_split(chosen, min(self.passes, chosen.size)):
            share = part.size / chosen.size
            parts = self.losses(part, rng)
            for name, value in parts.items():
                values[name] = values.get(name, 0.0) + share * value.item()
            if not np.isfinite(sum(values.values())):
                raise ELCRecError(
                    f"a loss is not finite at step {self.steps}: {values}; lower learning_rate"
                )
            total = share * torch.stack(list(parts.values())).sum()
            total.backward()  # type: ignore[no-untyped-call]
        self.optimizer.step()
        self.steps += 1
        # Early averages follow the weights closely, so that the untrained start is forgotten.
        decay = min(self.config.average_decay, (1 + self.steps) / (10 + self.steps))
        if self.rows is not None:
            self.rows.step(decay)
        if self.average:
            weights = [self.network.get_parameter(name).detach() for name in self.average]
            torch._foreach_lerp_(list(self.average.values()), weights, 1 - decay)
        return values

    def losses(self, chosen: NDArray[np.int64], rng: np.random.Generator) -> dict[str, Tensor]:
        """Every loss of the config on the windows `chosen`, weighted, by name.

        While warming up all but the clustering's, without padding.
        """
        config, network = self.config, self.network
        starts, inputs = self.windows.starts[chosen], self.windows.lengths[chosen] - 1
        rows = ragged_arange(starts, inputs)
        items = self.known.items[rows]
        lengths = inputs
        details = None
        if self.padding:
            batch_items, batch_lengths = padded(items, lengths, config.max_length)
            batch = pack(batch_items, batch_lengths, config.max_length, self.device)
        else:
            details = read_details(config, self.known, rows, lengths, rng)
            batch = pack(items, lengths, config.max_length, self.device, details=details)
        # Looked up once: the gradient of a look-up costs as much as the whole table is large.
        embedded = network.items(batch.items)  # [N, d]
        outputs = network(batch, embedded)  # [N, d]

        skipped = self.windows.skipped[chosen]
        within = ragged_arange(np.zeros_like(inputs), inputs)
        predicted = within >= np.repeat(skipped, inputs)
        if config.target_types and self.known.types is not None:
            predicted &= np.isin(self.known.types[rows + 1], self._target_types)
        parts = {"next_item": self._next_item(batch, outputs, rows, lengths, predicted, rng)}
        contrasts = config.sequence_contrast_weight or config.intent_contrast_weight
        if self.warming_up and not contrasts:
            return parts
        behaviours = network.behaviours(batch, outputs, embedded)  # [B, d]
        views: Packed | None = None
        if contrasts:
            views, of_views = self._views(items, lengths, details, rng)
        if config.sequence_contrast_weight:
            assert views is not None
            parts["sequence_contrast"] = config.sequence_contrast_weight * self._sequence_contrast(
                views, of_views
            )
        if config.intent_loss == "elcm_published":
            # After the contrast of sequences, which the published code gives what a step left.
            with torch.no_grad():
                network.centers.copy_(F.normalize(network.centers, dim=-1))
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
    def padding(self) -> bool:
        """Whether a batch has item 0 wherever a history has no event."""
        return self.config.pooling == "padded_outputs" and not self.warming_up

    @torch.no_grad()
    def place_centers(self, centers: Tensor) -> None:
        """Put the intent centres, `[k, d]`, where training goes on from; in the average too."""
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
        # The memory spans about eight users an intent, enough to tell large from small.
        pace = min(1.0, behaviours.shape[0] / (8 * config.n_intents))
        network.shares.lerp_(scores.detach().softmax(1).mean(0), pace).clamp_(min=1e-6)
        return losses.intent_attraction(scores, temperature)

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
        return views, self.network(views)

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
        batch: Packed,
        outputs: Tensor,
        rows: NDArray[np.int64],
        lengths: NDArray[np.int64],
        predicted: NDArray[np.bool_],
        rng: np.random.Generator,
    ) -> Tensor:
        # Packing sorts sequences by length: where did each row of the caller's go?
        ends = np.cumsum(batch.lengths.cpu().numpy())[_inverse(batch.order)]
        where = ragged_arange(ends - lengths, lengths)[predicted]
        if not where.size:  # of the types that are asked for
            return outputs.sum() * 0.0
        targets = self.known.items[rows[predicted] + 1].astype(np.int64)
        states = outputs.index_select(0, torch.from_numpy(where).to(self.device))  # [M, d]
        target_items = torch.from_numpy(targets).to(self.device)
        weights: Tensor | None = None
        if self.config.weigh_targets and self.known.weights is not None:
            of_targets = event_weights(self.known.weights[rows[predicted] + 1])
            weights = torch.from_numpy(of_targets).to(self.device)
        if self.config.next_item == "bce":
            negatives = torch.from_numpy(self._unseen.draw(rows[predicted], rng)).to(self.device)
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
        items, log_expected = self._frequent.draw(self.config.negatives, rng)
        drawn = torch.from_numpy(items).to(self.device)
        return losses.next_item_sampled_softmax(
            states,
            self.network.items(target_items),
            self.network.items(drawn),
            target_items[:, None] == drawn[None, :],
            torch.from_numpy(log_expected).to(self.device),
            weights,
        )

    @torch.no_grad()
    def validate(self) -> tuple[dict[str, float], dict[str, Tensor]]:
        """Metrics on the validation split and the weights they belong to: the average, if kept."""
        averages = dict(self.average)
        if self.rows is not None and averages:
            averages["items.weight"] = self.rows.average()
        parameters: list[Tensor] = [self.network.get_parameter(name) for name in averages]
        trained = [p.detach().clone() for p in parameters]
        if averages:
            torch._foreach_copy_(parameters, list(averages.values()))
        self.network.eval()
        metrics = hit_rate_and_ndcg(target_ranks(self.network, self.validation), (5, 10, 20))
        state = {name: value.clone() for name, value in self.network.state_dict().items()}
        if averages:
            torch._foreach_copy_(parameters, trained)
        return metrics, state

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
            prefix = f"optimizer.{name}."
            moments = {
                key.removeprefix(prefix): t.to(parameter.device)
                for key, t in tensors.items()
                if key.startswith(prefix)
            }
            if moments:
                self.optimizer.state[parameter] = moments
        for name, average in self.average.items():
            average.copy_(tensors[f"average.{name}"])
        if self.rows is not None:
            for name, value in self.rows.state.items():
                value.copy_(tensors[f"rows.{name}"])


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
