"""Where settings come from: a uri, the environment, a mapping, a redis-py client.

Law: each reader returns plain keyword arguments for ``Config`` and decides nothing about
their values; it does no I/O; no message of it shows any part of a uri that could be a
password. Imports errors and the table of fields only.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple
from urllib.parse import parse_qsl, unquote

from ._config_fields import FIELDS, show, unknown
from .errors import ConfigError

#: Variables with the prefix that are not settings of a client.
RESERVED = (
    "CORE", "BUILD", "DEBUG", "HIREDIS", "HIREDIS_SDIST", "PYTHON", "TEST_SERVERS", "TEST_URL",
    "KEY", "FENCE", "TOKEN",
)  # fmt: skip

_ESCAPE = "in a user or password, write @ : / # ? % as %40 %3A %2F %23 %3F %25"
_SCHEMES = (
    "a uri begins with redis://, rediss:// (TLS), redis+sentinel://, redis+cluster:// or unix://"
)
_SENTINEL = ("redis+sentinel", "rediss+sentinel")
_CLUSTER = ("redis+cluster", "rediss+cluster")
_RENAMED = {"valkey": "redis", "valkeys": "rediss", "redis+socket": "unix", "redis+tls": "rediss"}


class Given(NamedTuple):
    """One setting as found: its value, and what the user calls the place."""

    value: Any
    where: str


# -- uris


def _put(found: dict[str, Given], name: str, value: Any, where: str) -> None:
    """Note a setting; the same one twice must have the same value."""
    before = found.get(name)
    if before is not None and before.value != value:
        shown = "" if FIELDS[name].secret else f" ({show(before.value)} and {show(value)})"
        raise ConfigError(
            name, f"given twice with different values{shown}: {before.where} and {where}; keep one"
        )
    found[name] = Given(value, where)


def from_uri(uri: Any) -> dict[str, Any]:
    """The settings that a uri gives; those it leaves open are absent.

    Raises ConfigError.
    """
    if not isinstance(uri, str):
        raise ConfigError("uri", f"must be text (str), not {type(uri).__name__}")
    if any(c.isspace() or not c.isprintable() for c in uri):
        raise ConfigError("uri", f"contains whitespace or control characters; {_ESCAPE}")
    scheme, mark, rest = uri.partition("://")
    scheme = scheme.lower()
    if not mark:
        raise ConfigError("uri", f"is not one: {_SCHEMES}")
    if scheme in _RENAMED:
        raise ConfigError("uri", f"write {_RENAMED[scheme]}:// instead of {scheme}://")
    if scheme not in ("redis", "rediss", "unix", *_SENTINEL, *_CLUSTER):
        raise ConfigError("uri", f"scheme {show(scheme)} is not supported: {_SCHEMES}")
    if "#" in rest:
        raise ConfigError("uri", f"contains a '#', which has no meaning here; {_ESCAPE}")
    rest, _, query = rest.partition("?")
    if "@" in query:
        raise ConfigError("uri", f"contains an '@' after the '?'; {_ESCAPE}")
    netloc, slash, path = rest.partition("/")
    userinfo, at, hostport = netloc.rpartition("@")
    found: dict[str, Given] = {}
    if at:
        _userinfo(found, userinfo)
    if scheme == "unix":
        if hostport or not path:
            raise ConfigError("uri", f"write unix:///absolute/path.sock (three slashes); {_ESCAPE}")
        _put(found, "unix_socket", _decode("unix_socket", slash + path), "in the uri's path")
    elif scheme in _SENTINEL:
        _put(found, "ssl", scheme.startswith("rediss"), f"by {scheme}://")
        if not hostport:
            raise ConfigError(
                "sentinels", "are missing; write redis+sentinel://host:26379,host:26379/service"
            )
        _put(found, "sentinels", _decode("sentinels", hostport), "in the uri")
        service, _, path = path.partition("/")
        if service:
            _put(found, "service", _decode("service", service), "in the uri's path")
        _database(found, path)
    elif scheme in _CLUSTER:
        _put(found, "ssl", scheme == "rediss+cluster", f"by {scheme}://")
        if not hostport:
            raise ConfigError("cluster", f"write {scheme}://host1:7000,host2:7000")
        _put(found, "cluster", _decode("cluster", hostport), "in the uri")
        _database(found, path)
    else:
        _put(found, "ssl", scheme == "rediss", f"by {scheme}://")
        _hostport(found, hostport)
        _database(found, path)
    _query(found, query, unix=scheme == "unix")
    return {name: given.value for name, given in found.items()}


def _decode(field: str, text: str) -> str:
    """Percent-decoded; never shows the text."""
    # Decoding strictly would raise an error that holds the text.
    decoded = unquote(text, errors="surrogateescape")
    if any("\udc80" <= c <= "\udcff" for c in decoded):
        raise ConfigError(field, "its percent-encoded part of the uri is not UTF-8")
    return decoded


def _userinfo(found: dict[str, Given], userinfo: str) -> None:
    if "@" in userinfo:
        raise ConfigError("uri", f"contains more than one '@' before the host; {_ESCAPE}")
    user, _, password = userinfo.partition(":")
    if ":" in password:
        raise ConfigError("uri", f"contains more than one ':' before the '@'; {_ESCAPE}")
    if user:
        _put(found, "username", _decode("username", user), "before the uri's '@'")
    if password:
        _put(found, "password", _decode("password", password), "before the uri's '@'")


def _hostport(found: dict[str, Given], hostport: str) -> None:
    where = "in the uri"
    if hostport.startswith("["):
        host, bracket, tail = hostport[1:].partition("]")
        if not bracket or (tail and not tail.startswith(":")):
            raise ConfigError("host", "an IPv6 address in a uri is written [address]:port")
        colon, port = tail[:1], tail[1:]
    else:
        host, colon, port = hostport.partition(":")
        if ":" in port:
            raise ConfigError("host", f"write an IPv6 address as [address]:port; {_ESCAPE}")
    if host:
        _put(found, "host", _decode("host", host), where)
    if not colon:
        return
    # What stands here may be a password whose '@host' is missing: shown only as a number.
    if not (port.isascii() and port.isdigit() and len(port) <= 5):
        raise ConfigError("port", f"in the uri must be a number from 1 to 65535; {_ESCAPE}")
    _put(found, "port", int(port), where)


def _database(found: dict[str, Given], path: str) -> None:
    if not path:
        return
    if not (path.isascii() and path.isdigit() and len(path) <= 10):
        shown = "" if "@" in path else f"{show(path)} "
        raise ConfigError(
            "db", f"{shown}in the uri must be a whole number, as in redis://host:6379/0; {_ESCAPE}"
        )
    _put(found, "db", int(path), "in the uri's path")


def _query(found: dict[str, Given], query: str, *, unix: bool) -> None:
    allowed = [f.name for f in FIELDS.values() if not f.secret and f.name != "unix_socket"]
    elsewhere = ("host", "port", "cluster", "sentinels", "service", "username", "ssl")
    allowed = [name for name in allowed if name not in elsewhere]
    if unix:
        allowed += ["username", "password"]
    try:
        pairs = parse_qsl(
            query, keep_blank_values=True, strict_parsing=bool(query), errors="strict"
        )
    except ValueError:  # also UnicodeDecodeError; its text quotes the query
        pairs = None
    if pairs is None:
        raise ConfigError("uri", "its query must be name=value, joined by &, in UTF-8")
    for name, text in pairs:
        if name not in allowed:
            if name in ("username", "password"):
                raise ConfigError(
                    name, "goes before the host, as in redis://user:password@host, not after '?'"
                )
            if name in FIELDS:
                raise ConfigError(name, "cannot be given in a uri's query; pass it separately")
            raise ConfigError(name, unknown(name, allowed, "option in the uri's query"))
        if not text:
            raise ConfigError(name, "is empty in the uri's query; give a value or leave it out")
        _put(found, name, FIELDS[name].read(name, text), "in the uri's query")


# -- the environment


def from_environ(environ: Mapping[str, str], prefix: str) -> dict[str, Given]:
    """PREFIX_URL and PREFIX_<SETTING>; empty variables count as absent.

    Raises ConfigError for a variable with the prefix that is no setting.
    """
    if not isinstance(prefix, str) or not prefix:
        raise ConfigError("prefix", "of the variables must be text such as 'FASTLOCK_'")
    found: dict[str, Given] = {}
    for variable in sorted(environ):
        if not variable.startswith(prefix):
            continue
        name = variable[len(prefix) :]
        if name in RESERVED:
            continue
        field = "uri" if name == "URL" else name.lower()
        if name != name.upper() or field not in (*FIELDS, "uri"):
            known = [n for n in ("url", *FIELDS) if n != "credential_provider"]
            raise ConfigError(
                variable, unknown(name.lower(), known, "variable", lambda n: prefix + n.upper())
            )
        text = environ[variable]
        if not text.strip():
            continue
        value = _from_text(field, variable, text)
        if field in found and found[field].value != value:
            raise ConfigError(variable, f"differs from {found[field].where}; keep one of them")
        found[field] = Given(value, variable)
    return found


def _from_text(field: str, where: str, text: str) -> Any:
    if field == "uri":
        return text.strip()
    if FIELDS[field].secret or field == "prefix":
        return FIELDS[field].read(where, text)
    return FIELDS[field].read(where, text.strip())


# -- mappings

_SECTIONS = {
    "connection": "connection",
    "connections": "connection",
    "credential": "credential",
    "credentials": "credential",
    "option": "options",
    "options": "options",
}
_ALIASES = {"ip": "host", "user": "username", "pass": "password", "url": "uri"}
_LOOKUPS = ("store_key", "discovery_key")
#: Sections that may hold several named entries, and what makes one of them usable.
_NAMED = {
    "connections": ("uri", "host", "unix_socket", "sentinels", "cluster"),
    "credentials": ("username", "password"),
}

Entry = list[tuple[str, Given]]


def from_flat_or_nested(mapping: Mapping[str, Any]) -> dict[str, Given]:
    """Flat keys, dotted keys or nested mappings, with or without sections.

    None and empty text count as absent. Of several named entries in one section the
    first usable one is taken. Raises ConfigError.
    """
    if not isinstance(mapping, Mapping):
        raise ConfigError("mapping", f"must be a mapping, not {type(mapping).__name__}")
    entries: dict[tuple[str, str], dict[str, Entry]] = {}
    found: dict[str, Given] = {}
    for path, value in _leaves(mapping, ()):
        where = ".".join(path)
        section = _SECTIONS.get(path[0]) if len(path) > 1 else None
        if section is None:
            _note(found, *_leaf(path, where, value, None))
            continue
        named = len(path) > 2 and path[0] in _NAMED
        entry = path[1] if named else ""
        field, given = _leaf(path[2:] if entry else path[1:], where, value, section)
        entries.setdefault((section, path[0]), {}).setdefault(entry, []).append((field, given))
    for section in ("connection", "credential", "options"):
        written = [name for part, name in entries if part == section]
        if len(written) > 1:
            raise ConfigError(
                written[1], f"both {written[0]} and {written[1]} are given; keep one of them"
            )
        if written:
            for field, given in _pick(written[0], entries[section, written[0]]):
                _note(found, field, given)
    return found


def _leaves(node: Any, path: tuple[str, ...]) -> Iterator[tuple[tuple[str, ...], Any]]:
    """Every value that is given, with its path."""
    if isinstance(node, Mapping):
        for key, value in node.items():
            if not isinstance(key, str) or not key:
                raise ConfigError(".".join(path) or "mapping", f"key {show(key)} must be text")
            yield from _leaves(value, (*path, *key.split(".")))
    elif isinstance(node, list | tuple) and path[-1:] not in (("sentinels",), ("cluster",)):
        for number, value in enumerate(node):
            yield from _leaves(value, (*path, str(number)))
    elif node is not None and not (isinstance(node, str) and not node.strip()):
        yield path, node


def _leaf(path: tuple[str, ...], where: str, value: Any, section: str | None) -> tuple[str, Given]:
    name = path[-1]
    if name in _LOOKUPS:
        raise ConfigError(
            where,
            "this configuration looks nothing up in a credential store or a discovery service; "
            "give host, username and password themselves",
        )
    field = _ALIASES.get(name, name)
    known = ("username", "password") if section == "credential" else ("uri", *FIELDS)
    if len(path) != 1 or field not in known:
        if field in FIELDS and len(path) == 1:
            raise ConfigError(where, "does not belong here; put it under connection or options")
        raise ConfigError(where, unknown(name if len(path) == 1 else where, known))
    if isinstance(value, str):
        value = _from_text(field, where, value)
    return field, Given(value, where)


def _pick(section: str, entries: dict[str, Entry]) -> Entry:
    """The unnamed entry, else the first usable one, else the first."""
    if "" in entries:
        if len(entries) > 1:
            raise ConfigError(
                entries[""][0][1].where, f"stands beside named entries of {section}; use one style"
            )
        return entries[""]
    for entry in entries.values():
        if any(field in _NAMED[section] for field, _ in entry):
            return entry
    return next(iter(entries.values()))


def _note(found: dict[str, Given], field: str, given: Given) -> None:
    before = found.get(field)
    if before is not None and before.value != given.value:
        raise ConfigError(given.where, f"differs from {before.where}; keep one of them")
    found.setdefault(field, given)


# -- redis-py clients

_SAME = ("host", "port", "db", "username", "password", "credential_provider", "client_name")
_SAME_TLS = ("ssl_ca_certs", "ssl_ca_path", "ssl_ca_data", "ssl_certfile", "ssl_keyfile")
_CANNOT = ("redis_connect_func", "ssl_ciphers", "ssl_validate_ocsp", "ssl_validate_ocsp_stapled")


def from_client(client: Any) -> dict[str, Any]:
    """The settings of a redis-py client, synchronous or asyncio, for one server.

    Raises ConfigError for anything else and for settings that cannot be carried over.
    """
    pool = getattr(client, "connection_pool", None)
    known = getattr(pool, "connection_kwargs", None)
    kind = getattr(pool, "connection_class", None)
    if not isinstance(known, Mapping) or not isinstance(kind, type):
        raise ConfigError(
            "client",
            f"{type(client).__name__} is no redis-py client of one server (redis.Redis or "
            "redis.asyncio.Redis)",
        )
    classes = {base.__name__ for base in kind.__mro__}
    for name in _CANNOT:
        if known.get(name):
            raise ConfigError(name, "of the redis-py client cannot be taken over; use Config()")
    taken = {name: known[name] for name in _SAME if known.get(name) not in (None, "")}
    if "UnixDomainSocketConnection" in classes:
        taken["unix_socket"] = known.get("path")
        taken.pop("host", None)
        taken.pop("port", None)
    for theirs, ours in (("socket_timeout",) * 2, ("socket_connect_timeout", "connect_timeout")):
        if known.get(theirs) is not None:
            taken[ours] = known[theirs]
    if known.get("protocol") is not None:
        taken["protocol"] = _number_or_same("protocol", known["protocol"])
    for name in ("port", "db"):
        if name in taken:
            taken[name] = _number_or_same(name, taken[name])
    tls = "SSLConnection" in classes
    if tls:
        taken |= _tls_of(known)
    if hasattr(pool, "sentinel_manager"):
        taken |= _sentinels_of(pool, tls)
    return taken


def _sentinels_of(pool: Any, tls: bool) -> dict[str, Any]:
    """How a client of redis-py's Sentinel finds its master."""
    manager = pool.sentinel_manager
    if not pool.is_master:
        raise ConfigError("client", "reads from replicas; locks need master_for(), not slave_for()")
    if manager.min_other_sentinels or getattr(manager, "_force_master_ip", None) is not None:
        raise ConfigError(
            "client",
            "min_other_sentinels and force_master_ip of its Sentinel cannot be taken over; "
            "use Config()",
        )
    taken: dict[str, Any] = {"service": pool.service_name, "sentinels": []}
    for sentinel in manager.sentinels:
        known = sentinel.connection_pool.connection_kwargs
        kind = sentinel.connection_pool.connection_class
        if tls != any(base.__name__ == "SSLConnection" for base in kind.__mro__):
            raise ConfigError("ssl", "must be the same for the Sentinels and the servers")
        host = known.get("host", "localhost")
        shown = f"[{host}]" if ":" in host else host
        taken["sentinels"].append(f"{shown}:{known.get('port', 6379)}")
        for theirs in ("username", "password"):
            ours, value = f"sentinel_{theirs}", known.get(theirs) or None
            if taken.setdefault(ours, value) != value:
                raise ConfigError(ours, "differs between the Sentinels; use Config()")
    return {name: value for name, value in taken.items() if value is not None}


def _number_or_same(name: str, value: Any) -> Any:
    return FIELDS[name].read(name, value) if isinstance(value, str) else value


def _tls_of(known: Mapping[str, Any]) -> dict[str, Any]:
    taken: dict[str, Any] = {"ssl": True}
    taken |= {name: known[name] for name in _SAME_TLS if known.get(name)}
    if known.get("ssl_password"):
        taken["ssl_keyfile_password"] = known["ssl_password"]
    demand = known.get("ssl_cert_reqs", "required")
    demand = str(getattr(demand, "name", demand)).lower().removeprefix("cert_")
    if demand == "optional":
        raise ConfigError("ssl_cert_reqs", "'optional' cannot be taken over; use Config()")
    if demand == "none":
        # Nothing is verified, so redis-py ignores these.
        taken = {name: taken[name] for name in taken if not name.startswith("ssl_ca_")}
        taken["ssl_verify"] = False
    elif known.get("ssl_check_hostname") is False:
        taken["ssl_check_hostname"] = False
    least = known.get("ssl_min_version")
    if least is not None:
        taken["ssl_min_version"] = str(getattr(least, "name", least)).replace("_", ".")
    return taken
