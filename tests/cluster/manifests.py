"""What the tests of the manifests share: `Built`, a small kustomize for what these files use, and the names they agree on."""

from __future__ import annotations

import os
import tomllib
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import yaml

from tutelage.step import repository_root

ROOT = repository_root()
MANIFESTS = ROOT / "manifests"
CRDS = Path(os.environ.get("TUTELAGE_CRDS", ROOT.parent / "shared" / "crds"))
TEAMS = ("dev", "prod")
OVERLAYS = sorted(path.parent for path in (MANIFESTS / "overlays").rglob("kustomization.yaml"))
KUSTOMIZATIONS = sorted(MANIFESTS.rglob("kustomization.yaml"))
CLUSTER_SCOPED = {"Namespace", "Profile", "ValidatingAdmissionPolicy", "ValidatingAdmissionPolicyBinding"}
MOUNTS = yaml.safe_load((MANIFESTS / "mounts.yaml").read_text())
Object = dict[str, Any]


def named(path: Path) -> str:
    return path.relative_to(MANIFESTS).as_posix()


def documents(path: Path) -> list[Object]:
    return [document for document in yaml.safe_load_all(path.read_text()) if document is not None]


class Built:
    """A kustomization with everything it refers to: objects with their namespace, and the files read."""

    def __init__(self, folder: Path) -> None:
        self.files = {folder / "kustomization.yaml"}
        self.objects: dict[tuple[str, str], Object] = {}
        (content,) = documents(folder / "kustomization.yaml")
        for reference in [*content.get("resources", []), *content.get("components", [])]:
            target = (folder / reference).resolve()
            found = Built(target) if target.is_dir() else None
            self.files |= found.files if found else {target}
            for made in found.objects.values() if found else documents(target):
                key = made["kind"], made["metadata"]["name"]
                assert key not in self.objects, f"{key} stands twice in {folder}"
                self.objects[key] = made
        for generator in content.get("configMapGenerator", []):
            self._generate(folder, generator, content.get("generatorOptions", {}).get("annotations", {}))
        for patch in content.get("patches", []):
            self._patch(folder, patch)
        for made in self.objects.values():
            metadata = made["metadata"]
            for pair in content.get("labels", []):
                metadata["labels"] = metadata.get("labels", {}) | pair["pairs"]
            if "namespace" in content:
                assert made["kind"] not in CLUSTER_SCOPED, f"{folder} would put a namespace on a {made['kind']}"
                metadata["namespace"] = content["namespace"]
        suffix = content.get("nameSuffix", "")
        for made in self.objects.values():
            made["metadata"]["name"] += suffix
        self._images(content.get("images", []))
        self.objects = {(made["kind"], made["metadata"]["name"]): made for made in self.objects.values()}

    def _generate(self, folder: Path, generator: Object, annotations: dict[str, str]) -> None:
        files = [(folder / name).resolve() for name in generator.get("files", [])]
        self.files |= set(files)
        key = ("ConfigMap", generator["name"])
        assert (key in self.objects) == (generator.get("behavior", "create") != "create"), f"{key}: {generator}"
        before = self.objects.get(key, {}).get("metadata", {})
        metadata = {"name": generator["name"], "annotations": before.get("annotations", {}) | annotations}
        data = {file.name: file.read_text() for file in files}
        self.objects[key] = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata, "data": data}

    def _patch(self, folder: Path, patch: Object) -> None:
        if "path" in patch:
            self.files.add((folder / patch["path"]).resolve())
            (change,) = documents(folder / patch["path"])
            _merge(self.objects[change["kind"], change["metadata"]["name"]], change)
            return
        (target,) = [made for made in self.objects.values() if made["kind"] == patch["target"]["kind"]]
        for operation in yaml.safe_load(patch["patch"]):
            *parents, last = operation["path"].strip("/").split("/")
            place: Any = target
            for name in parents:
                place = place[int(name)] if isinstance(place, list) else place[name]
            place[int(last) if isinstance(place, list) else last] = operation["value"]

    def _images(self, images: list[Object]) -> None:
        for image in images:
            for container in containers_of(self.of("CronJob")):
                if container["image"] == image["name"]:
                    container["image"] = f"{image['name']}:{image['newTag']}"

    def of(self, kind: str) -> list[Object]:
        return [made for (found, _), made in sorted(self.objects.items()) if found == kind]

    def one(self, kind: str, name: str) -> Object:
        return self.objects[kind, name]


def _merge(into: Object, change: Object) -> None:
    for name, value in change.items():
        if isinstance(value, dict) and isinstance(into.get(name), dict):
            _merge(into[name], value)
        else:
            into[name] = value


@cache
def overlay(name: str) -> Built:
    return Built((MANIFESTS / "overlays" / name).resolve())


def pods_of(jobs: list[Object]) -> Iterator[Object]:
    for job in jobs:
        yield job["spec"]["jobTemplate"]["spec"]["template"]["spec"]


def containers_of(jobs: list[Object]) -> list[Object]:
    return [container for pod in pods_of(jobs) for container in pod["containers"]]


def rules_of(built: Built, account: str) -> list[tuple[str, str, tuple[str, ...], tuple[str, ...]]]:
    """(group, resource, verbs, names) of everything that the roles bound to `account` grant."""
    roles = [
        binding["roleRef"]["name"]
        for binding in built.of("RoleBinding")
        if any(subject["name"] == account for subject in binding["subjects"])
    ]
    return sorted(
        (group, resource, tuple(sorted(rule["verbs"])), tuple(rule.get("resourceNames", ())))
        for role in roles
        for rule in built.one("Role", role)["rules"]
        for group in rule["apiGroups"]
        for resource in rule["resources"]
    )


def settings_of(built: Built) -> Object:
    return tomllib.loads(built.one("ConfigMap", "tutelage-settings")["data"]["settings.toml"])


ALL = sorted(("dev", "prod", "standalone"))
