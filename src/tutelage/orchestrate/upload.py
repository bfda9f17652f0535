"""Put a compiled pipeline on a server: a new version when its content is new, nothing when it is there already.

tutelage upload llm_training --host https://kubeflow.example.com/pipeline       # through KFP's REST API
tutelage upload llm_training --native --namespace team-a                        # as Kubernetes objects, KUBECONFIG's cluster
"""

from __future__ import annotations

import os
import subprocess
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from tutelage.errors import InvalidInput, StepFailed
from tutelage.orchestrate.compile import compiled_file
from tutelage.orchestrate.kfp_api import KfpApi, KfpError, connect
from tutelage.orchestrate.native import Compiled, pipeline_object, read_compiled, tags_of, version_object
from tutelage.orchestrate.recipes import pipeline_names
from tutelage.step import repository_root

if TYPE_CHECKING:
    from tutelage.runtimes.kubernetes.api import Api

#: Where CI systems say which commit they work on.
COMMIT_VARIABLES = ("GITHUB_SHA", "CI_COMMIT_SHA", "GIT_COMMIT")


@dataclass(frozen=True)
class Uploaded:
    """A version that is on the server."""

    pipeline: str
    """The pipeline's name there."""
    version: str
    """The version's name: the hash of its content."""
    pipeline_id: str
    version_id: str
    changed: bool
    """Whether it is there only since now."""
    commit: str | None
    """The commit it was said to come from, where it was uploaded now."""

    def values(self) -> dict[str, Any]:
        """Plain values, for --json."""
        return asdict(self)


def upload(
    pipeline: str,
    host: str | None = None,
    *,
    native: bool = False,
    namespace: str | None = None,
    token_file: str | None = None,
    commit: str | None = None,
) -> Uploaded:
    """Upload `pipeline` as it stands in compiled/. Raises InvalidInput, KfpError or, `native`, ApiError."""
    text = compiled_text(pipeline)
    commit = commit or current_commit()
    if not native:
        return upload_text(connect(host, token_file), text, namespace, commit)
    if host or token_file:
        raise InvalidInput("--native takes no --host or --token-file", hint="KUBECONFIG names cluster and account")
    from tutelage.runtimes.kubernetes.api import Api

    return apply(Api.connect(namespace), text, commit)


def compiled_text(pipeline: str) -> str:
    """The compiled file of `pipeline`. Raises InvalidInput."""
    if pipeline not in pipeline_names():
        raise InvalidInput(f"unknown pipeline {pipeline!r}", hint=f"accepted: {', '.join(pipeline_names())}")
    file = compiled_file(pipeline)
    if not file.is_file():
        raise InvalidInput(f"{pipeline} is not compiled", hint="run `tutelage compile`")
    return file.read_text(encoding="utf-8")


def upload_text(api: KfpApi, text: str, namespace: str | None, commit: str | None) -> Uploaded:
    """Upload a compiled file through KFP's REST API. Two that upload at once make one version.

    Raises StepFailed where the server's version of that name has another content, KfpError.
    """
    compiled = read_compiled(text)
    pipeline_id = _ensure_pipeline(api, compiled, namespace)
    found = find_version(api, pipeline_id, compiled.version)
    changed = found is None
    if found is None:
        try:
            found = api.upload_version(
                pipeline_id, compiled.version, text, description=compiled.description, tags=tags_of(commit)
            )
        except KfpError as error:
            found = find_version(api, pipeline_id, compiled.version) if _may_be_there(error) else None
            if found is None:
                raise
    if not changed:
        refuse_another_content(api, pipeline_id, found, compiled)
    version_id = str(found["pipeline_version_id"])
    return Uploaded(compiled.pipeline, compiled.version, pipeline_id, version_id, changed, commit if changed else None)


def find_version(api: KfpApi, pipeline_id: str, version: str) -> dict[str, Any] | None:
    """The version of that name, or None. Display names count for servers that know no others (before 2.15)."""
    versions = api.versions(pipeline_id)
    return next((item for item in versions if (item.get("name") or item.get("display_name")) == version), None)


def refuse_another_content(api: KfpApi, pipeline_id: str, version: Mapping[str, Any], compiled: Compiled) -> None:
    """Raise StepFailed unless the server's `version` holds what `compiled` does: a name that says so can be given to anything."""
    spec = version.get("pipeline_spec")
    if spec is None:
        spec = api.version(pipeline_id, str(version["pipeline_version_id"])).get("pipeline_spec")
    if not _is_content(spec, compiled):
        raise StepFailed(
            f"version {compiled.version} of {compiled.pipeline} is on {api.host} with another content",
            hint="somebody made it by hand: delete that version there, then upload again",
        )


