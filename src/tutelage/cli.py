"""The command line. Imports stay inside commands, so that `tutelage --help` answers at once.

Data goes to stdout (one JSON object with --json), progress and errors to stderr. Exit codes: 0 done, 1 failed, 2 wrong input,
3 gate refused, 4 budget spent.
"""

from __future__ import annotations

import json
import shlex
import sys
import traceback
from pathlib import Path
from typing import Any, NoReturn

import click

from tutelage import __version__
from tutelage.errors import StepFailed, TutelageError

json_option = click.option("--json", "as_json", is_flag=True, help="Print one JSON object on stdout.")
set_option = click.option(
    "--set",
    "assignments",
    multiple=True,
    metavar="KEY=VALUE",
    help="Change a parameter, for example policy.curation.quality.minimum_words=5 or sources[0].limit=100.",
)
field_option = click.option(
    "--set",
    "assignments",
    multiple=True,
    metavar="FIELD=VALUE",
    help="Change a field of the step's Config, for example (data/curate) quality.minimum_words=5.",
)
runs_option = click.option("--runs", metavar="DIR", help="Folder for runs and the store (default: runs).")

host_option = click.option("--host", metavar="URL", help="KFP's API (default: KF_PIPELINES_ENDPOINT).")
token_option = click.option("--token-file", metavar="FILE", help="File with a token for it.")
namespace_option = click.option("--namespace", metavar="NAME", help="Namespace, where the server has several users.")


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="tutelage")
def commands() -> None:
    """Train, vet and release language models: one pipeline, here or on Kubeflow."""


def main() -> NoReturn:
    """Entry point: every error ends as a message with a hint and the exit code of its kind."""
    try:
        commands(standalone_mode=False)
    except TutelageError as error:
        _fail(error, error.exit_code)
    except click.ClickException as error:
        if "--json" in sys.argv:
            print(json.dumps({"outcome": "invalid", "cause": error.format_message(), "hint": "see --help"}))
        error.show()
        sys.exit(2)
    except OSError as error:
        _fail(StepFailed(str(error), hint="check the path, permissions and free space"), 1)
    except Exception as error:
        traceback.print_exc()
        _fail(StepFailed(f"{type(error).__name__}: {error}", hint="this is a bug in Tutelage: please report it"), 1)
    except (click.Abort, KeyboardInterrupt):
        sys.exit(130)
    sys.exit(0)


def _fail(error: TutelageError, exit_code: int) -> NoReturn:
    if "--json" in sys.argv:
        print(json.dumps({"outcome": error.outcome, "cause": error.message, "hint": error.hint}))
    click.echo(f"error: {error}".encode(errors="backslashreplace").decode(), err=True)
    sys.exit(exit_code)


def _settings(runs: str | None, **changes: Any) -> Any:
    from tutelage.runtimes.settings import read_settings

    settings = read_settings()
    given = {name: value for name, value in {"runs": runs, **changes}.items() if value is not None}
    return settings.model_copy(update=given)


def _recipe(path: str, assignments: tuple[str, ...]) -> Any:
    from tutelage.config import parse_assignments
    from tutelage.orchestrate.recipes import read_recipe

    return read_recipe(path, parse_assignments(assignments))


@commands.command()
@click.argument("recipe")
@set_option
@runs_option
@click.option("--fresh", is_flag=True, help="Do everything again; reuse nothing.")
@json_option
def run(recipe: str, assignments: tuple[str, ...], runs: str | None, fresh: bool, as_json: bool) -> None:
    """Run RECIPE here, with live progress and a page at the end."""
    from tutelage.orchestrate.check import check_recipe
    from tutelage.orchestrate.compile import compiled_file
    from tutelage.orchestrate.keys import with_keys
    from tutelage.orchestrate.pages import write_report
    from tutelage.orchestrate.progress import Progress
    from tutelage.orchestrate.run_locally import run_locally
    from tutelage.orchestrate.runs_table import summary
    from tutelage.orchestrate.tasks import tasks_of

    chosen = _recipe(recipe, assignments)
    settings = _settings(runs, reuse=False if fresh else None)
    check_recipe(chosen, settings)
    settings = with_keys(settings)
    labels = [task.label for task in tasks_of(compiled_file(chosen.pipeline))]
    with Progress(labels) as progress:
        record = run_locally(chosen, settings, on_event=progress.show, command=shlex.join(["tutelage", *sys.argv[1:]]))
    record.report = write_report(Path(record.folder))
    record.save()
    if as_json:
        print(json.dumps(vars(record)))
    else:
        click.echo(summary(record))
    _end(record)


