"""What the pages point to exists: files, headings, functions, settings, commands."""

import ast
import re
import subprocess
from pathlib import Path

import pytest
import typer

from tasks.__main__ import app
from tasks.settings import REPO, Settings, known_keys

PAGES = sorted([*REPO.glob("*.md"), *(REPO / "docs").rglob("*.md")])
ROOMS = "bench|dags|docker|docs|elcrec|local|plugins|sql|tasks|tests"
FENCE = re.compile(r"^```.*?^```", re.DOTALL | re.MULTILINE)
CODE = re.compile(r"`[^`\n]+`")
FUNCTION = ast.FunctionDef | ast.AsyncFunctionDef
SUFFIXES = (".dump", ".json", ".txt", ".toml", ".py", ".sql", ".csv", ".parquet")


def prose(page: Path) -> str:
    return FENCE.sub("", page.read_text("utf-8"))


def anchors(page: Path) -> set[str]:
    """Return what GitHub calls the headings of a page."""
    found: set[str] = set()
    for heading in re.findall(r"(?m)^#+ (.*)$", prose(page)):
        plain = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading).replace("\\", "")
        slug = re.sub(r"[^\w\- ]", "", plain.lower()).replace(" ", "-")
        number = 0
        while (name := f"{slug}-{number}" if number else slug) in found:
            number += 1
        found.add(name)
    return found


def defines(module: Path, name: str) -> bool:
    """Whether a module has this function, class or constant; `Class.method` is one of a class."""
    owner, _, member = name.rpartition(".")
    for node in ast.parse(module.read_text("utf-8")).body:
        if owner and isinstance(node, ast.ClassDef) and node.name == owner:
            return any(isinstance(one, FUNCTION) and one.name == member for one in node.body)
        if not owner and member in names(node):
            return True
    return False


def names(node: ast.stmt) -> list[str]:
    match node:
        case ast.FunctionDef() | ast.AsyncFunctionDef() | ast.ClassDef():
            return [node.name]
        case ast.Assign():
            return [target.id for target in node.targets if isinstance(target, ast.Name)]
        case ast.AnnAssign(target=ast.Name()):
            return [node.target.id]
    return []


def links(page: Path) -> list[tuple[str, str]]:
    text = re.sub(r"<!--.*?-->", "", prose(page), flags=re.DOTALL)
    return re.findall(r"\[((?:[^\[\]]|\\.)*)\]\(([^)\s]+)\)", text)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(REPO)))
def test_a_link_leads_to_a_file_a_heading_or_a_function(page: Path) -> None:
    for text, target in links(page):
        if re.match(r"https?://", target):
            continue
        path, _, anchor = target.partition("#")
        file = (page.parent / path).resolve() if path else page
        assert file.exists(), f"{target} does not exist"
        assert file.is_relative_to(REPO), f"{target} is outside of the repository"
        if anchor:
            assert anchor in anchors(file), f"{target}: there is no such heading"
        if file.suffix == ".py" and (name := re.fullmatch(r"`([\w.]+)`", text)):
            assert defines(file, name[1]), f"{path} does not define {name[1]}"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(REPO)))
def test_a_file_that_is_named_exists(page: Path) -> None:
    for path in re.findall(rf"`((?:{ROOMS})/[\w./-]+\.\w+)(?::\w+)?`", prose(page)):
        assert (REPO / path).exists() or is_ignored(path), path


def is_ignored(path: str) -> bool:
    """Whether git ignores it: it is made on each machine."""
    asked = ["git", "check-ignore", "--quiet", path]
    return subprocess.run(asked, cwd=REPO, check=False).returncode == 0


@pytest.mark.parametrize(
    "page",
    [page for page in PAGES if page.name != "CHANGELOG.md"],  # which names old ones, too
    ids=lambda page: str(page.relative_to(REPO)),
)
def test_a_setting_that_is_named_exists(page: Path) -> None:
    known = set(known_keys())
    for code in CODE.findall(prose(page)):
        for section, key in re.findall(r"(?<![\w./-])([a-z]+)\.([a-z_]+)(?![\w/])", code):
            name = f"{section}.{key}"
            if section in Settings.model_fields and not name.endswith(SUFFIXES):
                assert name in known, name
    for variable in re.findall(r"\bELCREC_([A-Z]+__[A-Z_]+)", page.read_text("utf-8")):
        name = variable.lower().replace("__", ".", 1)
        assert name in known or name.startswith("model.overrides"), variable


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(REPO)))
def test_a_command_that_is_shown_exists_with_its_options(page: Path) -> None:
    group = typer.main.get_command(app)
    assert isinstance(group, typer.core.TyperGroup)
    text = page.read_text("utf-8").replace("\\\n", " ")
    for command, rest in re.findall(r"python -m tasks ([a-z][a-z-]*)([^`\n#]*)", text):
        assert command in group.commands, command
        options = {name for option in group.commands[command].params for name in option.opts}
        for option in re.findall(r"(?<!\S)--[a-z-]+", rest):
            assert option in {*options, "--help"}, f"{command} {option}"
    targets = set(re.findall(r"(?m)^([a-z-]+):", (REPO / "Makefile").read_text("utf-8")))
    for target in re.findall(r"(?:^|`)make ([a-z][a-z-]*)", text, re.MULTILINE):
        assert target in targets, f"make {target}"
