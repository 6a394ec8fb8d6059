"""Processes of servers, and how they come onto the machine: what the servers' modules share. Linux.

A process that is started here is ended here, by its id, when its context ends; its output is in a file of its directory and
is shown when something goes wrong.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from importlib import metadata
from pathlib import Path

from chatd.adapters.valkey.program import ProgramNotFound, find_program
from chatd_bench.faults import RunFailed
from chatd_bench.machine import buses_of, is_running
from chatd_bench.servers.server import cache_directory

HOST = "127.0.0.1"
START_SECONDS = 60.0
STOP_SECONDS = 15.0
INSTALL_SECONDS = 1200.0
DYING_SECONDS = 0.5
PROGRAMS = Path(__file__).parent / "programs"


def free_port() -> int:
    """One that nobody listens on now."""
    with socket.create_server((HOST, 0)) as probe:
        port: int = probe.getsockname()[1]
    return port


@contextmanager
def data_directory() -> Iterator[Path]:
    """A temporary directory, which ends with the context."""
    with tempfile.TemporaryDirectory(prefix="chatd-bench-", ignore_cleanup_errors=True) as name:
        yield Path(name)


@contextmanager
def running_process(
    command: Sequence[str | Path], directory: Path, port: int, environment: Mapping[str, str] | None = None
) -> Iterator[int]:
    """Start ``command`` in ``directory`` and wait until it listens on ``port``; its pid.

    Raises RunFailed with the end of its output when it ends first, or never listens.
    """
    words = [str(word) for word in command]
    output = directory / f"{Path(words[0]).name}-{port}.log"
    with output.open("wb") as log:
        process = subprocess.Popen(
            words, cwd=directory, env={**os.environ, **(environment or {})}, stdin=subprocess.DEVNULL, stdout=log,
            stderr=subprocess.STDOUT,
        )  # fmt: skip
    try:
        _wait_until_listening(process, port, output)
        with naming_the_dead(f"{Path(words[0]).name}'s", [process]):
            yield process.pid
        if process.poll() is not None:
            raise RunFailed(f"{words[0]} ended with status {process.returncode} during the run{_last_words(output)}")
    finally:
        _stop(process)


@contextmanager
def naming_the_dead(whose: str, processes: Sequence[subprocess.Popen[bytes]]) -> Iterator[None]:
    """Where a run fails and one of these processes has ended, the fault says so first; so it does of a Redis or Valkey that
    they have started, whose end is also a fault of its own. Raises RunFailed."""
    buses = buses_of([process.pid for process in processes])
    try:
        yield
    except RunFailed as fault:
        if dead := [*_dead(whose, processes), *_dead_buses(whose, buses)]:
            raise RunFailed(f"{'; '.join(dead)}. Seen by the generator: {fault}") from fault
        raise
    if dead := _dead_buses(whose, buses):
        raise RunFailed(f"{'; '.join(dead)} during the run")


def _dead_buses(whose: str, buses: Mapping[int, str]) -> list[str]:
    return [f"{whose} {name}, process {pid}, has ended" for pid, name in buses.items() if not is_running(pid)]


def _dead(whose: str, processes: Sequence[subprocess.Popen[bytes]]) -> list[str]:
    """A process's connections end a moment before it does."""
    end = time.monotonic() + DYING_SECONDS
    while time.monotonic() < end and all(process.poll() is None for process in processes):
        time.sleep(0.02)
    ended = [process for process in processes if process.poll() is not None]
    return [f"{whose} process {process.pid} has ended with status {process.returncode}" for process in ended]


def _wait_until_listening(process: subprocess.Popen[bytes], port: int, output: Path) -> None:
    end = time.monotonic() + START_SECONDS
    while time.monotonic() < end:
        if process.poll() is not None:
            raise RunFailed(f"{process.args!r} ended with status {process.returncode}{_last_words(output)}")
        try:
            socket.create_connection((HOST, port), 1).close()
            return
        except OSError:
            time.sleep(0.05)
    raise RunFailed(f"{process.args!r} did not listen within {START_SECONDS:.0f} s{_last_words(output)}")


def _stop(process: subprocess.Popen[bytes]) -> None:
    process.terminate()
    try:
        process.wait(STOP_SECONDS)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def _last_words(output: Path) -> str:
    said = output.read_text(errors="replace").strip()
    return f"\nit said:\n{said[-2000:]}" if said else ""


@contextmanager
def running_valkey(directory: Path) -> Iterator[tuple[int, str]]:
    """The Valkey that chatd starts too, on a port, keeping nothing; its pid and URL."""
    port = free_port()
    try:
        program = find_program()
    except ProgramNotFound as fault:
        raise RunFailed(str(fault)) from fault
    settings = ("--bind", HOST, "--port", str(port), "--save", "", "--appendonly", "no", "--loglevel", "warning")
    with running_process((program, *settings), directory, port) as pid:
        yield pid, f"redis://{HOST}:{port}"


