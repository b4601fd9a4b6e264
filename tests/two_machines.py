"""Two machines that share nothing but a store do the steps of a night, and are killed and stopped.

    sudo .venv/bin/python -m tests.two_machines

A machine is a network, a host name and mounts of its own (Linux namespaces): /tmp is empty and its
own, the rest can only be read, and its network leads to the store alone.
The same night runs

* undisturbed;
* on one machine, whose process is killed while it trains, and then on the other;
* on one machine, whose process is stopped while it trains, then on the other to the end; then the
  first one goes on, and has to be refused.

Ends with 0 when the second machine went on from the first one's checkpoint, the one that was
stopped said that it had lost its turn and ended with 2, and all tables and models are the same.
"""

import contextlib
import datetime as dt
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import boto3

from local.generator import generate
from tasks.lake import Lake, tables
from tests.kill_nights import _rows
from tests.servers import s3

REPO = Path(__file__).resolve().parent.parent
NIGHT = dt.date(2026, 11, 20)
EXPIRY = 20.0  # seconds
PATIENCE = 400  # seconds that anything may take
COMMAND = f"""
from tasks.lake import leases
leases.EXPIRY = {EXPIRY}
from tasks.__main__ import main
main()
"""  # as `python -m tasks`, whose last line is the sentence of an error, and 2 its exit code
SETTINGS = {
    "ELCREC_SOURCE__PATH": "s3://lakes/events/",
    "ELCREC_DUCKDB__THREADS": "1",
    "ELCREC_MODEL__DEVICE": "cpu",
    "ELCREC_MODEL__MAX_EPOCHS": "8",
    "ELCREC_MODEL__MAX_LENGTH": "20",
    "ELCREC_MODEL__N_INTENTS": "4",
    "ELCREC_MODEL__OVERRIDES": '{"dim": 32, "layers": 1}',
    "ELCREC_MODEL__PATIENCE": "8",
    "ELCREC_MODEL__THREADS": "1",
    "ELCREC_PROMOTE__FORCE": "true",
    "OMP_NUM_THREADS": "1",
    "POLARS_MAX_THREADS": "1",
    "HOME": "/tmp",
    "PYTHONPATH": str(REPO),
}
OWN_FOLDERS = ("/tmp", "/var/tmp", "/dev/shm")


class Machine:
    """Namespaces of their own, as long as a process in them sleeps."""

    def __init__(self, name: str, number: int) -> None:
        self.name, self.network = name, f"10.213.{number}"
        alone = [
            f"hostname {name}",
            *(f"mount -t tmpfs none {folder}" for folder in OWN_FOLDERS),
            "mount -o remount,ro,bind /",
            "! touch /etc/changed 2>/dev/null",
            "echo ready",
            "exec sleep infinity",
        ]
        self.sleeps = subprocess.Popen(
            ["unshare", "--net", "--mount", "--uts", "sh", "-c", " && ".join(alone)],
            stdout=subprocess.PIPE,
            text=True,
        )
        assert self.sleeps.stdout
        assert self.sleeps.stdout.readline() == "ready\n", "this needs root, and Linux"
        here = f"leases{number}"
        for command in (
            f"ip link add {here} type veth peer name eth0 netns {self.sleeps.pid}",
            f"ip addr add {self.network}.1/30 dev {here}",
            f"ip link set {here} up",
            f"nsenter -t {self.sleeps.pid} -n ip addr add {self.network}.2/30 dev eth0",
            f"nsenter -t {self.sleeps.pid} -n ip link set eth0 up",
        ):
            subprocess.run(command.split(), check=True)

    def end(self) -> None:
        """Take the machine away; with it go its network and its files."""
        self.sleeps.kill()
        self.sleeps.wait()

    def start(self, lake: str, port: int, log: Path) -> subprocess.Popen[bytes]:
        """Start a night."""
        enter = ["nsenter", "-t", str(self.sleeps.pid), "--net", "--mount", "--uts"]
        night = ["run", "--night", str(NIGHT), "--lake", lake]
        environment = os.environ | keys(f"http://{self.network}.1:{port}") | SETTINGS
        with log.open("wb") as file:
            return subprocess.Popen(
                [*enter, f"--wd={REPO}", sys.executable, "-c", COMMAND, *night],
                stdout=file,
                stderr=file,
                env=environment,
            )


