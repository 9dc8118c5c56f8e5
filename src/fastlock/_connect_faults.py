"""What went wrong while connecting, as one of our errors that says what to do.

Law: every message names the server by ``config.address`` and holds no secret; what the
server said keeps its code. Knows redis-py's errors by what caused them only.
"""

from __future__ import annotations

import errno
import os
import re
import socket
import ssl
from collections.abc import Iterator

from ._connect_redispy import Closed, Guard, NotMaster, NotRESP, SpeaksTLS
from .config import Config
from .errors import ConfigError, FastlockError, ProtocolError, ServerError, TransportError

_ADVICE = {
    "WRONGPASS": "check username and password",
    "NOAUTH": "give a password (and a username, if the server has users)",
    "NOPROTO": "set protocol=2",
    "NOPERM": "ask for the permission, or leave out what needs it",
    "DENIED": "the server is in protected mode",
    "LOADING": "the server is starting; try later",
}
#: First words that servers are known to say; a secret may be such a word, too.
_CODES = frozenset({*_ADVICE, "ERR", "BUSY", "MASTERDOWN", "MISCONF", "TRYAGAIN"})
_AUTHORITY = "give the authority that signed it as ssl_ca_certs"
_NAME = "use a host that the certificate names, or ssl_check_hostname=False"
#: OpenSSL's X509_V_ERR_* codes: issuer not found or not trusted (2, 18 to 21), not yet valid,
#: expired, mismatch of host name (62) or address (64).
_CERTIFICATE = {
    **dict.fromkeys((2, 18, 19, 20, 21), _AUTHORITY),
    **dict.fromkeys((9, 10), "renew it, or set the clock right"),
    **dict.fromkeys((62, 64), _NAME),
}
_NO_PASSWORD_SET = "without any password configured"
_ERRNO = re.compile(r"\[Errno (\d+)\]")


def _chain(error: BaseException) -> Iterator[BaseException]:
    """The error and what it was raised from, each once."""
    seen: set[int] = set()
    todo: BaseException | None = error
    while todo is not None and id(todo) not in seen:
        seen.add(id(todo))
        yield todo
        todo = todo.__cause__ or todo.__context__


def fault(error: Exception, config: Config, guard: Guard, timeout: float) -> FastlockError:
    """The error to raise for ``error``, which ended a handshake."""
    if guard.provider_error is not None:
        return _provider(guard.provider_error)
    causes = list(_chain(error))
    for cause in causes:
        if isinstance(cause, ConfigError):
            return ConfigError(cause.field, cause.problem)
        raw = getattr(cause, "raw", None)
        if isinstance(raw, str):
            return _refused(raw, config, guard)
    where = config.address
    for cause in causes:
        if isinstance(cause, SpeaksTLS):
            return TransportError(f"{where} speaks TLS: write rediss:// or give ssl=True")
        if isinstance(cause, NotMaster):
            return TransportError(f"{where} is no master now")
        if isinstance(cause, Closed):
            return _closed(config)
        if isinstance(cause, NotRESP):
            return _not_resp(config)
        if isinstance(cause, ssl.SSLError):
            return _tls(cause, config)
    for cause in causes:
        if isinstance(cause, OSError) and not isinstance(cause, TimeoutError):
            return _system(cause, config, timeout)
    names = {base.__name__ for cause in causes for base in type(cause).__mro__}
    if "TimeoutError" in names:
        return _timeout(config, timeout)
    if guard.closed or not guard.heard:  # uvloop has words of its own for writing to such a peer
        return _closed(config)
    return _not_resp(config)  # whatever redis-py's parser stumbled over


def _provider(error: Exception) -> FastlockError:
    if isinstance(error, ConfigError):
        return ConfigError(error.field, error.problem)
    failure = TransportError(f"the credential provider failed with {type(error).__name__}")
    failure.__cause__ = error
    return failure


def _refused(raw: str, config: Config, guard: Guard) -> ServerError:
    # Servers before version 6 quote the arguments of a command they do not know.
    text = raw.partition(", with args beginning with")[0]
    code, space, said = text.partition(" ")
    advice = _ADVICE.get(code, "")
    lower = text.lower()
    if "unknown command" in lower and "hello" in lower:
        advice = _ADVICE["NOPROTO"]
    elif "no password is set" in lower or _NO_PASSWORD_SET in lower:
        advice = "leave the password out"
    # What the words mean is known by now; the code stays, for callers ask for it.
    for secret in guard.secrets:
        said = said.replace(secret, "***")
        if code not in _CODES:
            code = code.replace(secret, "***")
    return ServerError(f"{code}{space}{said} ({config.address}{': ' if advice else ''}{advice})")


def _not_resp(config: Config) -> ProtocolError:
    return ProtocolError(
        f"{config.address} answers, but not as a Redis or Valkey server does: check host and port"
    )


