"""What can be said to ``fastlock``, laid out by click, and its completion by shells.

Law: declares and checks words, imports a command when it is asked for; no argument that could
hold a password is quoted in an error.
"""

from __future__ import annotations

import os
from argparse import Namespace
from collections.abc import Callable
from importlib import import_module
from typing import TYPE_CHECKING, Any, TypeVar

import click
from click import shell_completion

from fastlock._version import __version__

from . import _exits, complain, without_uris

F = TypeVar("F", bound=Callable[..., Any])
if TYPE_CHECKING:
    Number = click.ParamType[float]
else:  # older ones have no parameter
    Number = click.ParamType

#: The variable by which the script of ``fastlock completion`` asks for words.
_COMPLETE = "_FASTLOCK_COMPLETE"
_NAME = "fastlock"
_USAGE = "fastlock run KEY -- COMMAND"


class Within(Number):
    """A number from ``low`` to ``high``."""

    name = "number"

    def __init__(self, kind: type[int] | type[float], low: float, high: float) -> None:
        self._kind, self._low, self._high = kind, low, high

    def convert(self, value: Any, param: Any, ctx: Any) -> float:
        """Refuses NaN too."""
        try:
            number = self._kind(value)
        except ValueError:
            number = self._kind(self._low - 1)
        if not self._low <= number <= self._high:
            self.fail(f"must be a number from {self._low} to {self._high}", param, ctx)
        return number


def run(words: list[str]) -> int:
    """Carry out what the words say; the exit code."""
    instruction = os.environ.get(_COMPLETE)
    if instruction:
        return shell_completion.shell_complete(fastlock, {}, _NAME, _COMPLETE, instruction)
    try:
        with fastlock.make_context(_NAME, words) as made:
            return int(fastlock.invoke(made) or 0)
    except click.exceptions.Exit as end:
        return end.exit_code
    except click.Abort:
        return complain("interrupted", _exits.INTERRUPTED)
    except click.ClickException as error:
        said_to = _said_to(error, words)
        what = " ".join(without_uris(error.format_message()).split()).rstrip(".")
        if isinstance(error, click.NoSuchOption):
            what = without_uris(error.message).rstrip(".")
            if error.possibilities:
                what += f" (perhaps {' or '.join(sorted(error.possibilities))})"
            if said_to == f"{_NAME} run":
                what += f"; options of the command stand behind --: {_USAGE}"
        return complain(f"{what}; see {said_to} --help", _exits.USAGE, said_to)


def _said_to(error: click.ClickException, words: list[str]) -> str:
    """Whose help explains it: click does not always say."""
    if isinstance(error, click.UsageError) and error.ctx:
        return error.ctx.command_path
    return " ".join([_NAME, *[word for word in words if word in fastlock.commands][:1]])


def _carry_out(command: str, options: dict[str, Any]) -> int:
    code: int = import_module(f"fastlock.cli.{command}").run(Namespace(**options))
    return code


def _with_url(function: F) -> F:
    return click.option(
        "--url", metavar="URI",
        help="The server. Default: FASTLOCK_URL and its kin, which keep a password out of the "
        "list of processes; else redis://localhost:6379.",
    )(function)  # fmt: skip


def _with_seconds(default: float) -> Callable[[F], F]:
    return click.option(
        "--seconds", type=Within(float, 0.2, 3600), default=default, metavar="S",
        show_default=True, help="Time to work, all rows of the table together.",
    )  # fmt: skip


def _with_workers(threads: int, of_threads: str, of_tasks: str) -> Callable[[F], F]:
    def both(function: F) -> F:
        for name, most, default, text in (
            ("--tasks", 4096, 64, of_tasks),
            ("--threads", 256, threads, of_threads),
        ):
            function = click.option(
                name, type=Within(int, 1, most), default=default, metavar="N",
                show_default=True, help=text,
            )(function)  # fmt: skip
        return function

    return both


def _with_json(function: F) -> F:
    return click.option("--json", is_flag=True, help="Print the result as JSON.")(function)


@click.group(
    invoke_without_command=True,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    epilog="FASTLOCK_CORE=python|cython chooses the core. Exit codes: 0 all is well, 1 something "
    "was found wrong, 2 usage or settings, 69 the server, 130 ended by Ctrl-C; `run` has more.",
)
@click.version_option(__version__, prog_name=_NAME, message="%(prog)s %(version)s")
@click.pass_context
def fastlock(context: click.Context) -> int:
    """Distributed locks in Redis or Valkey, for the hot path."""
    if context.invoked_subcommand is None:
        click.echo(context.get_help(), err=True)
        return _exits.USAGE
    return 0


