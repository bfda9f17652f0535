"""Where the API server is and who we are to it: KUBECONFIG where it is set, else the pod's service account."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tutelage.errors import InvalidInput

ACCOUNT_FOLDER = Path("/var/run/secrets/kubernetes.io/serviceaccount")


def credentials() -> tuple[Callable[[], Any], str]:
    """How to make a client with fresh credentials, and the namespace they belong to."""
    from kubernetes import client, config

    # The library reads the variable when it is imported, and never again.
    file = os.environ.get("KUBECONFIG") or None

    def in_cluster() -> Any:
        configuration = client.Configuration()
        config.load_incluster_config(client_configuration=configuration)
        return client.ApiClient(_pooled(configuration))

    def from_file() -> Any:
        configuration = client.Configuration()
        config.load_kube_config(config_file=file, client_configuration=configuration, persist_config=False)
        return client.ApiClient(_pooled(configuration))

    try:
        if file or not (ACCOUNT_FOLDER / "token").is_file():
            from_file()
            _, active = config.list_kube_config_contexts(config_file=file)
            return from_file, str(active["context"].get("namespace") or "default")
        in_cluster()
        return in_cluster, (ACCOUNT_FOLDER / "namespace").read_text().strip()
    except (config.ConfigException, OSError) as error:
        raise InvalidInput(
            f"no cluster to run on: {error}", hint="set KUBECONFIG, or leave the section [cluster] out of the settings"
        ) from error


def _pooled(configuration: Any) -> Any:
    # One connection for each log that is followed, besides requests and the watch.
    configuration.connection_pool_maxsize = 64
    return configuration