def _closed(config: Config) -> TransportError:
    hint = "; if it expects TLS, write rediss:// or give ssl=True"
    return TransportError(
        f"{config.address} closed the connection during the handshake"
        f"{'' if config.ssl or config.unix_socket else hint}"
    )


def _timeout(config: Config, timeout: float) -> TransportError:
    hint = "host and port right, a firewall between?"
    if config.unix_socket is not None:
        hint = "does the server hang?"
    elif config.ssl:
        hint = "host and port right, does that port speak TLS, a firewall between?"
    return TransportError(f"no answer from {config.address} within {timeout:g} s: {hint}")


def _tls(error: ssl.SSLError, config: Config) -> TransportError:
    if isinstance(error, ssl.SSLCertVerificationError):
        why = error.verify_message.rstrip(".")
        advice = _CERTIFICATE.get(error.verify_code, "see to the server's certificate")
        return TransportError(f"{config.address}: its certificate was refused: {why}; {advice}")
    why = (error.reason or "the connection was closed").lower().replace("_", " ")
    return TransportError(
        f"{config.address}: the TLS handshake failed ({why}): does that port speak TLS, and are "
        "certificates as the server wants them?"
    )


def _system(error: OSError, config: Config, timeout: float) -> TransportError:
    where = config.address
    if isinstance(error, socket.gaierror):
        return TransportError(f"{where}: the name {config.host!r} cannot be resolved: check host")
    numbers = {int(n) for n in _ERRNO.findall(str(error))} or {error.errno or 0}
    if numbers <= {errno.ECONNREFUSED}:
        return TransportError(
            f"{where} refused the connection: is the server running, and are host and port right?"
            if config.unix_socket is None
            else f"{where} refused the connection: is the server running?"
        )
    if isinstance(error, (ConnectionResetError, BrokenPipeError, ConnectionAbortedError)):
        return _closed(config)
    if numbers <= {errno.ETIMEDOUT}:
        return _timeout(config, timeout)
    if config.unix_socket is not None and numbers & {errno.ENOENT, errno.ENOTDIR}:
        return TransportError(f"{where}: there is no such socket: is the server running?")
    if config.unix_socket is not None and numbers & {errno.EACCES, errno.EPERM}:
        return TransportError(f"{where}: no permission to use this socket (unixsocketperm)")
    if config.unix_socket is not None and numbers & {errno.EAGAIN}:
        return TransportError(f"{where} accepts no connections now: it is overloaded or stopped")
    return TransportError(f"no connection to {where}: {error.strerror or error}")


def tls_context(config: Config) -> ssl.SSLContext:
    """The TLS settings; reads the files named in them, anew each time.

    With no authority given, those of the system are trusted; otherwise only those given.
    Raises ConfigError naming the setting whose file cannot be used.
    """
    try:
        context = ssl.create_default_context(
            cafile=config.ssl_ca_certs, capath=config.ssl_ca_path, cadata=config.ssl_ca_data
        )
    except (OSError, ValueError) as error:
        raise _unusable_authority(config, error) from None
    if config.ssl_ca_path is not None and not os.path.isdir(config.ssl_ca_path):
        raise ConfigError("ssl_ca_path", f"{config.ssl_ca_path!r} is no directory")
    context.check_hostname = config.ssl_check_hostname
    context.verify_mode = ssl.CERT_REQUIRED if config.ssl_verify else ssl.CERT_NONE
    if config.ssl_min_version is not None:
        context.minimum_version = getattr(ssl.TLSVersion, config.ssl_min_version.replace(".", "_"))
    if config.ssl_certfile is not None:
        try:
            # A function: without one, OpenSSL would ask for a password at the terminal.
            context.load_cert_chain(
                config.ssl_certfile,
                config.ssl_keyfile,
                password=lambda: config.ssl_keyfile_password or "",
            )
        except (OSError, ValueError) as error:
            raise ConfigError(
                "ssl_certfile",
                f"with its key (ssl_keyfile, ssl_keyfile_password) cannot be used: {_why(error)}",
            ) from None
    return context


def _unusable_authority(config: Config, error: Exception) -> ConfigError:
    """Which of the settings it was."""
    name = "ssl_ca_certs"
    if config.ssl_ca_data is not None:
        try:
            ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_verify_locations(cadata=config.ssl_ca_data)
        except (OSError, ValueError) as data_error:
            name, error = "ssl_ca_data", data_error
    return ConfigError(name, f"holds no usable certificates: {_why(error)}")


def _why(error: Exception) -> str:
    if isinstance(error, ssl.SSLError):
        return (error.reason or "not PEM").lower().replace("_", " ")
    return getattr(error, "strerror", None) or type(error).__name__
