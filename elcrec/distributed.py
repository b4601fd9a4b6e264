"""Training on several processes: how they find each other, and what they tell each other.

Rank 0 is the process that calls `ELCRec.fit`. It has all histories, takes every decision and writes
every file. The others (`elcrec.worker`) have a part of the histories each. They do what rank 0
announces, and add their gradients to its own.
"""

from __future__ import annotations

import contextlib
import datetime as dt
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from numpy.typing import NDArray
from torch import Tensor
from torch.distributed import FileStore  # type: ignore[attr-defined]

from elcrec.errors import ELCRecError

# The others wait for rank 0 while it places the intents, or writes a checkpoint. A process that
# dies is noticed at once, by its closed connections: this is for a machine that falls silent.
SILENCE = dt.timedelta(minutes=10)
JOINING = dt.timedelta(minutes=3)  # a process that starts loads torch first
SECONDS_TO_END = 10.0  # for a local process when its rank 0 is gone
# Gradients of more numbers than this are summed where they are, smaller ones in one buffer.
ALONE_FROM = 65_536
OUT_OF_MEMORY = "MemoryError"


class RankLostError(ELCRecError):
    """Another process of the training has ended, or does not answer."""


@dataclass
class Ranks:
    """The processes of one training, as one of them sees them. All call the same, in one order.

    rank: from 0, which leads. size: how many processes. gradients: the group that exchanges what is
    on a GPU, None where `gloo` does.
    """

    rank: int = 0
    size: int = 1
    gradients: dist.ProcessGroup | None = None
    folder: Path | None = None  # where processes on one machine leave what they failed of
    local: dict[int, subprocess.Popen[bytes]] = field(default_factory=dict)  # that rank 0 started

    @property
    def leads(self) -> bool:
        """Whether this is rank 0, also where it is the only one."""
        return self.rank == 0

    def announce(self, what: str, **facts: Any) -> None:
        """Let the others do what this process is about to do; nothing where they do so already."""
        if self.size > 1 and self.leads:
            self.tell({"do": what} | facts)

    def tell(self, facts: Mapping[str, Any] | None = None) -> dict[str, Any]:
        """The facts that rank 0 gives, fit for JSON, on all ranks."""
        if self.size == 1:
            return dict(facts or {})
        blob = np.frombuffer(json.dumps(facts).encode(), np.uint8).copy() if self.leads else None
        length = torch.tensor([0 if blob is None else blob.size])
        with self._talking():
            dist.broadcast(length, 0)
            told = torch.empty(int(length), dtype=torch.uint8)
            if blob is not None:
                told.copy_(torch.from_numpy(blob))
            dist.broadcast(told, 0)
        found: dict[str, Any] = json.loads(told.numpy().tobytes())
        return found

    def broadcast(self, tensors: Mapping[str, Tensor] | None = None) -> dict[str, Tensor]:
        """Tensors of rank 0 by name, on all ranks and there on the CPU."""
        if self.size == 1:
            return dict(tensors or {})
        own = {} if tensors is None else {k: t.detach().cpu() for k, t in tensors.items()}
        shapes = self.tell({name: [str(t.dtype), *t.shape] for name, t in own.items()})
        found = {}
        for name, (kind, *shape) in shapes.items():
            tensor = own[name].contiguous() if self.leads else _empty(kind, shape)
            with self._talking():
                dist.broadcast(tensor.reshape(-1).view(torch.uint8), 0)
            found[name] = tensor
        return found

    def send(self, arrays: Mapping[str, NDArray[Any]], to: int) -> None:
        """Give arrays by name to one other rank, which calls `receive`."""
        shapes = {name: [str(a.dtype), *a.shape] for name, a in arrays.items()}
        blob = np.frombuffer(json.dumps(shapes).encode(), np.uint8).copy()
        with self._talking():
            dist.send(torch.tensor([blob.size]), to)
            dist.send(torch.from_numpy(blob), to)
            for array in arrays.values():
                dist.send(_bytes(np.ascontiguousarray(array)), to)

    def receive(self) -> dict[str, NDArray[Any]]:
        """What rank 0 gave to this one by `send`."""
        length = torch.tensor([0])
        with self._talking():
            dist.recv(length, 0)
            blob = torch.empty(int(length), dtype=torch.uint8)
            dist.recv(blob, 0)
            found = {}
            for name, (kind, *shape) in json.loads(blob.numpy().tobytes()).items():
                found[name] = np.empty(shape, kind)
                dist.recv(_bytes(found[name]), 0)
        return found

    def sum(self, values: Tensor) -> Tensor:
        """Element by element over all ranks, in place: the same on each of them, to the bit."""
        if self.size > 1:
            with self._talking():
                dist.all_reduce(values, group=self._group(values))
        return values

    def gather(self, rows: Tensor) -> Tensor:
        """The rows `[n, …]` of all ranks, one rank after the other; n may differ by rank."""
        if self.size == 1:
            return rows
        counts = self._gather_alike(torch.tensor([rows.shape[0]], device=rows.device))
        sizes = [int(count) for count in counts]
        filled = rows.new_zeros(max(sizes), *rows.shape[1:])
        filled[: rows.shape[0]] = rows
        blocks = self._gather_alike(filled)
        return torch.cat([block[:n] for block, n in zip(blocks, sizes, strict=True)])

    def sum_gradients(
        self,
        parameters: Sequence[torch.nn.Parameter],
        by_rows: Tensor | None,
        more: Tensor,
        everywhere: bool,
    ) -> Tensor:
        """Sum the gradients of all ranks into those of each, and return the sum of `more`.

        A parameter that has no gradient on any rank still has none afterwards.

        by_rows: one more parameter, `[rows, d]`, of sparse gradients. Only rows that have one are
            exchanged: what that costs does not grow with the table.
        more: float32 `[m]`, on the device of the parameters.
        everywhere: whether every rank has made gradients; a rank that has not must ask the others
            which parameters have one.
        """
        has = [p.grad is not None for p in parameters]
        flags = torch.tensor(has, dtype=more.dtype).to(more.device)
        small = [p for p in parameters if p.numel() <= ALONE_FROM]
        flat = [_gradient(p).flatten() for p in small]
        summed = self.sum(torch.cat([flags, more, *flat]))
        if not everywhere:
            has = summed[: len(has)].bool().tolist()
        rest = summed[len(has) + more.numel() :]
        parts = torch.split_with_sizes(rest, [p.numel() for p in small])
        for parameter, part in zip(small, parts, strict=True):
            parameter.grad = part.view_as(parameter)
        for parameter, found in zip(parameters, has, strict=True):
            if not found:
                parameter.grad = None
            elif parameter.numel() > ALONE_FROM:
                parameter.grad = self.sum(_gradient(parameter).contiguous())
        if by_rows is not None:
            by_rows.grad = self._sum_of_rows(by_rows)
        return summed[len(has) : len(has) + more.numel()]

    def _sum_of_rows(self, table: Tensor) -> Tensor:
        """The sparse gradient of all ranks, `[rows, d]`; a row may be in it more than once."""
        if table.grad is None:
            rows = torch.empty(0, dtype=torch.long, device=table.device)
            values = table.new_zeros(0, table.shape[1])
        else:
            own = table.grad.coalesce()
            rows, values = own.indices()[0], own.values()
        rows, values = self.gather(rows), self.gather(values)
        return torch.sparse_coo_tensor(
            rows[None], values.detach(), table.shape, check_invariants=False
        )

    def _gather_alike(self, values: Tensor) -> list[Tensor]:
        found = [torch.empty_like(values) for _ in range(self.size)]
        with self._talking():
            dist.all_gather(found, values.contiguous(), group=self._group(values))
        return found

    def _group(self, values: Tensor) -> dist.ProcessGroup | None:
        return self.gradients if values.is_cuda else None

    @contextlib.contextmanager
    def _talking(self) -> Iterator[None]:
        """Make an error that says who is lost of what the library says about a connection."""
        try:
            yield
        except RuntimeError as error:
            raise self._lost(error) from error

    def _lost(self, error: RuntimeError) -> Exception:
        failed = self._failed()
        if failed is None:
            reason = str(error).split("This is typically")[0].strip().splitlines()[-1]
            return RankLostError(
                f"another of the {self.size} training processes has ended or does not answer, "
                f"rank {self.rank} finds ({reason}): look at the end of their logs and start the "
                "training again; it goes on after the last whole epoch"
            )
        rank, kind, message = failed
        if kind == OUT_OF_MEMORY:
            return MemoryError(message)
        if kind == ELCRecError.__name__:  # which trying again does not mend
            return ELCRecError(f"training process {rank} of {self.size} has ended: {message}")
        return RankLostError(
            f"training process {rank} of {self.size} has ended: {message}; start the training "
            "again, it goes on after the last whole epoch"
        )

    def _failed(self) -> tuple[int, str, str] | None:
        """The first of the local processes that has ended: rank, kind of error, message."""
        until = time.monotonic() + SECONDS_TO_END
        while self.folder is not None and self.local and time.monotonic() < until:
            ended = {r: p.returncode for r, p in self.local.items() if p.poll() is not None}
            # Who was killed, or found a fault of its own, made the others end.
            for rank, code in sorted(ended.items(), key=lambda one: one[1]):
                if code < 0:
                    return rank, "Killed", f"signal {-code} has killed it"
                with contextlib.suppress(FileNotFoundError):
                    told = json.loads((self.folder / f"rank-{rank}.json").read_text())
                    if told["kind"] != RankLostError.__name__:
                        return rank, told["kind"], told["message"]
            if len(ended) == len(self.local):
                rank, code = min(ended.items())
                return rank, "Ended", f"it ended with status {code}"
            time.sleep(0.05)
        return None


