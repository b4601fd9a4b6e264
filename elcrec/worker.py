"""A training process beside the one that leads: `python -m elcrec.worker`.

It needs no histories, settings or model of its own: rank 0 gives it all of these. On another
machine than rank 0's it is started with the environment that `torchrun` sets:

    RANK=1 WORLD_SIZE=2 MASTER_ADDR=host MASTER_PORT=29500 python -m elcrec.worker

On rank 0's own machine rank 0 starts it (`elcrec.distributed`).
"""

from __future__ import annotations

import json
import os
import sys
import threading
import traceback
from pathlib import Path
from typing import Any

import torch

from elcrec.config import Config
from elcrec.devices import device_of
from elcrec.distributed import OUT_OF_MEMORY, Ranks, joined, place_on_machine
from elcrec.errors import ELCRecError
from elcrec.model import Network
from elcrec.training import Trainer, out_of_memory


def follow(ranks: Ranks) -> None:
    """Do what rank 0 announces, until it announces the end."""
    while (task := ranks.tell())["do"] == "train":
        _train(ranks, task)


def _train(ranks: Ranks, task: dict[str, Any]) -> None:
    config = Config.from_dict(task["config"])
    if config.threads:
        torch.set_num_threads(config.threads)
    device = device_of(config.device, place_on_machine(ranks.rank))
    if device.type == "cuda":
        torch.cuda.set_device(device)
    network = Network(config, task["n_items"]).to(device)
    trainer = Trainer(network, None, config, task["warmup_epochs"], task["passes"], ranks=ranks)
    while (task := ranks.tell())["do"] != "trained":
        if task["do"] == "epoch":
            trainer.epoch(task["number"])
        elif task["do"] == "validate":
            trainer.validate()
        elif task["do"] == "place_centers":
            trainer.place_centers(None)
        elif task["do"] == "share":
            trainer.share(task["passes"])
        else:
            raise ELCRecError(f"rank 0 asks for {task['do']!r}, which this version does not know")


def _end_with_parent() -> None:
    # Not by sys.stdin, whose lock would be held when the interpreter ends.
    while os.read(0, 1):
        pass
    os._exit(1)


def _from_environment() -> tuple[int, int, str]:
    names = ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
    missing = [name for name in names if not os.environ.get(name)]
    if missing:
        raise ELCRecError(
            f"the environment has no {missing[0]}: start this with torchrun, or with "
            f"{', '.join(names)} set"
        )
    rank, size, host, port = (os.environ[name] for name in names)
    return int(rank), int(size), f"{host}:{port}"


def main(arguments: list[str]) -> int:
    """Work as one rank: of the folder, rank and size given, or as the environment says."""
    folder: Path | None = None
    try:
        if arguments:
            folder, rank, size = Path(arguments[0]), int(arguments[1]), int(arguments[2])
            threading.Thread(target=_end_with_parent, daemon=True).start()
            where: str | Path = folder
        else:
            rank, size, where = _from_environment()
        on_gpu = place_on_machine(rank) < torch.cuda.device_count()
        with joined(rank, size, where, on_gpu) as ranks:
            follow(ranks)
    except Exception as error:
        kind = OUT_OF_MEMORY if out_of_memory(error) else type(error).__name__
        if folder is not None:
            # Rank 0 reads it, and says it.
            told = json.dumps({"kind": kind, "message": str(error)})
            (folder / f"rank-{rank}.json").write_text(told)
        elif isinstance(error, ELCRecError):
            print(f"training process: {error}", file=sys.stderr)
        if not isinstance(error, ELCRecError | MemoryError):
            traceback.print_exc()
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
