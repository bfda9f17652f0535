"""More operators of the fake cluster, written after their sources: spark-operator 2.5 and KServe 0.20 in Standard mode."""

from __future__ import annotations

import uuid
from collections.abc import Callable
from dataclasses import dataclass

from tests.cluster.objects import INFERENCESERVICE, POD, SPARKAPPLICATION, Object, Refused
from tests.cluster.operators import Life, Operator, live, owner


@dataclass
class SparkOperator(Operator):
    """SparkApplication as spark-operator 2.5.2 reconciles it, restartPolicy Never (internal/controller/sparkapplication)."""

    life: Callable[[Object, str], Life] = lambda application, role: []
    executors: int = 2

    def reconcile(self, application: Object) -> None:
        status = dict(application.get("status") or {})
        state = status.get("applicationState", {}).get("state", "")
        if application["spec"].get("suspend") and state not in {"COMPLETED", "FAILED", "SUSPENDED", "SUSPENDING"}:
            self._state(application, status, "SUSPENDING")
        elif state in {"", "RESUMING"}:
            self._submit(application, status)
        elif state in {"SUBMITTED", "RUNNING", "UNKNOWN"}:
            self._follow(application, status, state)
        elif state in {"SUCCEEDING", "FAILING"}:
            self._state(application, status, "COMPLETED" if state == "SUCCEEDING" else "FAILED")
        elif state == "SUBMISSION_FAILED":
            self._state(application, status, "FAILED")
        elif state == "SUSPENDING":
            for pod in self.pods_of(application):
                self.cluster.delete(POD, pod["metadata"]["name"], pod["metadata"]["namespace"])
            self.set_status(application, {"applicationState": {"state": "SUSPENDED"}, "driverInfo": {}})
        elif state == "SUSPENDED" and not application["spec"].get("suspend") and not self.pods_of(application):
            self._state(application, status, "RESUMING")

    def _state(self, application: Object, status: Object, state: str, error: str | None = None) -> None:
        # Required by the schema; Go writes it even when it is empty.
        status.setdefault("driverInfo", {})
        was = status.get("applicationState", {}).get("errorMessage")
        text = error or was
        status["applicationState"] = {"state": state} | ({"errorMessage": text} if text else {})
        if state in {"COMPLETED", "FAILED"}:
            status["terminationTime"] = status.get("terminationTime") or self.cluster.time.stamp()
        self.set_status(application, status)
        self.cluster.event(
            SPARKAPPLICATION, application, f"SparkApplication{state.title()}", state, "Normal", "spark-operator"
        )

    def _submit(self, application: Object, status: Object) -> None:
        metadata, name = application["metadata"], application["metadata"]["name"]
        submission = str(uuid.uuid4())
        status |= {
            "submissionID": submission, "driverInfo": {"podName": f"{name}-driver"},
            "lastSubmissionAttemptTime": self.cluster.time.stamp(), "terminationTime": None,
            "submissionAttempts": status.get("submissionAttempts", 0) + 1,
        }  # fmt: skip
        try:
            driver = self._pod(
                application, "driver", f"{name}-driver", submission, owner(SPARKAPPLICATION, application)
            )
        except Refused as refusal:
            text = f"failed to submit spark application: failed to run spark-submit: {refusal.message}"
            self._state(application, status, "SUBMISSION_FAILED", text)
            return
        status["executionAttempts"] = status.get("executionAttempts", 0) + 1
        self._state(application, status, "SUBMITTED")
        for number in range(1, self.executors + 1):
            make = lambda number=number: self._executor(application, driver, number, submission)
            self.cluster.time.after(4.0, make)
        live(self.nodes, driver, self.life(application, "driver"))
        self.soon(name, metadata["namespace"])

    def _executor(self, application: Object, driver: Object, number: int, submission: str) -> None:
        if self.nodes.alive(driver):
            name = f"{application['metadata']['name']}-exec-{number}"
            pod = self._pod(application, "executor", name, submission, owner(POD, driver))
            live(self.nodes, pod, self.life(application, "executor"))

    def _pod(self, application: Object, role: str, name: str, submission: str, owned_by: Object) -> Object:
        labels = {
            "sparkoperator.k8s.io/app-name": application["metadata"]["name"], "spark-role": role,
            "sparkoperator.k8s.io/launched-by-spark-operator": "true", "sparkoperator.k8s.io/submission-id": submission,
            "spark-app-selector": f"spark-{submission[:8]}",
        }  # fmt: skip
        given = application["spec"].get(role, {})
        template = given.get("template") or {}
        own = {**given.get("labels", {}), **(template.get("metadata") or {}).get("labels", {})}
        # Spark fills its own container into that of the template which has its name, and leaves the rest as it is.
        container = {"driver": "spark-kubernetes-driver", "executor": "spark-kubernetes-executor"}[role]
        spec = template.get("spec") or {}
        inner: Object = next((item for item in spec.get("containers", []) if item["name"] == container), {})
        image = application["spec"].get("image", "")
        body = {
            "apiVersion": "v1", "kind": "Pod",
            "metadata": {"name": name, "labels": {**own, **labels}, "ownerReferences": [owned_by]},
            "spec": {**spec, "containers": [{**inner, "name": container, "image": image}], "restartPolicy": "Never"},
        }  # fmt: skip
        return self.cluster.create(POD, body, application["metadata"]["namespace"])

    def _follow(self, application: Object, status: Object, state: str) -> None:
        driver = self.cluster.find(
            POD, f"{application['metadata']['name']}-driver", application["metadata"]["namespace"]
        )
        if driver is None:
            self._state(application, status, "FAILING", "driver pod not found")
            return
        status["executorState"] = {
            pod["metadata"]["name"]: _executor_state(pod)
            for pod in self.cluster.all(POD, application["metadata"]["namespace"])
            if pod["metadata"]["labels"].get("spark-role") == "executor"
            and pod["metadata"]["labels"].get("sparkoperator.k8s.io/app-name") == application["metadata"]["name"]
        }
        phase = driver.get("status", {}).get("phase")
        new = {"Pending": "SUBMITTED", "Running": "RUNNING", "Succeeded": "SUCCEEDING", "Failed": "FAILING"}.get(
            phase, state
        )
        error = None
        if new == "FAILING":
            ended = driver["status"]["containerStatuses"][0]["state"]["terminated"]
            error = f"driver container failed with ExitCode: {ended['exitCode']}, Reason: {ended['reason']}"
        if new != state:
            self._state(application, status, new, error)


