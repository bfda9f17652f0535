"""Without ml_metadata there are manifests, and the notice says so."""

import subprocess
import sys

import pytest

from tutelage.errors import InvalidInput
from tutelage.lineage.store import open_store

BLOCKED = """
import sys
sys.modules["ml_metadata"] = None
sys.modules["ml_metadata.metadata_store"] = None
from pathlib import Path
from tutelage.lineage.events import payloads_in, read_events
from tutelage.lineage.graph import find, from_manifests, of_run, around
from tutelage.lineage.tree import render
from tutelage.lineage.recorder import Recorder
from tutelage.lineage.store import open_store, why_unavailable
from tutelage.contracts.store import Store
root, run = sys.argv[1:]
store = open_store(root + "/lineage.sqlite")
assert store is None and "manifests only" in why_unavailable()
events, _ = read_events(Path(root) / run / "events.jsonl")
recorder = Recorder(store, run=run, pipeline="llm-training")
recorder.consume(events)
recorder.close()
graph = from_manifests(Store(root + "/store").manifests())
payloads = [uri for outputs in payloads_in(events).values() for uri in outputs.values()]
print(render(of_run(graph, run, payloads)))
"""


def test_without_ml_metadata_lineage_comes_from_manifests_with_a_notice(synthetic_run):
    run = synthetic_run()
    run.data()
    root = str(run.folder.parent)
    done = subprocess.run([sys.executable, "-W", "error", "-c", BLOCKED, root, "first"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "lineage from manifests only" in done.stderr
    assert "documents" in done.stdout
    assert not (run.folder.parent / "lineage.sqlite").exists()


def test_importing_lineage_does_not_import_ml_metadata():
    code = "import sys, tutelage.lineage.recorder, tutelage.lineage.graph; sys.exit('ml_metadata' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


def test_a_store_that_is_no_local_file_is_refused():
    with pytest.raises(InvalidInput, match="not a lineage store"):
        open_store("s3://bucket/lineage.sqlite")
