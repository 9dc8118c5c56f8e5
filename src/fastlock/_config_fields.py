"""The one table of settings: name, default, what is allowed, how text becomes a value.

Law: imports errors only; every refusal names the setting, shows the value unless it is
secret, and says what would be right. ``config.py``, the readers of uris, variables and
mappings, and the documentation's table all follow ``FIELDS``.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from .errors import ConfigError

Check = Callable[[str, Any], Any]

MAX_SECONDS = 86_400.0
MAX_PAUSE_MS = 3_600_000.0

#: Longest path a Unix socket address can hold on Linux, in bytes.
_MAX_SOCKET_PATH = 107
_WHOLE = re.compile(r"[+-]?[0-9]+")
_DECIMAL = re.compile(r"[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]+)?")
#: What Sentinel itself allows.
_SERVICE = re.compile(r"[A-Za-z0-9._-]+")
_TRUE = ("1", "true", "yes", "on")
_FALSE = ("0", "false", "no", "off")

#: Where a Sentinel listens whose port is not given.
SENTINEL_PORT = 26379
#: So many are enough for any quorum; each costs time when none answers.
_MOST_SENTINELS = 100

#: Names other programs use for the same thing, and ours.
_ELSEWHERE = {
    "url": "uri",
    "ip": "host",
    "hostname": "host",
    "user": "username",
    "pass": "password",
    "passwd": "password",
    "database": "db",
    "path": "unix_socket",
    "unix_socket_path": "unix_socket",
    "socket_connect_timeout": "connect_timeout",
    "timeout": "socket_timeout",
    "tls": "ssl",
    "ssl_cert_reqs": "ssl_verify",
    "ssl_cafile": "ssl_ca_certs",
    "ssl_password": "ssl_keyfile_password",
    "name": "client_name",
    "resp": "protocol",
    "key_prefix": "prefix",
    "sentinel": "sentinels",
    "service_name": "service",
    "master_name": "service",
}


def show(value: object) -> str:
    """``value`` for a message, shortened."""
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def unknown(
    name: str,
    known: Iterable[str],
    what: str = "setting",
    spell: Callable[[str], str] = str,
) -> str:
    """Why ``name`` is refused, with the nearest names that exist, as ``spell`` writes them."""
    import difflib

    names = sorted(known)
    if name in _ELSEWHERE:
        return f"unknown {what}; here it is called {spell(_ELSEWHERE[name])}"
    near = difflib.get_close_matches(name, names, 3, 0.6)
    if near:
        return f"unknown {what}; did you mean {' or '.join(map(spell, near))}?"
    return f"unknown {what}; there are {', '.join(map(spell, names))}"


def encodable(field: str, value: str) -> None:
    """Refuse lone surrogates, without showing the value."""
    # Encoding would raise an error that holds the value.
    if any("\ud800" <= c <= "\udfff" for c in value):
        raise ConfigError(field, "contains characters that UTF-8 cannot encode")


def _string(field: str, value: Any) -> str:
    if not isinstance(value, str):
        raise ConfigError(field, f"must be text (str), not {type(value).__name__}")
    encodable(field, value)
    return value


def _text(limit: int, *, spaces: bool = False, empty: bool = False) -> Check:
    """Printable text of at most ``limit`` bytes of UTF-8."""

    def check(field: str, value: Any) -> str:
        text = _string(field, value)
        if not text and not empty:
            raise ConfigError(field, "must not be empty; leave it out instead")
        if len(text.encode()) > limit:
            raise ConfigError(field, f"is longer than {limit} bytes")
        if not text.isprintable():
            raise ConfigError(field, f"{show(text)} contains control characters; remove them")
        if not spaces and any(map(str.isspace, text)):
            raise ConfigError(field, f"{show(text)} contains whitespace; remove it")
        return text

    return check


def _secret(field: str, value: Any) -> str:
    text = _string(field, value)
    if not text:
        raise ConfigError(field, "must not be empty; leave it out where there is none")
    return text


def _client_name(field: str, value: Any) -> str:
    text: str = _text(256)(field, value)
    if not text.isascii():
        raise ConfigError(field, f"{show(text)} must be ASCII: the server takes nothing else")
    return text


def _host(field: str, value: Any) -> str:
    text: str = _text(255)(field, value)
    if "://" in text or "@" in text or "/" in text:
        # May hold a password: not shown.
        raise ConfigError(field, "must be a name or an address alone; a whole uri goes into uri")
    if text[0] == "[" and text[-1] == "]":
        text = text[1:-1]
    if ":" in text:
        import ipaddress

        try:
            ipaddress.IPv6Address(text)
        except ValueError:
            raise ConfigError(
                field, f"{show(text)} is no name and no IPv6 address; a port goes into port"
            ) from None
    elif not _is_name(text):
        raise ConfigError(field, f"{show(text)} is no name of a host and no address")
    return text


def _is_name(text: str) -> bool:
    """Whether it can be looked up at all; the resolver would fail in odd ways."""
    if any(c in "%?#[]" for c in text):
        return False
    try:
        encoded = text if text.isascii() else text.encode("idna").decode()
    except UnicodeError:
        return False
    return all(0 < len(label) < 64 for label in encoded.removesuffix(".").split("."))


def _sentinels(field: str, value: Any) -> tuple[str, ...]:
    """Addresses as "host:port", each once, in the order given."""
    if isinstance(value, str):
        value = value.split(",")
    if not isinstance(value, list | tuple):
        raise ConfigError(
            field,
            f"must be a list of 'host:port', or text with commas, not {type(value).__name__}",
        )
    if not value:
        raise ConfigError(field, "must not be empty; name all Sentinels, as in 'a:26379,b:26379'")
    if len(value) > _MOST_SENTINELS:
        raise ConfigError(field, f"are more than {_MOST_SENTINELS}; name some of them")
    found = []
    for entry in value:
        if not isinstance(entry, str):
            raise ConfigError(
                field, f"{show(entry)} must be text such as 'host:{SENTINEL_PORT}', each of them"
            )
        host, port = split_address(field, entry.strip())
        shown = f"[{host}]" if ":" in host else host
        found.append(f"{shown}:{port}")
    for address in found:
        if found.count(address) > 1:
            raise ConfigError(field, f"{show(address)} is given twice; keep one")
    return tuple(found)


def split_address(field: str, text: str) -> tuple[str, int]:
    """Host and port of one Sentinel, as "host", "host:port" or "[address]:port"."""
    host, colon, port = text.rpartition(":")
    if text.endswith("]") or not colon:
        host, port = text, str(SENTINEL_PORT)
    if not host:
        raise ConfigError(field, "an entry names no host; write 'host:port', joined by commas")
    if ":" in host and host[0] != "[":
        raise ConfigError(field, "write an IPv6 address as [address]:port")
    if not (port.isascii() and port.isdigit() and len(port) <= 5 and 0 < int(port) <= 65535):
        # What stands here may be a password whose '@host' is missing: not shown.
        raise ConfigError(field, f"the port of {show(host)} must be a number from 1 to 65535")
    return _host(field, host), int(port)


def _service(field: str, value: Any) -> str:
    text: str = _text(255)(field, value)
    if not _SERVICE.fullmatch(text):
        raise ConfigError(
            field, f"{show(text)} is no name that a master can have: letters, digits and . - _"
        )
    return text


def _whole(low: int, high: int) -> Check:
    def check(field: str, value: Any) -> int:
        if type(value) is bool or not isinstance(value, int):
            raise ConfigError(
                field, f"{show(value)} must be a whole number (int) from {low} to {high}"
            )
        if not low <= value <= high:
            raise ConfigError(field, f"{show(value)} must be from {low} to {high}")
        return int(value)

    return check


def _number(high: float, unit: str, *, keep_int: bool = False) -> Check:
    """A finite number above 0, in ``unit``."""

    def check(field: str, value: Any) -> float:
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise ConfigError(field, f"{show(value)} must be a number of {unit} (int or float)")
        if not 0 < value <= high:  # nor NaN
            raise ConfigError(field, f"{show(value)} must be over 0 and at most {high:.0f} {unit}")
        return value if keep_int else float(value)

    return check


def _flag(field: str, value: Any) -> bool:
    if not isinstance(value, bool):
        raise ConfigError(field, f"{show(value)} must be True or False")
    return value


def _path(limit: int) -> Check:
    def check(field: str, value: Any) -> str:
        if isinstance(value, os.PathLike):
            value = os.fspath(value)
        text = _string(field, value)
        if not text:
            raise ConfigError(field, "must not be empty; leave it out instead")
        if "\0" in text:
            raise ConfigError(field, f"{show(text)} is no path: it contains a NUL")
        if len(text.encode()) > limit:
            raise ConfigError(field, f"{show(text)} is longer than {limit} bytes")
        return text

    return check


def _pem(field: str, value: Any) -> str:
    text = _string(field, value)
    if "-----BEGIN CERTIFICATE-----" not in text:
        raise ConfigError(field, "holds no PEM certificate; a file's path goes into ssl_ca_certs")
    return text


def _tls_version(field: str, value: Any) -> str:
    if value not in ("TLSv1.2", "TLSv1.3"):
        raise ConfigError(field, f"{show(value)} must be 'TLSv1.2' or 'TLSv1.3'")
    return str(value)


def _handover(field: str, value: Any) -> str:
    if value not in ("swap", "local"):
        raise ConfigError(field, f"{show(value)} must be 'swap' or 'local'")
    return str(value)


def _provider(field: str, value: Any) -> object:
    if not callable(getattr(value, "get_credentials", None)):
        raise ConfigError(
            field,
            f"{type(value).__name__} has no get_credentials(); give a redis-py CredentialProvider",
        )
    return value


def _nodes(field: str, value: Any) -> tuple[str, ...]:
    """Addresses of servers, each as "host:port"; text is divided at commas."""
    listed = value.split(",") if isinstance(value, str) else value
    if not isinstance(listed, list | tuple) or not listed:
        raise ConfigError(field, "must be a list of 'host:port', or text with commas between them")
    return tuple([_node(field, text) for text in listed])


def _node(field: str, value: Any) -> str:
    text = _string(field, value).strip()
    if "@" in text or "/" in text:  # may hold a password: not shown
        raise ConfigError(field, "each must be host:port alone; user and password are given apart")
    host, colon, port = text.rpartition(":")
    if not colon or text.endswith("]"):
        host, port = text, "6379"
    if ":" in host and not (host[0] == "[" and host[-1] == "]"):
        raise ConfigError(field, f"{show(text)}: an IPv6 address is written [address]:port")
    if not (port.isascii() and port.isdigit() and len(port) <= 5):  # perhaps a password: not shown
        raise ConfigError(field, "each must be host:port, the port from 1 to 65535")
    if not 0 < int(port) < 65536:
        raise ConfigError(field, f"{show(text)} must be host:port, the port from 1 to 65535")
    return joined(_host(field, host), int(port))


def joined(host: str, port: int) -> str:
    """As one text, as ``Config.cluster`` holds it."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def divided(node: str) -> tuple[str, int]:
    """Host and port of one of ``Config.cluster``."""
    host, _, port = node.rpartition(":")
    return host.strip("[]"), int(port)


