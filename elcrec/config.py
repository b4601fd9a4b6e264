"""Every choice the method leaves open, in one object, and the presets that fix them."""

from __future__ import annotations

from dataclasses import asdict, dataclass, fields, replace
from typing import Any, Literal, get_args, get_origin, get_type_hints

from elcrec.errors import ELCRecError


@dataclass(frozen=True)
class Config:
    """Settings of the encoder, the losses, the intents and the training.

    The defaults are the `default` preset; `Config.preset("paper", "beauty")` is the paper's.
    """

    # Encoder (SASRec)
    dim: int = 128  # width d of items, positions, behaviours and intent centres
    layers: int = 1  # transformer blocks N
    heads: int = 2  # attention heads a block
    max_length: int = 50  # newest events of a history the encoder sees, L
    positions: Literal["relative", "absolute"] = "relative"  # absolute: the paper's, aligned right
    low_pass: float = 0.7  # share of the low-pass filter in a block, the rest is attention's
    filters: int = 8  # of the low-pass, each for d / filters columns
    dropout: float = 0.5  # on embeddings, attention outputs and feed-forward outputs
    attention_dropout: float = 0.5  # on attention weights
    norm_eps: float = 1e-12  # of every LayerNorm
    init_std: float = 0.02  # of the normal initialisation of every weight matrix

    # Next item (loss 1)
    next_item: Literal["softmax", "bce"] = "softmax"  # bce: one sampled negative a position (paper)
    # Of the products with all items, as torch.set_float32_matmul_precision has it: "medium" rounds
    # factors to bfloat16 where the CPU has instructions for it, to TF32 on a GPU.
    softmax_precision: Literal["medium", "high", "highest"] = "medium"
    # Of the encoder's products on a GPU, in training; a CPU has float32.
    encoder_precision: Literal["float32", "bfloat16"] = "float32"
    # With more items than this the softmax is sampled and a step touches only the rows it needs …
    full_softmax_items: int = 50_000
    negatives: int = 4_096  # … from this many, drawn anew for every batch and shared by it
    # bce: whether an item held out for validation or test may be its user's negative. That it never
    # is, as published, tells training a little about both.
    held_out_negatives: bool = True

    # Intents
    n_intents: int = 256  # k
    # elcm: the paper's loss 2, which sees the centres' directions alone. elcm_published: centres
    # are made of unit length in each step, and what losses 2 and 3b ask of their lengths is in the
    # gradient too (so that Adam turns them more slowly).
    intent_loss: Literal["attraction", "elcm", "elcm_published", "none"] = "attraction"
    intent_loss_weight: float = 0.1  # α
    # What loss 2 moves; centers: it places the centres and leaves the behaviours as they are.
    intent_loss_moves: Literal["both", "centers"] = "both"
    # Without the clustering loss and without padding, before k-means places the intents.
    warmup_epochs: int = 1
    intent_temperature: float = 0.03  # τ of the soft assignment
    intent_balance: float = 0.5  # 0: intents may grow as they like … 1: all alike in training
    pooling: Literal["blend", "outputs", "padded_outputs"] = "blend"  # see Network.behaviours
    recency: float = 0.3  # blend: an item that a newer ones follow weighs (1 + a)^−recency

    # What an event says beside its item, where histories have it (`elcrec.details`)
    types: tuple[str, ...] = ()  # of events: a vector each, added to the item's; (): none
    gap_vectors: bool = False  # a vector of the time since the event before is added, too
    idle_vectors: bool = False  # one of the time until the next event is asked for, to the output
    half_life_days: float = 0.0  # in pooling an event so much older weighs half as much; 0: as much
    weigh_events: bool = False  # in pooling an event weighs what its weight says
    weigh_targets: bool = False  # in loss 1, too, where it is the one to be predicted
    target_types: tuple[str, ...] = ()  # loss 1 and validation predict these types alone; (): all

    # Intent-assisted contrast (loss 3)
    sequence_contrast_weight: float = 0.0  # of 3a
    intent_contrast_weight: float = 0.0  # of 3b
    fusion: Literal["shift", "concat"] = "shift"  # how 3a joins an output and its nearest centre
    contrast_temperature: float = 1.0
    mask_same_intent: bool = False  # 3b: users of the same intent are no negatives
    # 3b: what a view must tell its centre from; both: as published, other users' behaviours too
    intent_contrast_negatives: Literal["centers", "both"] = "centers"
    crop_ratio: float = 0.2  # of a history kept by crop
    mask_ratio: float = 0.7  # of a history dropped by mask
    reorder_ratio: float = 0.2  # of a history shuffled by reorder

    # Training
    learning_rate: float = 1e-3
    center_learning_rate: float = 5e-3  # centres follow behaviours that move while they learn
    weight_decay: float = 0.0
    batch_users: int = 32  # windows of histories a step
    gpu_batch_users: int = 0  # the same on a GPU, which so few leave idle; 0: as batch_users
    epoch_windows: int = 50_000  # an epoch draws at most this many windows, anew each time
    validation_users: int = 25_000  # validation ranks for at most this many users, always the same
    long_histories: Literal["windows", "newest"] = (
        "windows"  # newest: only the last L events (paper)
    )
    average_decay: float = (
        0.999  # of the exponential moving average of weights that is kept; 0: none is
    )
    # The share of the warm-up's last weights in the weights that are kept (arXiv 2109.01903). What
    # training learns after the warm-up can widen the list and blunt its top; weights between the
    # two can have both.
    warmup_share: float = 0.0
    max_epochs: int = 30
    patience: int = 5  # epochs without a better validation NDCG@20 before training stops
    seed: int = 1
    device: Literal["auto", "cpu", "cuda"] = "auto"
    threads: int = 0  # CPU threads; 0: as torch finds them, shared among processes
    processes: int = 1  # that train together, each on a part of the users and of every batch

    @classmethod
    def preset(cls, name: str, dataset: str | None = None, **changes: Any) -> Config:
        """The preset `default` or `paper`, with `changes` to single fields.

        dataset: for `paper` one of beauty, sports, toys, yelp (table in section 5 of the paper).
        Raises ELCRecError for an unknown preset, data set or field.
        """
        if name not in PRESETS:
            raise ELCRecError(f"unknown preset {name!r}: it is one of {', '.join(PRESETS)}")
        values = dict(PRESETS[name])
        if dataset is not None:
            if name != "paper" or dataset.lower() not in PAPER_DATASETS:
                raise ELCRecError(
                    f"preset {name!r} has no data set {dataset!r}: "
                    f"'paper' has {', '.join(PAPER_DATASETS)}, 'default' is one for all"
                )
            values |= PAPER_DATASETS[dataset.lower()]
        return cls.from_dict(values | changes)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Config:
        """A config from field names and values; an unknown name is an ELCRecError."""
        known = {f.name for f in fields(cls)}
        unknown = sorted(set(values) - known)
        if unknown:
            raise ELCRecError(
                f"unknown config field {unknown[0]!r}; known: {', '.join(sorted(known))}"
            )
        # JSON has no tuples.
        fit: dict[str, Any] = {
            name: tuple(value) if isinstance(value, list) else value
            for name, value in values.items()
        }
        return cls(**fit)

    def to_dict(self) -> dict[str, Any]:
        """Plain values by field name, as JSON has them."""
        values = asdict(self)
        return {k: list(v) if isinstance(v, tuple) else v for k, v in values.items()}

    def ablation(self, name: str) -> Config:
        """The paper's ablations of this config: `B`, `B+ICL`, `B+ELCM` or `full`."""
        no_icl = {"sequence_contrast_weight": 0.0, "intent_contrast_weight": 0.0}
        changes: dict[str, dict[str, Any]] = {
            "B": no_icl | {"intent_loss": "none"},
            "B+ICL": {"intent_loss": "none"},
            "B+ELCM": no_icl,
            "full": {},
        }
        if name not in changes:
            raise ELCRecError(f"unknown ablation {name!r}: it is one of {', '.join(changes)}")
        return replace(self, **changes[name])

    def __post_init__(self) -> None:
        for name, kind in get_type_hints(Config).items():
            value = getattr(self, name)
            if get_origin(kind) is Literal:
                if value not in get_args(kind):
                    allowed = ", ".join(get_args(kind))
                    raise ELCRecError(f"{name} must be one of {allowed}, not {value!r}")
            elif get_origin(kind) is tuple:
                if not isinstance(value, tuple) or not all(isinstance(one, str) for one in value):
                    raise ELCRecError(f"{name} must be names of types, not {value!r}")
            elif not isinstance(value, NUMBERS.get(kind, kind)) or isinstance(value, bool) != (
                kind is bool
            ):
                raise ELCRecError(f"{name} must be of type {kind.__name__}, not {value!r}")
            elif name in LEAST and not value >= LEAST[name]:  # so that NaN fails
                raise ELCRecError(f"{name} must be at least {LEAST[name]}, not {value}")
            elif name in SHARES and not 0.0 <= value < 1.0:
                raise ELCRecError(f"{name} must be in [0, 1), not {value}")
            elif name in POSITIVE and not value > 0.0:
                raise ELCRecError(f"{name} must be above 0, not {value}")
        if self.dim % self.heads:
            raise ELCRecError(f"dim ({self.dim}) must be a multiple of heads ({self.heads})")
        if self.low_pass and self.dim % self.filters:
            raise ELCRecError(f"dim ({self.dim}) must be a multiple of filters ({self.filters})")
        in_encoder = self.types or self.gap_vectors or self.idle_vectors
        if self.pooling == "padded_outputs" and (
            in_encoder or self.half_life_days or self.weigh_events
        ):
            raise ELCRecError("padding has no type, weight or time: choose another pooling")
        if self.low_pass and self.pooling == "padded_outputs":
            raise ELCRecError("the low-pass would smooth padding: set low_pass to 0, or pooling")


