"""The policy's rules on figures, as checks: bounds on what was measured, and demands on the interval against the baseline.

What cannot be seen does not pass: an unknown figure, a comparison that does not say that its sides compare, and a policy
without rules are failures with a reason in plain words.
"""

from __future__ import annotations

import difflib
import math
from collections.abc import Iterator, Mapping
from typing import Any

from tutelage.contracts.release_policy import ReleasePolicy, Rule
from tutelage.release.checks import Check

#: What is found where better and worse have no meaning.
NOT_COMPARABLE = "not comparable"

Figures = Mapping[str, Mapping[str, Any]]


def figures_by_name(body: Mapping[str, Any]) -> dict[str, Mapping[str, Any]]:
    """Figure name → figure, of a scorecard.json or comparison.json."""
    return {str(figure["name"]): figure for figure in body.get("figures", [])}


def rule_checks(policy: ReleasePolicy, candidate: Figures, comparison: Figures) -> list[Check]:
    """The policy's rules, a check for each bound. A policy without rules gives one failed check."""
    if not policy.rules:
        why = "the policy has no rules, so nothing says what good enough is; add policy.release.rules"
        return [Check(id="policy_has_rules", rule="policy has rules", observed=0, bound=1, passed=False, why=why)]
    return [check for rule in policy.rules for check in _rule(rule, candidate, comparison)]


def _rule(rule: Rule, candidate: Figures, comparison: Figures) -> Iterator[Check]:
    if rule.minimum is not None:
        yield _bound(rule.figure, "at least", rule.minimum, candidate)
    if rule.maximum is not None:
        yield _bound(rule.figure, "at most", rule.maximum, candidate)
    if rule.must_be is not None:
        yield _against_baseline(rule, comparison)


def _bound(name: str, words: str, bound: float, candidate: Figures) -> Check:
    rule = f"{name} {words} {bound:g}"
    identity = f"rule:{name}:{'minimum' if words == 'at least' else 'maximum'}"
    value = _number(candidate.get(name, {}), "value")
    if value is None:
        return Check(
            id=identity, rule=rule, observed=None, bound=bound, passed=False, why=_unknown(name, candidate, "scorecard")
        )
    passed = value >= bound if words == "at least" else value <= bound
    return Check(
        id=identity,
        rule=rule,
        observed=value,
        bound=bound,
        passed=passed,
        why=f"{name} is {value:.4g}{_over(candidate[name])}, {words} {bound:g} is asked",
    )


def _against_baseline(rule: Rule, comparison: Figures) -> Check:
    name, asked = rule.figure, str(rule.must_be).replace("_", " ")
    relation = "to" if rule.must_be == "non_inferior" else "than"
    text = f"{name} {asked} {relation} the baseline" + (f" (margin {rule.margin:g})" if rule.margin else "")
    identity, figure = f"rule:{name}:must_be", comparison.get(name, {})
    low, high, difference = (_number(figure, key) for key in ("low", "high", "difference"))
    if low is None or high is None or difference is None or not isinstance(figure.get("lower_is_better"), bool):
        why = _unknown(name, comparison, "comparison")
        return Check(id=identity, rule=text, observed=None, bound=asked, passed=False, why=why)
    measured = f"(difference {difference:.4g}, interval {low:.4g} to {high:.4g}{_items(figure)})"
    if figure.get("comparable") is not True:
        doubts = "; ".join(map(str, figure.get("doubts") or ())) or "the comparison does not say that they are"
        why = f"{name}: candidate and baseline are not comparable {measured}: {doubts}"
        return Check(id=identity, rule=text, observed=NOT_COMPARABLE, bound=asked, passed=False, why=why)
    worst, best = _ends(figure, low, high)
    if unseen := _unseen(figure):
        worst = min(worst, -unseen)
    found = str(figure.get("verdict", "")).replace("_", " ")
    passed, said = _held(rule, found, worst, best)
    parts = [f"{name}: {_plain(found)} {measured}", said, *_doubts(figure, found, low, high)]
    why = "; ".join(part for part in parts if part)
    return Check(id=identity, rule=text, observed=found, bound=asked, passed=passed, why=why)