def valkey_version() -> str:
    """Of the program that ``running_valkey`` starts."""
    return output_of((find_program(), "--version"))


def output_of(command: Sequence[str | Path]) -> str:
    """What a short command prints. Raises RunFailed."""
    try:
        done = subprocess.run([str(word) for word in command], capture_output=True, text=True, timeout=60, check=True)
    except (OSError, subprocess.SubprocessError) as fault:
        raise RunFailed(f"{command!r}: {fault}") from fault
    return done.stdout.strip()


def install_by(what: str, command: Sequence[str | Path], advice: str, directory: Path | None = None) -> None:
    """Run a package manager, its words going to standard error. Raises RunFailed with ``advice``."""
    print(f"installing {what} ...", file=sys.stderr, flush=True)
    words = [str(word) for word in command]
    try:
        environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
        subprocess.run(words, cwd=directory, env=environment, stdout=sys.stderr, timeout=INSTALL_SECONDS, check=True)
    except (OSError, subprocess.SubprocessError) as fault:
        raise RunFailed(f"{what} could not be installed: {fault}\n{advice}") from fault


def install_debian_packages(*packages: str) -> None:
    """Those that are not there; it takes root, or sudo without a password. Raises RunFailed."""
    missing = [package for package in packages if not debian_version(package)]
    if not missing:
        return
    command = ("apt-get", "install", "--yes", "--no-install-recommends", *missing)
    advice = f"As root, on Debian or Ubuntu: {' '.join(command)}"
    if shutil.which("apt-get") is None:
        raise RunFailed(f"{' '.join(missing)} not installed, and there is no apt-get.\n{advice}")
    prefix = () if os.geteuid() == 0 else ("sudo", "-n")
    with suppress(RunFailed):  # a bare machine has no list of packages; an old one may do
        install_by("Debian's list of packages", (*prefix, "apt-get", "update"), advice)
    # RUNLEVEL=1 tells the packages not to start their services.
    install_by(" ".join(missing), (*prefix, "env", "RUNLEVEL=1", *command), advice)


def debian_version(package: str) -> str:
    """Of an installed package; empty where it is not installed."""
    if shutil.which("dpkg-query") is None:
        return ""
    shown = ("dpkg-query", "--show", "--showformat", "${db:Status-Status} ${Version}", package)
    done = subprocess.run(shown, capture_output=True, text=True, check=False)
    status, _, version = done.stdout.strip().partition(" ")
    return version if status == "installed" else ""


def install_python_packages(name: str, *requirements: str) -> Path:
    """Into an environment of their own; its Python. Nothing is done where it is there. Raises RunFailed."""
    mark = hashlib.sha256(repr((sys.version_info[:2], requirements)).encode()).hexdigest()[:12]
    directory = cache_directory() / f"{name}-{mark}"
    python = directory / "bin" / "python"
    if not (directory / "done").exists():
        advice = f"With a package index within reach: pip install {' '.join(requirements)}"
        install_by(f"{name}: its environment", (sys.executable, "-m", "venv", "--clear", directory), advice)
        install_by(name, (python, "-m", "pip", "install", "--quiet", *requirements), advice)
        (directory / "done").touch()
    return python


def python_versions(python: Path, *packages: str) -> dict[str, str]:
    """Of packages in an environment made by ``install_python_packages``."""
    site = next(python.parent.parent.glob("lib/python3*/site-packages"))
    found = {each.metadata["Name"].lower(): each.version for each in metadata.distributions(path=[str(site)])}
    return {package: found[package] for package in packages if package in found}


def install_node_packages(name: str, *packages: str) -> Path:
    """Into a folder of their own, which is returned; Node from Debian where there is none. Nothing is done where it is there.

    Raises RunFailed.
    """
    mark = hashlib.sha256(repr(packages).encode()).hexdigest()[:12]
    directory = cache_directory() / f"{name}-{mark}"
    if not (directory / "done").exists():
        if shutil.which("node") is None or shutil.which("npm") is None:
            install_debian_packages("nodejs", "npm")
        advice = "Node 18 or later with npm, and the npm registry, must be within reach."
        directory.mkdir(exist_ok=True)
        (directory / "package.json").write_text('{"private": true}\n')
        command = ("npm", "install", "--no-audit", "--no-fund", "--ignore-scripts", *packages)
        install_by(name, command, advice, directory)
        (directory / "done").touch()
    return directory