NUMBERS: dict[type, tuple[type, ...]] = {float: (float, int)}  # an int will do for a float
LEAST: dict[str, float] = {
    **dict.fromkeys(("dim", "layers", "heads", "filters", "max_length"), 1),
    **dict.fromkeys(("n_intents", "negatives"), 1),
    **dict.fromkeys(("batch_users", "epoch_windows", "validation_users"), 1),
    **dict.fromkeys(("max_epochs", "patience", "processes"), 1),
    **dict.fromkeys(("full_softmax_items", "warmup_epochs", "seed", "threads"), 0),
    "gpu_batch_users": 0,
    **dict.fromkeys(("intent_loss_weight", "intent_balance", "recency", "weight_decay"), 0.0),
    "half_life_days": 0.0,
    **dict.fromkeys(("sequence_contrast_weight", "intent_contrast_weight"), 0.0),
}
SHARES = {
    *("low_pass", "dropout", "attention_dropout", "average_decay", "warmup_share"),
    *("crop_ratio", "mask_ratio", "reorder_ratio"),
}
POSITIVE = {
    *("norm_eps", "init_std", "learning_rate", "center_learning_rate"),
    *("contrast_temperature", "intent_temperature"),
}

PRESETS: dict[str, dict[str, Any]] = {
    "default": {},
    "paper": {
        "dim": 64,
        "layers": 1,
        "positions": "absolute",
        "low_pass": 0.0,
        "next_item": "bce",
        "intent_loss": "elcm_published",
        "intent_loss_weight": 10.0,
        "intent_loss_moves": "centers",
        "warmup_epochs": 20,
        "pooling": "outputs",
        "held_out_negatives": False,
        "intent_contrast_negatives": "both",
        "sequence_contrast_weight": 0.1,
        "intent_contrast_weight": 0.1,
        "center_learning_rate": 1e-3,
        "batch_users": 256,
        "long_histories": "newest",
        "max_epochs": 300,
        "patience": 40,
    },
}

