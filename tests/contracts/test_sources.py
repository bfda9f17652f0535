"""Sources: pins are checked before anything is read, caches mend themselves, nothing leads out of a package."""

from __future__ import annotations

import hashlib
import http.server
import json
import os
import subprocess
import sys
import threading
import zipfile
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tutelage.contracts import licences, locations, wheels
from tutelage.contracts.sources import fetch, parse, pinned
from tutelage.errors import InvalidInput

MIT_CLASSIFIER = "Classifier: License :: OSI Approved :: MIT License\n"
COMMIT = "0123456789abcdef0123456789abcdef01234567"


@pytest.fixture
def index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A package index in a folder, the only one that pip sees."""
    folder = tmp_path / "index"
    folder.mkdir()
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    return folder


def write_wheel(index: Path, files: dict[str, str], metadata: str = "License-Expression: MIT\n") -> str:
    """A small real wheel `shelf==1.0` in the index; gives its sha256."""
    path = index / "shelf-1.0-py3-none-any.whl"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, text in files.items():
            archive.writestr(name, text)
        archive.writestr(
            "shelf-1.0.dist-info/METADATA", f"Metadata-Version: 2.4\nName: shelf\nVersion: 1.0\n{metadata}"
        )
        archive.writestr("shelf-1.0.dist-info/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        archive.writestr("shelf-1.0.dist-info/RECORD", "")
    return hashlib.sha256(path.read_bytes()).hexdigest()


BOOKS = {"shelf/__init__.py": "", "shelf/books/a.txt": "alpha", "shelf/books/b.txt": "beta", "shelf/other.txt": "no"}


def test_a_folder_inside_a_wheel_is_unpacked_alone_with_its_licence(index: Path, tmp_path: Path) -> None:
    sha256 = write_wheel(index, BOOKS)
    uri = f"wheel://shelf==1.0/shelf/books#sha256={sha256}"
    fetched = fetch(uri, tmp_path / "cache")
    assert [name for name, _ in fetched.files()] == ["a.txt", "b.txt"]
    assert fetched.path.joinpath("a.txt").read_text() == "alpha"
    assert (fetched.licence, fetched.package, fetched.version, fetched.origin) == ("MIT", "shelf", "1.0", uri)
    assert not list((tmp_path / "cache").rglob("other.txt"))


def test_a_second_fetch_needs_no_index_and_gives_the_same_digest(index: Path, tmp_path: Path) -> None:
    uri = f"wheel://shelf==1.0/shelf/books/a.txt#sha256={write_wheel(index, BOOKS)}"
    first = fetch(uri, tmp_path / "cache")
    for path in index.iterdir():
        path.unlink()
    assert fetch(uri, tmp_path / "cache") == first
    assert first.path.is_file() and first.digest == hashlib.sha256(b"alpha").hexdigest()


def test_a_whole_wheel_is_fetched_when_no_inner_path_is_given(index: Path, tmp_path: Path) -> None:
    fetched = fetch(f"wheel://shelf==1.0#sha256={write_wheel(index, BOOKS)}", tmp_path / "cache")
    assert [name for name, _ in fetched.files((".txt",))] == [
        "shelf/books/a.txt",
        "shelf/books/b.txt",
        "shelf/other.txt",
    ]


def test_a_wheel_with_another_hash_is_refused_before_anything_is_unpacked(index: Path, tmp_path: Path) -> None:
    found = write_wheel(index, BOOKS)
    with pytest.raises(InvalidInput) as caught:
        fetch(f"wheel://shelf==1.0/shelf#sha256={'0' * 64}", tmp_path / "cache")
    assert found[:12] in str(caught.value) and "0" * 12 in str(caught.value) and caught.value.hint
    assert not list((tmp_path / "cache").rglob("*.txt")) and not list((tmp_path / "cache").rglob("*.whl"))


def test_a_wheel_that_the_index_lacks_is_named(index: Path, tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match=r"nowhere==2\.0.*no index has a wheel of it"):
        fetch(f"wheel://nowhere==2.0/x#sha256={'0' * 64}", tmp_path / "cache")


def test_an_inner_path_that_the_wheel_lacks_is_named_with_what_it_holds(index: Path, tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match="holds no 'shelf/films'") as caught:
        fetch(f"wheel://shelf==1.0/shelf/films#sha256={write_wheel(index, BOOKS)}", tmp_path / "cache")
    assert "shelf" in str(caught.value.hint)


@pytest.mark.parametrize("member", ["../escape.txt", "/etc/escape.txt", "shelf/../../escape.txt", "C:\\escape.txt"])
def test_a_member_that_leads_out_of_the_wheel_is_refused(index: Path, tmp_path: Path, member: str) -> None:
    sha256 = write_wheel(index, {**BOOKS, member: "x"})
    with pytest.raises(InvalidInput, match="leads out of it"):
        fetch(f"wheel://shelf==1.0#sha256={sha256}", tmp_path / "cache")
    assert not list(tmp_path.rglob("*escape*"))


def test_a_link_inside_a_wheel_is_refused(index: Path, tmp_path: Path) -> None:
    path = index / "shelf-1.0-py3-none-any.whl"
    write_wheel(index, BOOKS)
    link = zipfile.ZipInfo("shelf/link")
    link.external_attr = 0o120777 << 16
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr(link, "/etc/passwd")
    sha256 = hashlib.sha256(path.read_bytes()).hexdigest()
    with pytest.raises(InvalidInput, match="leads out of it"):
        fetch(f"wheel://shelf==1.0/shelf#sha256={sha256}", tmp_path / "cache")


def altered(index: Path, change: Callable[[zipfile.ZipFile], None]) -> str:
    """The uri of the shelf's folder in a wheel that `change` added to."""
    path = index / "shelf-1.0-py3-none-any.whl"
    write_wheel(index, BOOKS)
    with zipfile.ZipFile(path, "a", zipfile.ZIP_DEFLATED) as archive:
        change(archive)
    return f"wheel://shelf==1.0/shelf#sha256={hashlib.sha256(path.read_bytes()).hexdigest()}"


