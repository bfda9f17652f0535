"""How far one container's log is written: where to open its stream again, and which lines will then come once more.

`sinceTime` counts whole seconds, lines of stdout and stderr overtake each other, and clocks of nodes are set: so what was
written near the end is remembered line by line, as 24 bytes each (digest and time stamp), whatever a line's length.
"""

from __future__ import annotations

import re
from array import array
from collections import Counter
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from hashlib import blake2b

#: How far before the last line a broken stream is opened again.
OVERLAP = timedelta(seconds=2)
#: How far back lines are remembered: a node's clock may be set back so far, and no line is lost or doubled.
REMEMBERED = timedelta(minutes=15)
#: Lines remembered of a container at most, 24 bytes each: of one that prints more in 15 minutes the latest.
MOST_LINES, FEWEST_LINES = 500_000, 20_000
DIGEST_BYTES = 16
EPOCH, MICROSECOND = datetime(1970, 1, 1, tzinfo=UTC), timedelta(microseconds=1)


def digest(line: bytes) -> bytes:
    """What is remembered of a line: lines may be long, and many."""
    return blake2b(line, digest_size=DIGEST_BYTES).digest()


class Position:
    """What was written of one container's log near its end: digests of lines and their time stamps, in order."""

    def __init__(self) -> None:
        self.last = ""
        self._moment = 0
        """Of the last line, in microseconds."""
        self._digests, self._moments = bytearray(), array("q")
        self._limit = FEWEST_LINES

    def note(self, line: bytes) -> None:
        """A line was written."""
        # The last one that came, not the latest: after a clock was set back the server would skip lines from before.
        stamp = line.split(b" ", 1)[0].decode(errors="replace")
        # What is no time at all counts as of the line before it.
        with suppress(ValueError):
            self._moment, self.last = _microseconds(_moment(stamp)), stamp
        self._digests += digest(line)
        self._moments.append(self._moment)
        if len(self._moments) > self._limit:
            self._forget()

    def since(self) -> str | None:
        """Where to open the stream again; None: from its start."""
        if not self.last:
            return None
        return (_moment(self.last) - OVERLAP).replace(microsecond=0).strftime("%Y-%m-%dT%H:%M:%SZ")

    def written(self) -> Counter[bytes]:
        """Digests of the lines that will come again when the stream is opened at `since()`, as often as they came."""
        since = self.since()
        if since is None:
            return Counter()
        edge = _microseconds(_moment(since))
        return Counter(self._digest(at) for at, moment in enumerate(self._moments) if moment >= edge)

    def _forget(self) -> None:
        """Drop the first lines: all that came before any that is young enough, and what is over the most."""
        edge = self._moment - REMEMBERED // MICROSECOND
        young = next(at for at, moment in enumerate(self._moments) if moment >= edge)
        first = max(young, len(self._moments) - MOST_LINES)
        del self._moments[:first], self._digests[: first * DIGEST_BYTES]
        self._limit = max(FEWEST_LINES, 2 * len(self._moments))

    def _digest(self, at: int) -> bytes:
        return bytes(self._digests[at * DIGEST_BYTES : (at + 1) * DIGEST_BYTES])


def _moment(stamp: str) -> datetime:
    """A time stamp of the kubelet's, nanoseconds cut to microseconds. Raises ValueError for what is none."""
    found = datetime.fromisoformat(re.sub(r"(\.\d{6})\d+", r"\1", stamp))
    if found.tzinfo is None or found < EPOCH:
        raise ValueError(f"{stamp} is no time of a log")
    return found


def _microseconds(moment: datetime) -> int:
    return (moment - EPOCH) // MICROSECOND
