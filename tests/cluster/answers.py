"""What the fake API server says: a request taken apart, the events of a watch, and the answers to everything else."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Protocol

from tests.cluster.objects import Change, Cluster, Kind, Object, Refused

BOOKMARK_SECONDS = 60.0
WATCH_SECONDS = 2400


@dataclass(frozen=True)
class Call:
    """A request, taken apart."""

    verb: str
    kind: Kind
    namespace: str
    name: str | None
    subresource: str | None
    query: dict[str, str]
    body: Any
    content_type: str


class Reset(Exception):
    """Break the connection."""


class Streams(Protocol):
    """The part of the server that a watch looks at."""

    cluster: Cluster
    stream_generation: int
    """Changes when every stream is broken."""


class Watch:
    """One watch: what it has seen, and how it ends."""

    def __init__(self, api: Streams, call: Call) -> None:
        self.api, self.call, self.cluster = api, call, api.cluster
        time = self.cluster.time
        self.end = time.seconds + float(call.query.get("timeoutSeconds") or WATCH_SECONDS)
        self.bookmarks = call.query.get("allowWatchBookmarks") in {"true", "True", "1"}
        self.next_bookmark = time.seconds + BOOKMARK_SECONDS
        self.generation = api.stream_generation
        given = call.query.get("resourceVersion") or "0"
        if not given.isdigit():
            raise Refused(500, "", f'resourceVersion: Invalid value: "{given}": invalid resource version')
        self.version = int(given)
        self.first: list[Object] = []
        if given == "0":
            self.first = [{"type": "ADDED", "object": item} for item in self._items()]
            self.version = self.cluster.version
        self.over = False

    def wakes(self) -> float:
        return min(self.end, self.next_bookmark) if self.bookmarks else self.end

    def has_news(self) -> bool:
        newer = bool(self.cluster.history) and self.cluster.history[-1].version > self.version
        return newer or self.cluster.oldest > self.version or self.generation != self.api.stream_generation

    def news(self) -> Iterator[Object]:
        if self.generation != self.api.stream_generation or self.cluster.time.closed:
            raise Reset
        yield from self.first
        self.first = []
        if self.cluster.oldest > self.version:
            self.over = True
            yield {"type": "ERROR", "object": self.cluster.expired().status()}
            return
        for change in [change for change in self.cluster.history if change.version > self.version]:
            self.version = change.version
            event = self._event(change)
            if event is not None:
                yield event
        time = self.cluster.time
        if self.bookmarks and time.seconds >= self.next_bookmark:
            self.next_bookmark = time.seconds + BOOKMARK_SECONDS
            about = {"apiVersion": self.call.kind.api_version, "kind": self.call.kind.kind}
            yield {"type": "BOOKMARK", "object": about | {"metadata": {"resourceVersion": str(self.version)}}}
        self.over = time.seconds >= self.end

    def _items(self) -> list[Object]:
        return [
            item for item in self.cluster.all(self.call.kind, self.call.namespace or None) if selected(self.call, item)
        ]

    def _event(self, change: Change) -> Object | None:
        if change.kind != self.call.kind or self.call.namespace not in {"", change.after["metadata"]["namespace"]}:
            return None
        was = change.before is not None and selected(self.call, change.before)
        fits = selected(self.call, change.after)
        if change.what == "DELETED" or (was and not fits):
            return {"type": "DELETED", "object": change.after} if was else None
        return {"type": "MODIFIED" if was else "ADDED", "object": change.after} if fits else None


def selected(call: Call, item: Object) -> bool:
    """Whether an object fits the selectors of a request. Raises Refused for a field that cannot be selected on."""
    metadata = item["metadata"]
    if call.name is not None and metadata["name"] != call.name:
        return False
    labels = metadata.get("labels") or {}
    for term in filter(None, (call.query.get("labelSelector") or "").split(",")):
        name, operator, value = re.fullmatch(r"(!?[^=!]+)(==|=|!=|)(.*)", term).groups()  # type: ignore[union-attr]
        fits = (
            (labels.get(name) == value) == (operator != "!=")
            if operator
            else (name.lstrip("!") in labels) != name.startswith("!")
        )
        if not fits:
            return False
    for term in filter(None, (call.query.get("fieldSelector") or "").split(",")):
        path, _, value = term.partition("=")
        if not path.startswith(("metadata.name", "involvedObject.", "status.phase", "spec.nodeName", "type", "reason")):
            raise Refused(400, "BadRequest", f'field label not supported: "{path}"')
        part: Any = item
        for step in path.split("."):
            part = (part or {}).get(step)
        if str(part) != value.removeprefix("="):
            return False
    return True


def merged(target: Any, patch: Any) -> Any:
    """RFC 7386."""
    if not isinstance(patch, dict):
        return patch
    result = dict(target) if isinstance(target, dict) else {}
    for name, value in patch.items():
        if value is None:
            result.pop(name, None)
        else:
            result[name] = merged(result.get(name), value)
    return result


@dataclass(frozen=True)
class Answers:
    """What the server says to requests that are no streams."""

    cluster: Cluster

    def of(self, call: Call) -> tuple[int, Object]:
        with self.cluster.time.lock:
            return getattr(self, f"_{call.verb}")(call)  # type: ignore[no-any-return]

    def _get(self, call: Call) -> tuple[int, Object]:
        return 200, self.cluster.get(call.kind, str(call.name), call.namespace)

    def _list(self, call: Call) -> tuple[int, Object]:
        items = [item for item in self.cluster.all(call.kind, call.namespace or None) if selected(call, item)]
        limit, begin = int(call.query.get("limit") or 0), int(call.query.get("continue") or 0)
        metadata: Object = {"resourceVersion": str(self.cluster.version)}
        page = items[begin : begin + limit] if limit else items
        if limit and begin + limit < len(items):
            metadata["continue"] = str(begin + limit)
        # As the real one, items of a built-in list carry neither kind nor apiVersion.
        if not call.kind.group:
            page = [{key: value for key, value in item.items() if key not in {"kind", "apiVersion"}} for item in page]
        about = {"apiVersion": call.kind.api_version, "kind": f"{call.kind.kind}List"}
        return 200, about | {"metadata": metadata, "items": page}

    def _create(self, call: Call) -> tuple[int, Object]:
        strict = call.query.get("fieldValidation") == "Strict"
        if not isinstance(call.body, dict):
            raise Refused(400, "BadRequest", "the request body is no object")
        return 201, self.cluster.create(call.kind, call.body, call.namespace, strict=strict, by_user=True)

    def _update(self, call: Call) -> tuple[int, Object]:
        return 200, self._change(call, lambda item: call.body)

    def _patch(self, call: Call) -> tuple[int, Object]:
        if call.content_type != "application/merge-patch+json":
            message = "the body of the request was in an unknown format - accepted: application/merge-patch+json"
            raise Refused(415, "UnsupportedMediaType", message)
        return 200, self._change(call, lambda item: merged(_unversioned(item), call.body))

    def _change(self, call: Call, change: Callable[[Object], Object]) -> Object:
        status, strict = call.subresource == "status", call.query.get("fieldValidation") == "Strict"
        return self.cluster.update(call.kind, str(call.name), call.namespace, change, status=status, strict=strict)

    def _delete(self, call: Call) -> tuple[int, Object]:
        options = {**call.query, **(call.body or {})}
        grace = options.get("gracePeriodSeconds")
        uid = (options.get("preconditions") or {}).get("uid")
        policy = options.get("propagationPolicy") or "Background"
        item = self.cluster.delete(
            call.kind, str(call.name), call.namespace, uid=uid, policy=policy,
            grace_seconds=None if grace is None else float(grace),
        )  # fmt: skip
        if self.cluster.find(call.kind, str(call.name), call.namespace) is not None:
            return 200, item
        details = {
            "name": call.name,
            "group": call.kind.group,
            "kind": call.kind.plural,
            "uid": item["metadata"]["uid"],
        }
        return 200, {"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success", "details": details}

    def _deletecollection(self, call: Call) -> tuple[int, Object]:
        for item in self._list(call)[1]["items"]:
            self.cluster.delete(call.kind, item["metadata"]["name"], item["metadata"]["namespace"])
        return 200, self._list(call)[1]


def _unversioned(item: Object) -> Object:
    """The object without its version, which a merge patch need not give."""
    metadata = {name: value for name, value in item["metadata"].items() if name != "resourceVersion"}
    return item | {"metadata": metadata}