def keys(address: str) -> dict[str, str]:
    """Return the environment in which the store is reached."""
    return {
        "AWS_ACCESS_KEY_ID": "key",
        "AWS_SECRET_ACCESS_KEY": "secret",
        "AWS_REGION": "us-east-1",
        "AWS_ENDPOINT_URL": address,
    }


def until(found: Any, process: subprocess.Popen[bytes], log: Path) -> None:
    """Wait for something that a process is to do."""
    end = time.monotonic() + PATIENCE
    while not found():
        assert process.poll() is None, log.read_text()
        assert time.monotonic() < end, log.read_text()
        time.sleep(0.1)


def epochs(log: Path) -> list[int]:
    """Return the epochs of a training that a log tells of."""
    return [int(epoch) for epoch in re.findall(r"epoch (\d+)/", log.read_text())]


def contents(lake: Lake) -> dict[str, Any]:
    """Return what has to be the same in all lakes; the summaries of steps have their URLs."""
    found: dict[str, Any] = {}
    for table in tables.TABLES.values():
        rows = _rows(SimpleNamespace(lake=lake), table)  # type: ignore[arg-type]
        found[table.name] = rows.drop("summary", strict=False).rows()
    for file in lake.storage.files("model_files"):
        found[file.path] = lake.storage.read(file.path)
    return found


def main() -> int:
    """Run the nights and tell how they went."""
    with contextlib.ExitStack() as stack:
        address = stack.enter_context(s3("0.0.0.0"))
        port = int(address.rpartition(":")[2])
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="two-machines-")))
        os.environ |= keys(address)
        bucket = boto3.resource("s3").Bucket("lakes")
        bucket.create()
        made = generate(folder, users=400, items=120, intents=4, nights=5, last_night=NIGHT, seed=1)
        for file in made.events.rglob("*.parquet"):
            bucket.upload_file(str(file), f"events/{file.relative_to(made.events)}")
        one, other = Machine("machine-a", 1), Machine("machine-b", 2)
        for machine in (one, other):
            stack.callback(machine.end)

        def begun(lake: str) -> tuple[subprocess.Popen[bytes], Path]:
            log = folder / f"{lake}-{one.name}.log"
            process = one.start(f"s3://lakes/{lake}", port, log)
            stack.callback(process.kill)
            storage = Lake(f"s3://lakes/{lake}").storage

            def checkpoint() -> bool:
                return any(
                    file.path.endswith("training.json") for file in storage.files("model_files")
                )

            until(checkpoint, process, log)
            return process, log

        def whole(machine: Machine, lake: str) -> Path:
            log = folder / f"{lake}-{machine.name}.log"
            process = machine.start(f"s3://lakes/{lake}", port, log)
            stack.callback(process.kill)
            assert process.wait(PATIENCE) == 0, log.read_text()
            return log

        whole(one, "undisturbed")
        print("undisturbed: done", flush=True)

        process, log = begun("killed")
        process.kill()
        process.wait()
        before, after = epochs(log), epochs(whole(other, "killed"))
        went_on = bool(after) and after[0] > 1
        print(f"killed after epoch {before[-1:]}, went on with {after[:1]}", flush=True)

        process, log = begun("stopped")
        process.send_signal(signal.SIGSTOP)
        waited = whole(other, "stopped").read_text()
        process.send_signal(signal.SIGCONT)
        process.wait(PATIENCE)
        lost = re.findall(".*has lost its turn.*", log.read_text())
        refused = process.returncode == 2 and bool(lost)
        said = lost[-1] if lost else log.read_text()
        print(f"stopped, then went on: ended with {process.returncode}: {said}", flush=True)
        print(*re.findall(r".*(?:waiting for|loses its turns).*", waited), sep="\n", flush=True)

        lakes = [
            contents(Lake(f"s3://lakes/{name}")) for name in ("undisturbed", "killed", "stopped")
        ]
        differ = [
            name
            for name in sorted(set().union(*lakes))
            if any(lake.get(name) != lakes[0].get(name) for lake in lakes)
        ]
    print(f"tables and models that differ: {differ or 'none'}")
    return 0 if went_on and refused and not differ else 1


if __name__ == "__main__":
    sys.exit(main())
