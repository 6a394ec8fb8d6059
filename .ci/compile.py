#!/usr/bin/env python3
"""Compile the message path of an installed chatd with mypyc: .ci/compile.py, by the Python it is installed for.

Works on the copy in that Python's site-packages, never on a checkout: an extension that stands beside its source hides
every later edit of it. The modules are those of the message path. Everything else goes on as Python, among it the bus's
envelopes (msgspec writes Structs of a compiled module, but cannot read them), and what tests put doubles into. Needs a
C compiler.
"""

from __future__ import annotations

import importlib.util
import shutil
import subprocess
import sys
import sysconfig
import tempfile
from pathlib import Path

MODULES = (
    "chatd_protocol.cbor",
    "chatd_protocol.codec",
    "chatd_protocol.plain_send",
    "chatd_protocol.transitions",
    "chatd.wire.frames",
    "chatd.wire.link",
    "chatd.wire.poller",
    "chatd.limits.bucket",
    "chatd.limits.lease",
    "chatd.sessions.changes",
    "chatd.sessions.mailbox",
    "chatd.sessions.marks",
    "chatd.sessions.session",
    "chatd.store.writer",
    "chatd.adapters.redis.link",
    "chatd.adapters.sqlite.bulk",
    "chatd.adapters.sqlite.cache",
    "chatd.adapters.sqlite.commit",
    "chatd.delivery.hub",
    "chatd.delivery.topic",
    "chatd.ops.metrics",
)
PACKAGES = ("chatd", "chatd_protocol")
SETUP = """
from mypyc.build import mypycify
from setuptools import setup
setup(name="chatd", packages=[], ext_modules=mypycify({arguments!r}, opt_level="3", multi_file=True, group_name="chatd"))
"""


def source_of(module: str) -> Path:
    """Where the installed module's source is. Ends the program where that is no installed copy."""
    spec = importlib.util.find_spec(module.partition(".")[0])
    if spec is None or not spec.submodule_search_locations:
        sys.exit(f"{module}: not installed for {sys.executable}")
    path = Path(spec.submodule_search_locations[0]).joinpath(*module.split(".")[1:]).with_suffix(".py")
    if Path(sysconfig.get_paths()["purelib"]) not in path.parents:
        sys.exit(f"{path}: a checkout, not an installed copy; it is left alone")
    return path


def main() -> None:
    """Compile copies in a scratch directory, and put the extensions beside the installed sources."""
    site = Path(sysconfig.get_paths()["purelib"])
    sources = [str(source_of(module).relative_to(site)) for module in MODULES]
    with tempfile.TemporaryDirectory() as made_in:
        scratch = Path(made_in)
        for package in PACKAGES:
            shutil.copytree(site / package, scratch / package, ignore=shutil.ignore_patterns("*.so", "__pycache__"))
        build_extensions(scratch, sources)
        for old in (old for package in PACKAGES for old in site.joinpath(package).rglob("*.so")):
            old.unlink()
        shutil.rmtree(scratch / "build")
        for extension in scratch.rglob("*.so"):
            shutil.move(extension, site / extension.relative_to(scratch))
    print(f"compiled into {site}")


def build_extensions(scratch: Path, sources: list[str]) -> None:
    """Extensions beside ``sources``, in ``scratch``. Ends the program where that fails."""
    version = f"{sys.version_info.major}.{sys.version_info.minor}"
    arguments = [*sources, "--python-version", version, "--follow-imports", "silent", "--no-error-summary"]
    setup = scratch / "setup.py"
    setup.write_text(SETUP.format(arguments=arguments), encoding="utf-8")
    print(f"compiling {len(sources)} modules, in about a minute", flush=True)
    command = [sys.executable, str(setup), "--quiet", "build_ext", "--inplace", "--build-temp", "build"]
    ran = subprocess.run(command, cwd=scratch, check=False, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    if ran.returncode:
        sys.exit(f"{ran.stdout}\nCompiling failed; the reason stands above.")


if __name__ == "__main__":
    main()
