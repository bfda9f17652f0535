"""The store keeps its word on a local disk and on a real S3 server: a payload exists whole, or it does not exist."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.contracts.payloads import FILES, KEY, finished, manifest_for, write_files
from tutelage.contracts import locations, store
from tutelage.contracts.digests import canonical_json, digest_of
from tutelage.contracts.manifest import MANIFEST_NAME, Manifest, PayloadFile, parse, read, verify
from tutelage.contracts.store import Store
from tutelage.errors import CorruptPayload, InvalidInput, StoreError

OUTPUTS = {"documents": "documents"}
ROOT = Path(__file__).parents[2]


@pytest.fixture(params=["local", "file", "s3"])
def root(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """Root of an empty store: a path, the same as file://, a bucket."""
    if request.param == "s3":
        yield f"{request.getfixturevalue('s3_location')}/store"
    else:
        yield f"{'file://' if request.param == 'file' else ''}{tmp_path}/store"


@pytest.fixture
def local_root(tmp_path: Path) -> str:
    return str(tmp_path / "store")


def rewrite(manifest: Manifest, change: Callable[[dict[str, Any]], None], *, sign: bool = True) -> None:
    """Change the manifest's file by hand; with `sign`, its own digest is made to fit."""
    body = json.loads(locations.read_bytes(manifest.uri))
    del body["digest"]
    digest = digest_of(body)
    change(body)
    locations.write_bytes(manifest.uri, json.dumps({**body, "digest": digest_of(body) if sign else digest}).encode())


def test_what_was_finished_is_found_as_it_was(root):
    made = finished(root)
    assert Store(root).find(OUTPUTS, KEY) == {"documents": made}
    assert read(made.uri) == made
    assert [(entry.path, entry.size) for entry in made.files] == sorted(
        (name, len(data)) for name, data in FILES.items()
    )
    assert list(Store(root).manifests()) == [made]
    assert locations.read_bytes(made.file("rows-00000.parquet")) == FILES["rows-00000.parquet"]


def test_nothing_is_found_in_an_empty_store(root):
    assert Store(root).find(OUTPUTS, KEY) is None
    assert list(Store(root).manifests()) == []


def test_another_key_and_another_kind_find_nothing(root):
    finished(root)
    assert Store(root).find(OUTPUTS, "f" * 32) is None
    assert Store(root).find({"documents": "splits"}, KEY) is None
    assert Store(root).find({"curated": "documents"}, KEY) is None, "another output of the step"


def test_a_payload_without_a_manifest_does_not_exist(root):
    write_files(Store(root).attempt("documents", KEY, "20260101T000000000000-torn"))
    assert Store(root).find(OUTPUTS, KEY) is None
    made = finished(root)
    assert Store(root).find(OUTPUTS, KEY) == {"documents": made}, "a torn attempt hides no finished one"


def test_a_listing_is_fresh_when_another_writer_has_just_finished(root):
    assert Store(root).find(OUTPUTS, KEY) is None
    first = finished(root, attempt="20260102T000000000000-b")
    assert Store(root).find(OUTPUTS, KEY) == {"documents": first}
    other = "from tests.contracts.payloads import finished; import sys; finished(sys.argv[1], attempt=sys.argv[2])"
    earlier = "20260101T000000000000-a"
    subprocess.run([sys.executable, "-c", other, root, earlier], cwd=ROOT, check=True)
    found = Store(root).find(OUTPUTS, KEY)
    assert found is not None
    assert found["documents"].attempt == earlier
    assert sorted(manifest.attempt for manifest in Store(root).manifests()) == [earlier, first.attempt]


def test_all_outputs_must_be_finished_in_the_same_attempt(root):
    outputs = {"verdict": "verdict", "page": "page"}
    finished(root, attempt="a1", kind="verdict", output="verdict")
    finished(root, attempt="a2", kind="page", output="page")
    assert Store(root).find(outputs, KEY) is None
    page = finished(root, attempt="a1", kind="page", output="page")
    found = Store(root).find(outputs, KEY)
    assert found is not None
    assert found["page"] == page


def test_a_missing_file_is_noticed(root):
    made = finished(root)
    locations.remove(made.file("rows-00000.parquet"))
    with pytest.raises(CorruptPayload, match=r"missing.*rows-00000"):
        verify(made)
    assert Store(root).find(OUTPUTS, KEY) is None


