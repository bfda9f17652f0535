"""Runs as a laptop leaves them behind, made of small real payloads and real manifests: what lineage and pages are read from."""

import json
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from tutelage.contracts import locations
from tutelage.contracts.digests import digest_of
from tutelage.contracts.manifest import Manifest
from tutelage.contracts.store import Result, Store, finish, new_attempt, payload_files, step_key


class SyntheticRun:
    """A run folder that grows as tasks are told to finish, fail, or be killed."""

    def __init__(self, runs: Path, run: str, minute: int = 0) -> None:
        self.run, self.folder, self.store = run, runs / run, Store(str(runs / "store"))
        self.clock = datetime(2026, 11, 22, 10, minute, tzinfo=UTC)
        self.made: dict[str, Manifest] = {}
        (self.folder / "logs").mkdir(parents=True)

    def event(self, name: str, label: str, step: str, after: float = 0.0, **fields: Any) -> None:
        self.clock += timedelta(seconds=after)
        line = {
            "time": self.clock.isoformat(timespec="milliseconds"),
            "event": name,
            "task": label,
            "step": step,
            **fields,
        }
        with (self.folder / "events.jsonl").open("a") as file:
            file.write(json.dumps(line, ensure_ascii=False) + "\n")

    def start(self, step: str, label: str) -> None:
        self.event("started", label, step, 0.05)

    def fail(self, step: str, label: str, cause: str, hint: str | None = None, outcome: str = "failed") -> None:
        self.start(step, label)
        self.event("failed", label, step, 1.5, outcome=outcome, cause=cause, hint=hint)

    def finish(
        self,
        step: str,
        label: str,
        inputs: Mapping[str, Manifest] | None = None,
        outputs: Mapping[str, tuple[str, Mapping[str, bytes], Result]] | None = None,
        config: Mapping[str, Any] | None = None,
        seconds: float = 2.0,
    ) -> dict[str, Manifest]:
        """A task that did its work: `outputs` maps names to kind, payload files and Result."""
        inputs = inputs or {}
        self.start(step, label)
        made = write_payloads(self.store, self.run, step, inputs, outputs or {}, {"seed": 7, **(config or {})})
        self.finished(step, label, inputs, made, reused=False, seconds=seconds)
        return made

    def reuse(self, step: str, label: str, inputs: Mapping[str, Manifest], made: Mapping[str, Manifest]) -> None:
        self.start(step, label)
        self.finished(step, label, inputs, made, reused=True, seconds=0.02)

    def finished(
        self,
        step: str,
        label: str,
        inputs: Mapping[str, Manifest],
        made: Mapping[str, Manifest],
        reused: bool,
        seconds: float,
    ) -> None:
        self.made |= {f"{label}/{name}": manifest for name, manifest in made.items()}
        self.event(
            "finished", label, step, seconds, reused=reused, seconds=seconds,
            inputs={name: manifest.uri for name, manifest in inputs.items()},
            outputs={name: manifest.uri for name, manifest in made.items()},
            rows=sum(manifest.rows or 0 for manifest in made.values()) or None, stopped=None,
        )  # fmt: skip

    def data(self) -> dict[str, Manifest]:
        """Ingest and curate."""
        sources = [{"name": "topics", "location": "wheel://topics==1.0/data", "licence": "PSF-2.0", "rows": 30}]
        documents = self.finish(
            "data/ingest", "ingest",
            outputs={"documents": ("documents", {"rows-00000.parquet": b"documents"}, Result(
                content_digest=digest_of("documents"), rows=40, licences={"PSF-2.0": 30, "NOASSERTION": 10},
                details={"sources": sources}))},
        )["documents"]  # fmt: skip
        curated = self.finish(
            "data/curate", "curate", {"documents": documents},
            {"curated": ("documents", {"rows-00000.parquet": b"curated"}, Result(
                content_digest=digest_of("curated"), rows=27, rows_in=40, licences={"PSF-2.0": 27},
                dropped={"licence_unknown": 10, "too_short": 3}))},
            seconds=9.0,
        )["curated"]  # fmt: skip
        return {"documents": documents, "curated": curated}

    def model(self, tokens: Manifest, base: Manifest, objective: str, seconds: float = 12.0) -> Manifest:
        """Train with one objective."""
        loss = [[1000 * point, round(4.2 - 0.9 * point / (point + 3), 4)] for point in range(1, 40)]
        return self.finish(
            "train/train", f"train-{objective}", {"tokens": tokens, "base": base},
            {"trained": ("model", {"model.safetensors": objective.encode() * 500}, Result(
                content_digest=digest_of(["model", objective]), licences={"Apache-2.0": 1},
                metrics={"loss": loss[-1][1]},
                details={"objective": objective, "stopped": None, "parameters": 2600000,
                         "tokens_trained": 39000, "loss": loss}))},
            {"objective": objective}, seconds,
        )["trained"]  # fmt: skip

    def prepare(self) -> dict[str, Manifest]:
        """From check to tokens and the base model."""
        self.finish("plan/check", "check", outputs={"plan": ("plan", {"page.html": b"<p>plan</p>"}, Result(
            content_digest=digest_of("plan")))}, seconds=0.4)  # fmt: skip
        acquired = self.finish(
            "plan/acquire", "acquire",
            outputs={
                "model": ("model", {"model.safetensors": b"base" * 100}, Result(
                    content_digest=digest_of("base"), licences={"Apache-2.0": 1},
                    details={"objective": None, "origin": "initialised", "parameters": 2600000})),
                "suite": ("suite", {"items-00000.parquet": b"items"}, Result(
                    content_digest=digest_of("suite"), rows=12, licences={"MIT": 12})),
            },
        )  # fmt: skip
        data = self.data()
        unique = self.finish(
            "data/deduplicate", "deduplicate", {"curated": data["curated"]},
            {"unique": ("documents", {"rows-00000.parquet": b"unique"}, Result(
                content_digest=digest_of("unique"), rows=25, rows_in=27, licences={"PSF-2.0": 25},
                dropped={"near_duplicate": 2}))},
        )["unique"]  # fmt: skip
        splits = self.finish(
            "data/split", "split", {"unique": unique, "suite": acquired["suite"]},
            {"splits": ("splits", {"rows-00000.parquet": b"splits"}, Result(
                content_digest=digest_of("splits"), rows=24, rows_in=25, licences={"PSF-2.0": 24},
                dropped={"suite_leak": 1}))},
        )["splits"]  # fmt: skip
        tokens = self.finish(
            "data/tokenize", "tokenize", {"splits": splits, "model": acquired["model"]},
            {"tokens": ("tokens", {"tokens.bin": b"tokens"}, Result(
                content_digest=digest_of("tokens"), rows=24, licences={"PSF-2.0": 24}))},
        )["tokens"]  # fmt: skip
        return {**acquired, **data, "unique": unique, "splits": splits, "tokens": tokens}

    def score(self, role: str, model: Manifest, made: Mapping[str, Manifest], perplexity: float) -> Manifest:
        """Evaluate one model."""
        figures = [
            {"name": "perplexity/pretrain", "value": perplexity, "lower_is_better": True, "items": 8, "unit": "ratio"}
        ]
        return self.finish(
            "evaluate/evaluate", f"evaluate-{role}", {"model": model, "splits": made["splits"], "suite": made["suite"]},
            {"scorecard": ("scorecard", {"scorecard.json": json.dumps({"figures": figures}).encode()}, Result(
                content_digest=digest_of(["scorecard", role]), metrics={"perplexity_pretrain": perplexity}))},
            seconds=4.0,
        )["scorecard"]  # fmt: skip

    def whole(self) -> dict[str, Manifest]:
        """Every task up to the comparison."""
        made = self.prepare()
        pretrained = self.model(made["tokens"], made["model"], "pretrain")
        made["trained"] = self.model(made["tokens"], pretrained, "sft")
        made["baseline"] = self.score("baseline", made["model"], made, 548.2)
        made["candidate"] = self.score("candidate", made["trained"], made, 402.9)
        figures = [
            {"name": "perplexity/pretrain", "baseline": 548.2, "candidate": 402.9, "difference": -0.308, "low": -0.41,
             "high": -0.2, "verdict": "better", "lower_is_better": True, "items": 8},
            {"name": "accuracy/quartz", "baseline": 0.51, "candidate": 0.46, "difference": -0.05, "low": -0.19,
             "high": 0.08, "verdict": "cannot_be_told", "lower_is_better": False, "items": 60},
            {"name": "refusal/harmless", "baseline": 0.02, "candidate": 0.3, "difference": 0.28, "low": 0.12,
             "high": 0.44, "verdict": "worse", "lower_is_better": True, "items": 40},
        ]  # fmt: skip
        made["comparison"] = self.finish(
            "evaluate/compare", "compare", {"baseline": made["baseline"], "candidate": made["candidate"]},
            {"comparison": ("comparison", {"comparison.json": json.dumps({"confidence": 0.95, "figures": figures}).encode()},
                            Result(content_digest=digest_of("comparison"), metrics={"perplexity_pretrain": -0.308}))},
            seconds=1.0,
        )["comparison"]  # fmt: skip
        return made

    def close(self, outcome: str) -> None:
        """The record that the command line leaves."""
        record = {
            "run": self.run, "recipe": "recipes/tiny.yaml", "pipeline": "llm-training", "outcome": outcome,
            "started": "2026-11-22T10:00:00.000+00:00", "finished": self.clock.isoformat(timespec="milliseconds"),
            "seconds": 61.5, "command": ["tutelage", "run", "recipes/tiny.yaml"],
            "versions": {"tutelage": "0.1.0", "kfp": "2.17.0", "torch": "2.13.0", "python": "3.11.9"},
        }  # fmt: skip
        (self.folder / "run.json").write_text(json.dumps(record))
        (self.folder / "recipe.yaml").write_text("pipeline: llm-training\nvalues:\n  seed: 7\n")

    def events(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in (self.folder / "events.jsonl").read_text().splitlines()]


