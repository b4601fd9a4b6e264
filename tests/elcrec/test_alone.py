"""The model where nothing is installed but what the wheel itself asks for."""

import json
import os
import shutil
import subprocess
import sys
import venv
from importlib.metadata import Distribution, PathDistribution, distribution
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

REPO = Path(__file__).resolve().parents[2]

# Two kinds of users, each of whom walks in a circle of its own through the items.
PROGRAM = """
import importlib.util, json, sys
import numpy as np
from elcrec import Config, ELCRec, Histories

starts = np.random.default_rng(0).integers(0, 20, 64)
lists = [[20 * (user % 2) + 1 + (start + event) % 20 for event in range(12)]
         for user, start in enumerate(starts)]
histories = Histories.from_lists(lists)
config = Config(dim=16, filters=4, max_length=10, n_intents=2, max_epochs=3, threads=1)
model = ELCRec(config).fit(histories, 40)
labels = model.transform(histories)
model.save("model")
again = ELCRec.load("model").transform(histories)
rooms = "tasks local dags airflow duckdb polars pyarrow deltalake pydantic".split()
print(json.dumps({
    "labelled": int((labels.intent >= 0).sum()),
    "alike": bool((labels.intent == again.intent).all()),
    "importable": [name for name in rooms if importlib.util.find_spec(name)],
    "from": sys.modules["elcrec"].__file__,
}))
"""


def _asked_for(wheel: Distribution) -> dict[str, Distribution]:
    """Find the distributions that `wheel` needs and those that they need, without extras."""
    found: dict[str, Distribution] = {}
    todo = [wheel]
    while todo:
        for line in todo.pop().requires or []:
            needed = Requirement(line)
            name = canonicalize_name(needed.name)
            if name not in found and (needed.marker is None or needed.marker.evaluate()):
                found[name] = distribution(name)
                todo.append(found[name])
    return found


def _link(installed: Distribution, into: Path) -> None:
    """Link every file and folder that a distribution has put beside the others."""
    tops = {
        file.parts[0]
        for file in installed.files or []
        if file.parts[0] not in ("..", "__pycache__")
    }
    for top in tops:
        if not (into / top).exists():
            (into / top).symlink_to(Path(str(installed.locate_file(top))).resolve())


@pytest.mark.slow
def test_the_model_fits_and_labels_with_its_own_dependencies_alone(tmp_path: Path) -> None:
    source = tmp_path / "source"
    shutil.copytree(
        REPO / "elcrec", source / "elcrec", ignore=shutil.ignore_patterns("__pycache__")
    )
    for name in ("pyproject.toml", "README.md"):
        shutil.copy(REPO / name, source)
    pip = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check"]
    quiet = {"check": True, "capture_output": True, "text": True}
    offline = ["--no-index", "--no-deps", "--no-build-isolation"]
    subprocess.run([*pip, "wheel", *offline, "--wheel-dir", tmp_path, source], **quiet)
    (wheel,) = tmp_path.glob("elcrec_nightly-*.whl")
    bare = tmp_path / "bare"
    venv.create(bare, symlinks=True)
    (packages,) = bare.glob("lib/python*/site-packages")
    subprocess.run(
        [*pip, "install", *offline[:2], "--no-compile", "--target", packages, wheel], **quiet
    )
    (info,) = packages.glob("elcrec_nightly-*.dist-info")
    needed = _asked_for(PathDistribution(info))
    assert {"numpy", "safetensors", "scipy", "torch"} <= needed.keys()
    for installed in needed.values():
        _link(installed, packages)
    environment = {
        name: value for name, value in os.environ.items() if not name.startswith("PYTHON")
    }
    ran = subprocess.run(
        [bare / "bin" / "python", "-c", PROGRAM],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert ran.returncode == 0, ran.stderr
    said = json.loads(ran.stdout.splitlines()[-1])
    assert said["labelled"] == 64
    assert said["alike"]
    assert said["importable"] == []
    assert Path(said["from"]).is_relative_to(bare)
