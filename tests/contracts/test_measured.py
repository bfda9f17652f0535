"""What a step cost includes the children that still run when it ends, as Spark's JVM does."""

import subprocess
import sys

from tutelage.step.measured import cpu_seconds, peak_memory_bytes

#: Holds 400 MB for a moment and works for a while, then says so and waits to be told to end.
CHILD = """
import sys, time
held = bytearray(400_000_000)
held[::4096] = b"x" * len(held[::4096])
del held
until = time.process_time() + 0.5
while time.process_time() < until: pass
print("ready", flush=True)
sys.stdin.read()
"""


def test_a_child_that_still_runs_is_counted_with_the_most_it_held():
    before = cpu_seconds()
    child = subprocess.Popen([sys.executable, "-c", CHILD], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert child.stdin is not None and child.stdout is not None
    try:
        assert child.stdout.readline() == b"ready\n"
        assert peak_memory_bytes() >= 400_000_000
        assert cpu_seconds() - before >= 0.4
    finally:
        child.communicate(timeout=20)
