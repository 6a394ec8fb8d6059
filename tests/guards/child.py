"""What a trial runs: pytest, in the tree that is first on the path. Says first which chatd that has.

No example is made smaller: that there is one is all that is asked.
"""

from __future__ import annotations

import sys

import pytest

import chatd


class Unshrunk:
    """A plugin: after the tests' own profile was loaded, before their modules are."""

    def pytest_configure(self) -> None:
        from hypothesis import Phase, settings  # not before pytest has seen to what it imports

        settings.register_profile("unshrunk", settings.get_profile("chatd"), phases=[Phase.explicit, Phase.generate])
        settings.load_profile("unshrunk")


if __name__ == "__main__":
    print(chatd.__file__, flush=True)
    sys.exit(pytest.main(sys.argv[1:], plugins=[Unshrunk()]))