def _is_content(spec: Any, compiled: Compiled) -> bool:
    """Whether a version's `pipeline_spec`, as KFP answers it, is what was compiled.

    KFP (2.17) answers the IR, or IR and platform config side by side, both written anew from its protobuf: compared as such. Of
    what describes the pipeline the name alone counts, to which the server adds where it belongs (pipeline/llm-training).
    """
    from google.protobuf import json_format
    from kfp.pipeline_spec import pipeline_spec_pb2

    if not isinstance(spec, Mapping):
        return False
    ir, platform = (spec["pipeline_spec"], spec.get("platform_spec")) if "pipeline_spec" in spec else (spec, None)
    kinds = (pipeline_spec_pb2.PipelineSpec, pipeline_spec_pb2.PlatformSpec)
    try:
        theirs, ours = (
            [json_format.ParseDict(values or {}, kind()) for kind, values in zip(kinds, content, strict=True)]
            for content in ((ir, platform), (compiled.spec, compiled.platform))
        )
    except json_format.ParseError:
        # No IR at all, or of a KFP that says more than the one installed here.
        return False
    for pipeline, _ in (theirs, ours):
        name = pipeline.pipeline_info.name.rpartition("/")[2]
        pipeline.pipeline_info.Clear()
        pipeline.pipeline_info.name = name
    return theirs == ours


def _ensure_pipeline(api: KfpApi, compiled: Compiled, namespace: str | None) -> str:
    found = api.pipeline(compiled.pipeline, namespace)
    if found is None:
        spec = pipeline_object(compiled)["spec"]
        body = {
            "name": compiled.pipeline, "display_name": spec["displayName"], "description": spec["description"],
            "tags": spec["tags"], **({"namespace": namespace} if namespace else {}),
        }  # fmt: skip
        try:
            found = api.create_pipeline(body)
        except KfpError as error:
            found = api.pipeline(compiled.pipeline, namespace) if _may_be_there(error) else None
            if found is None:
                raise
    return str(found["pipeline_id"])


def _may_be_there(error: KfpError) -> bool:
    """Whether somebody else, or a try of ours whose answer was lost, may have made it. KFP says 409, or 400 with these words."""
    return error.status == 409 or "already exist" in error.message.lower()


def apply(api: Api, text: str, commit: str | None) -> Uploaded:
    """Make the Kubernetes objects of a compiled file, where KFP keeps its pipelines in them. Nothing is ever changed."""
    compiled = read_compiled(text)
    pipeline, _ = _ensure_object(api, "pipelines", pipeline_object(compiled))
    version, changed = _ensure_object(api, "pipelineversions", version_object(compiled, commit))
    if version["spec"].get("pipelineSpec") != compiled.spec or version["spec"].get("platformSpec") != compiled.platform:
        raise StepFailed(
            f"PipelineVersion {version['metadata']['name']} is there with another content",
            hint="somebody made it by hand: delete it, then upload again",
        )
    return Uploaded(
        compiled.pipeline, compiled.version, str(pipeline["metadata"]["uid"]), str(version["metadata"]["uid"]), changed,
        commit if changed else None,
    )  # fmt: skip


def _ensure_object(api: Api, plural: str, body: dict[str, Any]) -> tuple[dict[str, Any], bool]:
    """The object, and whether it was made now."""
    from tutelage.runtimes.kubernetes.api import ApiError, Resource

    resource = Resource("pipelines.kubeflow.org", "v2beta1", plural, str(body["kind"]))
    found = api.get(resource, body["metadata"]["name"])
    if found is not None:
        return found, False
    try:
        return api.create(resource, body), True
    except ApiError as error:
        found = api.get(resource, body["metadata"]["name"]) if error.status in (0, 409) else None
        if found is None:
            raise
        return found, error.status == 0


def current_commit() -> str | None:
    """The commit that compiled/ comes from: CI's word, or HEAD where nothing differs from it. None where nobody can say."""
    for variable in COMMIT_VARIABLES:
        if os.environ.get(variable):
            return os.environ[variable]
    state = _git("status", "--porcelain", "--", "compiled", "pipelines", "components", "images")
    return (_git("rev-parse", "HEAD") or "").strip() or None if state == "" else None


def _git(*arguments: str) -> str | None:
    try:
        done = subprocess.run(
            ["git", *arguments], cwd=repository_root(), capture_output=True, text=True, timeout=20, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout if done.returncode == 0 else None