ALONE = Ranks()


@contextlib.contextmanager
def leading(size: int, address: str | None, threads: int, on_gpu: bool) -> Iterator[Ranks]:
    """As rank 0 of `size` processes, until the end of the block.

    address: None starts the others on this machine, where they end with this process. With
        `host:port` they are started elsewhere (`python -m elcrec.worker`), and this waits for them
        there; where `torchrun` started this process, as its environment says.
    threads: of each process that is started, 0 to share the cores among them.
    on_gpu: whether gradients are on GPUs.

    Raises RankLostError when the others do not come.
    """
    if size == 1:
        yield ALONE
        return
    with contextlib.ExitStack() as stack:
        if address is not None:
            started = int(os.environ.get("WORLD_SIZE", size))
            if started != size:
                raise ELCRecError(
                    f"torchrun has started {started} processes, but the config asks for {size}: "
                    "make them the same"
                )
            ranks = stack.enter_context(joined(0, size, address, on_gpu))
        else:
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="elcrec-ranks-")))
            local = stack.enter_context(_local_workers(size, folder, threads))
            ranks = stack.enter_context(joined(0, size, folder, on_gpu, local))
        with _watched(ranks):
            yield ranks
        ranks.announce("end")


@contextlib.contextmanager
def _watched(ranks: Ranks) -> Iterator[None]:
    """Let go of a GPU that waits for a local process which has ended.

    On a CPU this process finds the connection closed. A GPU waits until SILENCE is over.
    """
    over = threading.Event()

    def watch(gradients: dist.ProcessGroup) -> None:
        while not over.wait(0.5):
            if any(process.poll() is not None for process in ranks.local.values()):
                gradients.abort()
                return

    if ranks.gradients is not None:
        threading.Thread(target=watch, args=(ranks.gradients,), daemon=True).start()
    try:
        yield
    finally:
        over.set()


