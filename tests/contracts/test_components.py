"""What every component folder must hold. A failure tells the author what is missing and where."""

from __future__ import annotations

import ast
import importlib
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from tutelage.config import Config
from tutelage.contracts.manifest import KINDS
from tutelage.step import describe, image_of, load, step_names

ROOT = Path(__file__).parents[2]
FOLDERS = sorted(path for path in (ROOT / "components").glob("*/*") if path.is_dir() and path.name[0].isalpha())
NAMES = ["/".join(folder.parts[-2:]) for folder in FOLDERS]
FILES = ("step.py", "component.py", "component.yaml", "README.md", "tests/test_{verb}.py")
SETTINGS = {"signing_key", "public_keys", "registry", "locks"}
#: What a component may take besides artifacts: the parameters of a run, and constants that pipelines wire.
PARAMETERS = {
    "sources", "base_model", "pretraining", "finetuning", "alignment", "evaluation", "policy", "seed",
    "pipeline", "objective", "training", "role",
}  # fmt: skip
HEAVY = ("kfp", "torch", "pyspark", "transformers", "datasets", "kserve", "matplotlib", "jinja2", "pandas", "torchx")
IMPORT_SECONDS = 1.0

component = pytest.mark.parametrize("name", NAMES)


def test_the_line_has_all_its_components():
    stages = {name.split("/")[0] for name in NAMES}
    assert {"plan", "data", "train", "evaluate", "release", "serve"} <= stages


@component
def test_a_component_folder_has_every_file(name: str):
    verb = name.split("/")[1]
    missing = [
        file.format(verb=verb) for file in FILES if not (ROOT / "components" / name / file.format(verb=verb)).is_file()
    ]
    assert not missing, f"components/{name} lacks {', '.join(missing)}; see CONTRIBUTING.md, Add a component"


@component
def test_component_yaml_holds(name: str):
    description = describe(name)
    assert (ROOT / "images" / description.image / "requirements.lock").is_file(), (
        f"images/{description.image} has no lock"
    )
    assert set(description.settings) <= SETTINGS, f"unknown settings; accepted: {sorted(SETTINGS)}"
    assert description.stability in {"alpha", "beta", "stable"}
    assert description.owners, "somebody must answer for it: owners is empty"
    for part in ("requests", "limits"):
        given = description.resources.get(part, {})
        assert {"cpu", "memory"} <= set(given), f"resources.{part} needs cpu and memory, has {sorted(given)}"
    text = (ROOT / "components" / name / "component.yaml").read_text()
    for key in ("name", "image", "runtime", "resources", "reads", "writes", "owners", "stability"):
        assert key in yaml.safe_load(text), f"component.yaml does not say {key!r}; say it, also where it is empty"


def artifact_ports(ports: dict[str, Any] | None) -> dict[str, str]:
    """Port name → KFP artifact type, without parameters."""
    typed = {name: str(port.type).split("@")[0] for name, port in (ports or {}).items()}
    return {name: kind for name, kind in typed.items() if kind.startswith("system.")}


@component
def test_the_signature_matches_component_yaml(name: str):
    verb = name.split("/")[1]
    module = importlib.import_module("components." + name.replace("/", ".") + ".component")
    assert hasattr(module, verb), f"component.py must define a component called {verb!r}"
    spec = getattr(module, verb).component_spec
    description = describe(name)
    assert artifact_ports(spec.inputs) == {key: KINDS[kind] for key, kind in description.reads.items()}
    outputs = artifact_ports(spec.outputs)
    if outputs.get("metrics") == "system.Metrics":
        del outputs["metrics"]
    assert outputs == {key: KINDS[kind] for key, kind in description.writes.items()}
    parameters = set(spec.inputs or {}) - set(description.reads)
    assert parameters <= PARAMETERS, (
        f"unknown parameters {sorted(parameters - PARAMETERS)}; accepted: {sorted(PARAMETERS)}"
    )
    assert spec.description, "component.py: the function needs a docstring; the run graph shows it"
    container = spec.implementation.container
    assert container.image == image_of(name), "component.py: base_image=image_of(...) with its own name"
    assert not any("pip install" in part for part in container.command), "component.py: install_kfp_package=False"