def _end(record: Any) -> NoReturn:
    """Say why a run failed, and exit as it ended."""
    if record.cause:
        hint = f"\n\nhint: {record.hint}" if record.hint else ""
        where = f"{record.failed_task}: " if record.failed_task else ""
        click.echo(f"error: {where}{record.cause}{hint}", err=True)
    sys.exit(record.exit_code)


@commands.command()
@click.argument("recipe")
@set_option
@runs_option
@json_option
def check(recipe: str, assignments: tuple[str, ...], runs: str | None, as_json: bool) -> None:
    """Report every mistake in RECIPE at once; start nothing."""
    from tutelage.orchestrate.check import check_recipe
    from tutelage.orchestrate.compile import compiled_file
    from tutelage.orchestrate.tasks import tasks_of

    chosen = _recipe(recipe, assignments)
    steps = check_recipe(chosen, _settings(runs))
    around = sorted({task.label for task in tasks_of(compiled_file(chosen.pipeline))} - set(steps))
    if as_json:
        print(json.dumps({"outcome": "done", "recipe": chosen.name, "pipeline": chosen.pipeline, "steps": steps}))
    else:
        tasks = f", {len(steps) + len(around)} tasks with {' and '.join(around)}" if around else ""
        click.echo(f"{chosen.name}: no mistakes found; {len(steps)} steps in {chosen.pipeline}{tasks}")


@commands.command()
@click.argument("name", metavar="STAGE/VERB")
@click.option("--in", "inputs", multiple=True, metavar="NAME=URI", help="Manifest of an input.")
@click.option("--out", "outputs", multiple=True, metavar="NAME=URI", help="Folder for an output.")
@field_option
@click.option("--setting", "settings", multiple=True, metavar="NAME=VALUE", help="A setting of the installation.")
@json_option
def step(
    name: str, inputs: tuple[str, ...], outputs: tuple[str, ...], assignments: tuple[str, ...],
    settings: tuple[str, ...], as_json: bool,
) -> None:  # fmt: skip
    """Run one step by hand, outside any pipeline."""
    from tutelage.orchestrate.by_hand import run_step

    made = run_step(name, inputs, outputs, assignments, settings)
    if as_json:
        print(json.dumps({"outcome": "done", "artifacts": made}))
    else:
        for output, facts in made.items():
            click.echo(f"{output}: {facts['kind']} {facts['digest'][:12]} {facts['manifest']}")


@commands.command(name="compile")
@click.option("--check", "only_check", is_flag=True, help="Fail when compiled/ is not what the pipelines compile to.")
@click.option(
    "--registry",
    metavar="HOST/PATH",
    help="Prefix of every image from now on, for example registry.example.com/tutelage.",
)
@click.option(
    "--literals/--no-literals",
    default=None,
    help="Drop-downs in the run form from now on; servers before 2.16 refuse them.",
)
@json_option
def compile_command(only_check: bool, registry: str | None, literals: bool | None, as_json: bool) -> None:
    """Compile every pipeline into compiled/."""
    from tutelage.orchestrate.compile import check_fresh, write_all
    from tutelage.orchestrate.recipes import pipeline_names

    if only_check and (registry is not None or literals is not None):
        raise click.UsageError(
            "--check takes neither --registry nor --literals: it compares with what was chosen before"
        )
    changed = []
    if only_check:
        check_fresh()
    else:
        changed = [str(path) for path in write_all(registry, literals)]
    if as_json:
        print(json.dumps({"outcome": "done", "pipelines": pipeline_names(), "changed": changed}))
    else:
        click.echo("compiled files are fresh" if not changed else "\n".join(f"wrote {path}" for path in changed))


@commands.command()
@click.argument("pipeline")
@host_option
@token_option
@click.option("--native", is_flag=True, help="As Kubernetes objects on KUBECONFIG's cluster, not through KFP's API.")
@namespace_option
@click.option("--commit", metavar="ID", help="The commit it comes from (default: CI's, or HEAD where nothing differs).")
@json_option
def upload(
    pipeline: str, host: str | None, token_file: str | None, native: bool, namespace: str | None, commit: str | None,
    as_json: bool,
) -> None:  # fmt: skip
    """Put PIPELINE, as it stands in compiled/, on a server; nothing happens where this content is there already."""
    from tutelage.orchestrate.upload import upload as put

    made = put(pipeline, host, native=native, namespace=namespace, token_file=token_file, commit=commit)
    if as_json:
        print(json.dumps({"outcome": "done", **made.values()}))
    else:
        click.echo(f"{made.pipeline} {made.version}: {'uploaded' if made.changed else 'there already'}")


