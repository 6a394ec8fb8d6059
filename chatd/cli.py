"""The command ``chatd``.

Owns what is on the command line and how a failure looks: one line on standard error, and exit status 1 (2 where the
command line or the configuration is wrong). Whatever takes long to import is imported by the command that needs it.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import ParamSpec, TypeVar

import click

from chatd import __version__
from chatd.config import Config, ConfigError, Server, data_dir_of, load, render, unknown_variables

MAX_PASSWORD_LINE_BYTES = 4096
BROKEN_PIPE = 141
"""The exit status that shells show for SIGPIPE."""

P = ParamSpec("P")
R = TypeVar("R")


class Refused(click.ClickException):
    """The command line or the configuration cannot be used; exit status 2, as for click's own usage errors."""

    exit_code = 2


class Program(click.Group):
    """A command that writes into a pipe which nobody reads any more ends as if by SIGPIPE, without a word."""

    def invoke(self, ctx: click.Context) -> object:
        try:
            return super().invoke(ctx)
        except BrokenPipeError:
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # or the interpreter complains at its end
            sys.exit(BROKEN_PIPE)


@click.group(cls=Program, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(__version__, "-V", "--version", message="chatd %(version)s")
def main() -> None:
    """chatd: a self-hosted, real-time messaging server.

    \b
    chatd serve                                      start a server; nothing else is needed
    chatd chat http://127.0.0.1:8080 --user alice    chat with it, in another terminal

    Every option of the server is described in config.toml, and can also be set by an environment variable:
    CHATD_LIMITS_CONNECTIONS is connections in [limits].
    """


def configured(command: Callable[P, R]) -> Callable[P, R]:
    """Add the options that say which configuration and which data a command is about."""
    data = click.option("--data", metavar="DIR", help="Data directory. Overrides store.data.")
    file = click.option(
        "--config", "file", type=click.Path(path_type=Path), metavar="FILE", help="Configuration, in TOML."
    )
    return file(data(command))


@main.command(short_help="Start a server.")
@configured
@click.option("--listen", metavar="HOST:PORT", help="Address for clients. Port 0 takes a free one and prints it.")
@click.option("--ops", metavar="HOST:PORT", help="Address for operators: metrics and health.")
def serve(file: Path | None, data: str | None, listen: str | None, ops: str | None) -> None:
    """Start a server, until SIGTERM or Ctrl-C.

    Several of them on one data directory are nodes of one server. Without --ops the operators' port is 8081, or any
    free one where that is taken.
    """
    config = _load(file, data, listen, ops)
    from chatd.app import StartFailed, run

    fault: BaseException | None = None
    try:
        run(config, ops_asked=ops is not None or config.server.ops != Server().ops)
    except* (StartFailed, ConfigError) as group:
        fault = _first(group)
    if fault is not None:
        raise click.ClickException(str(fault)) from fault


@main.group()
def user() -> None:
    """Look after the accounts."""


@user.command("add", short_help="Add an account.")
@configured
@click.argument("name")
def add_user(file: Path | None, data: str | None, name: str) -> None:
    """Add the account NAME: 1 to 32 of a-z 0-9 _ . -

    The password is asked for, or read as one line from standard input where that is no terminal. The server may be
    running.
    """
    from chatd.accounts.admin import add_user

    config = _load(file, data)
    password = _read_password()
    with _one_line_errors(config):
        add_user(config, name, password)
    click.echo(f"added {name}")


@user.command("passwd", short_help="Give a user another password.")
@configured
@click.argument("name")
def set_password(file: Path | None, data: str | None, name: str) -> None:
    """Give the existing user NAME another password, read as for `add`.

    Takes back every token that the user has, and ends all of the user's sessions: within 5 seconds where a server is
    running.
    """
    from chatd.accounts.admin import set_password

    config = _load(file, data)
    password = _read_password()
    with _one_line_errors(config):
        set_password(config, name, password)
    click.echo(f"changed the password of {name}")


@user.command("tier", short_help="Set a user's tier.")
@configured
@click.argument("name")
@click.argument("tier")
def set_tier(file: Path | None, data: str | None, name: str, tier: str) -> None:
    """Give the existing user NAME the rate limits of TIER, which is [limits.tiers.TIER] in the configuration, or free.

    It counts from the user's next connection on. A tier that the token of an outside issuer names goes before it.
    """
    from chatd.accounts.admin import set_tier

    config = _load(file, data)
    with _one_line_errors(config):
        set_tier(config, name, tier)
    click.echo(f"{name} has the tier {tier} from the next connection on")


@main.command(short_help="Print a token for a user.")
@configured
@click.argument("name")
def token(file: Path | None, data: str | None, name: str) -> None:
    """Print a token for the existing user NAME, for bots and scripts.

    It is signed with the data directory's key: whoever can read that may speak for everybody.
    """
    from chatd.accounts.admin import make_token

    config = _load(file, data)
    with _one_line_errors(config):
        made = make_token(config, name)
    click.echo(made)


@main.command(short_help="Copy the data while servers run.")
@configured
@click.argument("target", type=click.Path(path_type=Path))
@click.option("--with-key", is_flag=True, help="With the key that signs tokens: whoever has it may speak for everybody.")
def backup(file: Path | None, data: str | None, target: Path, with_key: bool) -> None:
    """Copy the data to the new directory TARGET, as it is at this moment, and verify the copy. Servers may run, and wait for
    nothing.

    Without the key people sign in once more after a restore to a new directory. Data of an earlier version is copied as it is:
    make one before an upgrade.
    """
    from chatd import upkeep

    config = _load(file, data)
    with _one_line_errors(config):
        report = upkeep.back_up(config, target, _tell_promise, _show_progress, with_key=with_key)
    click.echo(f"{target}: {_in_words(report.counts)}")
    if report.broken:
        raise click.ClickException(f"{target}: kept, but not sound: {report.broken} of the promises are broken in the data")


@main.command(short_help="Put a backup in the place of the data.")
@configured
@click.argument("source", type=click.Path(path_type=Path))
@click.option("--replace", is_flag=True, help="Also where there is data: it is kept beside, as chatd.db.before-restore.")
def restore(file: Path | None, data: str | None, source: Path, replace: bool) -> None:
    """Put the backup SOURCE in the place of the data directory's store, once it is verified. No server may run on it.

    What was said after the backup is gone: clients that have more than the server ask for it in vain. What was taken back
    after it is back, too: deleted messages, passwords that were changed, tokens that were signed out, people who were removed.
    Where tokens must not come back, remove signing.key before the next start (or make another auth.key_file): everybody
    signs in anew.
    """
    from chatd import upkeep

    config = _load(file, data)
    with _one_line_errors(config):
        report = upkeep.restore(config, source, _tell_promise, replace=replace)
    click.echo(f"{data_dir_of(config)}: {_in_words(report.counts)}")


@main.command(short_help="Look whether the data is sound.")
@configured
def verify(file: Path | None, data: str | None) -> None:
    """Look whether the data is what chatd promises: every log 1, 2, 3, ... without a hole, every number of a device stored
    once, every cursor within its log, every message readable. Servers may run; the data may be of an earlier version. Exit
    status 1 where it is not.
    """
    from chatd import upkeep

    config = _load(file, data)
    with _one_line_errors(config):
        report = upkeep.verify(config, _tell_promise)
    if report.broken:
        raise click.ClickException(f"{report.broken} of the promises are broken")
    click.echo(f"{data_dir_of(config)}: {_in_words(report.counts)}; sound")


@main.command("check-config", short_help="Print the effective configuration, or what is wrong with it.")
@configured
def check_config(file: Path | None, data: str | None) -> None:
    """Print the configuration that a server would have, or what is wrong with it (exit status 2).

    On standard error: where the data is, variables that look like mistyped options, and what is unsafe.
    """
    from chatd.app import StartFailed, check_files, unsafe

    config = _load(file, data)
    click.echo(render(config).rstrip())
    try:
        check_files(config)
    except StartFailed as fault:
        raise Refused(str(fault)) from fault
    click.echo(f"data directory: {data_dir_of(config)}", err=True)
    for sentence in (*unknown_variables(os.environ), *unsafe(config)):
        click.echo(f"warning: {sentence}", err=True)


@main.command(short_help="Chat in the terminal, or from a script.")
@click.argument("url")
@click.option("--user", "name", required=True, metavar="NAME", help="Who you are. The password is asked for.")
@click.option("--password-file", metavar="FILE", help="Take the password from the first line of FILE.")
@click.option("--theme", type=click.Choice(["dark", "light", "mono"]), help="Colours; chat.toml can say it, too.")
@click.option("--plain", is_flag=True, help="For pipes and scripts: lines in, JSON lines out.")
@click.option("--to", metavar="WHERE", help="Plain: @NAME or a conversation's id, for the lines that are messages.")
@click.option("--follow", is_flag=True, help="Plain: go on at the end of the input, until interrupted.")
@click.option("--timeout", type=click.FloatRange(min=0), metavar="SECONDS", help="Plain: wait so long for the server. [60]")
def chat(
    url: str,
    name: str,
    password_file: str | None,
    theme: str | None,
    plain: bool,
    to: str | None,
    follow: bool,
    timeout: float | None,
) -> None:
    """Chat in the terminal with the server at URL, as http://127.0.0.1:8080.

    CHATD_PASSWORD or --password-file spare the prompt. /help shows what can be done.

    With --plain every line of standard input is a message, or a command: /to WHERE, /reply SEQ TEXT, /edit SEQ TEXT,
    /delete SEQ, /react SEQ EMOJI, /unreact SEQ EMOJI, /read SEQ, /history [BEFORE], /search WORDS, /conversations,
    /members, /quit; // begins a message with a slash. What happens is written as JSON lines, in the words of the
    protocol; the outcome of the input's line 3 has "line": 3.

    \b
    Exit status of --plain:
      0    the input is done, and everything is stored
      1    something failed here: files, another client of this device
      2    the command line, the password file or a closed input or output cannot be used
      3    not admitted: wrong name or password; what this run queued is not kept
      4    the server ended the session
      5    done, but at least one line was refused
      6    not everything was stored in time; it is kept, and goes out with the next start
      130  interrupted
      141  nobody reads the output any more
      143  ended by SIGTERM
    """
    from chatd_terminal.main import run, run_plain

    if not plain:
        if to is not None or follow or timeout is not None:
            raise click.UsageError("--to, --follow and --timeout are for --plain")
        sys.exit(run(url, name, password_file=password_file, theme=theme))
    sys.exit(run_plain(url, name, password_file=password_file, to=to, follow=follow, timeout_s=timeout))


def _tell_promise(promise: str, found: list[str]) -> None:
    """As it is looked at, with what breaks it."""
    click.echo(f"{promise:<48} {'BROKEN' if found else 'yes'}")
    for text in found:
        click.echo(f"    {text}")


def _show_progress(done: int, pages: int) -> None:
    if sys.stderr.isatty():
        click.echo(f"\r{100 * done // max(1, pages)} %", err=True, nl=done == pages)


def _in_words(counts: dict[str, int]) -> str:
    return ", ".join(f"{count:,} {name}" for name, count in counts.items())


def _load(file: Path | None, data: str | None, listen: str | None = None, ops: str | None = None) -> Config:
    given = {"store.data": data, "server.listen": listen, "server.ops": ops}
    try:
        config = load(file, os.environ, {key: value for key, value in given.items() if value is not None})
        data_dir_of(config)  # fails now, rather than when the server has half started, where there is no home directory
    except ConfigError as fault:
        raise Refused(str(fault)) from fault
    return config


def _read_password() -> str:
    if sys.stdin.isatty():
        entered: str = click.prompt("Password", hide_input=True, confirmation_prompt="Once more")
        return entered
    line = sys.stdin.buffer.readline(MAX_PASSWORD_LINE_BYTES + 1)
    if len(line) > MAX_PASSWORD_LINE_BYTES:
        raise click.ClickException(f"the password on standard input is longer than {MAX_PASSWORD_LINE_BYTES} bytes")
    try:
        return line.decode().removesuffix("\n").removesuffix("\r")
    except UnicodeDecodeError as fault:
        raise click.ClickException("the password on standard input is not UTF-8") from fault


@contextmanager
def _one_line_errors(config: Config) -> Iterator[None]:
    """For a command that does one thing to the data directory: it fails in a line, and logs only what is not normal."""
    from chatd.accounts.admin import AdminError
    from chatd.logs import configure_logging
    from chatd.upkeep import UpkeepFailed

    configure_logging("warning", config.log.format)
    try:
        yield
    except (AdminError, UpkeepFailed) as fault:
        raise click.ClickException(str(fault)) from fault


def _first(group: BaseException) -> BaseException:
    """One fault of a group: where several actors cannot start, the first of them is reason enough."""
    return _first(group.exceptions[0]) if isinstance(group, BaseExceptionGroup) else group
