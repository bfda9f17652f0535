"""The registry as objects: equal to the SQLite one where both can be asked the same."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import pytest

from tutelage.contracts import locations
from tutelage.errors import InvalidInput
from tutelage.release.object_registry import ObjectRegistry, registry_at
from tutelage.release.registry import Registered, Registry


def register(location: str, name: str, digest: str, uri: str = "s3://store/model") -> Registered:
    return registry_at(location).register(name, digest, uri, format_version="transformers", properties={"a": 1})


def test_a_model_is_registered_once_under_a_name_and_found_where_it_is_now(s3_location: str) -> None:
    first = register(s3_location, "model", "a" * 64)
    again = register(s3_location, "model", "a" * 64, "s3://store/elsewhere")
    register(s3_location, "model", "b" * 64)
    register(s3_location, "another", "a" * 64)
    assert (first.created, again.created) == (True, False)
    assert (first.version, again.version) == ("sha-aaaaaaaaaaaa", "sha-aaaaaaaaaaaa")
    versions = registry_at(s3_location).versions("model")
    assert [(item["digest"][0], item["uri"]) for item in versions] == [
        ("a", "s3://store/elsewhere"), ("b", "s3://store/model"),
    ]  # fmt: skip
    assert registry_at(s3_location).versions("nobody") == []


def test_both_registries_answer_in_the_same_fields(s3_location: str, tmp_path) -> None:
    places = (s3_location, str(tmp_path / "registry.sqlite"))
    for place in places:
        register(place, "model", "a" * 64)
    objects, table = (registry_at(place).versions("model")[0] for place in places)
    assert objects.keys() == table.keys()
    assert {key: objects[key] for key in ("digest", "uri", "state", "custom_properties")} == {
        key: table[key] for key in ("digest", "uri", "state", "custom_properties")
    }


def test_writers_at_once_lose_nothing(s3_location: str) -> None:
    digests = [f"{number:064x}" for number in range(6)]
    with ThreadPoolExecutor(6) as pool:
        list(pool.map(lambda digest: register(s3_location, "model", digest), digests * 2))
    assert {item["digest"] for item in registry_at(s3_location).versions("model")} == set(digests)
    assert len(locations.list_files(s3_location)) == 6


def test_where_it_stands_decides_what_it_is(tmp_path) -> None:
    assert isinstance(registry_at("minio://bucket/registry"), ObjectRegistry)
    assert isinstance(registry_at(str(tmp_path / "r.sqlite")), Registry)
    with pytest.raises(InvalidInput, match="https://registry"):
        registry_at("https://registry.example")
