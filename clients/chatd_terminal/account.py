"""One's account while the program runs: tokens for it, and another password. Waits for the server, over HTTP."""

from __future__ import annotations

from chatd_client import Refused, change_password, sign_in

WRONG = "unauthenticated"


class Account:
    """Knows the password that is in force; after a change whose answer was lost, both that it may be."""

    def __init__(self, url: str, user: str, password: str) -> None:
        self._url, self._user, self._password = url, user, password
        self._perhaps: str | None = None

    async def token(self) -> str:
        """A new token. Raises Refused, Unreachable; cancelling is safe."""
        try:
            return (await sign_in(self._url, self._user, self._password)).token
        except Refused as refused:
            if refused.code != WRONG or self._perhaps is None:
                raise
        token = (await sign_in(self._url, self._user, self._perhaps)).token
        self._password, self._perhaps = self._perhaps, None
        return token

    async def change_password(self, password: str, new_password: str, device: str) -> None:
        """Change it; every session but that of ``device`` ends. Raises Refused (then nothing is changed), Unreachable;
        after that, and after cancelling, it is changed or not.
        """
        self._perhaps = new_password
        try:
            await change_password(self._url, self._user, password, new_password, device=device)
        except Refused:
            self._perhaps = None
            raise
        self._password, self._perhaps = new_password, None