# `paper` has the paper's losses, and departs from the paper's training where that comes nearer to
# its figures in minutes instead of hours: ELCM moves the centres and leaves the behaviours as they
# are, which it would pull into one direction. So padding is of no use, and an epoch takes a sixth
# of the time. With these changes each step is the published code's:
# Config.preset("paper", "beauty", **PAPER_AS_PUBLISHED).
PAPER_AS_PUBLISHED: dict[str, Any] = {
    "intent_loss_moves": "both",
    "warmup_epochs": 0,
    "pooling": "padded_outputs",
    "average_decay": 0.0,
}

# With these it is the text's, where text and code disagree. With α = 10 its recommendations end at
# popularity's level.
PAPER_AS_WRITTEN: dict[str, Any] = PAPER_AS_PUBLISHED | {
    "pooling": "outputs",
    "intent_loss": "elcm",
    "held_out_negatives": True,
    "intent_contrast_negatives": "centers",
}

PAPER_DATASETS: dict[str, dict[str, Any]] = {
    "beauty": {"layers": 1, "n_intents": 256, "intent_loss_weight": 10.0, "fusion": "shift"},
    "sports": {"layers": 2, "n_intents": 512, "intent_loss_weight": 1.0, "fusion": "concat"},
    "toys": {"layers": 3, "n_intents": 512, "intent_loss_weight": 1.0, "fusion": "concat"},
    "yelp": {"layers": 2, "n_intents": 256, "intent_loss_weight": 0.1, "fusion": "concat"},
}
