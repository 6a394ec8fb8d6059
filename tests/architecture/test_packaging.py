"""What an installation brings: the six packages, their data files, exact versions, and no name besides."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

from tests.architecture.source_tree import PACKAGES, ROOT

PINNED = re.compile(
    r"^([a-z0-9-]+)==(\S+)(?: ; [^\\]+)? \\\n((?:    --hash=sha256:[0-9a-f]{64}(?: \\)?\n)+)", re.MULTILINE
)


def test_only_the_packages_become_importable(tmp_path: Path) -> None:
    """An installed chatd brings no generic names, seen from elsewhere than the checkout. Run by ``make test``."""
    names = [*PACKAGES, "protocol", "clients", "bench", "tests"]
    code = (
        f"import json, importlib.util as u, importlib.metadata as m; m.distribution('chatd');"
        f"print(json.dumps([name for name in {names} if u.find_spec(name)]))"
    )
    command = [sys.executable, "-I", "-c", code]
    found = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=60)
    assert found.returncode == 0, f"chatd is not installed here; use `make test`\n{found.stderr}"
    assert json.loads(found.stdout) == list(PACKAGES)


def test_the_wheel_holds_what_is_needed(tmp_path: Path) -> None:
    """Every source file, migration and type marker, and nothing outside of the six packages."""
    command = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(tmp_path)]
    built = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert built.returncode == 0, f"hatchling failed; use `make test`\n{built.stderr}"
    (wheel,) = tmp_path.glob("*.whl")
    held = set(zipfile.ZipFile(wheel).namelist())
    wanted = {
        f"{package}/{file.relative_to(directory)}"
        for package, directory in PACKAGES.items()
        for file in directory.rglob("*")
        if file.suffix in {".py", ".sql", ".lua", ".typed"}
    }
    assert {name for name in held if ".dist-info/" not in name} >= wanted
    assert {name.partition("/")[0] for name in held if ".dist-info/" not in name} == set(PACKAGES)
    assert any(name.endswith(".sql") for name in wanted)


def test_every_package_is_typed() -> None:
    """Whoever imports a package of ours gets its types."""
    assert [package for package, directory in PACKAGES.items() if not (directory / "py.typed").is_file()] == []


def test_locks_are_exact_and_name_no_place() -> None:
    """Every line of a lock is a version with its hashes, and says nothing of where the lock was made."""
    for name in ("requirements.lock", "requirements-dev.lock"):
        text = (ROOT / name).read_text()
        assert PINNED.sub("", text) == "", name
        assert "://" not in text


def test_locks_fit_the_project() -> None:
    """Each dependency is in the lock, and what is tested is what runs: both locks have the same versions."""
    runtime, development = (
        {found[1]: found[2] for found in PINNED.finditer((ROOT / name).read_text())}
        for name in ("requirements.lock", "requirements-dev.lock")
    )
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert _names(project["dependencies"]) | {"hatchling", "editables"} <= set(runtime)
    assert _names(project["optional-dependencies"]["dev"]) <= set(development)
    assert runtime.items() <= development.items()


def _names(requirements: list[str]) -> set[str]:
    return {re.split(r"[^A-Za-z0-9_.-]", line)[0].lower().replace("_", "-") for line in requirements}
