"""A compiled pipeline as Kubernetes objects, for KFP servers in Kubernetes-native mode: what GitOps applies.

    kubectl kustomize compiled/kubernetes        # every pipeline, each with the version that stands in compiled/
    tutelage upload llm_training --native        # the same objects, applied from here

KFP 2.17 holds a PipelineVersion immutable but for display name and tags, so its name carries the hash of its content: another
content is another object, and nobody's run changes under them. Names are those that KFP's own REST API gives
(`<pipeline>-<version>`), so that uploading and applying the same content meet in one object.

The commit is in no file here, since no commit can hold its own id: `tutelage upload` adds it as tag and annotation, Argo CD as
annotation (`commonAnnotations` with `${ARGOCD_APP_REVISION}`).
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import yaml

import tutelage
from tutelage.contracts.digests import canonical_json

#: Folder below compiled/.
FOLDER = "kubernetes"
API_VERSION = "pipelines.kubeflow.org/v2beta1"
HASH_CHARACTERS = 12
COMMIT_ANNOTATION = "tutelage.dev/commit"
CONTENT_ANNOTATION = "tutelage.dev/content"
HEADER = "# Written by `tutelage compile` from compiled/{file}; a new content is a new PipelineVersion.\n"
#: Versions outlive the commit that brought them: recurring runs and clones refer to them. Argo CD neither prunes nor reports.
KEEP = {
    "argocd.argoproj.io/sync-options": "Prune=false",
    "argocd.argoproj.io/compare-options": "IgnoreExtraneous",
}


@dataclass(frozen=True)
class Compiled:
    """A compiled pipeline, read."""

    pipeline: str
    """Its name in KFP: llm-training."""
    description: str
    spec: dict[str, Any]
    """KFP's IR."""
    platform: dict[str, Any] | None
    """What its task pods mount and need."""

    @property
    def content(self) -> str:
        """Hex sha256 of everything that KFP runs; comments and key order do not count."""
        return hashlib.sha256(canonical_json([self.spec, self.platform])).hexdigest()

    @property
    def version(self) -> str:
        """The version's name in KFP."""
        return f"sha-{self.content[:HASH_CHARACTERS]}"


def documents_of(text: str) -> list[dict[str, Any]]:
    """The YAML documents of a text, read by libyaml where it is there: ten times as fast."""
    return list(yaml.load_all(text, Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader)))


def read_compiled(text: str) -> Compiled:
    """A compiled file, taken apart."""
    documents = documents_of(text)
    information = documents[0]["pipelineInfo"]
    platform = documents[1] if len(documents) > 1 else None
    return Compiled(information["name"], information.get("description", ""), documents[0], platform)


def tags_of(commit: str | None = None) -> dict[str, str]:
    """Tags of a version: at most 63 characters each, no dot in a key."""
    return {"tutelage": tutelage.__version__} | ({"commit": commit[:63]} if commit else {})


def pipeline_object(compiled: Compiled) -> dict[str, Any]:
    """The Pipeline: what versions belong to, and which must exist before them."""
    return {
        "apiVersion": API_VERSION,
        "kind": "Pipeline",
        "metadata": {
            "name": compiled.pipeline,
            "annotations": {"argocd.argoproj.io/sync-wave": "0", "argocd.argoproj.io/sync-options": "Prune=false"},
        },
        "spec": {
            "displayName": compiled.pipeline,
            "description": compiled.description,
            "tags": {"project": "tutelage"},
        },
    }


def version_object(compiled: Compiled, commit: str | None = None) -> dict[str, Any]:
    """The PipelineVersion of this content."""
    annotations = {"argocd.argoproj.io/sync-wave": "1", CONTENT_ANNOTATION: compiled.content, **KEEP}
    if commit:
        annotations[COMMIT_ANNOTATION] = commit
    spec: dict[str, Any] = {
        "displayName": compiled.version,
        "description": compiled.description,
        "pipelineName": compiled.pipeline,
        "versionName": compiled.version,
        "tags": tags_of(commit),
        "pipelineSpec": compiled.spec,
    }
    if compiled.platform is not None:
        spec["platformSpec"] = compiled.platform
    return {
        "apiVersion": API_VERSION,
        "kind": "PipelineVersion",
        "metadata": {"name": f"{compiled.pipeline}-{compiled.version}", "annotations": annotations},
        "spec": spec,
    }


def native_objects(text: str) -> str:
    """The objects of a compiled file as YAML, without namespace: kustomize sets it."""
    compiled = read_compiled(text)
    header = HEADER.format(file=f"{compiled.pipeline.replace('-', '_')}.yaml")
    return header + _yaml(pipeline_object(compiled), version_object(compiled))


def kustomization(names: list[str]) -> str:
    """What makes the folder one that kustomize takes in."""
    body = {
        "apiVersion": "kustomize.config.k8s.io/v1beta1",
        "kind": "Kustomization",
        "resources": [f"{name}.yaml" for name in sorted(names)],
    }
    return (
        "# Written by `tutelage compile`. Set a namespace over it, no name prefix: versions name their pipeline.\n"
        + _yaml(body)
    )


def _yaml(*documents: Mapping[str, Any]) -> str:
    return str(yaml.dump_all(documents, sort_keys=True, allow_unicode=True, width=120))