def _executor_state(pod: Object) -> str:
    states = {"Pending": "PENDING", "Running": "RUNNING", "Succeeded": "COMPLETED", "Failed": "FAILED"}
    return states.get(pod.get("status", {}).get("phase", ""), "UNKNOWN")


@dataclass
class KServe(Operator):
    """InferenceService in Standard mode (pkg/apis/serving/v1beta1/inference_service_status.go): a predictor pod, then Ready."""

    life: Callable[[Object], Life] = lambda service: []

    def reconcile(self, service: Object) -> None:
        metadata, generation = service["metadata"], service["metadata"]["generation"]
        pods = self.pods_of(service)
        current = [pod for pod in pods if pod["metadata"]["labels"]["pod-template-hash"] == str(generation)]
        if not current:
            live(self.nodes, self._pod(service, generation), self.life(service))
            return
        status = current[0].get("status", {})
        ready = any(item["ready"] for item in status.get("containerStatuses", []))
        failed = status.get("phase") == "Failed"
        url = f"http://{metadata['name']}-{metadata['namespace']}.example.com"
        value = "True" if ready else "False" if failed else "Unknown"
        conditions = [
            {"type": type_, "status": value, "lastTransitionTime": self.cluster.time.stamp()}
            for type_ in ("IngressReady", "PredictorReady", "Ready")
        ]
        model: Object = {"transitionStatus": "UpToDate" if ready else "BlockedByFailedLoad" if failed else "InProgress"}
        if failed:
            ended = status["containerStatuses"][0]["state"]["terminated"]
            information = {
                "reason": "ModelLoadFailed",
                "exitCode": ended["exitCode"],
                "message": ended.get("message", ""),
            }
            model |= {
                "lastFailureInfo": information,
                "states": {"activeModelState": "", "targetModelState": "FailedToLoad"},
            }
        new: Object = {
            "observedGeneration": generation,
            "conditions": conditions,
            "modelStatus": model,
            "components": {"predictor": {}},
        }
        old = dict(service.get("status") or {})
        if ready:
            new |= {
                "url": url,
                "address": {"url": f"http://{metadata['name']}-predictor.{metadata['namespace']}.svc.cluster.local"},
            }
            for pod in pods:
                if pod not in current:
                    self.cluster.delete(POD, pod["metadata"]["name"], pod["metadata"]["namespace"])
        if [c["status"] for c in old.get("conditions", [])] != [value] * 3 or old.get(
            "observedGeneration"
        ) != generation:
            self.set_status(service, new)

    def _pod(self, service: Object, generation: int) -> Object:
        name = service["metadata"]["name"]
        predictor = service["spec"]["predictor"]
        containers = predictor.get("containers") or [{"name": "kserve-container", "image": "model"}]
        labels = {
            "app": f"isvc.{name}-predictor", "component": "predictor", "serving.kserve.io/inferenceservice": name,
            "pod-template-hash": str(generation),
        }  # fmt: skip
        body = {
            "apiVersion": "v1", "kind": "Pod", "spec": {"containers": containers},
            "metadata": {
                "generateName": f"{name}-predictor-", "labels": labels, "ownerReferences": [owner(INFERENCESERVICE, service)],
            },
        }  # fmt: skip
        return self.cluster.create(POD, body, service["metadata"]["namespace"])
