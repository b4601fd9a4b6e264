"""Where the figures of a benchmark go: bench/results/<name>.json. docs/results.md is made of these.

A program of bench/ takes `--record NAME` and writes its figures with what they depend on: the
command, the commit, the date and the machine. Without it, it only prints them.

A person may add `remarks` to a file, sentences about these figures that the page prints below them.
They go when the figures are measured again, for they may not hold any more.
"""

from __future__ import annotations

import argparse
import datetime as dt
import json
import os
import platform
import shlex
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import psutil

REPO = Path(__file__).resolve().parent.parent
RESULTS = REPO / "bench" / "results"


def add_option(parser: argparse.ArgumentParser) -> None:
    """Let a program be asked to keep its figures."""
    parser.add_argument(
        "--record",
        metavar="NAME",
        help="keep the figures in bench/results/NAME.json, for docs/results.md",
    )


def record(
    name: str | None, figures: Any, folder: Path = RESULTS, called: Sequence[str] | None = None
) -> Path | None:
    """Write figures that JSON can hold to <name>.json in the folder; nothing without a name.

    called: the program and its arguments, by default those of this process.
    Returns the file. Raises ValueError for figures that are no numbers, such as NaN.
    """
    if name is None:
        return None
    result = {
        "command": command(called or sys.argv),
        "commit": commit(),
        "date": dt.datetime.now(dt.UTC).date().isoformat(),
        "machine": machine(),
        "figures": figures,
    }
    text = json.dumps(result, indent=1, allow_nan=False)  # before anything is written
    folder.mkdir(exist_ok=True)
    file = folder / f"{name}.json"
    file.write_text(text + "\n", "utf-8")
    print(f"{file}: now run .venv/bin/python bench/results_page.py", file=sys.stderr)
    return file


def read(folder: Path = RESULTS) -> dict[str, dict[str, Any]]:
    """Return all results by their names."""
    return {
        file.stem: json.loads(file.read_text("utf-8")) for file in sorted(folder.glob("*.json"))
    }


def command(arguments: Sequence[str]) -> str:
    """Write the call of a program of bench/ as a person types it, without `--record NAME`."""
    program, *rest = arguments
    if "--record" in rest:
        at = rest.index("--record")
        del rest[at : at + 2]
    rest = [one for one in rest if not one.startswith("--record=")]
    return shlex.join([".venv/bin/python", f"bench/{Path(program).name}", *rest])


def commit() -> str:
    """Return the commit of the repository, with "-changed" behind it when files differ from it."""
    where = {"cwd": REPO, "capture_output": True, "text": True, "check": True}
    at = subprocess.run(["git", "rev-parse", "--short=7", "HEAD"], **where).stdout.strip()
    # The results themselves and the page that is made from them change no figure.
    code = ["--", ".", ":!bench/results", ":!docs"]
    changed = subprocess.run(["git", "status", "--porcelain", *code], **where).stdout
    return f"{at}-changed" if changed else at


def machine() -> dict[str, Any]:
    """Return what the figures of a machine depend on: processor, its cores, memory, GPU."""
    facts: dict[str, Any] = {
        "cpu": _cpu(),
        "cores": os.cpu_count(),
        "avx512": "avx512f" in _cpu_flags(),
        "memory_gb": round(psutil.virtual_memory().total / 1e9, 1),
        "load": round(os.getloadavg()[0], 1),  # about 0 on an idle machine; this run is part of it
    }
    if "torch" in sys.modules:
        import torch

        facts["gpu"] = torch.cuda.get_device_name() if torch.cuda.is_available() else None
    return facts


def _cpu() -> str:
    for line in _cpu_facts():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def _cpu_flags() -> set[str]:
    return {flag for line in _cpu_facts() if line.startswith("flags") for flag in line.split()}


def _cpu_facts() -> list[str]:
    try:
        return Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:  # no Linux
        return []
