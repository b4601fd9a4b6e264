"""Where tensors are: the device of a config, and how arrays get there."""

from __future__ import annotations

from typing import Any

import torch
from numpy.typing import NDArray
from torch import Tensor

from elcrec.errors import ELCRecError


def device_of(name: str, place: int = 0) -> torch.device:
    """Where to compute: `auto`, `cpu` or `cuda`.

    place: which of the machine's GPUs. Raises ELCRecError where there is none.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    if name == "cpu":
        return torch.device(name)
    if not torch.cuda.is_available():
        raise ELCRecError("device is 'cuda', but torch finds no GPU: set it to 'cpu' or 'auto'")
    return torch.device(name, place) if place else torch.device(name)


def to_device(values: NDArray[Any], device: torch.device) -> Tensor:
    """An array as a tensor there. A GPU copies from pinned memory while this process goes on."""
    tensor = torch.from_numpy(values)
    if device.type != "cuda":
        return tensor.to(device)
    return tensor.pin_memory().to(device, non_blocking=True)
