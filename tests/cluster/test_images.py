"""The images: linted, locked hash by hash, named by content or digest, bills fresh; and a lock that runs its steps alone."""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from images import build, digests, hashes, layout, lock, sbom
from tutelage.errors import InvalidInput
from tutelage.step import describe, image_of, reference, step_names

ROOT = Path(__file__).parents[2]
DOCKERFILE = (ROOT / "Dockerfile").read_text()
DIGEST = "sha256:" + "ab" * 32


def instructions(text: str) -> list[tuple[str, str]]:
    """(keyword, rest) of every instruction, continued lines joined, comments left out."""
    kept = "\n".join(line for line in text.splitlines() if not line.lstrip().startswith("#"))
    lines = re.sub(r"\\\n\s*", "", kept).splitlines()
    return [(line.split()[0], line.split(maxsplit=1)[1]) for line in lines if line.strip()]


def stages(text: str) -> dict[str, list[tuple[str, str]]]:
    found: dict[str, list[tuple[str, str]]] = {}
    name = ""
    for keyword, rest in instructions(text):
        if keyword == "FROM":
            name = rest.split()[-1]
        if name:
            found.setdefault(name, []).append((keyword, rest))
    return found


def faults(text: str) -> list[str]:
    """What our own rules, beyond hadolint's, find in a Dockerfile."""
    parts, wrong = stages(text), []
    bases = {rest.split()[0] for keyword, rest in instructions(text) if keyword == "FROM"}
    wrong += [f"FROM {base} is neither the argument nor a stage" for base in bases - parts.keys() - {"${BASE_IMAGE}"}]
    for keyword, rest in instructions(text):
        if keyword == "ADD":
            wrong.append(f"ADD {rest}")
        if keyword == "COPY" and "--chown=0:0" not in rest:
            wrong.append(f"COPY without --chown=0:0: {rest}")
        if keyword == "RUN" and "apt-get update" in rest and "rm -rf /var/lib/apt/lists/*" not in rest:
            wrong.append("apt lists stay in a layer")
        if keyword == "RUN" and "apt-get install" in rest and "layout.py rights /" not in rest:
            wrong.append("packages bring setuid files and open folders")
        if keyword in {"ARG", "ENV"} and re.search(r"(?i)token|password|secret|credential", rest):
            wrong.append(f"{keyword} {rest} would keep a secret")
        if ":latest" in rest:
            wrong.append(f"{rest} has no fixed version")
    first = next((rest for keyword, rest in parts.get("runtime", []) if keyword in {"ENV", "RUN"}), "")
    if "PYTHONDONTWRITEBYTECODE=1" not in first:
        wrong.append("what runs as root while the image is built leaves byte code in it")
    for image in lock.IMAGES:
        last = dict(parts.get(image, []))
        if last.get("USER") != "65532:65532":
            wrong.append(f"{image} runs as {last.get('USER')}")
        labels = "".join(rest for keyword, rest in parts.get(image, []) if keyword == "LABEL")
        for name in ("title", "description", "licenses", "created", "revision", "source", "version"):
            if f"org.opencontainers.image.{name}=" not in labels:
                wrong.append(f"{image} has no label {name}")
        if any(
            "pip" in rest.split() or "install.sh" in rest for keyword, rest in parts.get(image, []) if keyword == "RUN"
        ):
            wrong.append(f"{image} runs pip in its last stage")
    return wrong


