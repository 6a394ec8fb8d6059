"""What the client library raises; any other exception is a bug in it."""

from __future__ import annotations


class ClientError(Exception):
    """The base of all errors of this library."""


class Refused(ClientError):
    """The server said no: ``code`` is an error code of the protocol, ``status`` the HTTP status where there was one."""

    def __init__(
        self,
        code: str,
        message: str,
        *,
        retry_after_ms: int | None = None,
        status: int | None = None,
    ) -> None:
        super().__init__(f"{code}: {message}")
        self.code = code
        self.message = message
        self.retry_after_ms = retry_after_ms
        self.status = status


class Disconnected(ClientError):
    """The connection was lost after a change was asked for and before its answer: it may have happened or not."""


class Unreachable(ClientError):
    """No connection, or no intelligible answer, from the server's HTTP side."""


class SessionEnded(ClientError):
    """The server ended the session for good (close codes 4200-4299), or this device's state cannot be used with it."""

    def __init__(self, code: int, reason: str) -> None:
        super().__init__(f"{reason} ({code})")
        self.code = code
        self.reason = reason


class StateInUse(ClientError):
    """Another program uses this device's state directory at the moment."""


class Withdrawn(ClientError):
    """The message was taken back before it was sent."""


class OutboxFull(ClientError):
    """The bound on messages waiting to be stored is reached; the message was not queued."""


class MessageRejected(ClientError, ValueError):
    """A message that the server would never take (a field's type or size); it was not queued."""