def launch_calls(name: str) -> Iterator[ast.Call]:
    tree = ast.parse((ROOT / "components" / name / "component.py").read_text())
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "launch":
            yield node


@component
def test_the_body_only_calls_launch_with_every_port(name: str):
    tree = ast.parse((ROOT / "components" / name / "component.py").read_text())
    functions = [node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)]
    assert len(functions) == 1, "component.py holds one function: the component; other code belongs in step.py"
    docstring, *body = functions[0].body
    assert isinstance(docstring, ast.Expr)
    assert isinstance(body[0], ast.ImportFrom)
    assert isinstance(body[-1], ast.Expr)
    between = [statement for statement in body[1:-1] if not isinstance(statement, ast.Assign)]
    assert len(body) <= 3 and not between, "the body imports launch and calls it; other code belongs in step.py"
    call, *more = launch_calls(name)
    assert not more
    assert ast.literal_eval(call.args[0]) == name
    keywords = {keyword.arg: keyword.value for keyword in call.keywords}
    for keyword, expected in (("inputs", describe(name).reads), ("outputs", describe(name).writes)):
        value = keywords[keyword]
        assert isinstance(value, ast.Dict)
        keys = {ast.literal_eval(key) for key in value.keys if key is not None}
        assert keys == set(expected), (
            f"launch({keyword}=…) names {sorted(keys)}, component.yaml says {sorted(expected)}"
        )


def undocumented_fields(config: type[Config], where: str = "") -> Iterator[str]:
    for field, info in config.model_fields.items():
        if not info.description:
            yield f"{where}{field}"
        for part in (info.annotation, *getattr(info.annotation, "__args__", ())):
            if isinstance(part, type) and issubclass(part, Config):
                yield from undocumented_fields(part, f"{where}{field}.")


@component
def test_step_py_offers_a_documented_config_and_run(name: str):
    module = load(name)
    assert callable(module.run)
    assert issubclass(module.Config, Config)
    assert list(undocumented_fields(module.Config)) == [], "each field needs a docstring line under it"
    assert module.__doc__ and f"components/{name}/step.py" in module.__doc__, "the module docstring gives a command"


@component
def test_step_py_reads_no_environment_and_ends_with_main(name: str):
    text = (ROOT / "components" / name / "step.py").read_text()
    # What a library reads when it is imported may be set, with a default.
    tree = ast.parse(text.replace("os.environ.setdefault(", "preset("))
    used = {node.attr for node in ast.walk(tree) if isinstance(node, ast.Attribute)} & {"environ", "getenv", "putenv"}
    assert not used, "steps know paths and a Config, no environment variables; use a setting or a Config field"
    assert text.rstrip().endswith('if __name__ == "__main__":\n    main(run, Config)')


def test_every_step_imports_fast_and_loads_nothing_heavy():
    program = f"""
import json, sys, time
from tutelage.step import load, step_names
report = {{}}
for name in step_names():
    started = time.process_time()
    load(name)
    report[name] = [time.process_time() - started, sorted(set({HEAVY!r}) & set(sys.modules))]
json.dump(report, sys.stdout)
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    assert sorted(report) == step_names()
    for name, (seconds, heavy) in report.items():
        assert not heavy, f"components/{name}/step.py loads {heavy}: import them inside run()"
        assert seconds < IMPORT_SECONDS, f"components/{name}/step.py takes {seconds:.2f} CPU-s to import"


@component
def test_the_readme_says_what_a_user_needs(name: str):
    text = (ROOT / "components" / name / "README.md").read_text()
    description = describe(name)
    assert text.startswith(f"# {name}\n"), f"the title is '# {name}'"
    for word in ("Purpose", "Config", "Limits", "By hand"):
        assert word in text, f"README lacks {word!r}"
    for port in (*description.reads, *description.writes):
        assert f"`{port}`" in text, f"README does not name the port `{port}`"
    for field in load(name).Config.model_fields:
        assert f"`{field}" in text, f"README's Config table lacks `{field}`"
    assert f"components/{name}/step.py" in text or f"tutelage step {name}" in text, (
        "README gives no command to run it by hand"
    )
