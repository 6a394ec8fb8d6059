"""``config.toml`` is what operators read, so it must be true."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path
from typing import get_args

import msgspec

from chatd.accounts.tokens import OUTSIDE_ALGORITHMS
from chatd.config import Config, Issuer, load
from chatd.options import SECTIONS, Algorithm, Tier

FILE = Path(__file__).parents[2] / "config.toml"


def test_it_names_every_option_with_its_default() -> None:
    """The annotated file has exactly the options that there are, in their sections, with the defaults as values."""
    expected = msgspec.to_builtins(Config())
    del expected["auth"]["issuers"], expected["limits"]["tiers"]
    assert tomllib.loads(FILE.read_text()) == expected
    assert load(FILE, {}, {}) == Config()


def test_its_example_of_an_issuer_works(tmp_path: Path) -> None:
    """The commented-out issuer, once uncommented, is accepted and names every key."""
    example = re.search(r"^# \[\[auth\.issuers\]\]\n(?:# .+\n)+", FILE.read_text(), re.MULTILINE)
    assert example is not None
    file = tmp_path / "config.toml"
    file.write_text(re.sub(r"^# ", "", example[0], flags=re.MULTILINE))
    (issuer,) = load(file, {}, {}).auth.issuers
    assert set(tomllib.loads(file.read_text())["auth"]["issuers"][0]) == set(Issuer.__struct_fields__)
    assert issuer.algorithm == "RS256"


def test_its_example_of_a_tier_works(tmp_path: Path) -> None:
    """The commented-out tier, once uncommented, is accepted and names every key."""
    example = re.search(r"^# \[limits\.tiers\.premium\]\n(?:# .+\n)+", FILE.read_text(), re.MULTILINE)
    assert example is not None
    file = tmp_path / "config.toml"
    file.write_text(re.sub(r"^# ", "", example[0], flags=re.MULTILINE))
    premium = load(file, {}, {}).limits.tiers["premium"]
    assert set(tomllib.loads(file.read_text())["limits"]["tiers"]["premium"]) == set(Tier.__struct_fields__)
    assert premium.messages_per_second == 500.0


def test_every_stated_range_is_the_real_one() -> None:
    """Each number that has a range shows it in the comment above it."""
    text = FILE.read_text()
    for section, kind in SECTIONS.items():
        part = text.partition(f"[{section}]\n")[2].partition("\n\n\n")[0]
        info = msgspec.inspect.type_info(kind)
        assert isinstance(info, msgspec.inspect.StructType)
        for option in info.fields:
            if isinstance(option.type, msgspec.inspect.IntType | msgspec.inspect.FloatType):
                comment = re.search(rf"((?:^#.*\n)+)(?:^\w+ = .*\n)*?^{option.name} = ", part, re.MULTILINE)
                if comment is None:
                    raise AssertionError(f"{section}.{option.name} has no comment")
                low, high = f"{option.type.ge:.15g}", f"{option.type.le:.15g}"
                words = " ".join(comment[1].replace("#", " ").split())
                assert re.search(rf"\b{re.escape(low)} to {high}\b", words), f"{section}.{option.name}: {low} to {high}"


def test_the_algorithms_are_those_that_tokens_know() -> None:
    """What the configuration accepts for an issuer, the verifier can do, and the other way round."""
    assert set(get_args(Algorithm)) == OUTSIDE_ALGORITHMS
