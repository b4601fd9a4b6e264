"""The network: SASRec's encoder, the intent centres, and what is read off both.

Shapes: N packed events, B sequences, V items, L positions, d width, h heads, k intents.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from elcrec import losses
from elcrec.config import Config
from elcrec.details import TIMES
from elcrec.packing import Group, Packed

# What the published code adds to the score of a key that must not be seen: large enough to hide it,
# and, unlike -inf, harmless in a row that hides every key.
HIDDEN = -10_000.0


def _by_distance(bias: Tensor, distance: Tensor) -> Tensor:
    """The bias of each distance, an event's own newer ones hidden: `[h, L]` to `[h, *distance]`."""
    return bias[:, distance.clamp(min=0)].masked_fill(distance < 0, HIDDEN)


def dropout(x: Tensor, share: float, training: bool) -> Tensor:
    """`F.dropout`, which on a CPU draws from Bernoulli four times slower than from uniform."""
    if not training or not share or x.device.type != "cpu":
        return F.dropout(x, share, training)
    return x * torch.rand_like(x).ge_(share).div_(1 - share)


class Dropout(nn.Dropout):
    """`nn.Dropout` by `dropout`."""

    def forward(self, x: Tensor) -> Tensor:
        """Any shape to the same."""
        return dropout(x, self.p, self.training)


