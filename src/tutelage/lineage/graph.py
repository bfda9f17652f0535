"""Walks lineage: from a payload back to every source it was made from and forward to everything made from it.

    graph = from_manifests(Store("runs/store").manifests())
    print(render(around(graph, find(graph, "3f2a9c"))))         # render: tutelage.lineage.tree
    print(render(trace("3f2a9c", Path("runs"), "runs/store")))  # the same

Two records say the same: manifests (`input_manifests`), which always exist, and ML Metadata, which also knows clusters' runs.
A node is a payload, known by where its manifest stands; an edge says that one payload went in at a port when another was made.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from tutelage.contracts import locations
from tutelage.contracts.manifest import Manifest
from tutelage.contracts.store import Store
from tutelage.errors import InvalidInput
from tutelage.lineage.events import payloads_in, read_events
from tutelage.lineage.store import MetadataStore

SHORTEST_PREFIX = 4
CANDIDATES_SHOWN = 10
GONE = "gone"


@dataclass(frozen=True, kw_only=True)
class Node:
    """A payload. `kind` is "gone" where something was made from it but its manifest can no longer be read."""

    uri: str
    kind: str
    digest: str
    step: str
    output: str
    run: str
    rows: int | None = None
    licences: Mapping[str, int] = field(default_factory=dict)
    origins: tuple[Mapping[str, Any], ...] = ()
    """What a step that reads from outside says of its sources, one mapping each: location, licence, rows."""


@dataclass(frozen=True, kw_only=True, order=True)
class Edge:
    """`source` went in at `port` of the step that made `target`; both are locations of manifests."""

    source: str
    target: str
    port: str


@dataclass(frozen=True)
class Graph:
    """Payloads by location of their manifest, and what they were made from. `starts` are those that were asked for."""

    nodes: Mapping[str, Node]
    edges: tuple[Edge, ...]
    starts: tuple[str, ...] = ()

    def made_from(self, uri: str) -> list[Edge]:
        """Edges into a payload, by port."""
        return self._into.get(uri, [])

    def used_by(self, uri: str) -> list[Edge]:
        """Edges out of a payload, by what was made."""
        return self._out_of.get(uri, [])

    @cached_property
    def _into(self) -> dict[str, list[Edge]]:
        into: dict[str, list[Edge]] = {}
        for edge in sorted(self.edges, key=lambda edge: (edge.port, edge.source)):
            into.setdefault(edge.target, []).append(edge)
        return into

    @cached_property
    def _out_of(self) -> dict[str, list[Edge]]:
        out_of: dict[str, list[Edge]] = {}
        for edge in sorted(self.edges):
            out_of.setdefault(edge.source, []).append(edge)
        return out_of

    def sources(self) -> list[Node]:
        """Payloads made from no other payload: where data and models came in (a plan is none). By step and location."""
        leaves = [node for uri, node in self.nodes.items() if not self.made_from(uri) and node.kind != "plan"]
        return sorted(leaves, key=lambda node: (node.step, node.uri))

    def as_json(self) -> dict[str, Any]:
        """Plain JSON values: starts, nodes, edges and sources."""
        return {
            "starts": list(self.starts),
            "nodes": [asdict(self.nodes[uri]) for uri in sorted(self.nodes)],
            "edges": [asdict(edge) for edge in self.edges],
            "sources": [node.uri for node in self.sources()],
        }


def from_manifests(manifests: Iterable[Manifest]) -> Graph:
    """The graph of all `manifests`; inputs that are not among them become "gone" nodes."""
    nodes: dict[str, Node] = {}
    edges = set()
    digests: dict[str, str] = {}
    for manifest in manifests:
        uri = locations.normalise(manifest.uri)
        nodes[uri] = _node(uri, manifest)
        for port, source in manifest.input_manifests.items():
            source = locations.normalise(source)
            digests[source] = manifest.inputs.get(port, "")
            edges.add(Edge(source=source, target=uri, port=port))
    return _graph(nodes, edges, digests)


def from_metadata(store: MetadataStore) -> Graph:
    """The same graph from ML Metadata. Tasks that reused a payload made nothing, so they add no edge."""
    artifacts = {item.id: item for item in store.artifacts() if "manifest" in item.properties}
    runs = {
        execution.id: run
        for run, context in store.contexts("system.PipelineRun").items()
        for execution in store.executions(context)
    }
    uris = {key: locations.normalise(str(item.properties["manifest"])) for key, item in artifacts.items()}
    nodes: dict[str, Node] = {}
    edges = set()
    for execution in store.executions():
        if execution.state == "CACHED":
            continue
        made = {output: artifact for output, artifact in execution.outputs.items() if artifact in artifacts}
        for output, artifact in made.items():
            properties = artifacts[artifact].properties
            nodes[uris[artifact]] = Node(
                uri=uris[artifact],
                kind=str(properties.get("kind", GONE)),
                digest=str(properties.get("digest", "")),
                step=str(execution.properties.get("step", execution.properties.get("task_name", ""))),
                output=output,
                run=runs.get(execution.id, ""),
                rows=int(float(str(properties["rows"]))) if "rows" in properties else None,
            )
            for port, source in execution.inputs.items():
                if source not in artifacts:
                    continue  # of another origin than ours: no manifest stands behind it
                edges.add(Edge(source=uris[source], target=uris[artifact], port=port))
    digests = {uris[key]: str(item.properties.get("digest", "")) for key, item in artifacts.items()}
    return _graph(nodes, edges, digests)


def payloads_of_run(store: MetadataStore, run: str) -> list[str]:
    """Locations of the manifests of everything a run made or reused, from ML Metadata; empty for an unknown run."""
    context = store.find_context("system.PipelineRun", run)
    executions = [] if context is None else store.executions(context)
    outputs = {artifact for execution in executions for artifact in execution.outputs.values()}
    found = [item.properties.get("manifest") for item in store.artifacts() if item.id in outputs]
    return sorted(locations.normalise(str(uri)) for uri in found if uri is not None)


def find(graph: Graph, prefix: str) -> tuple[str, ...]:
    """Payloads whose content digest starts with `prefix` (or whose manifest or folder it is); several hold equal content.

    Raises InvalidInput when none does, or when different contents do, listing them.
    """
    place = locations.normalise(prefix)
    exact = [uri for uri in graph.nodes if place in (uri, uri.rsplit("/", 1)[0])]
    if exact:
        return tuple(exact)
    matches = [node for node in graph.nodes.values() if node.digest.startswith(prefix.lower())]
    if not matches or len(prefix) < SHORTEST_PREFIX:
        raise InvalidInput(
            f"no payload has a digest that starts with {prefix!r}",
            hint=f"give at least {SHORTEST_PREFIX} characters of a content digest, as shown on a run page",
        )
    digests = sorted({(node.digest, node.kind, node.step) for node in matches})
    if len({digest for digest, _, _ in digests}) > 1:
        listed = "\n".join(f"  {digest[:16]}  {kind}  {step}" for digest, kind, step in digests[:CANDIDATES_SHOWN])
        more = len(digests) - CANDIDATES_SHOWN
        listed += f"\n  and {more} more" if more > 0 else ""
        raise InvalidInput(f"{prefix!r} is ambiguous:\n{listed}", hint="give more characters")
    return tuple(sorted(node.uri for node in matches))


def around(graph: Graph, starts: Iterable[str]) -> Graph:
    """The part of `graph` that `starts` were made from, any number of hops back, and that was made from them."""
    starts = tuple(starts)
    back = _closure(starts, lambda uri: [edge.source for edge in graph.made_from(uri)])
    forward = _closure(starts, lambda uri: [edge.target for edge in graph.used_by(uri)])
    inside = [
        edge for edge in graph.edges if {edge.source, edge.target} <= back or {edge.source, edge.target} <= forward
    ]
    return _part(graph, back | forward, inside, starts)


def of_run(graph: Graph, run: str, payloads: Iterable[str] = ()) -> Graph:
    """Everything that run `run` made or reused, and all it was made from. `payloads` are those its record names.

    A manifest names the run that made it, so what a run only reused comes from its events (`events.payloads_in`) or from
    `payloads_of_run`. Raises InvalidInput, listing known runs, when there is nothing.
    """
    named = {locations.normalise(uri) for uri in payloads}
    starts = [uri for uri, node in graph.nodes.items() if node.run == run or uri in named]
    if not starts:
        known = sorted({node.run for node in graph.nodes.values() if node.run})
        raise InvalidInput(f"no payload of run {run!r}", hint=f"known runs: {', '.join(known[-10:]) or 'none'}")
    return back_from(graph, starts)


def back_from(graph: Graph, starts: Iterable[str]) -> Graph:
    """`starts` and all they were made from. Those that others among them were made from are no starts of the result."""
    starts = sorted(locations.normalise(uri) for uri in starts)
    inside = _closure(starts, lambda uri: [edge.source for edge in graph.made_from(uri)])
    edges = [edge for edge in graph.edges if {edge.source, edge.target} <= inside]
    sources = {edge.source for edge in edges}
    return _part(graph, inside, edges, tuple(uri for uri in starts if uri not in sources))


def trace(target: str, runs: Path, store_root: str) -> Graph:
    """The lineage of `target`: a run id (a folder below `runs`), a prefix of a content digest, or the place of a payload.

    From manifests alone, so it needs no lineage store. Raises InvalidInput for what is neither, or ambiguous.
    """
    whole = from_manifests(Store(store_root).manifests())
    events_file = runs / target / "events.jsonl"
    if not events_file.is_file():
        return around(whole, find(whole, target))
    outputs = payloads_in(read_events(events_file)[0]).values()
    return of_run(whole, target, [uri for made in outputs for uri in made.values()])


def _node(uri: str, manifest: Manifest) -> Node:
    return Node(
        uri=uri,
        kind=manifest.kind,
        digest=manifest.content_digest,
        step=manifest.step,
        output=manifest.output,
        run=manifest.run,
        rows=manifest.rows,
        licences=dict(manifest.licences),
        origins=_origins(manifest.details),
    )


def _origins(details: Mapping[str, Any]) -> tuple[Mapping[str, Any], ...]:
    """`details["sources"]` (a list of mappings, or name → mapping) or `details["origin"]`, nested values left out."""
    sources = details.get("sources", [])
    if isinstance(sources, Mapping):
        sources = [
            {"name": name, **(entry if isinstance(entry, Mapping) else {"value": entry})}
            for name, entry in sorted(sources.items())
        ]
    found = [entry if isinstance(entry, Mapping) else {"location": entry} for entry in sources]
    if details.get("origin"):
        found.append({"origin": details["origin"]})
    return tuple(
        {key: value for key, value in entry.items() if isinstance(value, str | int | float)} for entry in found
    )


def _graph(nodes: dict[str, Node], edges: Iterable[Edge], digests: Mapping[str, str]) -> Graph:
    edges = sorted(edges)
    for uri in sorted({edge.source for edge in edges} - nodes.keys()):
        nodes[uri] = Node(uri=uri, kind=GONE, digest=digests.get(uri, ""), step="", output="", run="")
    return Graph(dict(sorted(nodes.items())), tuple(edges))


def _part(graph: Graph, uris: Iterable[str], edges: list[Edge], starts: tuple[str, ...]) -> Graph:
    return Graph({uri: graph.nodes[uri] for uri in sorted(uris)}, tuple(edges), starts)


def _closure(starts: Iterable[str], neighbours: Callable[[str], list[str]]) -> set[str]:
    reached: set[str] = set()
    waiting = list(starts)
    while waiting:
        uri = waiting.pop()
        if uri not in reached:
            reached.add(uri)
            waiting += neighbours(uri)
    return reached