def _read_text(_field: str, text: str) -> Any:
    return text


def _read_whole(field: str, text: str) -> Any:
    if not _WHOLE.fullmatch(text) or len(text) > 20:
        raise ConfigError(field, f"{show(text)} must be a whole number")
    return int(text)


def _read_number(field: str, text: str) -> Any:
    if _WHOLE.fullmatch(text) and len(text) <= 20:
        return int(text)
    if not _DECIMAL.fullmatch(text):
        raise ConfigError(field, f"{show(text)} must be a number over 0")
    return float(text)


def _read_flag(field: str, text: str) -> Any:
    if text.lower() in _TRUE:
        return True
    if text.lower() in _FALSE:
        return False
    raise ConfigError(field, f"{show(text)} must be true or false")


def _read_nothing(field: str, _text: str) -> Any:
    raise ConfigError(field, "is an object and cannot be given as text; pass it to Config()")


@dataclass(frozen=True, slots=True)
class Field:
    """One setting.

    ``check`` takes a Python value, ``read`` turns text into one (checked later); both
    raise ConfigError. Fields whose default is None may be left out by None; ``secret``
    ones are never shown and never in a uri's query.
    """

    name: str
    default: Any
    check: Check
    read: Callable[[str, str], Any] = _read_text
    secret: bool = False


