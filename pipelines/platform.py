"""What a task's pod needs on a cluster beyond image, processors and memory: mounts, identity, place, devices, clocks.

`dress(task, description)` writes it as platform config (kfp-kubernetes), which stands below the IR in the compiled file.
kfp.local ignores all of it, so the same compiled file runs on a laptop. What is mounted stands in manifests/mounts.yaml, which
the cluster's manifests are held to; what a step needs stands in its component.yaml.

Environment variables that must differ between cluster and laptop come through the pod (downward API), not through the IR:
kfp.local would set those of the IR over the laptop's own.
"""

from __future__ import annotations

from typing import Any

from kfp import kubernetes

from tutelage.errors import InvalidInput
from tutelage.step import Description
from tutelage.step.mounts import Tasks, mounts

#: Environment variable → what the pod's own object says. KFP labels every task pod with run and Workflow.
FROM_THE_POD = {
    "TUTELAGE_RUN": "metadata.labels['pipeline/runid']",
    "TUTELAGE_WORKFLOW": "metadata.labels['workflows.argoproj.io/workflow']",
}
DOMAIN = "tutelage.dev"
#: Images carry a digest or a hash of their content, so one that is there already is the right one.
PULL_POLICY = "IfNotPresent"
SHARED_MEMORY = "/dev/shm"  # noqa: S108  (the kernel's name for it)


def dress(task: Any, description: Description) -> Any:
    """`task` with the platform config of its pod. Gives it back."""
    _mount(task, description.name)
    for name, path in sorted(FROM_THE_POD.items()):
        kubernetes.use_field_path_as_env(task, name, path)
    for name, value in sorted(mounts().environment.items()):
        annotation = f"{DOMAIN}/{name.lower().replace('_', '-')}"
        kubernetes.add_pod_annotation(task, annotation, value)
        kubernetes.use_field_path_as_env(task, name, f"metadata.annotations['{annotation}']")
    kubernetes.set_security_context(task, **mounts().security_context.values())
    kubernetes.set_image_pull_policy(task, PULL_POLICY)
    for name, label in sorted(mounts().labels.items()):
        if _concerns(label.tasks, description.name):
            kubernetes.add_pod_label(task, name, label.value)
    # The other runtimes' task pods only start a job and follow it; the job's own pods get what the step needs, and have clocks
    # and retries of their own that stand still in a queue.
    if description.runtime == "process":
        _place(task, description)
        _limit(task, description)
    return task


def _mount(task: Any, step: str) -> None:
    for mount in mounts().mounts:
        if _concerns(mount.tasks, step):
            use = kubernetes.use_config_map_as_volume if mount.kind == "ConfigMap" else kubernetes.use_secret_as_volume
            use(task, mount.name, mount.mount_path)
    for source in mounts().environment_from:
        if _concerns(source.tasks, step):
            kubernetes.use_secret_as_env(task, source.name, {key: name for name, key in sorted(source.keys.items())})


def _concerns(tasks: Tasks, step: str) -> bool:
    return tasks == "all" or step in tasks


def _place(task: Any, description: Description) -> None:
    """Where the pod may stand, and with which devices."""
    needs = description.needs
    for label, value in sorted(needs.node_selector.items()):
        kubernetes.add_node_selector(task, label, value)
    for toleration in needs.tolerations:
        given = {name: value for name, value in toleration.values().items() if value is not None}
        kubernetes.add_toleration(task, **given)
    if len(needs.devices) > 1:
        raise InvalidInput(
            f"components/{description.name}/component.yaml: accelerators {', '.join(needs.devices)}",
            hint="a Kubeflow task takes one kind of accelerator; give the step the runtime torch for more",
        )
    for device, number in needs.devices.items():
        task.set_accelerator_type(device)
        task.set_accelerator_limit(number)
    if needs.shared_memory is not None:
        kubernetes.empty_dir_mount(
            task, volume_name="shared-memory", mount_path=SHARED_MEMORY, medium="Memory", size_limit=needs.shared_memory
        )


def _limit(task: Any, description: Description) -> None:
    """How long the pod may run, and how often it is started anew."""
    needs = description.needs
    if needs.timeouts.run_seconds is not None:
        kubernetes.set_timeout(task, needs.timeouts.run_seconds)
    if needs.retries is not None:
        task.set_retry(needs.retries, backoff_duration="30s", backoff_factor=2, backoff_max_duration="600s")
