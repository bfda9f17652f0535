"""Lineage as text for a terminal: `tutelage lineage RUN|DIGEST`.

model 3f2a9c01b2d4  train/train  2026-…  (Apache-2.0 1)
  made from
  ├─ base: model …
  └─ tokens: tokens …
     └─ splits: splits …
"""

from __future__ import annotations

from collections.abc import Callable

from tutelage.lineage.graph import GONE, Edge, Graph, Node


def render(graph: Graph) -> str:
    """The graph as text trees, one for each start: what it was made from, what was made from it, and the sources."""
    lines: list[str] = []
    for start in graph.starts:
        lines.append(describe(graph.nodes[start]))
        shown = {start}
        for title, edges_of, far in (
            ("made from", graph.made_from, "source"),
            ("went into", graph.used_by, "target"),
        ):
            branches = edges_of(start)
            if branches:
                lines.append(f"  {title}")
                _branch(graph, branches, edges_of, far, "  ", lines, shown)
        lines.append("")
    lines.append("sources")
    for node in graph.sources():
        lines.append(f"  {describe(node)}")
        lines += [f"    {origin}" for origin in origins_of(node)]
    return "\n".join(lines)


def describe(node: Node) -> str:
    """A payload in a line: kind, digest, step, run, rows and licences."""
    if node.kind == GONE:
        return f"gone {node.digest[:12]}  {node.uri}"
    rows = "" if node.rows is None else f"  {node.rows:,} rows"
    counts = ", ".join(f"{name} {count:,}" for name, count in sorted(node.licences.items()))
    return f"{node.kind} {node.digest[:12]}  {node.step}  {node.run}{rows}{f'  ({counts})' if counts else ''}"


def origins_of(node: Node) -> list[str]:
    """What a payload says of the places outside that it was read from, a line each."""
    return ["  ".join(f"{key}={value}" for key, value in origin.items()) for origin in node.origins]


def _branch(
    graph: Graph,
    edges: list[Edge],
    edges_of: Callable[[str], list[Edge]],
    far: str,
    indent: str,
    lines: list[str],
    shown: set[str],
) -> None:
    for edge in edges:
        uri = getattr(edge, far)
        last = edge is edges[-1]
        again = uri in shown
        lines.append(
            f"{indent}{'└─' if last else '├─'} {edge.port}: {describe(graph.nodes[uri])}{' ↑' if again else ''}"
        )
        if not again:
            shown.add(uri)
            _branch(graph, edges_of(uri), edges_of, far, indent + ("   " if last else "│  "), lines, shown)
