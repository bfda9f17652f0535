"""Lineage is walked several hops both ways, within a run and across runs."""

import json

import pytest

from tutelage.contracts import locations
from tutelage.contracts.digests import digest_of
from tutelage.contracts.store import Result
from tutelage.errors import InvalidInput
from tutelage.lineage.events import payloads_in, read_events
from tutelage.lineage.graph import around, find, from_manifests, of_run, trace
from tutelage.lineage.tree import render


def graph_of(run):
    return from_manifests(run.store.manifests())


def test_a_model_leads_back_to_every_source_and_forward_to_its_scorecard(synthetic_run):
    run = synthetic_run()
    made = run.whole()
    found = around(graph_of(run), find(graph_of(run), made["trained"].content_digest[:10]))
    assert {node.uri for node in found.sources()} == {made[name].uri for name in ("documents", "model", "suite")}
    assert made["comparison"].uri in found.nodes
    assert made["baseline"].uri not in found.nodes, "the baseline's scorecard was not made from the trained model"
    text = render(found)
    assert "licence=PSF-2.0" in text
    assert "PSF-2.0 30" in text


def test_a_source_leads_forward_to_everything_made_from_it(synthetic_run):
    run = synthetic_run()
    made = run.whole()
    found = around(graph_of(run), find(graph_of(run), made["documents"].location))
    expected = {"documents", "curated", "unique", "splits", "tokens", "trained", "baseline", "candidate", "comparison"}
    assert {made[name].uri for name in expected} <= set(found.nodes)
    assert made["model"].uri not in found.nodes
    assert "went into" in render(found)


def test_a_prefix_of_two_digests_is_refused_with_both(synthetic_run):
    run = synthetic_run()
    for name in ("a", "b"):
        result = Result(content_digest="abcd" + digest_of(name)[4:])
        run.finish(
            "data/ingest", "ingest", outputs={"documents": ("documents", {"x": b"x"}, result)}, config={"n": name}
        )
    with pytest.raises(InvalidInput, match="ambiguous") as refused:
        find(graph_of(run), "abcd")
    assert all("abcd" + digest_of(name)[4:16] in str(refused.value) for name in ("a", "b"))
    assert len(find(graph_of(run), "abcd" + digest_of("a")[4:8])) == 1


@pytest.mark.parametrize("prefix", ["ffffffff", "ab"])
def test_an_unknown_or_too_short_prefix_is_refused_with_a_hint(synthetic_run, prefix):
    run = synthetic_run()
    run.data()
    with pytest.raises(InvalidInput, match="hint: give at least 4"):
        find(graph_of(run), prefix)


def test_equal_content_made_twice_is_one_digest_with_two_payloads(synthetic_run):
    first, second = synthetic_run("first"), synthetic_run("second")
    first.data()
    second.data()
    assert len(find(graph_of(first), digest_of("documents")[:8])) == 2


def test_a_run_has_what_it_made_and_what_it_reused(synthetic_run):
    first, second = synthetic_run("first"), synthetic_run("second")
    made = first.prepare()
    second.reuse("data/tokenize", "tokenize", {}, {"tokens": made["tokens"]})
    model = second.model(made["tokens"], made["model"], "dpo")
    events, _ = read_events(second.folder / "events.jsonl")
    payloads = [uri for outputs in payloads_in(events).values() for uri in outputs.values()]
    found = of_run(graph_of(second), "second", payloads)
    assert found.starts == (model.uri,)
    assert made["documents"].uri in found.nodes
    assert {edge.port for edge in found.made_from(model.uri)} == {"tokens", "base"}


def test_an_unknown_run_is_refused_with_the_known_ones(synthetic_run):
    run = synthetic_run()
    run.data()
    with pytest.raises(InvalidInput, match="known runs: first"):
        of_run(graph_of(run), "seventh")


def test_a_removed_input_stays_in_the_graph_as_gone(synthetic_run):
    run = synthetic_run()
    made = run.data()
    locations.remove(made["documents"].location)
    found = around(graph_of(run), find(graph_of(run), made["curated"].content_digest[:8]))
    assert found.nodes[made["documents"].uri].kind == "gone"
    assert found.nodes[made["documents"].uri].digest == made["documents"].content_digest
    assert "gone" in render(found)


def test_the_json_form_holds_nodes_edges_and_sources(synthetic_run):
    run = synthetic_run()
    made = run.data()
    value = json.loads(json.dumps(around(graph_of(run), [made["curated"].uri]).as_json()))
    assert value["edges"] == [{"source": made["documents"].uri, "target": made["curated"].uri, "port": "documents"}]
    assert value["sources"] == [made["documents"].uri]
    assert {node["kind"] for node in value["nodes"]} == {"documents"}


def test_a_torn_event_line_is_reported_and_an_unfinished_one_is_left_for_later(tmp_path):
    path = tmp_path / "events.jsonl"
    path.write_bytes(b'{"event": "started", "task": "a"}\n{"event": "fin\n{"event": "failed"')
    events, offset = read_events(path)
    assert [event["event"] for event in events] == ["started", "warning"]
    assert path.read_bytes()[offset:] == b'{"event": "failed"'
    assert read_events(tmp_path / "absent.jsonl") == ([], 0)


def test_a_run_a_digest_and_a_place_can_be_traced(synthetic_run):
    first, second = synthetic_run("first"), synthetic_run("second")
    made = first.data()
    second.reuse("data/curate", "curate", {"documents": made["documents"]}, {"curated": made["curated"]})
    runs, root = second.folder.parent, second.store.root
    by_run = trace("second", runs, root)
    assert by_run.starts == (made["curated"].uri,)
    assert set(by_run.nodes) == {made["documents"].uri, made["curated"].uri}
    for target in (made["curated"].content_digest[:12], made["curated"].uri, made["curated"].location):
        assert trace(target, runs, root).starts == (made["curated"].uri,)
