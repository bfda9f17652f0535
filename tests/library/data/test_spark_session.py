"""A session that no launcher configured is nobody else's to reach."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest

from tutelage.data.spark import LAUNCHED_BY

PROGRAM = """
import json
import psutil
from tutelage.data.spark import session
spark = session("by hand")
family = [psutil.Process(), *psutil.Process().children(recursive=True)]
listening = {c.laddr.ip for process in family for c in process.connections() if c.status == "LISTEN"}
print(json.dumps({"page": spark.uiWebUrl, "listening": sorted(listening)}))
spark.stop()
"""


@pytest.mark.java
def test_a_session_by_hand_has_no_page_and_listens_on_loopback():
    variables = {name: value for name, value in os.environ.items() if name not in LAUNCHED_BY}
    done = subprocess.run([sys.executable, "-c", PROGRAM], env=variables, capture_output=True, text=True, check=True)
    found = json.loads(done.stdout)
    assert found["page"] is None
    assert {address.removeprefix("::ffff:") for address in found["listening"]} == {"127.0.0.1"}