def test_a_wheel_that_unpacks_to_more_than_it_should_is_refused_before_anything_is_written(
    index: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(wheels, "MAXIMUM_UNPACKED_BYTES", 10_000_000)
    uri = altered(index, lambda archive: archive.writestr("shelf/zeros", bytes(20_000_000)))
    with pytest.raises(InvalidInput, match=r"unpacks from [0-9,]+ to 20,000,011 bytes, accepted: 10,000,000"):
        fetch(uri, tmp_path / "cache")
    assert not (tmp_path / "cache" / "unpacked").exists()
    assert fetch(uri.replace("/shelf#", "/shelf/books#"), tmp_path / "cache").files()


def test_a_wheel_with_more_members_than_any_has_is_refused(
    index: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(wheels, "MAXIMUM_MEMBERS", 50)
    uri = altered(index, lambda archive: [archive.writestr(f"shelf/{number}", "") for number in range(60)] and None)
    with pytest.raises(InvalidInput, match="67 members, accepted: 50"):
        fetch(uri, tmp_path / "cache")


def test_metadata_too_long_to_be_any_is_refused(index: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(wheels, "MAXIMUM_METADATA_BYTES", 1000)
    sha256 = write_wheel(index, BOOKS, metadata="x" * 2000)
    with pytest.raises(InvalidInput, match="METADATA of 2,0"):
        fetch(f"wheel://shelf==1.0/shelf#sha256={sha256}", tmp_path / "cache")


def test_a_member_that_is_a_file_and_a_folder_is_refused(index: Path, tmp_path: Path) -> None:
    uri = altered(index, lambda archive: archive.writestr("shelf/other.txt/inside", "x"))
    with pytest.raises(InvalidInput, match=r"'shelf/other\.txt' is a file and a folder"):
        fetch(uri, tmp_path / "cache")


def test_an_encrypted_member_is_refused(index: Path, tmp_path: Path) -> None:
    path = index / "shelf-1.0-py3-none-any.whl"
    write_wheel(index, BOOKS)
    data = bytearray(path.read_bytes())
    for signature, offset in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        # Flag bit 0 of the first member, in its own header and in the directory.
        data[data.index(signature) + offset] |= 1
    path.write_bytes(data)
    sha256 = hashlib.sha256(data).hexdigest()
    with pytest.raises(InvalidInput, match=r"'shelf/__init__.py' is encrypted"):
        fetch(f"wheel://shelf==1.0/shelf#sha256={sha256}", tmp_path / "cache")


def test_a_corrupt_cached_wheel_is_fetched_again(index: Path, tmp_path: Path) -> None:
    uri = f"wheel://shelf==1.0/shelf/books#sha256={write_wheel(index, BOOKS)}"
    first = fetch(uri, tmp_path / "cache")
    cached = next((tmp_path / "cache").rglob("*.whl"))
    cached.write_bytes(cached.read_bytes()[:100])
    assert fetch(uri, tmp_path / "cache") == first
    assert hashlib.sha256(cached.read_bytes()).hexdigest() in uri


@pytest.mark.parametrize("damage", ["altered", "removed", "added"])
def test_a_corrupt_unpacked_folder_is_unpacked_again(index: Path, tmp_path: Path, damage: str) -> None:
    uri = f"wheel://shelf==1.0/shelf/books#sha256={write_wheel(index, BOOKS)}"
    first = fetch(uri, tmp_path / "cache")
    file = first.path / "a.txt"
    if damage == "altered":
        file.write_text("ALPHA")
    elif damage == "removed":
        file.unlink()
    else:
        (first.path / "c.txt").write_text("gamma")
    again = fetch(uri, tmp_path / "cache")
    assert again == first and (again.path / "a.txt").read_text() == "alpha" and len(again.files()) == 2


def test_concurrent_fetches_of_one_wheel_all_succeed(index: Path, tmp_path: Path) -> None:
    uri = f"wheel://shelf==1.0/shelf/books#sha256={write_wheel(index, BOOKS)}"
    with ThreadPoolExecutor(4) as pool:
        results = list(pool.map(lambda _: fetch(uri, tmp_path / "cache"), range(4)))
    assert len({result.digest for result in results}) == 1
    assert not list((tmp_path / "cache").rglob(".incoming-*"))


@pytest.mark.parametrize(
    ("uri", "message"),
    [
        ("wheel://shelf==1.0/shelf", "no sha256"),
        (f"wheel://shelf/x#sha256={'0' * 64}", "no pinned version"),
        (f"wheel://shelf>=1.0/x#sha256={'0' * 64}", "no pinned version"),
        (f"wheel://--index-url==1.0/x#sha256={'0' * 64}", "no pinned version"),
        ("wheel://shelf==1.0/x#sha256=abc", "64 hexadecimal digits"),
        (f"wheel://shelf==1.0/../x#sha256={'0' * 64}", "leads out of"),
        (f"wheel://shelf==1.0//etc/passwd#sha256={'0' * 64}", "leads out of"),
        ("ftp://host/x", "unknown scheme 'ftp'"),
        ("hf://datasets/org/name@main/x", "not pinned to a commit"),
        ("hf://org/name", "not pinned to a commit"),
        (f"hf://datasets/org/name@{COMMIT}/../x", "leads out of"),
        ("s3://key:secret@bucket/x", "credentials"),
        ("", "not a source"),
    ],
)
def test_a_source_that_cannot_be_used_is_an_input_error_with_a_hint(uri: str, message: str) -> None:
    with pytest.raises(InvalidInput, match=message) as caught:
        parse(uri)
    assert caught.value.hint
    assert "secret" not in str(caught.value)


def test_a_local_file_is_fetched_where_it_stands(tmp_path: Path) -> None:
    file = tmp_path / "rows.jsonl"
    file.write_text("{}\n")
    for uri in (str(file), f"file://{file}"):
        fetched = fetch(uri, tmp_path / "cache")
        assert (fetched.path, fetched.licence) == (file, None)
        assert fetched.files((".csv",)) == [("rows.jsonl", file)]
    assert fetch(f"{file}#sha256={fetched.digest}", tmp_path / "cache") == fetch(
        f"{file}#sha256={fetched.digest}", tmp_path / "cache"
    )


def test_a_local_source_that_changed_since_it_was_pinned_is_refused(tmp_path: Path) -> None:
    (tmp_path / "rows.jsonl").write_text("{}\n")
    with pytest.raises(InvalidInput, match="pinned is 000000000000"):
        fetch(f"{tmp_path}/rows.jsonl#sha256={'0' * 64}", tmp_path / "cache")


def test_a_missing_local_source_is_named(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match="source not found"):
        fetch(str(tmp_path / "nothing"), tmp_path / "cache")


def test_pinning_local_sources_makes_a_change_of_content_a_change_of_config(tmp_path: Path) -> None:
    file = tmp_path / "rows.jsonl"
    file.write_text("{}\n")
    remote = {"uri": f"hf://datasets/org/name@{COMMIT}/x"}
    config = {"sources": [{"uri": str(file), "licence": "MIT"}, remote, {"uri": str(tmp_path / "nothing")}]}
    before = pinned(config, tmp_path / "cache")
    assert before["sources"][0]["uri"].startswith(f"{file}#sha256=") and before["sources"][1:] == config["sources"][1:]
    assert (
        pinned(before, tmp_path / "cache") == before
        and fetch(before["sources"][0]["uri"], tmp_path / "cache").path == file
    )
    file.write_text("{ }\n")
    assert pinned(config, tmp_path / "cache") != before


def test_objects_come_as_they_are_now_whatever_the_cache_holds(s3_location: str, tmp_path: Path) -> None:
    for name, text in (("books/a.txt", b"alpha"), ("books/deep/b.txt", b"beta")):
        locations.write_bytes(f"{s3_location}/{name}", text)
    folder = fetch(f"{s3_location}/books", tmp_path / "cache")
    assert [name for name, _ in folder.files()] == ["a.txt", "deep/b.txt"] and folder.origin == f"{s3_location}/books"
    single = fetch(f"{s3_location}/books/a.txt#sha256={hashlib.sha256(b'alpha').hexdigest()}", tmp_path / "cache")
    assert single.path.read_text() == "alpha" and single.files() == [("a.txt", single.path)]
    locations.write_bytes(f"{s3_location}/books/a.txt", b"ALPHA")
    changed = fetch(f"{s3_location}/books", tmp_path / "cache")
    assert (changed.path / "a.txt").read_text() == "ALPHA" and changed.digest != folder.digest
    with pytest.raises(InvalidInput, match="source not found"):
        fetch(f"{s3_location}/nothing", tmp_path / "cache")


def test_objects_that_were_fetched_to_be_pinned_are_not_fetched_again(s3_location: str, tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    for name, text in (("books/a.txt", b"alpha"), ("books/deep/b.txt", b"beta")):
        locations.write_bytes(f"{s3_location}/{name}", text)
    uris = [pinned({"uri": f"{s3_location}/{name}"}, cache)["uri"] for name in ("books", "books/a.txt")]
    locations.remove(f"{s3_location}/books")
    folder, single = (fetch(uri, cache) for uri in uris)
    assert [name for name, _ in folder.files()] == ["a.txt", "deep/b.txt"] and single.path.read_text() == "alpha"
    (single.path).write_text("altered")
    with pytest.raises(InvalidInput, match="source not found"):
        fetch(uris[1], cache)


@pytest.mark.parametrize(
    ("metadata", "licence"),
    [
        ("License-Expression: mit or apache-2.0\n", "MIT OR Apache-2.0"),
        ("License: BSD-3-Clause\n", "BSD-3-Clause"),
        ("License: Apache License, Version 2.0\n", "Apache-2.0"),
        ("License: BSD\n", None),
        ("License: see the file\nClassifier: License :: OSI Approved :: MIT License\n", "MIT"),
        ("Classifier: License :: OSI Approved :: BSD License\n", None),
        ("Classifier: License :: OSI Approved :: Apache Software License\n", None),
        ("Classifier: License :: OSI Approved\nClassifier: License :: OSI Approved :: ISC License (ISCL)\n", "ISC"),
        ("License: GPL-3.0-only\nClassifier: License :: OSI Approved :: MIT License\n", "GPL-3.0-only"),
        (f"{MIT_CLASSIFIER}Classifier: License :: OSI Approved :: GNU General Public License v3 (GPLv3)\n", None),
        ("License-Expression: MIT OR LicenseRef-acme\n", "MIT OR LicenseRef-acme"),
        ("License-Expression: Whatever-1.0\n", None),
        ("", None),
    ],
)
def test_a_licence_is_read_from_metadata_only_where_it_is_clear(metadata: str, licence: str | None) -> None:
    assert licences.from_metadata(f"Metadata-Version: 2.1\nName: x\n{metadata}\nlong description") == licence


HUB_FILES = {
    "README.md": b"---\nlanguage: en\nlicense: apache-2.0\n---\n# Books\n",
    "books/a.txt": b"alpha",
    "books/b.txt": b"beta",
    "other.txt": b"no",
    "model.bin": b"pickle",
}


class Hub(http.server.BaseHTTPRequestHandler):
    """The part of a Hugging Face hub that snapshots are made through."""

    def do_HEAD(self) -> None:
        self.answer()

    def do_GET(self) -> None:
        self.answer()

    def answer(self) -> None:
        path = self.path.split("?")[0]
        if path.startswith("/api/") and path.endswith(f"org/books/revision/{COMMIT}"):
            body = json.dumps(
                {"id": "org/books", "sha": COMMIT, "siblings": [{"rfilename": name} for name in HUB_FILES]}
            )
            self.send(body.encode())
        elif path.startswith("/api/") and path.endswith(f"org/books/tree/{COMMIT}"):
            tree = [
                {"type": "file", "path": name, "size": len(data), "oid": hashlib.sha1(data).hexdigest()}
                for name, data in HUB_FILES.items()
            ]
            self.send(json.dumps(tree).encode())
        elif f"org/books/resolve/{COMMIT}/" in path:
            self.send(HUB_FILES[path.split(f"{COMMIT}/")[1]])
        else:
            self.send(b'{"error": "Repository not found"}', 404)

    def send(self, body: bytes, status: int = 200) -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.send_header("ETag", f'"{hashlib.sha256(body).hexdigest()}"')
        self.send_header("X-Repo-Commit", COMMIT)
        if status == 404:
            self.send_header("X-Error-Code", "RepoNotFound")
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body)

    def log_message(self, *arguments: object) -> None:
        """Keep quiet."""


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    endpoint = f"http://127.0.0.1:{server.server_port}"
    monkeypatch.setenv("HF_ENDPOINT", endpoint)
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    yield endpoint
    server.shutdown()
    server.server_close()


def fetch_in_child(uri: str, cache: Path) -> str:
    """What a fresh interpreter prints: huggingface_hub reads its environment when it is imported."""
    program = """
import sys
from pathlib import Path
from tutelage.contracts.sources import fetch
from tutelage.errors import InvalidInput
try:
    fetched = fetch(sys.argv[1], Path(sys.argv[2]))
    print(fetched.licence, fetched.package, ",".join(name for name, _ in fetched.files()))
except InvalidInput as error:
    print("invalid:", error)
"""
    return subprocess.run(
        [sys.executable, "-c", program, uri, str(cache)], capture_output=True, text=True, check=True
    ).stdout.strip()


def test_part_of_a_data_set_comes_from_the_hub_that_hf_endpoint_names(hub: str, tmp_path: Path) -> None:
    printed = fetch_in_child(f"hf://datasets/org/books@{COMMIT}/books", tmp_path / "cache")
    assert printed == "Apache-2.0 org/books a.txt,b.txt"


def test_a_models_pickle_files_stay_on_the_hub(hub: str, tmp_path: Path) -> None:
    printed = fetch_in_child(f"hf://org/books@{COMMIT}", tmp_path / "cache")
    assert printed == "Apache-2.0 org/books README.md,books/a.txt,books/b.txt,other.txt"


def test_a_repository_that_the_hub_lacks_is_an_input_error(hub: str, tmp_path: Path) -> None:
    printed = fetch_in_child(f"hf://datasets/org/nothing@{COMMIT}", tmp_path / "cache")
    assert printed.startswith("invalid:") and "org/nothing" in printed and "hint:" in printed


def test_a_file_whose_name_is_no_utf_8_is_read_under_a_name_that_can_be_recorded(tmp_path: Path) -> None:
    folder = tmp_path / "folder"
    folder.mkdir()
    Path(os.fsdecode(os.fsencode(folder) + b"/caf\xe9.txt")).write_text("text")
    fetched = fetch(str(folder), tmp_path / "cache")
    (name, path), *others = fetched.files((".txt",))
    assert (name, path.read_text(), others) == ("caf\\udce9.txt", "text", [])
    assert len(fetched.digest) == 64
