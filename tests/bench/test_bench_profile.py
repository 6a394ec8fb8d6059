"""``profile``: how samples become costs; and one tiny run with a real py-spy."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path

import pytest
from chatd_bench.cli import main
from chatd_bench.profile import by_thread, costs

RAW = """\
thread (7): MainThread;run (a.py:1);send (b.py:5) 30
thread (7): MainThread;run (a.py:2);send (b.py:6) 10
thread (7): MainThread;run (a.py:3) 10
thread (8): worker;Thread.run (threading.py:9);commit (c.py:4) 5
thread (8): worker;Thread.run (threading.py:9);WorkerThread._work (t.py:2) 500
thread (0x9);lost (d.py:1) 4
"""


def test_a_thread_s_cpu_time_is_shared_by_its_samples():
    """Who waits costs nothing; a function that calls itself is counted once; a thread without a number has what is left."""
    seen = by_thread(RAW + "thread (7): MainThread;run (a.py:1);run (a.py:1);send (b.py:5) 50\n", {7: 1.0, 8: 0.5, 9: 0.2})
    functions, lines = costs(seen, 1000)
    found = {one["function"]: (one["self_us"], one["total_us"]) for one in functions}
    assert found["send"] == (900.0, 900.0)
    assert found["run"] == (100.0, 1000.0)
    assert found["commit"] == (500.0, 500.0)
    assert found["lost"] == (200.0, 200.0)
    assert "WorkerThread._work" not in found
    assert [one["function"] for one in functions][:2] == ["send", "commit"]
    assert (lines[0]["file"], lines[0]["line"], lines[0]["self_us"]) == ("b.py", 5, 800.0)


@pytest.mark.skipif(
    not (shutil.which("py-spy") or (Path(sys.executable).parent / "py-spy").exists()), reason="py-spy is in the extra bench"
)
def test_a_run_is_profiled(tmp_path, capsys):
    """Against a real server; where the system forbids to look into processes, it says what to do."""
    sizes = ("--members", "10", "--senders", "3", "--warmup", "0.2", "--seconds", "1.5")
    status = main(["profile", "group", *sizes, "--save", "--results", str(tmp_path)])
    said = capsys.readouterr()
    if status:
        assert "ptrace_scope" in said.err
        pytest.skip("the system does not let py-spy look into processes")
    (saved,) = (json.loads(file.read_text()) for file in tmp_path.iterdir())
    result = saved["result"]
    assert result["us_per_message"] > result["us_per_delivery"] > 0
    dearest = result["functions"][0]
    assert dearest["self_us"] > 0
    assert dearest["function"] in said.out
    assert any("chatd/" in function["file"] for function in result["functions"])