@contextlib.contextmanager
def joined(
    rank: int,
    size: int,
    where: str | Path,
    on_gpu: bool,
    local: dict[int, subprocess.Popen[bytes]] | None = None,
) -> Iterator[Ranks]:
    """As one of the processes that meet at `where`: a folder on one machine, or `host:port`.

    on_gpu: on rank 0 whether to train on GPUs, on another whether it has one.
    """
    if dist.is_initialized():
        raise ELCRecError(
            "torch.distributed is in use in this process already: train on several processes from "
            "one that does not use it"
        )
    folder = where if isinstance(where, Path) else None
    ranks = Ranks(rank, size, None, folder, local or {})
    options: dict[str, Any] = {"rank": rank, "world_size": size, "timeout": SILENCE}
    if folder is not None:
        # A file, and connections of this machine to itself: nothing that others could reach.
        loopback = dist.ProcessGroupGloo.create_device(hostname="127.0.0.1")
        by_loopback = dist.ProcessGroupGloo._Options()  # type: ignore[attr-defined]
        by_loopback._devices, by_loopback._timeout = [loopback], SILENCE
        options["pg_options"] = by_loopback
        options["store"] = FileStore(str(folder / "store"), size)
    else:
        # torchrun keeps the address itself, and says so by the environment.
        by_torchrun = "TORCHELASTIC_RUN_ID" in os.environ
        options["init_method"] = "env://" if by_torchrun else f"tcp://{where}"
    try:
        with ranks._talking():
            if folder is not None:
                _wait_for_all(options["store"], ranks)
            dist.init_process_group("gloo", **options)
        if ranks.tell({"on_gpu": on_gpu})["on_gpu"]:
            without = size - int(ranks.sum(torch.tensor([int(on_gpu)])))
            if without:
                raise ELCRecError(
                    f"{without} of the {size} training processes have no GPU of their own: lower "
                    "the number of processes, or set device to 'cpu'"
                )
            ranks.gradients = dist.new_group(backend="nccl", timeout=SILENCE)
        yield ranks
    finally:
        if dist.is_initialized():
            dist.destroy_process_group()


