"""A new component's folder, which passes every check but its own test:  make component STAGE=data VERB=shorten

    python -m tutelage.orchestrate.new_component STAGE VERB

What it makes works: a step that drops short documents, with all that CONTRIBUTING.md asks of a component. Its author replaces
the example and writes the test. Nothing is written for a name that cannot be one, and all files appear at once.
"""

from __future__ import annotations

import builtins
import difflib
import keyword
import os
import re
import shutil
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path

from tutelage.errors import InvalidInput, Problem, StepFailed, TutelageError
from tutelage.step import repository_root, step_names

TEMPLATES = Path(__file__).parent / "component_templates"
#: Template → file in the component's folder.
FILES: Mapping[str, str] = {
    "step.py": "step.py",
    "component.py": "component.py",
    "component.yaml": "component.yaml",
    "README.md": "README.md",
    "test.py": "tests/test_{verb}.py",
}
#: One word: KFP turns an underscore into a hyphen, and the label of a task ends where its digits or hyphens begin.
VERB = re.compile(r"[a-z]{2,30}")
#: Names that component.py gives to something else, and folders beside the verbs.
TAKEN = frozenset({"dsl", "launch", "tests"})


def new_component(stage: str, verb: str) -> list[Path]:
    """Write the folder of component `stage/verb` and give its files. Raises InvalidInput, before anything is written."""
    refuse_name(stage, verb)
    folder = repository_root() / "components" / stage / verb
    texts = rendered(stage, verb)
    # Not in components/: a half-written component must not be found there.
    incoming = Path(tempfile.mkdtemp(prefix=".component-", dir=repository_root()))
    try:
        for name, text in texts.items():
            file = incoming / name
            file.parent.mkdir(exist_ok=True)
            file.write_text(text, encoding="utf-8")
        incoming.chmod(folder.parent.stat().st_mode)
        incoming.rename(folder)
    finally:
        shutil.rmtree(incoming, ignore_errors=True)
    return [folder / name for name in texts]


def rendered(stage: str, verb: str) -> dict[str, str]:
    """File of the component's folder → its text."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    environment = Environment(  # noqa: S701  (Python, YAML and Markdown: there is no HTML to escape)
        loader=FileSystemLoader(TEMPLATES), undefined=StrictUndefined, keep_trailing_newline=True
    )
    values = {"stage": stage, "verb": verb, "name": f"{stage}/{verb}"}
    return {
        file.format(verb=verb): environment.get_template(f"{template}.jinja").render(values)
        for template, file in FILES.items()
    }


def refuse_name(stage: str, verb: str) -> None:
    """Raise InvalidInput that lists everything wrong with the names of a component to be."""
    names = step_names()
    stages = sorted({name.split("/")[0] for name in names})
    problems = []
    if stage not in stages:
        near = difflib.get_close_matches(stage, stages, n=1)
        hint = f"did you mean {near[0]!r}?" if near else f"accepted: {', '.join(stages)}"
        problems.append(Problem("STAGE", f"unknown stage {stage!r}" if stage else "is missing", hint))
    if not verb:
        problems.append(Problem("VERB", "is missing", "name what the component does in one word, for example shorten"))
    elif not VERB.fullmatch(verb):
        message = f"{verb!r} is no verb: two to thirty lower-case letters, nothing else"
        problems.append(Problem("VERB", message, "take one word for what the component does, for example shorten"))
    elif keyword.iskeyword(verb) or keyword.issoftkeyword(verb) or hasattr(builtins, verb) or verb in TAKEN:
        message = f"{verb!r} means something in Python or in component.py already"
        problems.append(Problem("VERB", message, "take another word for it"))
    else:
        problems += _taken(stage, verb, names)
    if problems:
        raise InvalidInput.from_problems("make component STAGE=… VERB=…", problems)


def _taken(stage: str, verb: str, names: list[str]) -> list[Problem]:
    """Components of that name: a verb stands in one stage alone, since tasks, labels and logs are called after it."""
    there = [name for name in names if name.endswith(f"/{verb}")]
    folder = repository_root() / "components" / stage / verb
    # A link that leads nowhere stands in the way too.
    if not there and os.path.lexists(folder):
        there = [f"{stage}/{verb}"]
    return [Problem("VERB", f"components/{name} exists", "take another verb, or change that one") for name in there]


def main(arguments: list[str]) -> int:
    """Make the component that two arguments name and say what comes next. Gives the exit code."""
    stage, verb = (*arguments, "", "")[:2]
    try:
        files = new_component(stage, verb)
    except TutelageError as error:
        sys.stderr.write(f"error: {error}\n")
        return error.exit_code
    except OSError as error:
        sys.stderr.write(f"error: component {stage}/{verb} cannot be written: {error}\n")
        return StepFailed.exit_code
    made = "\n".join(f"  {file.relative_to(repository_root())}" for file in files)
    sys.stdout.write(
        f"made\n{made}\n\nnext: write its test, then its step, then wire it; CONTRIBUTING.md, Add a component, goes through it\n"
        f"  .venv/bin/python -m pytest components/{stage}/{verb} tests/contracts/test_components.py -k {verb}\n"
    )
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
