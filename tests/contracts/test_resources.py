"""What pods need: `resources` of component.yaml, and of a run's sections."""

from __future__ import annotations

from typing import Any

import pytest

from tutelage.config import build
from tutelage.errors import InvalidInput
from tutelage.step import describe, step_names
from tutelage.step.resources import Resources, amount, changed, without_resources

COMPONENT: dict[str, Any] = {
    "requests": {"cpu": "4", "memory": "16Gi"},
    "limits": {"cpu": "8", "memory": "64Gi"},
    "accelerators": {"nvidia.com/gpu": 1},
    "node_selector": {"pool": "gpu"},
    "tolerations": [{"key": "gpu", "operator": "Exists"}],
    "timeouts": {"start_seconds": 600},
}


def resources(**more: Any) -> Resources:
    return build(Resources, COMPONENT | more)


@pytest.mark.parametrize("name", step_names())
def test_every_component_says_what_it_needs(name: str) -> None:
    needs = describe(name).needs
    assert needs.manifest()["requests"].keys() >= {"cpu", "memory"}
    assert {"requests", "limits"} <= set(describe(name).resources)


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("500m", 0.5),
        ("2", 2),
        ("1.5", 1.5),
        ("512Mi", 2**29),
        ("1G", 1e9),
        ("16Gi", 2**34),
        ("1k", 1000),
        ("1Ti", 2**40),
    ],
)
def test_quantities_are_numbers(text: str, number: float) -> None:
    assert amount(text) == pytest.approx(number)


@pytest.mark.parametrize("text", ["", "lots", "1 Gi", "-1", "1gi", "1e3", "0x10", "Gi"])
def test_what_is_no_quantity_is_refused(text: str) -> None:
    with pytest.raises(InvalidInput, match="not a quantity"):
        resources(shared_memory=text)


def test_numbers_are_quantities_too_as_yaml_and_structs_give_them() -> None:
    made = resources(requests={"cpu": 2, "memory": "1Gi"}, limits={"cpu": 4.0, "memory": "2Gi"})
    assert (made.requests["cpu"], made.limits["cpu"]) == ("2", "4")
    assert resources(limits={"cpu": 4.5, "memory": "64Gi"}).limits["cpu"] == "4.5"


def test_a_run_writes_what_differs_and_mappings_are_merged() -> None:
    changes = {
        "limits": {"memory": "128Gi"},
        "accelerators": {"nvidia.com/gpu": 4.0},
        "timeouts": {"run_seconds": 3600.0},
    }
    made = changed(resources(), changes)
    assert made.limits == {"cpu": "8", "memory": "128Gi"}
    assert made.requests == {"cpu": "4", "memory": "16Gi"}
    assert made.devices == {"nvidia.com/gpu": 4}
    assert (made.timeouts.start_seconds, made.timeouts.run_seconds) == (600, 3600)
    assert made.node_selector == {"pool": "gpu"}
    assert changed(resources(), {}) == resources()