@commands.command()
@click.argument("recipe")
@host_option
@token_option
@namespace_option
@set_option
@runs_option
@click.option("--upload", "upload_missing", is_flag=True, help="Upload the pipeline first where the server lacks it.")
@click.option(
    "--version", metavar="NAME", help="Version of the pipeline on the server, or latest (default: compiled/'s)."
)
@click.option("--experiment", metavar="NAME", help="Experiment that lists the run (default: the recipe's name).")
@click.option("--service-account", metavar="NAME", help="Account of the run's pods (default: the manifests').")
@click.option("--pipeline-root", metavar="URI", help="Where KFP keeps artifacts (default: the server's).")
@click.option("--cancel-on-interrupt", is_flag=True, help="Ctrl-C cancels the run; without it the run goes on.")
@json_option
def submit(
    recipe: str, host: str | None, token_file: str | None, namespace: str | None, assignments: tuple[str, ...],
    runs: str | None, upload_missing: bool, version: str | None, experiment: str | None, service_account: str | None,
    pipeline_root: str | None, cancel_on_interrupt: bool, as_json: bool,
) -> None:  # fmt: skip
    """Run RECIPE on Kubeflow: checked here first, then started and followed there. Exit code as `run`."""
    from tutelage.orchestrate.runs_table import summary
    from tutelage.orchestrate.submit import Target
    from tutelage.orchestrate.submit import submit as start

    target = Target(
        host=host, namespace=namespace, experiment=experiment, service_account=service_account, token_file=token_file,
        pipeline_root=pipeline_root, version=version,
    )  # fmt: skip
    record, started = start(
        _recipe(recipe, assignments), _settings(runs), target, say=lambda line: click.echo(line, err=True),
        command=shlex.join(["tutelage", *sys.argv[1:]]), upload_missing=upload_missing, cancel_on_interrupt=cancel_on_interrupt,
    )  # fmt: skip
    if as_json:
        print(json.dumps(vars(record) | {"run_id": started.run_id, "version": started.version, "link": started.link}))
    else:
        click.echo(summary(record))
    _end(record)


@commands.command()
@click.argument("run_id", metavar="RUN_ID")
@host_option
@token_option
@json_option
def cancel(run_id: str, host: str | None, token_file: str | None, as_json: bool) -> None:
    """Cancel the run with KFP's RUN_ID; its exit handler stops what it left running."""
    from tutelage.orchestrate.submit import cancel as end

    end(run_id, host, token_file)
    print(json.dumps({"outcome": "done", "run_id": run_id})) if as_json else click.echo(f"{run_id}: told to end")


@commands.command(name="runs")
@runs_option
@json_option
def runs_command(runs: str | None, as_json: bool) -> None:
    """List the runs on record: outcome, verdict, the figures that the release policy asks about, time and sizes."""
    from tutelage.orchestrate.measured import store_bytes
    from tutelage.orchestrate.records import readable_records
    from tutelage.orchestrate.runs_table import runs_table, size

    settings = _settings(runs)
    records, problems = readable_records(settings)
    place, held = settings.store_root, None
    try:
        held = store_bytes(place)
    except (TutelageError, OSError) as error:
        problems.append(f"size of the store is not measured: {str(error).splitlines()[0]}")
    if as_json:
        listed = [vars(record) | {"state": record.state} for record in records]
        store = {"location": place, "bytes": held}
        print(json.dumps({"outcome": "done", "runs": listed, "store": store, "problems": problems}))
        return
    for problem in problems:
        click.echo(f"warning: {problem}", err=True)
    click.echo(runs_table(records) if records else "no runs on record; start one: tutelage run recipes/tiny.yaml")
    click.echo(f"\nstore {place}: {size(held)}")


@commands.command()
@click.argument("name", metavar="RUN")
@runs_option
@json_option
def report(name: str, runs: str | None, as_json: bool) -> None:
    """Write the run page of RUN (a name, its beginning, or latest)."""
    from tutelage.orchestrate.pages import write_report
    from tutelage.orchestrate.records import find_run

    page = write_report(find_run(_settings(runs), name))
    print(json.dumps({"outcome": "done", "report": page}) if as_json else page)


@commands.command()
@click.argument("name", metavar="RUN|DIGEST")
@runs_option
@json_option
def lineage(name: str, runs: str | None, as_json: bool) -> None:
    """Walk from a run or a content digest to everything it came from and everything made of it."""
    from tutelage.orchestrate.walk import walk

    graph, text = walk(_settings(runs), name)
    print(json.dumps({"outcome": "done", **graph}) if as_json else text)


if __name__ == "__main__":
    main()
