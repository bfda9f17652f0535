"""Candidate against baseline on the same items: differences, intervals and verdicts.

Items are resampled in pairs (Efron and Tibshirani, "An Introduction to the Bootstrap", 1993), the same draw on both sides,
so what makes an item hard cancels out. Intervals are bias-corrected and accelerated (BCa); the statistic is the difference of
weighted means, which for perplexity is that of mean negative log-likelihood per token. Where an item is right or wrong and
nothing between, the exact test of McNemar (1947) must agree, since a bootstrap of few differing items is overconfident.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from statistics import NormalDist
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tutelage.errors import InvalidInput, StepFailed
from tutelage.evaluate.scorecard import EXPONENTIAL, FAIR, Item

Numbers = NDArray[np.float64]
#: Draws made at once, times items: 32 MB of counts.
BLOCK_NUMBERS = 4_000_000
SMALL_SAMPLE = 30
POWER = 0.8
#: What must be equal for two scorecards to be comparable.
SAME = ("suite", "splits", "protocol")


@dataclass(frozen=True)
class Paired:
    """Values and weights of the same items on both sides."""

    baseline: Numbers
    baseline_weights: Numbers
    candidate: Numbers
    candidate_weights: Numbers

    def difference(self) -> float:
        """Candidate's weighted mean minus the baseline's."""
        return _mean(self.candidate, self.candidate_weights) - _mean(self.baseline, self.baseline_weights)

    def deviating(self) -> int:
        """How many items differ between the two sides."""
        return int((self.baseline != self.candidate).sum())

    def right_or_wrong(self) -> bool:
        """Whether every item is 0 or 1 and counts as much as any other."""
        values = np.concatenate([self.baseline, self.candidate])
        weights = np.concatenate([self.baseline_weights, self.candidate_weights])
        return bool(np.isin(values, (0.0, 1.0)).all() and np.ptp(weights) == 0)


@dataclass(frozen=True)
class Interval:
    """A confidence interval of a difference, and the standard error of that difference."""

    low: float
    high: float
    standard_error: float


@dataclass(frozen=True)
class Note:
    """What a reader of a figure must know."""

    text: str
    decisive: bool = False
    """Whether it rules out a verdict."""
    comparable: bool = True
    """False where better and worse have no meaning: more items would not help, and no rule on the difference may pass."""


def refuse_unlike(baseline: Mapping[str, Any], candidate: Mapping[str, Any]) -> None:
    """Raise InvalidInput when two scorecards were not measured on the same suite and splits in the same way."""
    for name in SAME:
        if baseline.get(name) is None or baseline.get(name) != candidate.get(name):
            raise InvalidInput(
                f"scorecards differ in {name}: baseline {_short(baseline.get(name))}, candidate {_short(candidate.get(name))}",
                hint="evaluate both models on the same suite and splits with the same evaluation settings",
            )


def _short(value: Any) -> str:
    return value[:12] if isinstance(value, str) else str(value)


def pair(name: str, baseline: Mapping[str, Item], candidate: Mapping[str, Item]) -> Paired:
    """The items of figure `name` side by side, sorted by id. Raises StepFailed when one side lacks any."""
    only_baseline, only_candidate = baseline.keys() - candidate.keys(), candidate.keys() - baseline.keys()
    if only_baseline or only_candidate:
        raise StepFailed(
            f"{name}: {len(only_baseline)} items only in the baseline's scorecard, {len(only_candidate)} only in the "
            f"candidate's, {len(baseline.keys() & candidate.keys())} in both",
            hint="both must be measured on the same items; evaluate both again",
        )
    ids = sorted(baseline)
    sides = [[side[key] for key in ids] for side in (baseline, candidate)]
    columns = [np.array([pick(item) for item in side]) for side in sides for pick in (_value, _weight)]
    return Paired(*columns)


def _value(item: Item) -> float:
    return item.value


def _weight(item: Item) -> float:
    return item.weight


def compare_figure(
    figure: Mapping[str, Any], other: Mapping[str, Any], paired: Paired, confidence: float, resamples: int, seed: int
) -> dict[str, Any]:
    """The comparison of one figure: `figure` of the baseline, `other` of the candidate."""
    difference = paired.difference()
    interval = bootstrap(paired, confidence, resamples, _seed_of(str(figure["name"]), seed))
    notes = _notes(figure, other, paired, confidence, interval)
    exponential = figure["statistic"] == EXPONENTIAL
    return {
        "name": figure["name"],
        "baseline": figure["value"],
        "candidate": other["value"],
        "difference": difference,
        "low": interval.low,
        "high": interval.high,
        "verdict": verdict(interval, bool(figure["lower_is_better"]), conclusive=not any(n.decisive for n in notes)),
        "lower_is_better": figure["lower_is_better"],
        "items": len(paired.baseline),
        "items_that_differ": paired.deviating(),
        "unit": "mean negative log-likelihood per token" if exponential else figure["unit"],
        "ratio": math.exp(difference) if exponential else None,
        "ratio_low": math.exp(interval.low) if exponential else None,
        "ratio_high": math.exp(interval.high) if exponential else None,
        "minimum_detectable": minimum_detectable(interval.standard_error, confidence),
        "fair": figure.get("alternatives", {}).get(FAIR),
        "comparable": all(note.comparable for note in notes),
        "doubts": [note.text for note in notes if note.decisive],
        "notes": [note.text for note in notes],
    }


def verdict(interval: Interval, lower_is_better: bool, *, conclusive: bool = True) -> str:
    """better or worse when the interval leaves zero out and nothing speaks against it, else cannot_be_told."""
    if not conclusive or interval.low <= 0 <= interval.high:
        return "cannot_be_told"
    return "better" if (interval.high < 0) == lower_is_better else "worse"


def _notes(
    figure: Mapping[str, Any], other: Mapping[str, Any], paired: Paired, confidence: float, interval: Interval
) -> list[Note]:
    """What a reader must know, and what rules out a verdict."""
    notes = []
    if len(paired.baseline) < SMALL_SAMPLE:
        text = f"small sample: {len(paired.baseline)} items, fewer than {SMALL_SAMPLE}; the interval is a rough one"
        notes.append(Note(text))
    notes += _by_chance(paired, confidence, interval)
    if figure["statistic"] == EXPONENTIAL and (paired.baseline_weights != paired.candidate_weights).any():
        text = "token counts differ: the models tokenise differently, perplexity per token does not compare; see bits_per_byte"
        notes.append(Note(text, decisive=True, comparable=False))
    fair = figure.get("alternatives", {}).get(FAIR)
    if fair is not None and (other["value"] < figure["value"]) != (
        abs(other["value"] - fair) < abs(figure["value"] - fair)
    ):
        text = f"fair is {fair:g}: the candidate's side of it makes lower farther from fair, or higher nearer to it"
        notes.append(Note(text, decisive=True, comparable=interval.low <= 0 <= interval.high))
    return notes


def _by_chance(paired: Paired, confidence: float, interval: Interval) -> Iterator[Note]:
    """Why the items that differ could differ by chance, although the interval may leave zero out.

    Were both models alike, each item that differs could as well differ the other way round: all in one direction happens by
    chance with probability 2^(1-n). Below that no test could tell, and a bootstrap is overconfident.
    """
    differ = paired.deviating()
    if differ and 2.0 ** (1 - differ) > 1 - confidence:
        items = "item differs" if differ == 1 else "items differ"
        text = f"only {differ} {items}: too few to tell at confidence {confidence}, whatever their direction"
        yield Note(text, decisive=True)
    elif paired.right_or_wrong() and not interval.low <= 0 <= interval.high:
        up = int((paired.candidate > paired.baseline).sum())
        probability = mcnemar(up, differ - up)
        if probability > 1 - confidence:
            text = (
                f"of {differ} items that differ {up} went up and {differ - up} down: between equal models that happens in "
                f"{probability:.1%} of cases (exact McNemar test), too often for confidence {confidence}"
            )
            yield Note(text, decisive=True)


def mcnemar(up: int, down: int) -> float:
    """How often two equal models differ as unevenly as this or more, both directions counted (exact binomial)."""
    differ = up + down
    tail = sum(math.comb(differ, count) for count in range(max(up, down), differ + 1))
    # Whole numbers, divided last: 2.0 ** -differ is nothing from 1,075 items on.
    return min(1.0, 2 * tail / (1 << differ))


def minimum_detectable(standard_error: float, confidence: float) -> float:
    """The smallest true difference that a sample like this one finds four times in five (normal approximation)."""
    normal = NormalDist()
    return (normal.inv_cdf(0.5 + confidence / 2) + normal.inv_cdf(POWER)) * standard_error


def bootstrap(paired: Paired, confidence: float, resamples: int, seed: int) -> Interval:
    """BCa interval of the paired difference of weighted means from `resamples` draws of items with replacement."""
    estimate = paired.difference()
    draws = _draws(paired, resamples, seed)
    spread = float(draws.std(ddof=1)) if resamples > 1 else 0.0
    if len(paired.baseline) < 2 or not np.ptp(draws) > 0:
        return Interval(estimate, estimate, spread)
    normal = NormalDist()
    below = (float((draws < estimate).sum()) + 0.5 * float((draws == estimate).sum())) / resamples
    bias = normal.inv_cdf(min(max(below, 0.5 / resamples), 1 - 0.5 / resamples))
    acceleration = _acceleration(paired)
    tails = []
    for tail in ((1 - confidence) / 2, (1 + confidence) / 2):
        shifted = bias + normal.inv_cdf(tail)
        tails.append(normal.cdf(bias + shifted / max(1e-9, 1 - acceleration * shifted)))
    low, high = np.quantile(draws, tails)
    return Interval(float(low), float(high), spread)


def _draws(paired: Paired, resamples: int, seed: int) -> Numbers:
    """The statistic on each resample. A draw is how often each item was taken, so one matrix product makes a block."""
    number = len(paired.baseline)
    random = np.random.default_rng(seed)
    columns = np.stack(
        [
            paired.candidate * paired.candidate_weights, paired.candidate_weights,
            paired.baseline * paired.baseline_weights, paired.baseline_weights,
        ]
    )  # fmt: skip
    parts = []
    block = max(1, BLOCK_NUMBERS // number)
    for start in range(0, resamples, block):
        rows = min(block, resamples - start)
        taken = random.integers(0, number, size=(rows, number)) + np.arange(rows)[:, None] * number
        counts = np.bincount(taken.ravel(), minlength=rows * number).reshape(rows, number)
        # einsum, not @: BLAS may add up in another order on another number of threads.
        sums = np.einsum("rn,cn->rc", counts.astype(np.float64), columns)
        parts.append(sums[:, 0] / sums[:, 1] - sums[:, 2] / sums[:, 3])
    return np.concatenate(parts)


def _acceleration(paired: Paired) -> float:
    """Skewness of the jackknife values over six (Efron 1987, equation 6.6); each leaves one item out."""
    sides = []
    for values, weights in (
        (paired.candidate, paired.candidate_weights),
        (paired.baseline, paired.baseline_weights),
    ):
        products = values * weights
        sides.append((products.sum() - products) / np.maximum(weights.sum() - weights, 1e-300))
    without = sides[0] - sides[1]
    centred = without.mean() - without
    scale = float((centred**2).sum()) ** 1.5
    return float((centred**3).sum()) / (6 * scale) if scale > 0 else 0.0


def _mean(values: Numbers, weights: Numbers) -> float:
    return math.fsum(values * weights) / math.fsum(weights)


def _seed_of(name: str, seed: int) -> int:
    """A seed of its own for each figure, so that one more figure changes no other's interval."""
    return int.from_bytes(hashlib.sha256(f"{seed}:{name}".encode()).digest()[:8], "big")


def counts_of(figures: Sequence[Mapping[str, Any]]) -> dict[str, int]:
    """Verdict → how many figures got it."""
    names = ("better", "worse", "cannot_be_told")
    return {name: sum(figure["verdict"] == name for figure in figures) for name in names}
