"""Data steps on Spark: the driver deals out chunks of Parquet files, tasks read and write them with pyarrow themselves.

Rows never pass through the JVM or the driver: a task takes a Chunk, reads it from wherever the store is, writes its part and
returns a few numbers. So there is no shuffle, `s3://` needs no hadoop jars, and master and cores are the launcher's business
(PYSPARK_SUBMIT_ARGS, spark-submit). Chunks depend on the data alone, never on the number of cores.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING, Any, TypeVar

import pyarrow.parquet as pq

from tutelage.contracts import locations, tables
from tutelage.contracts.manifest import Manifest
from tutelage.data.rows import Tally

if TYPE_CHECKING:
    from pyspark import Broadcast, SparkContext

    from tutelage.step import Context

Answer = TypeVar("Answer")
#: A task's rows: enough that starting it does not matter, few enough that a small corpus still keeps every core busy.
MINIMUM_ROWS, MAXIMUM_ROWS, CHUNKS_OF_A_SMALL_CORPUS = 500, 50_000, 4
POLL_SECONDS = 0.5
#: One of these is set where a launcher, spark-submit or a configuration says how Spark runs.
LAUNCHED_BY = ("PYSPARK_SUBMIT_ARGS", "PYSPARK_GATEWAY_PORT", "SPARK_CONF_DIR", "MASTER")
#: What a step started by plain python gets instead: a local session that nobody else can reach.
LOOPBACK_ONLY = {
    "spark.ui.enabled": "false",
    "spark.driver.bindAddress": "127.0.0.1",
    "spark.driver.host": "127.0.0.1",
}


@dataclass(frozen=True)
class Chunk:
    """Rows `first` to `first + rows` of one Parquet file; `number` names the part that is made of them."""

    number: int
    location: str
    first: int
    rows: int

    def read(self, columns: list[str] | None = None) -> Iterator[dict[str, Any]]:
        """The chunk's rows."""
        return islice(tables.read_file(self.location, columns), self.first, self.first + self.rows)


def session(name: str) -> SparkContext:
    """The Spark context of this process, started when there is none; who starts the step configures it.

    A bare context, since no step uses Spark SQL: loading that costs the JVM 3 of 7 CPU-seconds.
    """
    from pyspark import SparkConf, SparkContext

    settings = SparkConf().setAppName(name)
    if not any(os.environ.get(variable) for variable in LAUNCHED_BY):
        for option, value in LOOPBACK_ONLY.items():
            settings.setIfMissing(option, value)
    spark = SparkContext.getOrCreate(settings)
    spark.setLogLevel("ERROR")
    return spark


def chunks_of(manifest: Manifest) -> list[Chunk]:
    """The payload's rows cut into chunks. Reads the files' footers only."""
    counts = []
    for location in tables.parquet_files(manifest, "rows"):
        with locations.open_binary(location) as file:
            counts.append((location, pq.ParquetFile(file).metadata.num_rows))
    total = sum(rows for _, rows in counts)
    size = min(MAXIMUM_ROWS, max(MINIMUM_ROWS, -(-total // CHUNKS_OF_A_SMALL_CORPUS)))
    cuts = [(place, first, min(size, rows - first)) for place, rows in counts for first in range(0, rows, size)]
    return [Chunk(number, *cut) for number, cut in enumerate(cuts)]


def over_chunks(
    spark: SparkContext, context: Context, chunks: list[Chunk], work: Callable[[Chunk], Answer], what: str
) -> list[Answer]:
    """`work(chunk)` for every chunk, each in a task of its own; the answers in the chunks' order."""
    if not chunks:
        return []
    spark.setJobDescription(what)
    with _progress(spark, context, len(chunks), what):
        numbered = spark.parallelize(chunks, len(chunks))
        return list(numbered.map(work).collect())


def shared(spark: SparkContext, value: Answer) -> Broadcast[Answer]:
    """`value` on every executor, sent once."""
    return spark.broadcast(value)


def total(tallies: list[Tally]) -> Tally:
    """The sum of what tasks wrote."""
    whole = Tally()
    for tally in tallies:
        whole.add(tally)
    return whole


@contextmanager
def _progress(spark: SparkContext, context: Context, tasks: int, what: str) -> Iterator[None]:
    """Report finished tasks while the driver waits for a job."""
    finished = threading.Event()
    tracker = spark.statusTracker()

    def watch() -> None:
        said = -1
        while not finished.wait(POLL_SECONDS):
            stages = [tracker.getStageInfo(stage) for stage in tracker.getActiveStageIds()]
            done = sum(stage.numCompletedTasks for stage in stages if stage is not None)
            if stages and done > said:
                context.progress(done, tasks, what)
                said = done

    watcher = threading.Thread(target=watch, name="spark-progress", daemon=True)
    watcher.start()
    try:
        yield
    finally:
        finished.set()
        watcher.join()
    context.progress(tasks, tasks, what)
