"""`make component` in a copy of the repository: what it makes passes every check but its own test; a bad name writes nothing."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[2]
#: What the checks read. Not runs/, caches or the environment.
COPIED = (
    "CONTRIBUTING.md", "Makefile", "components", "compiled", "manifests", "conftest.py", "images", "pipelines",
    "pyproject.toml", "recipes", "requirements", "src", "tests",
)  # fmt: skip
BIN = Path(sys.executable).parent
NAME = "data/shorten"
FILES = {"step.py", "component.py", "component.yaml", "README.md", "tests/test_shorten.py"}

#: What `tutelage check` tells of a policy, without fetching the recipe's wheels.
CHECK_PLAN = """
from tutelage.plan.recipe import problems
for problem in problems("llm_training", {"policy": {"sift": {"minimum_character": 20}}}):
    print(problem, problem.hint)
"""


def copy_to(folder: Path) -> Path:
    """A copy of the repository."""
    folder.mkdir()
    for name in COPIED:
        source = ROOT / name
        if source.is_dir():
            shutil.copytree(
                source, folder / name, ignore=shutil.ignore_patterns("__pycache__", ".*cache", "*.egg-info")
            )
        else:
            shutil.copy(source, folder / name)
    return folder


def run_in(copy: Path, *command: str) -> subprocess.CompletedProcess[str]:
    """Run a command on the copy's own package and components."""
    environment = {**os.environ, "PYTHONPATH": f"{copy / 'src'}{os.pathsep}{copy}"}
    return subprocess.run(command, cwd=copy, env=environment, capture_output=True, text=True, stdin=subprocess.DEVNULL)


def new_component(copy: Path, *names: str) -> subprocess.CompletedProcess[str]:
    return run_in(copy, sys.executable, "-m", "tutelage.orchestrate.new_component", *names)


