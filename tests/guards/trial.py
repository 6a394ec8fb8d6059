"""A guard switched off in a copy of the source tree, and the tests that are to miss it run there.

The copy is one, with its bytecode; each trial has a tree of links to it, in which one file is another.
"""

from __future__ import annotations

import compileall
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Final, NamedTuple

from tests.guards.guard import Guard

ROOT: Final = Path(__file__).parents[2]
PARTS: Final = ("chatd", "protocol", "clients", "bench", "tests", "docs", "config.toml", "pyproject.toml")
ON_PATH: Final = (".", "protocol", "clients", "bench", "tests")
SECONDS: Final = 120
"""For one trial. Who waits for what does not come is to give up sooner."""
ALL_FAILED: Final = 1
"""pytest's exit status where tests were run and failed; beyond it nothing was tried at all."""
SHOWN: Final = 3000


class Trial(NamedTuple):
    """``status`` is pytest's, None where it took too long. ``missed``: the line of the first test that failed."""

    status: int | None
    missed: str
    said: str
    seconds: float

    @property
    def found(self) -> bool:
        """Whether a test ran to its failure."""
        return self.status == ALL_FAILED and bool(self.missed)


class Trials:
    """``ahead``: guards that will be asked for, in this order; so many at once as there are processors. ``close`` it."""

    def __init__(self, ahead: Iterable[Guard] = ()) -> None:
        self.done: list[Trial] = []
        self._began = time.monotonic()
        self._place = Path(tempfile.mkdtemp(prefix="guards-"))
        self._whole = self._place / "whole"
        self._copy()
        self._pool = ThreadPoolExecutor(os.cpu_count() or 1)
        self._ahead: dict[Guard, Future[Trial]] = {guard: self._pool.submit(self._run, guard) for guard in ahead}

    @property
    def seconds(self) -> float:
        """Since the first of them began."""
        return time.monotonic() - self._began

    def of(self, guard: Guard) -> Trial:
        """Wait for it."""
        future = self._ahead.pop(guard, None)
        trial = self._run(guard) if future is None else future.result()
        self.done.append(trial)
        return trial

    def close(self) -> None:
        self._pool.shutdown(cancel_futures=True)
        shutil.rmtree(self._place)

    def _copy(self) -> None:
        self._whole.mkdir()
        for part in PARTS:
            if (ROOT / part).is_dir():
                shutil.copytree(ROOT / part, self._whole / part, ignore=shutil.ignore_patterns("__pycache__", "*.so"))
            else:
                shutil.copy2(ROOT / part, self._whole / part)
        for part in ("chatd", "protocol"):
            compileall.compile_dir(self._whole / part, quiet=1)

    def _run(self, guard: Guard) -> Trial:
        tree = Path(tempfile.mkdtemp(dir=self._place, prefix=""))
        try:
            shutil.copytree(self._whole, tree, copy_function=os.link, dirs_exist_ok=True)
            switch_off(guard, tree)
            return _try(guard, tree)
        finally:
            shutil.rmtree(tree)


def switch_off(guard: Guard, tree: Path) -> None:
    """In that tree alone: what is linked there is made anew, and its bytecode forgotten."""
    file = tree / guard.file
    source = file.read_text(encoding="utf-8")
    assert source.count(guard.text) == 1, f"{guard.file}: not once: {guard.text}"
    file.unlink()
    file.write_text(source.replace(guard.text, guard.off), encoding="utf-8")
    for bytecode in (file.parent / "__pycache__").glob(f"{file.stem}.*.pyc"):
        bytecode.unlink()


def _try(guard: Guard, tree: Path) -> Trial:
    began = time.monotonic()
    environ = {name: value for name, value in os.environ.items() if not name.startswith(("CHATD_", "PYTEST_", "PYTHON"))}
    command = [sys.executable, "-P", str(tree / "tests" / "guards" / "child.py"), *guard.tests, "-x", "-q", "--no-header"]
    command += ["-p", "no:cacheprovider", "-p", "no:xdist", "--hypothesis-seed=0", f"--basetemp={tree / 't'}"]
    process = subprocess.Popen(
        command, cwd=tree, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace", start_new_session=True,
        env={**environ, "PYTHONPATH": os.pathsep.join(str(tree / part) for part in ON_PATH)},
    )  # fmt: skip
    try:
        said, _ = process.communicate(timeout=SECONDS)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)  # with the servers that it has started
        return Trial(None, "", process.communicate()[0][-SHOWN:], time.monotonic() - began)
    where = Path(said.partition("\n")[0])
    assert where.is_relative_to(tree), f"not the copy was tried, but {where}"
    missed = next((line for line in said.splitlines() if line.startswith("FAILED ")), "")
    return Trial(process.returncode, missed, said[-SHOWN:], time.monotonic() - began)