# ------------------------------------------------------------------ run


@fastlock.command(
    "run",
    short_help="Run a command under a lock, as flock(1).",
    epilog="Exit code: the command's own (128+n if signal n ended it); 75 the lock was not to be "
    "had in time, 79 it was lost while the command ran, 69 the server cannot be reached or "
    "refuses, 2 wrong usage or settings, 126 the command cannot be executed, 127 there is no such "
    "command, 128+n signal n came while waiting.",
)
@click.argument("key")
@click.argument("words", metavar="-- COMMAND [ARG]...", nargs=-1, type=click.UNPROCESSED)
@click.option(
    "--ttl", type=float, default=30.0, metavar="SECONDS", show_default=True,
    help="How long others wait at most if this machine dies.",
)  # fmt: skip
@click.option(
    "--timeout", type=float, metavar="SECONDS",
    help="How long to wait for the lock; 0: try once. Default: for ever.",
)  # fmt: skip
@click.option(
    "--fair", is_flag=True, help="Wait in a queue at the server, first come first served."
)
@click.option(
    "--auto-renew/--no-auto-renew", default=True, show_default=True,
    help="Keep the lock for as long as the command runs; without it, for one ttl.",
)  # fmt: skip
@click.option(
    "--max-hold", type=float, metavar="SECONDS",
    help="Renew it for so long at most; then it is lost. Default: no limit.",
)  # fmt: skip
@click.option(
    "--on-lost", type=click.Choice(["stop", "warn", "ignore"]), default="stop", show_default=True,
    help="When the lock is lost: SIGTERM and later SIGKILL, SIGTERM only, or nothing but a line "
    "on stderr.",
)  # fmt: skip
@click.option(
    "--grace", type=Within(float, 0, 86400), default=10.0, metavar="SECONDS", show_default=True,
    help="From SIGTERM to SIGKILL.",
)  # fmt: skip
@click.option("--fence", is_flag=True, help="Give the command a fencing number, FASTLOCK_FENCE.")
@click.option(
    "--pass-token", is_flag=True,
    help="Give the command the lock's token, FASTLOCK_TOKEN: a secret, by which it may release.",
)  # fmt: skip
@click.option(
    "-E", "--conflict-exit-code", type=Within(int, 0, 255), default=_exits.NOT_ACQUIRED,
    metavar="N", show_default=True, help="Exit code when the lock was not to be had in time.",
)  # fmt: skip
@_with_url
@click.pass_context
def _run(context: click.Context, /, **options: Any) -> int:
    """Run a command while holding the lock KEY, as flock(1) does for files.

    The command gets FASTLOCK_KEY, and SIGINT, SIGTERM, SIGHUP, SIGQUIT, SIGUSR1 and SIGUSR2 as
    they come.
    """
    if not options["words"]:
        raise click.UsageError(f"there is no command: {_USAGE}", context)
    if options["max_hold"] is not None and not options["auto_renew"]:
        raise click.UsageError("--max-hold bounds --auto-renew, which is off", context)
    return _carry_out("run", options)


# ------------------------------------------------------------------ looking


@fastlock.command(
    "status",
    short_help="Say who holds these locks, and who waits.",
    epilog="Exit code: 0 whoever holds them, 69 the server, 2 usage.",
)
@click.argument("keys", nargs=-1, metavar="[KEY]...")
@click.option(
    "--match", metavar="PATTERN", help="All locks whose key matches, as in KEYS: 'job:*'."
)
@click.option(
    "--foreign", is_flag=True,
    help="With --match also those strings that no fastlock has written: other libraries' locks, "
    "and whatever else is a string.",
)  # fmt: skip
@_with_json
@_with_url
@click.pass_context
def _status(context: click.Context, /, **options: Any) -> int:
    """Say who holds these locks, for how long, and who waits in their fair queues."""
    if bool(options["keys"]) is (options["match"] is not None):
        raise click.UsageError("name keys, or give --match PATTERN", context)
    if options["match"] == "":
        raise click.UsageError("--match is empty, and no key is; '*' matches all", context)
    if options["foreign"] and options["match"] is None:
        raise click.UsageError("--foreign goes with --match", context)
    return _carry_out("status", options)


