"""Which run this pod belongs to, and the Workflow that owns what it makes."""

from __future__ import annotations

import logging
import os
from dataclasses import dataclass

from tutelage.runtimes.kubernetes.api import POD, Api, ApiError
from tutelage.runtimes.kubernetes.names import Owner

log = logging.getLogger("tutelage")
#: KFP's launcher sets it in every task's pod; a pod's host name is its name, cut off at 63 characters.
POD_VARIABLES = ("KFP_POD_NAME", "HOSTNAME")
RUN_LABEL = "pipeline/runid"


@dataclass(frozen=True)
class Surroundings:
    """Where a launcher stands."""

    run: str
    """KFP's run id; outside a pipeline what the caller says."""
    owner: Owner | None
    """The Workflow of the run; None outside a pipeline."""


def surroundings(api: Api, run: str) -> Surroundings:
    """From this pod's labels and owner; `run` and no owner outside a pipeline."""
    name = next((os.environ[variable] for variable in POD_VARIABLES if os.environ.get(variable)), None)
    try:
        pod = api.get(POD, name) if name and os.environ.get("KUBERNETES_SERVICE_HOST") else None
    except ApiError as error:
        # Without it jobs have no owner, and only their deadline and the exit handler end them.
        log.warning("own pod cannot be read, so jobs get no owner: %s", error.message)
        pod = None
    if pod is None:
        return Surroundings(run, None)
    metadata = pod["metadata"]
    owner = next((item for item in metadata.get("ownerReferences") or [] if item.get("kind") == "Workflow"), None)
    return Surroundings(
        str((metadata.get("labels") or {}).get(RUN_LABEL) or run),
        Owner(name=str(owner["name"]), uid=str(owner["uid"])) if owner else None,
    )