def test_a_file_too_many_is_noticed(root):
    made = finished(root)
    locations.write_bytes(locations.join(made.location, "rows-00001.parquet"), b"more")
    with pytest.raises(CorruptPayload, match=r"no manifest lists.*rows-00001"):
        verify(made)
    assert Store(root).find(OUTPUTS, KEY) is None


def test_a_file_of_other_bytes_and_the_same_size_is_noticed(root):
    made = finished(root)
    locations.write_bytes(made.file("rows-00000.parquet"), FILES["rows-00000.parquet"][::-1])
    verify(made, content=False)
    with pytest.raises(CorruptPayload, match="differs from its sha256"):
        verify(made)
    assert Store(root).find(OUTPUTS, KEY) is None


def test_two_files_that_changed_places_are_noticed(root):
    files = {"a.bin": b"one", "b.bin": b"two"}
    location = Store(root).attempt("documents", KEY, "a1")
    write_files(location, files)
    made = store.finish(manifest_for(location, KEY, "a1"))
    write_files(location, {"a.bin": b"two", "b.bin": b"one"})
    with pytest.raises(CorruptPayload):
        verify(made)


@pytest.mark.parametrize("content", [b"", b"row", b"row " * 41], ids=["emptied", "cut", "grown"])
def test_a_file_of_another_size_is_noticed(root, content):
    made = finished(root)
    locations.write_bytes(made.file("rows-00000.parquet"), content)
    with pytest.raises(CorruptPayload, match=f"has {len(content)} bytes, its manifest says 160"):
        verify(made, content=False)


def test_observations_and_outcome_are_no_part_of_the_payload(root):
    made = finished(root)
    for name in ("observations.json", "outcome.json"):
        locations.write_bytes(locations.join(made.location, name), b"{}")
    verify(made)
    assert Store(root).find(OUTPUTS, KEY) == {"documents": made}


def test_a_finished_attempt_is_never_finished_again(root):
    made = finished(root)
    with pytest.raises(StoreError, match="finished already"):
        store.finish(made)


def test_foreign_manifests_do_not_count(root):
    made = finished(root, attempt="a1")
    data = locations.read_bytes(made.uri)
    for kind, key, attempt in (("documents", KEY, "a2"), ("documents", "f" * 32, "a1"), ("splits", KEY, "a1")):
        place = Store(root).attempt(kind, key, attempt)
        write_files(place)
        locations.write_bytes(locations.join(place, MANIFEST_NAME), data)
        with pytest.raises(CorruptPayload, match="foreign manifest"):
            Store(root).read(kind, key, attempt)
        assert Store(root).find({"documents": kind}, key) in (None, {"documents": made})
    assert list(Store(root).manifests()) == [made]


def test_a_manifest_that_points_at_another_payload_does_not_count(root):
    good, bad = finished(root, attempt="a1"), finished(root, attempt="a0")
    rewrite(bad, lambda body: body.update(location=good.location))
    with pytest.raises(CorruptPayload, match="another payload"):
        Store(root).read("documents", KEY, "a0")
    assert Store(root).find(OUTPUTS, KEY) == {"documents": good}


def test_what_is_passed_over_is_said_once_with_place_and_cause(root, caplog):
    torn, swapped = finished(root, attempt="a0"), finished(root, attempt="a1")
    locations.write_bytes(torn.uri, locations.read_bytes(torn.uri)[:-20])
    locations.write_bytes(swapped.file("rows-00000.parquet"), b"x" * len(FILES["rows-00000.parquet"]))
    write_files(Store(root).attempt("documents", KEY, "a2"))
    for _ in range(2):
        assert Store(root).find(OUTPUTS, KEY) is None
    said = [record.getMessage() for record in caplog.records]
    assert len(said) == 2, "an attempt without a manifest is another writer's business"
    assert "torn manifest" in said[0] and "/a0/" in said[0]
    assert "differs from its sha256" in said[1] and "/a1/" in said[1]