@fastlock.command(
    "watch",
    short_help="Show the locks under a prefix, live.",
    epilog="Exit code: 0 also when ended by Ctrl-C, 69 the server, 2 usage.",
)
@click.argument("prefix", default="")
@click.option(
    "--interval", type=Within(float, 0.1, 3600), default=1.0, metavar="SECONDS", show_default=True,
    help="From one look at the server to the next.",
)  # fmt: skip
@click.option("--once", is_flag=True, help="Look once.")
@click.option(
    "--limit", type=Within(int, 1, 10000), default=200, metavar="N", show_default=True,
    help="Locks shown, at most.",
)  # fmt: skip
@click.option("--json", is_flag=True, help="One line of JSON for each look.")
@_with_url
def _watch(**options: Any) -> int:
    """Show the locks whose keys begin with PREFIX, live: who holds them, who waits.

    The server tells of changes (client tracking); where it does not, keys are scanned for.
    """
    return _carry_out("watch", options)


@fastlock.command(
    "release",
    short_help="End a lock, whoever holds it.",
    epilog="Exit code: 0 it was ended, 1 there was nothing to end, it went to another holder "
    "meanwhile, or the answer was no; 69 the server, 2 usage.",
)
@click.argument("key")
@click.option("--force", is_flag=True, help="Needed: its holder is not asked, and may still work.")
@click.option("-y", "--yes", is_flag=True, help="Do not ask.")
@_with_json
@_with_url
@click.pass_context
def _release(context: click.Context, /, **options: Any) -> int:
    """End the lock KEY, whoever holds it."""
    if not options["force"]:
        raise click.UsageError("a lock is released by its holder; --force ends another's", context)
    return _carry_out("release", options)


# ------------------------------------------------------------------ measuring


@fastlock.command(
    "bench",
    short_help="Measure locks on this server.",
    epilog="Exit code: 0 measured, 1 a lock was lost, 69 the server, 2 usage.",
)
@_with_seconds(5.0)
@_with_workers(
    8,
    "Threads that share one client.",
    "Tasks of one asyncio loop that share another.",
)
@_with_json
@_with_url
def _bench(**options: Any) -> int:
    """Measure locks on the server that is configured, from this machine.

    Keys of its own, removed at the end. The server is busy meanwhile.
    """
    return _carry_out("bench", options)


@fastlock.command(
    "demo",
    short_help="Watch locks work, beside redis-py's.",
    epilog="Exit code: 0 no update was lost, 1 some were, 2 usage, 69 the server.",
)
@click.option("--url", metavar="URI", help="Use this server (keys of its own, removed at the end).")
@click.option(
    "--env", is_flag=True,
    help="Use the server of FASTLOCK_URL and its kin; others cannot see a password there.",
)  # fmt: skip
@_with_seconds(6.0)
@_with_workers(
    16,
    "Threads at work; half of them want the same two locks.",
    "Tasks of one asyncio loop; half of them want the same two locks.",
)
@click.option("--no-lock", is_flag=True, help="The same work without locks: updates get lost.")
@_with_json
@click.pass_context
def _demo(context: click.Context, /, **options: Any) -> int:
    """Watch locks work on a real server, beside redis-py's Lock.

    Threads and asyncio tasks increment counters on the server by an unprotected read and write,
    each increment under a lock; then the counters are compared with what was counted here.
    Starts a server of its own unless --url or --env names one.
    """
    if options["env"] and options["url"] is not None:
        raise click.UsageError("--env and --url: keep one", context)
    return _carry_out("demo", options)


@fastlock.command(
    "doctor",
    short_help="Say what is installed, and what to mend.",
    epilog="Exit code: 0 nothing is wrong, 1 a line begins with 'problem:', 2 usage.",
)
@_with_json
@_with_url
def _doctor(**options: Any) -> int:
    """Say what is installed, what the server can do, what to mend.

    Says which core runs and why, which settings are in force, and how the server does; takes
    and releases one lock of its own there.
    """
    return _carry_out("doctor", options)


@fastlock.command("completion", short_help="Print what makes a shell complete words.")
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
def _completion(shell: str) -> int:
    """Print what makes a shell complete fastlock's words.

    bash: eval "$(fastlock completion bash)" in ~/.bashrc; zsh the same in ~/.zshrc;
    fish: fastlock completion fish > ~/.config/fish/completions/fastlock.fish
    """
    kind = shell_completion.get_completion_class(shell)
    assert kind is not None  # a choice of those that click has
    click.echo(kind(fastlock, {}, _NAME, _COMPLETE).source())
    return 0