_ALL = (
    Field("host", "localhost", _host),
    Field("port", 6379, _whole(1, 65535), _read_whole),
    Field("unix_socket", None, _path(_MAX_SOCKET_PATH)),
    Field("sentinels", None, _sentinels),
    Field("service", None, _service),
    Field("sentinel_username", None, _text(1024)),
    Field("sentinel_password", None, _secret, secret=True),
    Field("cluster", None, _nodes),
    Field("db", 0, _whole(0, 2**31 - 1), _read_whole),
    Field("username", None, _text(1024)),
    Field("password", None, _secret, secret=True),
    Field("credential_provider", None, _provider, _read_nothing, secret=True),
    Field("ssl", False, _flag, _read_flag),
    Field("ssl_ca_certs", None, _path(4096)),
    Field("ssl_ca_path", None, _path(4096)),
    Field("ssl_ca_data", None, _pem),
    Field("ssl_certfile", None, _path(4096)),
    Field("ssl_keyfile", None, _path(4096)),
    Field("ssl_keyfile_password", None, _secret, secret=True),
    Field("ssl_check_hostname", True, _flag, _read_flag),
    Field("ssl_verify", True, _flag, _read_flag),
    Field("ssl_min_version", None, _tls_version),
    Field("socket_timeout", 5.0, _number(MAX_SECONDS, "seconds"), _read_number),
    Field("connect_timeout", 2.0, _number(MAX_SECONDS, "seconds"), _read_number),
    Field("client_name", None, _client_name),
    Field("protocol", 3, _whole(2, 3), _read_whole),
    Field("prefix", "", _text(1024, spaces=True, empty=True)),
    Field("label", None, _text(100)),
    Field("push", True, _flag, _read_flag),
    Field(
        "retry_timeout",
        100,
        _number(MAX_PAUSE_MS, "milliseconds", keep_int=True),
        _read_number,
    ),
    Field("retries", 3, _whole(0, 1000), _read_whole),
    Field("handover", "swap", _handover),
    Field("handover_limit", 1000, _whole(0, 10**9), _read_whole),
    Field("handover_time", 0.05, _number(MAX_SECONDS, "seconds"), _read_number),
    Field("metrics", True, _flag, _read_flag),
)

FIELDS: dict[str, Field] = {field.name: field for field in _ALL}