def test_a_store_that_was_moved_is_read_where_it_stands(tmp_path):
    before, after = str(tmp_path / "before"), str(tmp_path / "after")
    parent = finished(before, attempt="a1")
    made = finished(
        before,
        kind="splits",
        output="splits",
        attempt="a2",
        input_manifests={"d": parent.uri, "out": "/out/manifest.json"},
    )
    copy = locations.read_bytes(made.uri)
    Path(before).rename(after)
    found = Store(after).find({"splits": "splits"}, KEY)
    assert found is not None
    moved = found["splits"]
    assert moved.location == Store(after).attempt("splits", KEY, "a2")
    assert moved.input_manifests == {"d": f"{after}{parent.uri.removeprefix(before)}", "out": "/out/manifest.json"}
    assert read(moved.uri) == moved and read(moved.input_manifests["d"]).location.startswith(after)
    assert {item.kind for item in Store(after).manifests()} == {"documents", "splits"}
    # A copy that stands elsewhere tells the place that it was written with.
    locations.write_bytes(str(tmp_path / "kfp" / "splits"), copy)
    assert read(str(tmp_path / "kfp" / "splits")) == made
    assert parse(moved.to_json(), "copy") == moved


def test_unknown_kinds_are_refused(root):
    with pytest.raises(InvalidInput, match="unknown kind 'document'") as caught:
        Store(root).attempt("document", KEY, "a1")
    assert "documents" in (caught.value.hint or "")


def test_removing_takes_everything_and_nothing_else(root):
    kept, gone = finished(root, attempt="a1"), finished(root, attempt="a10")
    locations.remove(gone.location)
    assert not locations.exists(gone.uri)
    assert locations.list_files(gone.location) == []
    locations.remove(gone.location)
    verify(kept)
    # `a1` is a prefix of `a10`: prefixes are no folders.
    locations.remove(kept.location[:-1])
    verify(kept)


def test_upload_and_download_give_the_same_files(root, tmp_path):
    write_files(str(tmp_path / "made"))
    location = locations.join(root, "copy")
    locations.upload(tmp_path / "made", location)
    assert locations.list_files(location) == locations.list_files(str(tmp_path / "made"))
    locations.download(location, tmp_path / "back", list(FILES))
    assert {name: (tmp_path / "back" / name).read_bytes() for name in FILES} == FILES
    locations.download(location, tmp_path / "back", ["empty.txt"])
    assert locations.list_files(str(tmp_path / "back")) == locations.list_files(location)


def test_reading_what_is_not_there_raises_file_not_found(root):
    for place in (root, locations.join(root, "nothing")):
        with pytest.raises(FileNotFoundError):
            locations.read_bytes(locations.join(place, "absent.json"))
        assert not locations.exists(locations.join(place, "absent.json"))
        assert locations.list_files(locations.join(place, "absent")) == []
        assert locations.list_folders(locations.join(place, "absent")) == []


def test_readers_see_the_old_file_or_the_new_never_a_part(root):
    place = locations.join(root, "file.json")
    contents = [bytes([65 + index]) * 200_000 for index in range(2)]
    locations.write_bytes(place, contents[0])
    stop = threading.Event()
    seen: list[bytes] = []

    def look() -> None:
        while not stop.is_set():
            seen.append(locations.read_bytes(place))

    reader = threading.Thread(target=look)
    reader.start()
    for index in range(20):
        locations.write_bytes(place, contents[index % 2])
    stop.set()
    reader.join()
    assert seen
    assert set(seen) <= set(contents)


@pytest.mark.parametrize("root", ["local", "s3"], indirect=True)
def test_two_writers_at_once_both_finish_and_a_reader_takes_one_whole(root):
    program = """
import sys, time
from tests.contracts.payloads import *
root, name, start = sys.argv[1], sys.argv[2], float(sys.argv[3])
time.sleep(max(0.0, start - time.time()))
for _ in range(4):
    location = Store(root).attempt("documents", KEY, attempt := new_attempt())
    write_files(location, {f"{name}-{part}.bin": name.encode() * 5000 for part in range(3)})
    store.finish(manifest_for(location, KEY, attempt, content_digest=name))
"""
    start = str(time.time() + 1.5)
    writers = [
        subprocess.Popen([sys.executable, "-c", program, root, name, start], cwd=ROOT, stderr=subprocess.PIPE)
        for name in ("left", "right")
    ]
    seen = set()
    while any(writer.poll() is None for writer in writers):
        found = Store(root).find(OUTPUTS, KEY)
        if found is not None:
            manifest = found["documents"]
            assert {entry.path.split("-")[0] for entry in manifest.files} == {manifest.content_digest}
            seen.add(manifest.attempt)
        time.sleep(0.02)
    for writer in writers:
        assert writer.communicate()[1] == b""
        assert writer.returncode == 0
    made = list(Store(root).manifests())
    assert len(made) == 8
    for manifest in made:
        verify(manifest)
    found = Store(root).find(OUTPUTS, KEY)
    assert found is not None
    assert found["documents"].attempt == min(manifest.attempt for manifest in made)
    assert seen <= {manifest.attempt for manifest in made}


def test_a_writer_killed_before_its_manifest_leaves_nothing(root):
    program = """
import sys, time
from tests.contracts.payloads import *
root = sys.argv[1]
location = Store(root).attempt("documents", KEY, "20260101T000000000000-killed")
write_files(location)
manifest = manifest_for(location, KEY, "20260101T000000000000-killed")
print("payload written", flush=True)
time.sleep(60)
store.finish(manifest)
"""
    with subprocess.Popen([sys.executable, "-c", program, root], cwd=ROOT, stdout=subprocess.PIPE) as writer:
        assert writer.stdout is not None
        assert writer.stdout.readline() == b"payload written\n"
        os.kill(writer.pid, signal.SIGKILL)
    assert len(locations.list_files(root)) == len(FILES)
    assert Store(root).find(OUTPUTS, KEY) is None
    assert list(Store(root).manifests()) == []
    made = finished(root)
    assert Store(root).find(OUTPUTS, KEY) == {"documents": made}


def test_writers_killed_at_any_moment_leave_whole_attempts_or_none(local_root):
    program = """
import sys
from tests.contracts.payloads import *
print("ready", flush=True)
while True:
    finished(sys.argv[1])
"""
    for delay_ms in (1, 5, 20, 45, 90):
        with subprocess.Popen([sys.executable, "-c", program, local_root], cwd=ROOT, stdout=subprocess.PIPE) as writer:
            assert writer.stdout is not None
            writer.stdout.readline()
            time.sleep(delay_ms / 1000)
            os.kill(writer.pid, signal.SIGKILL)
        store_now = Store(local_root)
        for manifest in store_now.manifests():
            verify(manifest)
        attempts = locations.list_folders(locations.join(local_root, "documents", KEY))
        torn = len(attempts) - len(list(store_now.manifests()))
        assert torn <= 5, "each killed writer tears one attempt at most"
    assert finished(local_root) in store_now.manifests()


def test_a_manifest_torn_at_any_length_does_not_count(local_root):
    made = finished(local_root)
    data = locations.read_bytes(made.uri)
    for length in range(len(data)):
        with pytest.raises(CorruptPayload):
            parse(data[:length], made.uri)
    assert parse(data, made.uri) == made
    Path(made.uri).write_bytes(data[: len(data) // 2])
    assert Store(local_root).find(OUTPUTS, KEY) is None
    assert list(Store(local_root).manifests()) == []


def test_a_manifest_with_any_byte_changed_does_not_count(local_root):
    made = finished(local_root)
    data = locations.read_bytes(made.uri)
    for position in range(len(data)):
        for byte in (data[position] ^ 1, 0, 0xFF):
            changed = data[:position] + bytes([byte]) + data[position + 1 :]
            try:
                parsed = parse(changed, made.uri)
            except CorruptPayload:
                continue
            assert parsed == made, f"byte {position} was changed unnoticed"


@pytest.mark.parametrize(
    "data",
    [
        b"", b"null", b"[]", b"{}", b'"text"', b"1", b"\xff\xfe", b"\x80\x04\x95", b"{" * 200_000, b"[" * 200_000,
        b'{"digest": NaN}', b'{"digest": "x", "schema": "tutelage.manifest/1", "rows": NaN}',
        b'{"digest": "x", "schema": "tutelage.manifest/1", "run": "\\ud800"}', b"9" * 10_000,
        b'{"digest": "x", "schema": "tutelage.manifest/2"}', b'{"digest": {}, "schema": []}',
    ],
    ids=lambda data: repr(data[:40]),
)  # fmt: skip
def test_what_is_no_manifest_is_called_corrupt(data, local_root):
    with pytest.raises(CorruptPayload):
        parse(data, "somewhere")
    made = finished(local_root)
    Path(made.uri).write_bytes(data)
    assert Store(local_root).find(OUTPUTS, KEY) is None


@pytest.mark.parametrize(
    "change",
    [
        {"rows": 41}, {"content_digest": "0" * 64}, {"licences": {"MIT": 39, "GPL-3.0-only": 1}}, {"inputs": {"a": "b"}},
        {"run": "another"}, {"dropped": {"pii": 1}}, {"code_version": "other"}, {"details": {"stopped": "budget"}},
        {"files": []},
    ],
    ids=lambda change: next(iter(change)),
)  # fmt: skip
def test_an_altered_manifest_does_not_count(local_root, change):
    made = finished(local_root)
    rewrite(made, lambda body: body.update(change), sign=False)
    with pytest.raises(CorruptPayload, match="altered"):
        read(made.uri)
    assert Store(local_root).find(OUTPUTS, KEY) is None


def test_a_manifest_with_other_fields_does_not_count(local_root):
    for change in ({"unheard_of": 1}, {"files": [{"path": "a"}]}, {"files": ["a"]}, {"files": None}):
        made = finished(local_root)
        rewrite(made, lambda body, change=change: body.update(change))  # type: ignore[misc]
        with pytest.raises(CorruptPayload, match="other fields"):
            read(made.uri)
    made = finished(local_root)
    rewrite(made, lambda body: body.pop("kind"))
    with pytest.raises(CorruptPayload, match="other fields"):
        read(made.uri)


def test_a_manifest_cannot_reach_outside_its_payload(local_root, tmp_path):
    (tmp_path / "secret").write_bytes(b"secret")
    made = finished(local_root)
    outside = {"path": "../../../../secret", "size": 6, "sha256": locations.sha256_of(str(tmp_path / "secret"))}
    rewrite(made, lambda body: body["files"].append(outside))
    with pytest.raises(CorruptPayload):
        verify(read(made.uri))
    assert Store(local_root).find(OUTPUTS, KEY) is None


def test_a_payload_file_called_tmp_is_a_payload_file(local_root):
    location = Store(local_root).attempt("documents", KEY, "a1")
    write_files(location, {"vocabulary.tmp": b"words"})
    assert [entry.path for entry in store.payload_files(location)] == ["vocabulary.tmp"]


def test_what_a_killed_write_left_is_no_payload_file(local_root):
    made = finished(local_root)
    (Path(made.location) / ".rows-00000.parquet.0123456789abcdef0123456789abcdef.tmp").write_bytes(b"half")
    verify(made)


def test_rows_must_add_up(local_root):
    good = {"rows": 40, "rows_in": 50, "dropped": {"pii": 4, "licence_unknown": 6}}
    assert finished(local_root, **good).dropped == good["dropped"]
    location = Store(local_root).attempt("documents", KEY, "a1")
    write_files(location)
    for change in ({"rows": 39}, {"dropped": {"pii": 4}}, {"dropped": {}}, {"rows_in": 49}, {"rows": None}):
        with pytest.raises(StoreError, match=r"lost rows.*unaccounted for"):
            store.finish(manifest_for(location, KEY, "a1", **(good | change)))
    assert not locations.exists(locations.join(location, MANIFEST_NAME))
    assert store.finish(manifest_for(location, KEY, "a1", rows=0, rows_in=0)).rows == 0


@pytest.mark.parametrize("value", [float("nan"), float("inf"), {1, 2}, b"bytes"])
def test_a_value_that_json_cannot_hold_is_named(local_root, value):
    location = Store(local_root).attempt("documents", KEY, "a1")
    write_files(location)
    with pytest.raises(StoreError, match=r"data/ingest.*metrics|metrics.*data/ingest"):
        store.finish(manifest_for(location, KEY, "a1", metrics={"loss": value}))
    assert not locations.exists(locations.join(location, MANIFEST_NAME))


def test_attempts_sort_by_time_and_are_never_the_same():
    names = [store.new_attempt() for _ in range(2000)]
    assert len(set(names)) == 2000
    times = [name.split("-")[0] for name in names]
    assert times == sorted(times)


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"licences": {f"LicenseRef-{'x' * 200}-{index:05d}": 1 for index in range(5000)}},
        {"licences": {"MIT AND " * 1000 + "MIT": 1}},
        {"location": "/" + "ordner/" * 1000},
        {"location": "s3://" + "日本語/" * 2000, "licences": {"許" * 3000: 1}, "content_digest": "漢" * 3000},
        {"location": "/" + "\N{GRINNING FACE}" * 5000, "step_key": "\N{GRINNING FACE}" * 5000},
        {"rows": 2**63, "step_key": "k" * 10_000, "content_digest": "d" * 10_000},
    ],
    ids=["plain", "many licences", "long licence", "long location", "wide", "wider", "keys"],
)
@pytest.mark.timeout(10)
def test_artifact_metadata_stays_under_four_kilobytes(changes):
    fields = {"location": "/store/a", "files": (PayloadFile(path="a", size=1, sha256="00"),)}
    base = dict.fromkeys(("content_digest", "step", "step_key", "attempt", "code_version", "run"), "x")
    manifest = Manifest(**(base | fields | {"kind": "documents", "config": {}, "seed": None, "inputs": {},
                        "input_manifests": {}, "output": "o", "rows": 3, "licences": {"MIT": 3}} | changes))  # fmt: skip
    metadata = manifest.artifact_metadata()
    assert len(canonical_json(metadata)) < 4096
    assert len(json.dumps(metadata)) < 4096, "KFP escapes what is not ASCII"
    assert {"kind", "digest", "payload", "manifest", "rows", "licences"} <= set(metadata)
    if not changes:
        assert metadata["licences"] == "MIT"
        assert metadata["manifest"] == "/store/a/manifest.json"


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of 256 KiB; mounting it takes root."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", str(folder)], capture_output=True, text=True
    )
    if mounted.returncode != 0:
        pytest.skip(f"mounting a small disk takes root: {mounted.stderr.strip()}")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


def test_a_full_disk_is_said_and_leaves_nothing_half_written(small_disk):
    root = str(small_disk / "store")
    made = finished(root)
    location = Store(root).attempt("documents", KEY, "a9")
    with pytest.raises(StoreError, match="No space left") as caught:
        write_files(location, {"rows-00000.parquet": b"x" * 1_000_000})
    assert "free space" in (caught.value.hint or "")
    assert locations.list_files(location) == []
    assert list(Path(location).iterdir()) == [], "the temporary file is gone"
    assert Store(root).find(OUTPUTS, KEY) == {"documents": made}


def test_a_manifest_that_does_not_fit_on_the_disk_does_not_count(small_disk):
    root = str(small_disk / "store")
    location = Store(root).attempt("documents", KEY, "a1")
    write_files(location)
    manifest = manifest_for(location, KEY, "a1", details={"long": "x" * 100_000})
    filler = small_disk / "filler"
    subprocess.run(["dd", "if=/dev/zero", f"of={filler}", "bs=4k"], capture_output=True, check=False)
    with pytest.raises(StoreError, match="No space left"):
        store.finish(manifest)
    assert Store(root).find(OUTPUTS, KEY) is None
    filler.unlink()
    assert store.finish(manifest) == manifest
    assert Store(root).find(OUTPUTS, KEY) == {"documents": manifest}


def test_a_folder_that_cannot_be_written_is_said(tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(StoreError, match="cannot write"):
        locations.write_bytes(str(tmp_path / "file" / "manifest.json"), b"{}")


def test_an_object_store_that_does_not_answer_is_said(s3_location, monkeypatch):
    import s3fs

    s3fs.S3FileSystem.clear_instance_cache()
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:1")
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    with pytest.raises(StoreError, match=r"cannot (write|reach)"):
        locations.write_bytes(f"{s3_location}/a.json", b"{}")


def test_wrong_credentials_are_said_and_do_not_look_like_an_empty_store(s3_location, monkeypatch):
    import s3fs

    finished(f"{s3_location}/store")
    s3fs.S3FileSystem.clear_instance_cache()
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "wrong")
    with pytest.raises(StoreError):
        locations.write_bytes(f"{s3_location}/a.json", b"{}")
    with pytest.raises((StoreError, PermissionError)):
        Store(f"{s3_location}/store").find(OUTPUTS, KEY)


@pytest.mark.parametrize("location", ["nowhere://bucket/a", "hdfs-but-unknown://a/b"])
def test_an_unknown_scheme_is_refused_with_what_is_accepted(location):
    with pytest.raises(StoreError, match="cannot open") as caught:
        locations.write_bytes(location, b"")
    assert "s3://" in (caught.value.hint or "")


def test_locations_keep_both_slashes():
    assert locations.join("s3://bucket/", "/a/", "b") == "s3://bucket/a/b"
    assert locations.normalise("s3://bucket/a/") == "s3://bucket/a"
    assert locations.normalise("file:///a/b/") == "/a/b"
    assert locations.normalise("a") == str(Path("a").absolute())
    with pytest.raises(StoreError, match="not a local location"):
        locations.local_path("s3://bucket/a")
