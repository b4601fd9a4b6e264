"""Tensors and facts on disk: safetensors beside JSON, written whole or not, never pickled."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from elcrec.errors import ELCRecError

FORMAT = 1  # raised when files of before can no longer be read


def write(folder: Path, name: str, tensors: Mapping[str, Tensor], facts: Mapping[str, Any]) -> None:
    """Write `<name>.safetensors` and `<name>.json`; the JSON, written last, vouches for both.

    Raises ELCRecError, and writes nothing, when a tensor holds NaN or infinity.
    """
    for key, tensor in tensors.items():
        if tensor.is_floating_point() and not torch.isfinite(tensor).all():
            raise ELCRecError(f"{key} holds NaN or infinity; nothing was saved to {folder}")
    folder.mkdir(parents=True, exist_ok=True)
    blob = save({key: tensor.detach().cpu().contiguous() for key, tensor in tensors.items()})
    # The name of the tensors' file is in the JSON, so that a kill between both leaves the old pair.
    weights = f"{name}-{facts.get('epoch', 0)}.safetensors"
    _replace(folder / weights, blob)
    document = {"format": FORMAT, "weights": weights, **facts}
    _replace(folder / f"{name}.json", json.dumps(document, indent=1, allow_nan=False).encode())
    for old in folder.glob(f"{name}-*.safetensors"):
        if old.name != weights:
            old.unlink()


def read(folder: Path, name: str) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """What `write` wrote. Raises ELCRecError when it is missing, damaged or of another format."""
    path = folder / f"{name}.json"
    try:
        facts = json.loads(path.read_text())
    except FileNotFoundError:
        raise ELCRecError(f"{folder} holds no {path.name}: it is no saved model") from None
    except (json.JSONDecodeError, UnicodeDecodeError) as fault:
        raise ELCRecError(f"{path} is damaged: {fault}") from None
    if facts.get("format") != FORMAT:
        raise ELCRecError(
            f"{path} has format {facts.get('format')!r}, this version reads {FORMAT}: train again"
        )
    weights = folder / Path(str(facts["weights"])).name
    try:
        return load(weights.read_bytes()), facts
    except FileNotFoundError:
        raise ELCRecError(f"{folder} lacks {weights.name}, which {path.name} names") from None
    except SafetensorError as fault:
        raise ELCRecError(f"{weights} is damaged: {fault}") from None


def under(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """The tensors whose names begin with `prefix`, by the rest of their names."""
    return {n.removeprefix(prefix): t for n, t in tensors.items() if n.startswith(prefix)}


def _replace(path: Path, content: bytes) -> None:
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=path.name)
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        Path(temporary).replace(path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise
