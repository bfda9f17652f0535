"""Paths and commands in prose exist: what README, CONTRIBUTING and the component READMEs name can be opened and run."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PROSE = (
    "*.md",
    "components/*/*/README.md",
    *(f"{top}/**/*.md" for top in ("docs", "images", "manifests", "benchmarks")),
)
PAGES = sorted(page for pattern in PROSE for page in ROOT.glob(pattern))
#: First parts of paths that are of this repository, as opposed to `runs/…` and the reader's own.
TOP = (
    "src",
    "components",
    "pipelines",
    "recipes",
    "compiled",
    "images",
    "manifests",
    "tests",
    "benchmarks",
    "requirements",
)
FILES = re.compile(r"^(?:\.ci/run|Makefile|Dockerfile|LICENSE|[A-Z]+\.md|pyproject\.toml|conftest\.py)$")
PLACEHOLDER = re.compile(r"[<>*…{}$]|\.\.\.")


def name_of(page: Path) -> str:
    return page.relative_to(ROOT).as_posix()


def code_of(page: Path) -> str:
    """Everything that stands in backticks, inline or fenced."""
    text = page.read_text()
    fenced = re.findall(r"```[a-z]*\n(.*?)```", text, flags=re.DOTALL)
    inline = re.findall(r"`([^`\n]+)`", re.sub(r"```.*?```", "", text, flags=re.DOTALL))
    return "\n".join([*fenced, *inline])


def paths_of(page: Path) -> Iterator[str]:
    for word in re.split(r"[\s,;()\"']+", code_of(page)):
        path = word.removeprefix("./").split("::")[0].rstrip(".:")
        if not PLACEHOLDER.search(path) and ((path.split("/")[0] in TOP and "/" in path) or FILES.match(path)):
            yield path


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_paths_in_prose_exist(page: Path):
    missing = [path for path in paths_of(page) if not (ROOT / path).exists() and not (page.parent / path).exists()]
    assert missing == []


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_links_lead_somewhere(page: Path):
    targets = re.findall(r"\]\((?!https?://|#|mailto:)([^)#\s]+)", page.read_text())
    assert [target for target in targets if not (page.parent / target).exists()] == []


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_make_targets_in_prose_exist(page: Path):
    phony = re.search(r"^\.PHONY: (.*)$", (ROOT / "Makefile").read_text(), flags=re.MULTILINE)
    assert phony is not None
    named = re.findall(r"(?:^|[\s$])make ([a-z][a-z0-9-]*)", code_of(page))
    assert [target for target in named if target not in phony[1].split()] == []


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_commands_of_ours_in_prose_exist(page: Path):
    from tutelage.cli import commands

    named = re.findall(r"(?:^|[\s$/])tutelage ([a-z][a-z-]*)", code_of(page))
    assert [command for command in named if command not in commands.commands] == []


def test_make_alone_explains_every_target():
    text = (ROOT / "Makefile").read_text()
    explained = subprocess.run(["make"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    for target in re.findall(r"^([a-z][a-z-]*):", text, flags=re.MULTILINE):
        if target not in ("help", "java"):
            assert f"make {target}" in explained


def test_continuous_integration_runs_the_test_command_of_the_readme():
    script = ROOT / ".ci" / "run"
    assert script.stat().st_mode & 0o111, ".ci/run must be executable"
    assert "set -euo pipefail" in script.read_text()
    assert "\nmake test\n" in script.read_text()
    assert "make test" in code_of(ROOT / "README.md")