def test_hadolint_finds_nothing_in_the_dockerfile():
    done = subprocess.run(
        [Path(sys.executable).parent / "hadolint", ROOT / "Dockerfile"], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout


def test_every_image_keeps_our_own_rules():
    assert faults(DOCKERFILE) == []


@pytest.mark.parametrize(
    ("before", "after", "fault"),
    [
        ("USER 65532:65532\nENTRYPOINT [\"python3\"", "USER root\nENTRYPOINT [\"python3\"", "python runs as root"),
        ("COPY --chown=0:0 src", "COPY src", "COPY without --chown"),
        ("COPY --chown=0:0 src", "ADD src", "ADD src"),
        ("FROM ${BASE_IMAGE} AS runtime", "FROM python:latest AS runtime", "FROM python:latest"),
        ("rm -rf /var/lib/apt/lists/*", "true", "apt lists"),
        ("layout.py rights /", "true", "setuid"),
        ("ARG PIP_INDEX_URL", "ARG PIP_PASSWORD", "would keep a secret"),
        ('org.opencontainers.image.revision="${REVISION}"', 'x="y"', "no label revision"),
        ("FROM ${BASE_IMAGE} AS runtime\n", "FROM ${BASE_IMAGE} AS runtime\nRUN python3 -V\n", "leaves byte code"),
    ],
)  # fmt: skip
def test_our_rules_catch(before, after, fault):
    assert before in DOCKERFILE
    assert any(fault in item for item in faults(DOCKERFILE.replace(before, after)))


def test_there_is_a_target_and_a_lock_for_every_image_that_a_component_names():
    used = {describe(name).image for name in step_names()}
    assert used == set(lock.IMAGES) and used <= stages(DOCKERFILE).keys()
    assert all(lock.image_lock(image).is_file() for image in used)


@pytest.mark.parametrize("file", [*(f"{image}/requirements.lock" for image in lock.IMAGES), "build.lock", "cuda.lock"])
def test_every_locked_line_has_a_hash(file):
    lines = [line for line in (ROOT / "images" / file).read_text().splitlines() if re.match(r"[a-z]", line)]
    locked = hashes.read_lock(ROOT / "images" / file)
    assert len(locked) == len(lines) > 0
    assert all(locked.values())


def test_a_lock_is_written_as_it_is_read(tmp_path):
    file = tmp_path / "a.lock"
    file.write_text(
        "# header\n" + hashes.pinned_line("a-b", "1.0", {"cd" * 32, "ab" * 32}) + hashes.pinned_line("c", "2", ())
    )
    assert hashes.read_lock(file) == {("a-b", "1.0"): {"ab" * 32, "cd" * 32}, ("c", "2"): set()}


def test_wheels_of_a_folder_are_found_under_their_public_version(tmp_path):
    with zipfile.ZipFile(tmp_path / "torch-2.13.0+cpu-cp311-cp311-manylinux_2_28_x86_64.whl", "w"):
        pass
    assert list(hashes.wheels_in(tmp_path)) == [("torch", "2.13.0")]


def test_the_cuda_lock_is_for_the_locked_torch_and_repeats_no_image():
    locked = hashes.read_lock(lock.image_lock("python-torch"))
    version = next(version for name, version in locked if name == "torch")
    assert f"torch=={version} " in (ROOT / "images" / "cuda.lock").read_text().splitlines()[0]
    assert not {name for name, _ in hashes.read_lock(ROOT / "images" / "cuda.lock")} & {name for name, _ in locked}


@pytest.mark.parametrize("image", lock.IMAGES)
def test_the_bill_of_materials_is_fresh_and_lists_the_lock(image):
    text = sbom.bill(image)
    assert sbom.sbom_file(image).read_text() == text, "run images/sbom.py"
    document = json.loads(text)
    assert (document["bomFormat"], document["specVersion"]) == ("CycloneDX", "1.6")
    required = {(item["name"], item["version"]) for item in document["components"] if item["scope"] == "required"}
    assert required == set(hashes.read_lock(lock.image_lock(image)))
    assert [
        item["name"] for item in document["components"] if item["scope"] == "required" and not item.get("licenses")
    ] == []


def test_digests_are_fresh():
    recorded = json.loads(digests.FILE.read_text())
    assert recorded == digests.fresh(recorded), "run images/digests.py, then make compile"


def test_what_no_image_holds_leaves_its_content_alone():
    names = {file.relative_to(ROOT).as_posix() for file in digests.files_of("python")}
    assert {
        "Dockerfile",
        "src/tutelage/cli.py",
        "components/data/ingest/step.py",
        "images/python/requirements.lock",
    } <= names
    assert not [name for name in names if "/tests/" in name or name.endswith(".md") or name == "images/digests.json"]
    assert "images/python-torch/requirements.lock" not in names


def test_whatever_the_dockerfile_copies_must_be_committed_before_a_build_and_counts_as_content():
    copied = {
        word
        for keyword, rest in instructions(DOCKERFILE)
        if keyword == "COPY" and "--from=" not in rest
        for word in rest.removeprefix("--chown=0:0").split()[:-1]
    }
    covered = lambda name, places: any(name == place or name.startswith(f"{place}/") for place in places)
    assert [name for name in sorted(copied) if not covered(name, {*build.COPIED, "src"})] == []
    own = {f"images/{image}" for image in lock.IMAGES}
    # compiled/ names images by their content; images/ as a whole is those files and digests.json.
    assert {name for name in copied if not covered(name, {*digests.EVERYWHERE, *own})} == {"compiled", "images", "src"}
    assert {path.name for path in (ROOT / "src").iterdir() if not path.name.endswith(".egg-info")} == {"tutelage"}


def test_a_base_image_loses_every_right_to_change_users_and_every_folder_open_to_all_but_tmp(tmp_path):
    modes = {"usr/bin/su": 0o4755, "opt/tool": 0o2755, "srv/open": 0o666, "tmp/mine": 0o666, "etc/plain": 0o640}
    for name, mode in modes.items():
        file = tmp_path / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text("")
        file.chmod(mode)
    folders = {"var/mail": 0o2775, "run/lock": 0o1777, "tmp": 0o1777, "usr/bin": 0o755}
    for name, mode in folders.items():
        (tmp_path / name).mkdir(parents=True, exist_ok=True)
        (tmp_path / name).chmod(mode)
    (tmp_path / "usr/bin/link").symlink_to("su")
    layout.take_rights(tmp_path)
    after = {name: (tmp_path / name).stat().st_mode & 0o7777 for name in (*modes, *folders)}
    assert after == {
        "usr/bin/su": 0o755, "opt/tool": 0o755, "srv/open": 0o664, "tmp/mine": 0o666, "etc/plain": 0o640,
        "var/mail": 0o775, "run/lock": 0o1775, "tmp": 0o1777, "usr/bin": 0o755,
    }  # fmt: skip


def test_a_digest_recorded_for_other_content_is_forgotten():
    before = {"python": {"content": "old", "digest": DIGEST}}
    assert digests.fresh(before)["python"]["digest"] is None
    before = {"python": {"content": digests.content_of("python"), "digest": DIGEST}}
    assert digests.fresh(before)["python"]["digest"] == DIGEST


def test_an_image_is_named_by_content_until_it_is_pushed_and_by_digest_then(tmp_path):
    (tmp_path / "images").mkdir()
    file = tmp_path / "images" / "digests.json"
    assert re.fullmatch(r"tutelage/python:[0-9.]+", reference("python", tmp_path))
    file.write_text(json.dumps({"python": {"content": "ef" * 32, "digest": None}}))
    assert re.fullmatch(r"example\.org/a/python:[0-9.]+-efefefefefef", reference("python", tmp_path, "example.org/a/"))
    file.write_text(json.dumps({"python": {"content": "ef" * 32, "digest": DIGEST}}))
    assert reference("python", tmp_path, "example.org/a") == f"example.org/a/python@{DIGEST}"
    file.write_text(json.dumps({"python": {"content": "ef" * 32, "digest": "latest"}}))
    with pytest.raises(InvalidInput, match="latest"):
        reference("python", tmp_path)
    with pytest.raises(InvalidInput, match="python-torch"):
        reference("python-torch", tmp_path)


def test_components_compile_in_a_name_that_never_moves():
    for name in step_names():
        assert re.fullmatch(r"tutelage/[a-z-]+(@sha256:[0-9a-f]{64}|:[0-9.]+-[0-9a-f]{12})", image_of(name))


def test_the_code_is_laid_out_with_metadata_that_torchx_finds_and_no_digest_of_itself(tmp_path):
    for name in ("src/tutelage", "components", "pipelines", "images"):
        shutil.copytree(
            ROOT / name, tmp_path / name, ignore=shutil.ignore_patterns("__pycache__", "tests", "*.egg-info")
        )
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    (tmp_path / "images" / "digests.json").write_text(json.dumps({"python": {"content": "ef" * 32, "digest": DIGEST}}))
    layout.lay_code(tmp_path, 1_700_000_000)
    assert json.loads((tmp_path / "images" / "digests.json").read_text())["python"]["digest"] is None
    assert {path.stat().st_mtime for path in tmp_path.rglob("*")} == {1_700_000_000}
    program = "from importlib.metadata import version; import tutelage; print(version('tutelage'), tutelage.__cached__)"
    environment = {**os.environ, "PYTHONPATH": str(tmp_path / "src"), "PYTHONDONTWRITEBYTECODE": "1"}
    done = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=True)
    version, cached = done.stdout.split()
    assert Path(cached).is_relative_to(tmp_path) and Path(cached).is_file()
    assert version == build.tutelage.__version__