def test_lists_are_replaced_and_zero_takes_an_accelerator_away() -> None:
    made = changed(resources(), {"tolerations": [], "accelerators": {"nvidia.com/gpu": 0, "amd.com/gpu": 2}})
    assert made.tolerations == ()
    assert made.devices == {"amd.com/gpu": 2}
    assert "nvidia.com/gpu" not in made.manifest()["limits"]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"accelerator": 1}, "did you mean 'accelerators'"),
        ({"requests": {"cpu": 64}}, "requests.cpu 64 is more than limits.cpu 8"),
        ({"shared_memory": "100Gi"}, "shared_memory 100Gi is more than limits.memory 64Gi"),
        ({"limits": {"nvidia.com/gpu": 1}}, "finetuning.resources.limits"),
        ({"accelerators": {"gpu": 1}}, "finetuning.resources.accelerators"),
        ({"accelerators": {"nvidia.com/gpu": 0.5}}, "finetuning.resources.accelerators"),
        ({"replicas": 0}, "finetuning.resources.replicas"),
        ({"timeouts": {"run_seconds": 0}}, "finetuning.resources.timeouts.run_seconds"),
        ({"tolerations": [{"operator": "Exists", "value": "x"}]}, "operator Exists takes no value"),
        ({"tolerations": [{"value": "x"}]}, "without key takes operator Exists"),
        ({"tolerations": [{"key": "x", "toleration_seconds": 5}]}, "needs effect NoExecute"),
    ],
)
def test_mistakes_are_told_in_the_words_of_the_recipe(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        changed(resources(), changes, "finetuning.resources")
    assert message in str(caught.value)


def test_a_section_that_is_no_mapping_is_refused() -> None:
    with pytest.raises(InvalidInput, match=r"finetuning\.resources takes a mapping, got list"):
        changed(resources(), ["nvidia.com/gpu"], "finetuning.resources")  # type: ignore[arg-type]


def test_what_a_run_changes_is_no_part_of_the_config() -> None:
    config, changes = without_resources({"epochs": 1, "resources": {"replicas": 2}})
    assert (config, changes) == ({"epochs": 1}, {"replicas": 2})
    assert without_resources({"epochs": 1}) == ({"epochs": 1}, {})
    assert without_resources({"resources": None}) == ({}, {})


def test_every_step_leaves_the_word_to_runs() -> None:
    from tutelage.step import load

    taken = [name for name in step_names() if "resources" in load(name).Config.model_fields]
    assert taken == [], "a Config with a field `resources` would never get it"


def test_devices_are_requested_and_limited_alike() -> None:
    made = resources(accelerators={"nvidia.com/gpu": 2, "example.com/fabric": 1}).manifest()
    assert made["requests"] == {"cpu": "4", "memory": "16Gi", "example.com/fabric": "1", "nvidia.com/gpu": "2"}
    assert made["limits"]["nvidia.com/gpu"] == "2"


@pytest.mark.parametrize(
    ("more", "shape"),
    [
        ({}, (1, 1)),
        ({"accelerators": {}}, (1, 2)),
        ({"accelerators": {}, "processes": 5}, (1, 5)),
        ({"accelerators": {"nvidia.com/gpu": 8}, "replicas": 4}, (4, 8)),
    ],
)
def test_training_has_a_rank_for_each_accelerator(more: dict[str, Any], shape: tuple[int, int]) -> None:
    assert resources(**more).training_shape(1, 2) == shape


@pytest.mark.parametrize(
    ("accelerators", "ranks"),
    [
        ({"nvidia.com/gpu": 8, "vpc.amazonaws.com/efa": 32}, 8),
        ({"nvidia.com/gpu": 4, "rdma/hca_shared_devices_a": 1}, 4),
        ({"amd.com/gpu": 2, "nvidia.com/gpu": 0}, 2),
        ({"nvidia.com/mig-1g.5gb": 3}, 3),
        ({"nvidia.com/gpu.shared": 2, "example.com/fabric": 5}, 2),
        ({"google.com/tpu": 4}, 4),
        ({"gpu.intel.com/i915": 2}, 2),
        ({"huawei.com/Ascend910": 8}, 8),
        ({"aws.amazon.com/neuroncore": 2}, 2),
    ],
)
def test_only_devices_of_one_kind_are_ranks_and_networks_are_none(accelerators: dict[str, int], ranks: int) -> None:
    assert resources(accelerators=accelerators).training_shape(1, 5) == (1, ranks)


@pytest.mark.parametrize(
    ("accelerators", "message"),
    [
        ({"nvidia.com/gpu": 1, "amd.com/gpu": 1}, "more than one kind of accelerator"),
        ({"nvidia.com/mig-1g.5gb": 2, "nvidia.com/mig-3g.20gb": 1}, "more than one kind of accelerator"),
        ({"vpc.amazonaws.com/efa": 4}, "no device that is known for an accelerator"),
    ],
)
def test_devices_that_do_not_say_the_ranks_need_processes(accelerators: dict[str, int], message: str) -> None:
    with pytest.raises(InvalidInput, match=message) as refused:
        resources(accelerators=accelerators).training_shape(1, 1)
    assert "resources.processes" in str(refused.value.hint)
    assert resources(accelerators=accelerators, processes=3).training_shape(1, 1) == (1, 3)


def test_a_recipe_whose_devices_do_not_say_the_ranks_is_refused_when_it_is_checked() -> None:
    from tutelage.orchestrate.recipes import read_recipe
    from tutelage.plan.recipe import config_problems, planned

    given = {"nvidia.com/gpu": 1, "amd.com/gpu": 1}
    recipe = read_recipe("tiny", {"finetuning": {"resources": {"accelerators": given}}})
    told = [str(item) for task in planned(recipe.pipeline, recipe.parameters) for item in config_problems(task)]
    assert (
        len(told) == 1
        and told[0].startswith("finetuning.resources: ")
        and "more than one kind of accelerator" in told[0]
    )


def test_null_takes_away_what_the_component_says() -> None:
    made = changed(
        resources(shared_memory="2Gi"), {"node_selector": {"pool": None, "zone": "a"}, "shared_memory": None}
    )
    assert made.node_selector == {"zone": "a"}
    assert made.shared_memory is None
    assert changed(resources(), {"node_selector": None, "accelerators": {"nvidia.com/gpu": None}}).devices == {}
    assert changed(resources(), {"timeouts": {"start_seconds": None}}).timeouts.start_seconds is None
    with pytest.raises(InvalidInput, match="requests needs memory"):
        changed(resources(), {"requests": {"memory": None}})


@pytest.mark.parametrize("selector", [{"pool of": "gpu"}, {"pool": "gpu nodes"}, {"a/b/c": "x"}, {"pool": "x" * 64}])
def test_a_node_selector_that_no_node_can_have_is_refused(selector: dict[str, str]) -> None:
    with pytest.raises(InvalidInput, match="is not a"):
        resources(node_selector=selector)


def test_a_component_with_wrong_resources_is_refused_by_name(monkeypatch: pytest.MonkeyPatch, tmp_path: Any) -> None:
    from tutelage.step import description

    folder = tmp_path / "components" / "demo" / "step"
    folder.mkdir(parents=True)
    (folder / "component.yaml").write_text(
        "name: demo/step\nimage: python\nruntime: process\nreads: {}\nwrites: {}\nowners: [x]\nstability: alpha\n"
        "resources: {requests: {cpu: 1, memory: 1Gi}, limits: {cpu: 1, memory: plenty}, gpus: 1}\n"
    )
    monkeypatch.setattr(description, "repository_root", lambda: tmp_path)
    with pytest.raises(InvalidInput) as caught:
        description.describe.__wrapped__("demo/step")
    assert "limits.memory: not a quantity" in str(caught.value) and "unknown key 'gpus'" in str(caught.value)