def write_payloads(
    store: Store, run: str, step: str, inputs: Mapping[str, Manifest],
    outputs: Mapping[str, tuple[str, Mapping[str, bytes], Result]], config: Mapping[str, Any],
) -> dict[str, Manifest]:  # fmt: skip
    """Payloads and manifests of one attempt, through the real store."""
    digests = {name: manifest.content_digest for name, manifest in inputs.items()}
    key, attempt, made = step_key(step, "code", config, digests), new_attempt(), {}
    for name, (kind, files, result) in outputs.items():
        location = store.attempt(kind, key, attempt)
        for path, data in files.items():
            locations.write_bytes(locations.join(location, path), data)
        made[name] = finish(
            Manifest(
                kind=kind, location=locations.normalise(location), content_digest=result.content_digest,
                files=payload_files(location), step=step, step_key=key, attempt=attempt, config=config,
                seed=config.get("seed"), code_version="code", inputs=digests,
                input_manifests={name: manifest.uri for name, manifest in inputs.items()}, run=run, output=name,
                rows=result.rows, rows_in=result.rows_in, dropped=result.dropped, licences=result.licences,
                metrics=result.metrics, details=result.details,
            )
        )  # fmt: skip
    return made


@pytest.fixture
def synthetic_run(tmp_path: Path):
    """Makes runs in one folder with one store: `synthetic_run("first")`."""
    count = iter(range(0, 60, 10))
    return lambda run="first": SyntheticRun(tmp_path / "runs", run, next(count))