@pytest.mark.parametrize(
    "arguments", [["driver", "local:///step.py", "--set", "a=b c"], ["executor"], ["python3", "-V"]]
)
def test_spark_s_entrypoint_starts_what_the_operator_asks_for(arguments, tmp_path):
    """Programs that print their arguments stand for tini, spark-submit and java."""
    for name in ("tini", "spark/bin/spark-submit", "java/bin/java", "python3"):
        file = tmp_path / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(
            '#!/bin/sh\nprintf "%s\\n" "$0" "$@"\n' if name != "tini" else '#!/bin/sh\nshift 2; exec "$@"\n'
        )
        file.chmod(0o755)
    environment = {
        "PATH": f"{tmp_path}:/usr/bin:/bin", "SPARK_HOME": f"{tmp_path}/spark", "JAVA_HOME": f"{tmp_path}/java",
        "SPARK_DRIVER_BIND_ADDRESS": "10.0.0.7", "SPARK_EXECUTOR_MEMORY": "2g", "SPARK_DRIVER_URL": "spark://d:7078",
        "SPARK_EXECUTOR_ID": "3", "SPARK_EXECUTOR_CORES": "2", "SPARK_APPLICATION_ID": "spark-1",
        "SPARK_EXECUTOR_POD_IP": "10.0.0.8", "SPARK_RESOURCE_PROFILE_ID": "0", "SPARK_EXECUTOR_POD_NAME": "pod-3",
        "SPARK_CONF_DIR": "/opt/spark/conf", "SPARK_JAVA_OPT_10": "-Dlast=a b", "SPARK_JAVA_OPT_2": "-Dmiddle",
        "SPARK_JAVA_OPT_0": "-Dfirst",
    }  # fmt: skip
    script = ROOT / "images" / "python-spark" / "entrypoint.sh"
    done = subprocess.run(["bash", script, *arguments], env=environment, capture_output=True, text=True, check=True)
    lines = done.stdout.splitlines()
    if arguments[0] == "driver":
        assert lines[0].endswith("bin/spark-submit") and lines[-3:] == arguments[1:]
        assert lines[1:5] == ["--conf", "spark.driver.bindAddress=10.0.0.7", "--deploy-mode", "client"]
    elif arguments[0] == "executor":
        assert lines[1:7] == ["-Dfirst", "-Dmiddle", "-Dlast=a b", "-Xms2g", "-Xmx2g", "-cp"]
        assert lines[7] == f"/opt/spark/conf:{tmp_path}/spark/jars/*"
        assert lines[-2:] == ["--podName", "pod-3"] and "spark://d:7078" in lines
    else:
        assert lines == [str(tmp_path / "python3"), "-V"]


def test_a_base_image_without_a_digest_is_refused():
    arguments = argparse.Namespace(
        image="python", base_image="python:3.11-slim", registry="r", source="", torch=None, pip_conf=None, build_arg=[],
        builder="docker", push=False,
    )  # fmt: skip
    with pytest.raises(SystemExit, match="no digest"):
        build.command(arguments, "abc", 0)
    arguments.base_image += f"@{DIGEST}"
    line = build.command(arguments, "abc", 0)
    assert f"r/python:{build.tutelage.__version__}-{digests.content_of('python')[:12]}" in line
    assert "CREATED=1970-01-01T00:00:00Z" in line


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_the_lock_of_python_alone_runs_its_steps(tmp_path):
    """The other images by hand: images/prove.py IMAGE."""
    done = subprocess.run(
        [sys.executable, ROOT / "images" / "prove.py", "python", "--keep", tmp_path], capture_output=True, text=True
    )
    if "Could not find a version" in done.stderr or "No matching distribution" in done.stderr:
        pytest.skip("no package index can be reached")
    assert done.returncode == 0, done.stdout + done.stderr
