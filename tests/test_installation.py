"""Which Python `make` takes, and that constraints/ holds all that is installed."""

import re
import subprocess
import sys
import tomllib
from importlib.metadata import distribution
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

REPO = Path(__file__).resolve().parents[1]
PROJECT = tomllib.loads((REPO / "pyproject.toml").read_text())
EXTRAS = PROJECT["project"]["optional-dependencies"]
SUPPORTED = ["3.11", "3.12", "3.13"]


def _constraints(python: str) -> dict[str, str]:
    """Give the version of each package that the file for a Python pins."""
    lines = (REPO / "constraints" / f"py{python.replace('.', '')}.txt").read_text().splitlines()
    pinned = [line.split("==") for line in lines if not line.startswith("#")]
    assert all(len(pin) == 2 for pin in pinned), "each line is name==version"
    return dict(pinned)


def _wanted() -> list[Requirement]:
    """Parse what pyproject.toml asks for, of every extra."""
    lines = [
        *PROJECT["project"]["dependencies"],
        *(one for extra in EXTRAS.values() for one in extra),
    ]
    wanted = [Requirement(line) for line in lines]
    return [one for one in wanted if one.name != PROJECT["project"]["name"]]


@pytest.mark.parametrize("python", SUPPORTED)
def test_every_requirement_has_a_version_that_it_allows(python: str) -> None:
    pinned = _constraints(python)
    for wanted in _wanted():
        version = pinned.get(canonicalize_name(wanted.name))
        assert version is not None, f"{wanted} has no line"
        assert wanted.specifier.contains(version), f"{wanted}, but {version} is pinned"


def test_every_installed_requirement_of_a_requirement_is_pinned_at_its_version() -> None:
    pinned = _constraints("{}.{}".format(*sys.version_info))
    # PyTorch's packages for CUDA: its own build names their versions.
    seen = set(PROJECT["tool"]["uv"]["exclude-dependencies"])
    todo = [(one.name, extra) for one in _wanted() for extra in ("", *one.extras)]
    checked = 0
    while todo:
        name, extra = todo.pop()
        if name in seen or f"{name}[{extra}]" in seen:
            continue
        seen.add(f"{name}[{extra}]")
        found = distribution(name)
        # `+cpu` of a build of PyTorch is no part of the version.
        assert pinned.get(canonicalize_name(name)) == found.version.partition("+")[0], name
        checked += 1
        for needed in map(Requirement, found.requires or []):
            if needed.marker is None or needed.marker.evaluate({"extra": extra}):
                todo += [(needed.name, of) for of in ("", *needed.extras)]
    assert checked > 200


def test_the_pythons_of_the_project_are_those_with_constraints() -> None:
    files = {f"py{python.replace('.', '')}.txt" for python in SUPPORTED}
    assert {path.name for path in (REPO / "constraints").iterdir()} == files
    allowed = Requirement(f"python{PROJECT['project']['requires-python']}").specifier
    assert [f"3.{minor}" for minor in range(20) if f"3.{minor}" in allowed] == SUPPORTED


def _script(path: Path, *lines: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(["#!/bin/sh", *lines, ""]))
    path.chmod(0o755)


def _make(folder: Path, *arguments: str, **environment: str) -> "subprocess.CompletedProcess[str]":
    """Run make in `folder`, where bin/ comes first on the path."""
    for path in (REPO / "Makefile", REPO / "pyproject.toml", *(REPO / "constraints").iterdir()):
        copy = folder / path.relative_to(REPO)
        copy.parent.mkdir(exist_ok=True)
        copy.write_bytes(path.read_bytes())
    return subprocess.run(
        ["make", "install", *arguments],
        cwd=folder,
        env={"PATH": f"{folder / 'bin'}:/usr/bin:/bin"} | environment,
        capture_output=True,
        text=True,
        check=False,
    )


def _pythons(folder: Path, able: set[str]) -> None:
    """Stand-ins for python3.11, 3.12 and 3.13, of which the `able` can make environments."""
    for version in SUPPORTED:
        answer = (
            [f'[ "$1" = -c ] || {{ echo "{version} $*" >> {folder}/asked; exit 3; }}']
            if version in able
            else ["exit 1"]
        )
        _script(folder / "bin" / f"python{version}", *answer)


@pytest.mark.parametrize(
    ("able", "taken"),
    [({"3.11", "3.12", "3.13"}, "3.11"), ({"3.12", "3.13"}, "3.12"), ({"3.13"}, "3.13")],
)
def test_make_takes_the_first_python_that_can_make_environments(
    able: set[str], taken: str, tmp_path: Path
) -> None:
    _pythons(tmp_path, able)
    _make(tmp_path)
    assert (tmp_path / "asked").read_text() == f"{taken} -m venv .venv\n"


def test_make_takes_the_python_that_is_named(tmp_path: Path) -> None:
    _pythons(tmp_path, set(SUPPORTED))
    _make(tmp_path, "PYTHON=python3.13")
    assert (tmp_path / "asked").read_text() == "3.13 -m venv .venv\n"


def test_make_lets_python_keep_its_byte_code_wherever_it_is_forbidden(tmp_path: Path) -> None:
    forbidden = 'echo "${PYTHONDONTWRITEBYTECODE-not forbidden}" > asked; exit 3'
    _script(tmp_path / "bin" / "python3.11", f'[ "$1" = -c ] || {{ {forbidden}; }}')
    _make(tmp_path, PYTHONDONTWRITEBYTECODE="1")
    assert (tmp_path / "asked").read_text() == "not forbidden\n"


@pytest.mark.parametrize(
    ("arguments", "fault"),
    [
        (["PYTHON=no-such-python"], "'no-such-python' is not a Python 3.11, 3.12 or 3.13 that"),
        ([], "none of python3.11 python3.12 python3.13 is a Python 3.11, 3.12 or 3.13 that"),
    ],
)
def test_make_says_which_pythons_it_can_use(
    arguments: list[str], fault: str, tmp_path: Path
) -> None:
    _pythons(tmp_path, set())
    made = _make(tmp_path, *arguments)
    assert made.returncode != 0
    assert f"error: {fault} can make virtual environments: install" in made.stderr
    assert not (tmp_path / ".venv").exists()


def test_an_environment_of_another_python_than_the_one_named_is_refused(tmp_path: Path) -> None:
    _script(tmp_path / ".venv" / "bin" / "python", "echo 3.11")
    _script(tmp_path / "bin" / "python3.13", "echo 3.13")
    made = _make(tmp_path, "PYTHON=python3.13")
    assert made.returncode != 0
    assert re.search(
        r"error: \.venv is of Python 3\.11, not of PYTHON=python3\.13: run 'make clean'",
        made.stderr,
    )
