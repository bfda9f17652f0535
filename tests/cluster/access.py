"""Who may do what: bearer tokens, users and the rules of their roles, and the words of a refusal."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from tests.cluster.objects import Kind, Refused

ALL = ("create", "delete", "deletecollection", "get", "list", "patch", "update", "watch")


@dataclass(frozen=True)
class Rule:
    """One rule of a role: API groups, resources (pods/log for a subresource), verbs."""

    groups: tuple[str, ...]
    resources: tuple[str, ...]
    verbs: tuple[str, ...]


#: What the account of a run may do: our job kinds, and reading pods and their logs.
RUN_RULES = (
    Rule(("kubeflow.org",), ("pytorchjobs",), ("create", "delete", "get", "list", "patch", "watch")),
    Rule(("sparkoperator.k8s.io",), ("sparkapplications",), ("create", "delete", "get", "list", "patch", "watch")),
    Rule(("serving.kserve.io",), ("inferenceservices",), ("create", "delete", "get", "list", "patch", "watch")),
    Rule(("",), ("pods", "events"), ("get", "list", "watch")),
    Rule(("",), ("pods/log",), ("get",)),
    Rule(("argoproj.io",), ("workflows",), ("get",)),
)


@dataclass
class Accounts:
    """Tokens of the cluster and the rules of each. A token that is not here is answered 401."""

    rules: dict[str, tuple[Rule, ...]] = field(default_factory=dict)
    user: str = "system:serviceaccount:team:run"

    def add(self, token: str, rules: Iterable[Rule] = RUN_RULES) -> None:
        self.rules[token] = tuple(rules)

    def rotate(self, old: str, new: str) -> None:
        """`new` takes the place of `old`."""
        self.rules[new] = self.rules.pop(old)

    def check(
        self, token: str | None, verb: str, kind: Kind, namespace: str, subresource: str | None, name: str | None
    ) -> None:
        """Raise Refused with 401 or 403 unless the token may."""
        if token not in self.rules:
            raise Refused(401, "Unauthorized", "Unauthorized")
        resource = f"{kind.plural}/{subresource}" if subresource else kind.plural
        for rule in self.rules[token]:
            if kind.group in rule.groups and resource in rule.resources and verb in rule.verbs:
                return
        what = f'{kind.resource} "{name}"' if name else kind.resource
        message = (
            f'{what} is forbidden: User "{self.user}" cannot {verb} resource "{resource}" in API group '
            f'"{kind.group}" in the namespace "{namespace}"'
        )
        raise Refused(403, "Forbidden", message, details={"name": name or "", "group": kind.group, "kind": kind.plural})