class Attention(nn.Module):
    """Causal multi-head self-attention with a post-LayerNorm residual."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        d = config.dim
        self.heads = config.heads
        self.dropout = config.attention_dropout
        self.query_key_value = nn.Linear(d, 3 * d)
        self.output = nn.Linear(d, d)
        self.norm = nn.LayerNorm(d, eps=config.norm_eps)
        self.output_dropout = Dropout(config.dropout)

    def forward(self, x: Tensor, groups: tuple[Group, ...], masks: list[Tensor]) -> Tensor:
        """`[N, d]` to `[N, d]`; a mask a group is added to its scores."""
        qkv = self.query_key_value(x)  # [N, 3d]
        mixed = [
            self._attend(qkv[g.tokens], g, mask) for g, mask in zip(groups, masks, strict=True)
        ]
        attended = mixed[0] if len(mixed) == 1 else torch.cat(mixed)  # [N, d]
        joined: Tensor = self.norm(x + self.output_dropout(self.output(attended)))
        return joined

    def newest(
        self, newest: Tensor, cells: list[Tensor], groups: tuple[Group, ...], masks: list[Tensor]
    ) -> Tensor:
        """What `forward` gives for each sequence's newest row alone, `[B, d]` to `[B, d]`.

        cells: the rows of each group, `[count, width, d]`.

        One row asks, so keys and values of the others need not be made: by associativity the query
        goes through the keys' weights, and what was seen through the values'. The keys' bias adds
        the same to every score, which a softmax does not see.
        """
        d, h = newest.shape[1], self.heads
        to_queries, to_keys, to_values = self.query_key_value.weight.chunk(3)
        queries_bias, _, values_bias = self.query_key_value.bias.chunk(3)
        queries = F.linear(newest, to_queries, queries_bias).view(-1, h, d // h)
        asked = queries.transpose(0, 1) @ to_keys.view(h, d // h, d)  # [h, B, d]
        asked = asked.transpose(0, 1) / math.sqrt(d // h)
        seen = []
        for g, rows, mask in zip(groups, cells, masks, strict=True):
            scores = asked[g.sequences] @ rows.transpose(1, 2) + mask  # [count, h, width]
            seen.append(scores.softmax(-1) @ rows)  # [count, h, d]
        values = torch.cat(seen).transpose(0, 1) @ to_values.view(h, d // h, d).transpose(1, 2)
        attended = values.transpose(0, 1).reshape(-1, d) + values_bias  # [B, d]
        joined: Tensor = self.norm(newest + self.output(attended))
        return joined

    def _attend(self, qkv: Tensor, group: Group, mask: Tensor) -> Tensor:
        d = qkv.shape[1] // 3
        cells = qkv.index_select(0, group.rectangle)  # [count * width, 3d]
        q, k, v = cells.view(group.count, group.width, 3, self.heads, d // self.heads).permute(
            2, 0, 3, 1, 4
        )
        scores = (
            q @ k.transpose(-1, -2) / math.sqrt(d // self.heads) + mask
        )  # [count, h, width, width]
        weights = dropout(scores.softmax(-1), self.dropout, self.training)
        mixed = (weights @ v).transpose(1, 2).reshape(group.count * group.width, d)
        rows: Tensor = mixed.index_select(0, group.cells)  # [rows, d]
        return rows


class LowPass(nn.Module):
    """A learned low-pass filter over a user's events, with a post-LayerNorm residual.

    Attention alone smooths histories too little or too much; BSARec (AAAI 2024) mixes it with
    a filter in the frequency domain: `low + β²·(x − low)`. This one is causal, so that a history
    trains as all its prefixes at once: `low` is a mean of the events so far, weighted by how long
    ago they were, with weights that are learned for each group of d / filters columns.
    """

    def __init__(self, config: Config) -> None:
        super().__init__()
        d = config.dim
        self.filters = config.filters
        self.distance_bias = nn.Parameter(torch.zeros(config.filters, config.max_length))
        self.high = nn.Parameter(torch.randn(d))  # β
        self.norm = nn.LayerNorm(d, eps=config.norm_eps)
        self.dropout = Dropout(config.dropout)

    def forward(self, x: Tensor, groups: tuple[Group, ...]) -> Tensor:
        """`[N, d]` to `[N, d]`."""
        smoothed = [self._smooth(x[g.tokens], g) for g in groups]
        low = smoothed[0] if len(smoothed) == 1 else torch.cat(smoothed)  # [N, d]
        joined: Tensor = self.norm(x + self.dropout(low + self.high.square() * (x - low)))
        return joined

    def newest(self, newest: Tensor, cells: list[Tensor], groups: tuple[Group, ...]) -> Tensor:
        """What `forward` gives for each sequence's newest row alone, `[B, d]` to `[B, d]`.

        cells: the rows of each group, `[count, width, d]`.
        """
        d, f = newest.shape[1], self.filters
        smoothed = []
        for g, rows in zip(groups, cells, strict=True):
            weights = _by_distance(self.distance_bias, g.ages()).softmax(-1)  # [f, count, width]
            columns = rows.view(g.count, g.width, f, d // f)
            # Histories are short: so many small products of matrices take three times as long.
            smoothed.append((columns * weights.permute(1, 2, 0).unsqueeze(-1)).sum(1))
        low = torch.cat(smoothed).view(-1, d)
        joined: Tensor = self.norm(newest + low + self.high.square() * (newest - low))
        return joined

    def _smooth(self, x: Tensor, group: Group) -> Tensor:
        d, f = x.shape[1], self.filters
        steps = torch.arange(group.width, device=x.device)
        bias = _by_distance(self.distance_bias, steps[:, None] - steps)  # [f, width, width]
        cells = x.index_select(0, group.rectangle).view(group.count, group.width, f, d // f)
        columns = cells.permute(2, 1, 0, 3).reshape(f, group.width, -1)  # [f, width, count·d/f]
        low = (bias.softmax(-1) @ columns).view(f, group.width, group.count, d // f)
        rows: Tensor = low.permute(2, 1, 0, 3).reshape(-1, d).index_select(0, group.cells)
        return rows


class Block(nn.Module):
    """Attention mixed with a low-pass, then a GELU feed-forward of width 4d with LayerNorm."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        d = config.dim
        self.attention = Attention(config)
        self.low_pass_share = config.low_pass
        if config.low_pass:
            self.low_pass = LowPass(config)
        self.expand = nn.Linear(d, 4 * d)
        self.contract = nn.Linear(4 * d, d)
        self.norm = nn.LayerNorm(d, eps=config.norm_eps)
        self.dropout = Dropout(config.dropout)

    def forward(self, x: Tensor, groups: tuple[Group, ...], masks: list[Tensor]) -> Tensor:
        """`[N, d]` to `[N, d]`."""
        mixed = self.attention(x, groups, masks)
        if self.low_pass_share:
            mixed = torch.lerp(mixed, self.low_pass(x, groups), self.low_pass_share)
        return self._feed_forward(mixed)

    def newest(
        self, x: Tensor, last: Tensor, groups: tuple[Group, ...], masks: list[Tensor]
    ) -> Tensor:
        """What `forward` gives for the rows `last` alone, not in training: `[N, d]` to `[B, d]`."""
        newest = x[last]
        cells = [
            x[g.tokens].index_select(0, g.rectangle).view(g.count, g.width, -1) for g in groups
        ]
        mixed = self.attention.newest(newest, cells, groups, masks)
        if self.low_pass_share:
            smooth = self.low_pass.newest(newest, cells, groups)
            mixed = torch.lerp(mixed, smooth, self.low_pass_share)
        return self._feed_forward(mixed)

    def _feed_forward(self, x: Tensor) -> Tensor:
        widened = F.gelu(self.expand(x))  # [N, 4d], the exact GELU
        joined: Tensor = self.norm(x + self.dropout(self.contract(widened)))
        return joined