def _held(rule: Rule, found: str, worst: float, best: float) -> tuple[bool, str]:
    """Whether a difference between `worst` and `best`, above zero where the candidate is better, meets the rule, and what to
    say of it that the verdict does not say."""
    if rule.must_be == "better":
        passed = found == "better" and worst > rule.margin
        return passed, "" if passed or not rule.margin else f"better by more than {rule.margin:g} is asked"
    if rule.must_be == "non_inferior":
        # Too few items make a wide interval, which proves nothing: unlike not_worse this asks for proof.
        if worst > -rule.margin:
            return True, f"proven to lose less than {rule.margin:g}"
        return False, f"it may have lost up to {-worst:.4g}, where proof of less than {rule.margin:g} is asked"
    if found == "better":
        return True, ""
    # Whatever doubt the comparison notes: a guard need not prove a loss to the end, an interval below zero is enough.
    if found != "cannot be told" or best < 0:
        return False, "the whole interval lies on the worse side" if found == "cannot be told" else ""
    lost = f"may have lost up to {-worst:{'.2f' if worst <= -0.01 else '.2g'}}" if worst < 0 else "no loss was seen"
    return True, f"{lost} (nothing could be told)"


def _ends(figure: Mapping[str, Any], low: float, high: float) -> tuple[float, float]:
    """The worst and the best end of an interval, above zero where the candidate is better; for a figure with a fair value how
    much nearer to it the candidate is, since there both directions can lose."""
    fair, before = _number(figure, "fair"), _number(figure, "baseline")
    if fair is None or before is None:
        return (-high, -low) if figure["lower_is_better"] else (low, high)
    distances = abs(before + low - fair), abs(before + high - fair)
    nearest = 0.0 if before + low <= fair <= before + high else min(distances)
    return abs(before - fair) - max(distances), abs(before - fair) - nearest


def _unseen(figure: Mapping[str, Any]) -> float:
    """The loss that this many items can have missed when none of them differs, and the interval has no width: the exact upper
    bound 1 - 0.05^(1/n) of a share never seen in n draws (Hanley and Lippman-Hand, 1983). 0 where items differ."""
    items = figure.get("items")
    share = str(figure.get("unit", "")).startswith("share")
    if not share or figure.get("items_that_differ") != 0 or not isinstance(items, int) or items < 1:
        return 0.0
    return 1 - math.pow(0.05, 1 / items)


def _doubts(figure: Mapping[str, Any], found: str, low: float, high: float) -> list[str]:
    """Why nothing can be told although the interval leaves zero out."""
    if found != "cannot be told" or low <= 0 <= high:
        return []
    return [str(doubt) for doubt in figure.get("doubts") or ()]


def _over(figure: Mapping[str, Any]) -> str:
    """How many items a figure is the mean of: a bound is on what was measured, which few items say only roughly."""
    count = figure.get("items")
    return f" over {count:,} items" if isinstance(count, int) else ""


def _items(figure: Mapping[str, Any]) -> str:
    return f", {figure['items']} items" if "items" in figure else ""


def _plain(verdict: str) -> str:
    return {"better": "better than the baseline", "worse": "worse than the baseline"}.get(
        verdict, "no difference to the baseline can be told"
    )


def _number(figure: Mapping[str, Any], key: str) -> float | None:
    value = figure.get(key)
    known = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    return float(value) if known and value is not None else None


def _unknown(name: str, known: Figures, where: str) -> str:
    if name in known:
        return f"{name}: the {where} has no usable number for it"
    near = difflib.get_close_matches(name, sorted(known), n=1)
    hint = f"did you mean {near[0]!r}?" if near else f"known: {', '.join(sorted(known)) or 'none'}"
    return f"{name}: the {where} has no such figure; {hint}"