def _wait_for_all(store: FileStore, ranks: Ranks) -> None:
    """Until every process has come; a local one that ends meanwhile is an error at once."""
    store.set(f"here {ranks.rank}", "")
    until = time.monotonic() + JOINING.total_seconds()
    for other in range(ranks.size):
        while not store.check([f"here {other}"]):
            if any(process.poll() is not None for process in ranks.local.values()):
                raise RuntimeError("a process has ended before the training began")
            if time.monotonic() > until:
                raise RuntimeError(f"rank {other} did not come in {JOINING}")
            time.sleep(0.02)


@contextlib.contextmanager
def _local_workers(
    size: int, folder: Path, threads: int
) -> Iterator[dict[int, subprocess.Popen[bytes]]]:
    """Start ranks 1 … size − 1 on this machine; at the end of the block they have ended."""
    here = str(Path(__file__).resolve().parents[1])
    path = os.pathsep.join(filter(None, [here, os.environ.get("PYTHONPATH")]))
    environment = os.environ | {"PYTHONPATH": path}
    environment["OMP_NUM_THREADS"] = str(threads or threads_of_each(size))
    processes: dict[int, subprocess.Popen[bytes]] = {}
    try:
        for rank in range(1, size):
            environment["LOCAL_RANK"] = str(rank)
            command = [sys.executable, "-m", "elcrec.worker", str(folder), str(rank), str(size)]
            # Its standard input ends when this process does, however that ends: so it ends, too.
            # Ctrl-C is for this process alone.
            processes[rank] = subprocess.Popen(
                command,
                env=environment,
                stdin=subprocess.PIPE,
                stdout=subprocess.DEVNULL,
                start_new_session=True,
            )
        yield processes
    finally:
        for process in processes.values():
            assert process.stdin is not None
            process.stdin.close()
        until = time.monotonic() + SECONDS_TO_END
        for process in processes.values():
            try:
                process.wait(max(0.0, until - time.monotonic()))
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def threads_of_each(size: int) -> int:
    """How many threads each of `size` processes on this machine may have."""
    return max(1, min(torch.get_num_threads(), (os.cpu_count() or 1) // size))


def place_on_machine(rank: int) -> int:
    """Which of its machine's processes this rank is, from 0, and which GPU is its own."""
    return int(os.environ.get("LOCAL_RANK", rank))


def _gradient(parameter: torch.nn.Parameter) -> Tensor:
    return torch.zeros_like(parameter) if parameter.grad is None else parameter.grad


def _bytes(array: NDArray[Any]) -> Tensor:
    """The bytes of a contiguous array, in its own memory: torch does not know all kinds."""
    return torch.from_numpy(array.reshape(-1).view(np.uint8))


def _empty(kind: str, shape: Sequence[int]) -> Tensor:
    return torch.empty(list(shape), dtype=getattr(torch, kind.removeprefix("torch.")))