@pytest.fixture(scope="module")
def repository(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy with a new component in it."""
    copy = copy_to(tmp_path_factory.mktemp("copy") / "repository")
    done = new_component(copy, *NAME.split("/"))
    assert done.returncode == 0, done.stderr
    assert all(f"components/{NAME}/{file}" in done.stdout for file in FILES)
    return copy


def files_below(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.suffix not in ("", ".pyc")}


def test_a_new_component_has_every_file_and_leaves_nothing_besides(repository: Path):
    assert files_below(repository / "components" / NAME) == FILES
    assert not list(repository.glob(".component-*"))


@pytest.mark.parametrize(
    "command",
    [("ruff", "check"), ("ruff", "format", "--check"), pytest.param(("mypy",), marks=pytest.mark.slow)],
    ids=" ".join,
)
def test_a_new_component_is_clean(repository: Path, command: tuple[str, ...]):
    done = run_in(repository, str(BIN / command[0]), *command[1:], f"components/{NAME}")
    assert done.returncode == 0, done.stdout + done.stderr


def test_a_new_component_imports_what_a_component_may(repository: Path):
    done = run_in(repository, str(BIN / "lint-imports"), "--no-logo", "--no-cache")
    assert done.returncode == 0, done.stdout + done.stderr


def test_a_new_component_leaves_compiled_files_fresh(repository: Path):
    done = run_in(repository, sys.executable, "-m", "tutelage", "compile", "--check")
    assert done.returncode == 0, done.stdout + done.stderr


def test_a_new_component_passes_the_tests_of_components_imports_and_prose(repository: Path):
    tests = [f"tests/contracts/test_{name}.py" for name in ("components", "imports", "prose")]
    chosen = "shorten or every_step_imports_fast"
    done = run_in(repository, sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *tests, "-k", chosen)
    assert done.returncode == 0, done.stdout + done.stderr
    assert int(done.stdout.split(" passed")[0].split()[-1]) >= 12


def test_its_own_test_runs_the_step_and_fails_with_what_to_write(repository: Path):
    done = run_in(repository, sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", f"components/{NAME}")
    assert done.returncode == 1, done.stdout + done.stderr
    assert "write in components/data/shorten/tests/test_shorten.py what this step must do" in done.stdout
    assert "the example kept 1 of 2 rows and dropped {'too_short': 1}" in done.stdout
    assert "1 failed" in done.stdout and "passed" not in done.stdout.splitlines()[-1]


def test_every_stage_can_be_given_a_component(repository: Path):
    stages = sorted(
        path.name for path in (repository / "components").iterdir() if path.is_dir() and path.name[0].isalpha()
    )
    for number, stage in enumerate(stages):
        done = new_component(repository, stage, f"example{'abcdefgh'[number]}")
        assert done.returncode == 0, done.stderr
        body = yaml.safe_load(
            (repository / "components" / stage / f"example{'abcdefgh'[number]}" / "component.yaml").read_text()
        )
        assert (body["name"].split("/")[0], body["owners"]) == (stage, [stage])
        shutil.rmtree(repository / "components" / stage / f"example{'abcdefgh'[number]}")


def blocks_of(page: str, language: str) -> list[str]:
    """The fenced blocks of a language below `Add a component`, without the list's indentation."""
    found = re.findall(rf"^   ```{language}\n(.*?)^   ```", page, flags=re.MULTILINE | re.DOTALL)
    return [
        textwrap.dedent(block) if language != "diff" else re.sub("^   ", "", block, flags=re.MULTILINE)
        for block in found
    ]


def apply(diff: str, files: list[Path]) -> None:
    """Do in a file what a diff block shows: what is there must stand in one of the files, once."""
    lines = diff.splitlines(keepends=True)
    before = "".join(line[1:] for line in lines if line[0] in " -")
    after = "".join(line[1:] for line in lines if line[0] in " +")
    (file,) = [file for file in files if file.read_text().count(before) == 1]
    file.write_text(file.read_text().replace(before, after))


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_the_walk_through_of_contributing_is_true_when_followed(tmp_path: Path):
    copy = copy_to(tmp_path / "repository")
    page = (copy / "CONTRIBUTING.md").read_text()
    (names,) = re.findall(r"make component STAGE=(\w+) VERB=(\w+)", page)
    assert new_component(copy, *names).returncode == 0

    own = copy / "components" / "data" / "sift" / "tests" / "test_sift.py"
    (test,) = blocks_of(page, "python")
    text = own.read_text().replace("import pytest\n\n", "")
    own.write_text(text[: text.index("def test_")] + test)
    for diff in blocks_of(page, "diff"):
        apply(diff, [copy / "pipelines" / "line.py", copy / "src" / "tutelage" / "plan" / "recipe.py"])
    phases = copy / "tests" / "pipelines" / "test_phases.py"
    phases.write_text(phases.read_text().replace('    "check", "acquire",', '    "sift", "check", "acquire",', 1))

    assert run_in(copy, sys.executable, "-m", "tutelage", "compile").returncode == 0
    assert "exec-sift:" in (copy / "compiled" / "llm_training.yaml").read_text()
    wrong = run_in(copy, sys.executable, "-c", CHECK_PLAN)
    assert "policy.sift.minimum_character: unknown key" in wrong.stdout, wrong.stderr
    assert "did you mean 'minimum_characters'?" in wrong.stdout
    for command in (("ruff", "check"), ("ruff", "format", "--check")):
        clean = run_in(copy, str(BIN / command[0]), *command[1:], "components", "pipelines", "src", "tests/pipelines")
        assert clean.returncode == 0, clean.stdout
    tests = ("components/data/sift", "tests/contracts/test_components.py", "tests/contracts/test_imports.py",
             "tests/pipelines", "tests/library/plan/test_recipe.py")  # fmt: skip
    passed = run_in(copy, sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *tests)
    assert passed.returncode == 0, passed.stdout + passed.stderr


@pytest.mark.parametrize(
    ("stage", "verb", "message"),
    [
        ("dat", "count", "did you mean 'data'?"),
        ("nowhere", "count", "accepted: data, evaluate, plan"),
        ("", "", "STAGE: is missing"),
        ("..", "count", "unknown stage"),
        ("data", "Count", "lower-case letters"),
        ("data", "count_words", "lower-case letters"),
        ("data", "count2", "lower-case letters"),
        ("data", "../count", "lower-case letters"),
        ("data", "a b", "lower-case letters"),
        ("data", "class", "means something in Python"),
        ("data", "match", "means something in Python"),
        ("data", "filter", "means something in Python"),
        ("data", "launch", "means something in Python or in component.py"),
        ("data", "curate", "components/data/curate exists"),
        ("release", "curate", "components/data/curate exists"),
    ],
)
def test_a_name_that_cannot_be_one_is_refused_with_a_hint_and_nothing_is_written(
    repository: Path, stage: str, verb: str, message: str
):
    before = files_below(repository)
    done = new_component(repository, stage, verb)
    assert done.returncode == 2
    assert message in done.stderr and "hint:" in done.stderr and "Traceback" not in done.stderr
    assert files_below(repository) == before


def test_a_link_that_leads_nowhere_stands_in_the_way_of_a_component(repository: Path):
    link = repository / "components" / "data" / "dangle"
    link.symlink_to(repository / "nowhere")
    done = new_component(repository, "data", "dangle")
    assert done.returncode == 2 and "components/data/dangle exists" in done.stderr and "Traceback" not in done.stderr
    link.unlink()


def test_what_cannot_be_written_is_said_without_a_traceback_and_leaves_nothing(repository: Path):
    before = files_below(repository)
    script = textwrap.dedent("""
        import resource, sys
        from tutelage.orchestrate import new_component
        resource.setrlimit(resource.RLIMIT_FSIZE, (10, 10))
        sys.exit(new_component.main(["data", "dangle"]))
    """)
    done = run_in(repository, sys.executable, "-B", "-c", script)
    assert done.returncode == 1 and "error: component data/dangle cannot be written: [Errno 27]" in done.stderr
    assert files_below(repository) == before and not list(repository.glob(".component-*"))


def test_make_hands_names_over_as_they_are_and_the_shell_reads_nothing_of_them(repository: Path):
    environment = repository / "environment"
    (environment / "bin").mkdir(parents=True)
    python = environment / "bin" / "python"
    python.write_text(f'#!/bin/sh\nexec {sys.executable} "$@"\n')
    python.chmod(0o755)
    (environment / ".set-up").touch()
    words = ("make", "component", "VENV=environment", "STAGE=data")
    refused = run_in(repository, *words, 'VERB=x"; touch broken; echo "')
    assert refused.returncode == 2 and "'x\"; touch broken; echo \"' is no verb" in refused.stderr, refused.stderr
    assert not (repository / "broken").exists()
    assert "VERB: is missing" in run_in(repository, *words).stderr
    made = run_in(repository, *words, "VERB=widen")
    assert made.returncode == 0 and (repository / "components" / "data" / "widen" / "step.py").is_file(), made.stderr