class Network(nn.Module):
    """Encoder f, item embeddings (shared by input and output) and intent centres C.

    Positions are either learned vectors added to the items (`absolute`, the paper) or a learned
    bias of attention by distance (`relative`). With the latter every position of one pass sees
    exactly what a pass over its prefix would, so that a history trains as all its prefixes at
    once.
    """

    shares: Tensor  # [k], a buffer

    def __init__(self, config: Config, n_items: int) -> None:
        super().__init__()
        d, L = config.dim, config.max_length
        self.config = config
        self.n_items = n_items
        self.items = nn.Embedding(n_items + 1, d, padding_idx=0)
        if config.positions == "absolute":
            self.positions = nn.Embedding(L, d)
        else:
            self.distance_bias = nn.Parameter(torch.zeros(config.layers, config.heads, L))
        if config.types:
            self.types = nn.Embedding(len(config.types) + 1, d)
        if config.gap_vectors:
            self.gaps = nn.Embedding(TIMES, d)
        if config.idle_vectors:
            self.idle = nn.Embedding(TIMES, d)
        self.norm = nn.LayerNorm(d, eps=config.norm_eps)
        self.dropout = Dropout(config.dropout)
        self.blocks = nn.ModuleList(Block(config) for _ in range(config.layers))
        self.centers = nn.Parameter(torch.empty(config.n_intents, d))
        # What share of users each intent has had lately, in training.
        self.register_buffer("shares", torch.full((config.n_intents,), 1 / config.n_intents))
        self._initialise()

    def _initialise(self) -> None:
        std = self.config.init_std
        for module in self.modules():
            if isinstance(module, nn.Linear | nn.Embedding):
                nn.init.normal_(module.weight, std=std)
            if isinstance(module, nn.Linear):
                nn.init.zeros_(module.bias)
        nn.init.normal_(self.centers, std=std)
        with torch.no_grad():
            self.items.weight[0].zero_()

    def forward(self, batch: Packed, rows: Tensor | None = None) -> Tensor:
        """Outputs `E`, `[N, d]`: row t of a sequence has seen its events up to t.

        rows: the embeddings of the batch's items, `[N, d]`, when the caller has looked them up.
        """
        x = self._embed(batch, rows)
        for layer, block in enumerate(self.blocks):
            x = block(x, batch.groups, [self._mask(layer, g) for g in batch.groups])
        if batch.details is not None and batch.details.idle is not None:
            x = x + self.idle(batch.details.idle)
        return x

    def newest(self, batch: Packed, rows: Tensor | None = None) -> Tensor:
        """`forward(batch, rows)[batch.last_rows]`, `[B, d]`, at a fraction of the cost; no dropout.

        A label needs only the newest row of the last block. To compute only that row takes a tenth
        of the time (30,000 histories of 20 events, 12,000 items, one core). This is why four
        classes have `newest` beside `forward`; a test holds the two equal.
        """
        x = self._embed(batch, rows)
        *earlier, last = self.blocks
        for layer, block in enumerate(earlier):
            x = block(x, batch.groups, [self._mask(layer, g) for g in batch.groups])
        masks = [self._newest_mask(len(earlier), g) for g in batch.groups]
        assert isinstance(last, Block)
        newest = last.newest(x, batch.last_rows, batch.groups, masks)
        if batch.details is not None and batch.details.idle is not None:
            newest = newest + self.idle(batch.details.idle[batch.last_rows])
        return newest

    def _embed(self, batch: Packed, rows: Tensor | None) -> Tensor:
        x: Tensor = self.items(batch.items) if rows is None else rows  # [N, d]
        if self.config.positions == "absolute":
            x = x + self.positions(batch.positions)
        if batch.details is not None:
            if batch.details.types is not None:
                x = x + self.types(batch.details.types)
            if batch.details.gaps is not None:
                x = x + self.gaps(batch.details.gaps)
        embedded: Tensor = self.dropout(self.norm(x))
        return embedded

    def _newest_mask(self, layer: int, group: Group) -> Tensor:
        """As `_mask`, for each sequence's newest event: broadcast to `[count, h, width]`."""
        ages = group.ages()  # [count, width]
        if self.config.positions == "absolute":
            hidden = ages < 0
            if group.keys_hidden is not None:
                hidden = hidden | group.keys_hidden
            return HIDDEN * hidden[:, None, :].to(self.centers.dtype)
        return _by_distance(self.distance_bias[layer], ages).transpose(0, 1)

    def _mask(self, layer: int, group: Group) -> Tensor:
        """What is added to a group's attention scores, broadcast to `[count, h, width, width]`."""
        width, device = group.width, self.centers.device
        future = torch.ones(width, width, dtype=torch.bool, device=device).triu(1)
        if group.keys_hidden is not None:
            return HIDDEN * (future | group.keys_hidden[:, None, None, :]).to(self.centers.dtype)
        if self.config.positions == "absolute":
            return HIDDEN * future.to(self.centers.dtype)
        steps = torch.arange(width, device=device)
        return _by_distance(self.distance_bias[layer], steps[:, None] - steps)  # [h, width, width]

    def behaviours(self, batch: Packed, outputs: Tensor, rows: Tensor | None = None) -> Tensor:
        """Behaviour embeddings `h`, `[B, d]`, from the outputs `[N, d]`, as the config pools them.

        rows: as for `forward`.

        `outputs`: their mean, as in the paper. `blend`: what the user has had and what the encoder
        expects next in equal parts, the unit mean of item embeddings, newer ones weighing more,
        plus the unit output at the newest event.
        """
        if self.config.pooling != "blend":
            return batch.mean(_weighed(batch, outputs))
        return _blend(batch.mean(self._had(batch, rows)), outputs[batch.last_rows])

    def label_behaviours(self, batch: Packed) -> tuple[Tensor, Tensor]:
        """`behaviours` of a batch of which nothing else is asked, not in training: `[B, d]`.

        And what of each event goes into them, `[N, d]`: the mean of these rows is the half of `h`
        that is linear in the events, up to its length; without `blend` it is all of `h`.
        """
        if self.config.pooling != "blend":
            outputs = _weighed(batch, self(batch))
            return batch.mean(outputs), outputs
        rows = self.items(batch.items)
        had = self._had(batch, rows)
        return _blend(batch.mean(had), self.newest(batch, rows)), had

    def added_to_score(self, batch: Packed, rows: Tensor, intents: Tensor) -> Tensor:
        """What each event adds to the score of its user's intent beyond the mean intent's: `[N]`.

        rows: `[N, d]`, of `label_behaviours`; intents: int64 `[B]`, of the batch's sequences. One
        positive factor a user is left out.
        """
        directions = F.normalize(self.centers, dim=-1)
        apart = directions - directions.mean(0)  # [k, d]
        of_events = intents.index_select(0, batch.owners)  # [N]
        return apart.index_select(0, of_events).mul_(rows).sum(1)

    def _had(self, batch: Packed, rows: Tensor | None) -> Tensor:
        """The item of each event, newer ones weighing more: `[N, d]`."""
        age = batch.last_rows[batch.owners] - torch.arange(
            batch.owners.numel(), device=self.centers.device
        )
        weights = (1.0 + age).pow(-self.config.recency).unsqueeze(1)
        return _weighed(batch, weights * (self.items(batch.items) if rows is None else rows))

    def intent_probabilities(self, behaviours: Tensor) -> Tensor:
        """The soft assignment of each behaviour: `[B, d]` to `[B, k]`, rows summing to 1."""
        return losses.intent_scores(
            behaviours, self.centers, self.config.intent_temperature
        ).softmax(-1)

    def nearest_centers(self, rows: Tensor) -> Tensor:
        """The centre with the highest cosine to each row, int64: `[M, d]` to `[M]`."""
        return (rows.detach() @ F.normalize(self.centers.detach(), dim=-1).T).argmax(1)

    def fuse(self, outputs: Tensor) -> Tensor:
        """Outputs joined with their nearest centres: `[N, d]` (shift) or `[N, 2d]` (concat).

        Nearest is the centre with the highest cosine; as published (`elcm_published`) the one at
        the least distance.
        """
        if self.config.intent_loss != "elcm_published":
            index = self.nearest_centers(outputs)
        else:
            c = self.centers.detach()
            index = (outputs.detach() @ c.T - c.square().sum(-1) / 2).argmax(1)
        nearest = self.centers[index]  # [N, d]
        return (
            outputs + nearest
            if self.config.fusion == "shift"
            else torch.cat([outputs, nearest], dim=1)
        )


def _weighed(batch: Packed, rows: Tensor) -> Tensor:
    """Rows `[N, d]` times what their events weigh, if they weigh anything but 1."""
    if batch.details is None or batch.details.weights is None:
        return rows
    weights: Tensor = batch.details.weights  # [N]
    return rows * weights.unsqueeze(1)


def _blend(had: Tensor, newest: Tensor) -> Tensor:
    return F.normalize(had, dim=-1) + F.normalize(newest, dim=-1)
