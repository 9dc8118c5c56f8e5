"""``Config``: everything a client needs to know, validated once.

Law: imports errors and its own table and readers (``_config_*``) only; does no I/O; an
instance never changes, and nothing printed from it or pickled of it holds a secret.
"""

from __future__ import annotations

import inspect
import os
from collections.abc import Mapping, Sequence
from dataclasses import KW_ONLY, dataclass
from typing import Any, Literal, TypeVar, cast
from urllib.parse import quote

from . import _config_sources as sources
from ._config_fields import FIELDS, show, unknown
from ._config_options import Options, Settings, Unpack
from .errors import ConfigError

__all__ = ["Config", "Options", "Settings"]

T = TypeVar("T")

_IN_ADDRESS = ("host", "port", "unix_socket", "sentinels", "service", "cluster", "db", "ssl")


class _Default:
    """Stands for a default until validation, so that "not given" can be told apart."""

    __slots__ = ("value",)

    def __init__(self, value: object) -> None:
        self.value = value

    def __repr__(self) -> str:
        return repr(self.value)


def _default(value: T) -> T:
    return cast(T, _Default(value))


@dataclass(frozen=True, slots=True, repr=False, eq=False)
class Config:
    """Settings of one client. Does no I/O; raises ConfigError for what is wrong.

    A setting given in two places (in the uri and beside it) must be the same in both.
    Times are seconds, except ``retry_timeout``: milliseconds. Instances compare and hash
    by their settings; a credential provider is compared by identity. Pickling one that
    holds a secret raises TypeError.

    Where to connect: ``uri`` (redis://, rediss://, unix://, redis+sentinel://,
    redis+cluster://), or ``host`` and ``port``, or ``unix_socket``, or ``sentinels`` (a list of
    "host:port", or text with commas) and ``service``, the name by which they know the master, with
    ``sentinel_username`` and ``sentinel_password``, or ``cluster``: some nodes of a Redis Cluster,
    each as "host:port"; then ``db``, ``username``, ``password`` or ``credential_provider``
    (redis-py's), and the ``ssl`` family. ``uri`` reads back without its password.

    How to behave: ``socket_timeout`` bounds the wait for an answer, ``connect_timeout``
    the making of a connection with its handshake; ``retries`` is the number of further
    attempts after a connection failure; ``push`` lets the server wake those who wait for a
    lock that somebody else holds; ``retry_timeout`` is the pause between two tries for it
    where it does not; ``handover`` says how a lock goes on to the next of this client who
    waits ("swap" or "local"), ``handover_limit`` how often in a row (0: never), and
    ``handover_time`` for how long, before others have their turn; ``prefix`` is put before
    every key; ``label`` is the readable part of tokens (None: host:pid); ``protocol`` is
    RESP 2 or 3; ``metrics`` says whether the client counts and times what it does, for
    ``stats()``.
    """

    uri: str | None = None
    _: KW_ONLY
    host: str = _default("localhost")
    port: int = _default(6379)
    unix_socket: str | None = None
    sentinels: str | Sequence[str] | None = None
    service: str | None = None
    sentinel_username: str | None = None
    sentinel_password: str | None = None
    cluster: str | Sequence[str] | None = None
    db: int = _default(0)
    username: str | None = None
    password: str | None = None
    credential_provider: Any = None
    ssl: bool = _default(False)
    ssl_ca_certs: str | None = None
    ssl_ca_path: str | None = None
    ssl_ca_data: str | None = None
    ssl_certfile: str | None = None
    ssl_keyfile: str | None = None
    ssl_keyfile_password: str | None = None
    ssl_check_hostname: bool = _default(True)
    ssl_verify: bool = _default(True)
    ssl_min_version: str | None = None
    socket_timeout: float = _default(5.0)
    connect_timeout: float = _default(2.0)
    client_name: str | None = None
    protocol: int = _default(3)
    prefix: str = _default("")
    label: str | None = None
    push: bool = _default(True)
    retry_timeout: float = _default(100)
    retries: int = _default(3)
    handover: Literal["swap", "local"] = _default("swap")
    handover_limit: int = _default(1000)
    handover_time: float = _default(0.05)
    metrics: bool = _default(True)

    def __new__(cls, *_args: object, **options: object) -> Config:
        _refuse_unknown(options)
        return object.__new__(cls)

    def __post_init__(self) -> None:
        given: dict[str, Any] = {}
        for name, spec in FIELDS.items():
            value = getattr(self, name)
            if isinstance(value, _Default) or (value is None and spec.default is None):
                continue
            given[name] = spec.check(name, value)
        if self.uri is not None:
            _merge(given, sources.from_uri(self.uri))
        _contradictions(given)
        if given.get("ssl_verify") is False:
            given["ssl_check_hostname"] = False  # nothing to check it against
        for name, spec in FIELDS.items():
            object.__setattr__(self, name, given.get(name, spec.default))
        if self.uri is not None:
            object.__setattr__(self, "uri", self.address)

    # -- other ways to make one

    @classmethod
    def from_url(cls, url: str, /, **options: Unpack[Settings]) -> Config:
        """From a uri and further settings; raises ConfigError."""
        if url is None:
            raise ConfigError("uri", "must be text (str), not None")
        return cls(url, **options)

    @classmethod
    def from_env(
        cls, environ: Mapping[str, str] | None = None, prefix: str = "FASTLOCK_"
    ) -> Config:
        """From ``FASTLOCK_URL`` and ``FASTLOCK_<SETTING>`` of ``environ`` (None: os.environ).

        Empty variables count as absent. FASTLOCK_CORE, _BUILD, _DEBUG, _HIREDIS,
        _HIREDIS_SDIST, _PYTHON, _TEST_SERVERS and _TEST_URL mean other things and are
        passed over, as are _KEY, _FENCE and _TOKEN, which ``fastlock run`` gives its command;
        any other variable that begins with ``prefix`` raises ConfigError.
        """
        return _named(sources.from_environ(os.environ if environ is None else environ, prefix))

    @classmethod
    def from_mapping(cls, mapping: Mapping[str, Any], /) -> Config:
        """From flat keys, or keys in the sections connection, credential and options.

        Sections may be nested mappings or dotted keys, their names singular or plural;
        connections and credentials may hold named entries, of which the first usable one
        is taken. Text becomes numbers and booleans where those are meant. Raises
        ConfigError that names the key as it was written.
        """
        return _named(sources.from_flat_or_nested(mapping))

    @classmethod
    def from_redis(cls, client: Any, /) -> Config:
        """The settings of a redis-py client (synchronous or asyncio) of one server, or of
        its Sentinel's ``master_for``.

        Raises ConfigError for other clients and for settings that cannot be taken over.
        """
        return cls(**sources.from_client(client))

    @classmethod
    def of(cls, source: object, options: Mapping[str, Any]) -> Config:
        """What a client is given: a uri or None plus settings, or a Config to change."""
        if isinstance(source, Config):
            return source.replace(**options) if options else source
        if source is None:
            return cls(**options)
        if isinstance(source, str):
            _refuse_unknown(options)
            if options.get("uri") is not None:
                raise ConfigError("uri", "given twice; keep one")
            return cls(source, **{k: v for k, v in options.items() if k != "uri"})
        hint = "; use from_redis()" if hasattr(source, "connection_pool") else ""
        raise ConfigError(
            "source", f"must be a uri (str) or a Config, not {type(source).__name__}{hint}"
        )

    def replace(self, **options: Unpack[Options]) -> Config:
        """A copy with ``options`` changed, validated anew; raises ConfigError."""
        _refuse_unknown(options)
        return Config(**{**self._kwargs(secrets=True), **options})

    __replace__ = replace

    def at(self, host: str, port: int) -> Config:
        """The same settings for one node of the cluster; raises ConfigError."""
        return self.replace(cluster=None, host=host, port=port)

    # -- reading

    @property
    def address(self) -> str:
        """The server as a uri, without user and password: for messages."""
        if self.unix_socket is not None:
            return f"unix://{quote(self.unix_socket)}?db={self.db}"
        scheme = "rediss" if self.ssl else "redis"
        if self.sentinels is not None:
            return f"{scheme}+sentinel://{','.join(self.sentinels)}/{self.service}/{self.db}"
        if self.cluster is not None:
            nodes = ",".join(self.cluster).replace("%", "%25")
            return f"{scheme}+cluster://{nodes}"
        host = self.host
        if ":" in host:
            host = f"[{host.replace('%', '%25')}]"
        return f"{scheme}://{host}:{self.port}/{self.db}"

    def public(self) -> dict[str, Any]:
        """The arguments that make this Config again, without secrets.

        Settings that do not apply (host of a Unix socket or with Sentinel, TLS without ssl)
        are left out.
        """
        return self._kwargs(secrets=False)

    def _kwargs(self, *, secrets: bool) -> dict[str, Any]:
        skip = {"ssl_check_hostname", "ssl_verify"} if not self.ssl else set()
        if self.unix_socket is not None or self.sentinels is not None:
            skip |= {"host", "port"}
        skip |= {"host", "port", "db"} if self.cluster is not None else set()
        values = {
            name: getattr(self, name)
            for name, spec in FIELDS.items()
            if name not in skip and (secrets or not spec.secret)
        }
        return {name: value for name, value in values.items() if value is not None}

    def _secrets(self) -> list[str]:
        return [n for n, f in FIELDS.items() if f.secret and getattr(self, n) is not None]

    def _identity(self) -> tuple[Any, ...]:
        values = (getattr(self, name) for name in FIELDS if name != "credential_provider")
        return (*values, id(self.credential_provider))

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Config):
            return NotImplemented
        return self._identity() == other._identity()

    def __hash__(self) -> int:
        return hash(self._identity())

    def __repr__(self) -> str:
        shown = [self.address]
        for name, value in self.public().items():
            if name not in _IN_ADDRESS and value != FIELDS[name].default:
                shown.append(f"{name}={show(value)}")
        shown += [f"{name}=***" for name in self._secrets()]
        return f"Config({', '.join(shown)})"

    # -- copying: immutable, so the copy is the same; pickling only without secrets

    def __copy__(self) -> Config:
        return self

    def __deepcopy__(self, _memo: object) -> Config:
        return self

    def __reduce__(self) -> tuple[Any, ...]:
        secrets = self._secrets()
        if secrets:
            raise TypeError(
                f"a Config that holds {' and '.join(secrets)} is not pickled; send .public() "
                "and add the secret at the other side, or use Config.from_env() there"
            )
        return _restore, (self.public(),)


# What Config(...) takes is what the generated __init__ says, not __new__'s catch-all.
_SIGNATURE = inspect.signature(Config.__init__)
Config.__signature__ = _SIGNATURE.replace(  # type: ignore[attr-defined]
    parameters=list(_SIGNATURE.parameters.values())[1:]
)


def _restore(settings: dict[str, Any]) -> Config:
    return Config(**settings)


def _refuse_unknown(options: Mapping[str, Any]) -> None:
    for name in options:
        if name not in FIELDS and name != "uri":
            raise ConfigError(name, unknown(name, ("uri", *FIELDS)))


def _merge(given: dict[str, Any], uri: dict[str, Any]) -> None:
    """Add the uri's settings; what is given in both places must agree."""
    for name, value in uri.items():
        spec = FIELDS[name]
        checked = spec.check(name, value)
        if name in given and given[name] != checked:
            values = "" if spec.secret else f": {show(checked)} and {show(given[name])}"
            raise ConfigError(
                name, f"given in the uri and separately with different values{values}; keep one"
            )
        given[name] = checked


def _contradictions(given: dict[str, Any]) -> None:
    """Refuse settings that cannot hold together. ``given``: without defaults."""
    if "sentinels" in given:
        for name in ("host", "port", "unix_socket", "cluster"):
            if name in given:
                raise ConfigError(name, "contradicts sentinels, which name the server; keep one")
        if "service" not in given:
            raise ConfigError(
                "service",
                "is missing: the name by which the Sentinels know the master, as in "
                "redis+sentinel://host:26379/name",
            )
    else:
        for name in ("service", "sentinel_username", "sentinel_password"):
            if name in given:
                raise ConfigError(name, "needs sentinels, or a redis+sentinel:// uri; or remove it")
    if "unix_socket" in given:
        for name in ("host", "port"):
            if name in given:
                raise ConfigError(name, "contradicts unix_socket; keep one of them")
        if given.get("ssl"):
            raise ConfigError("ssl", "contradicts unix_socket: TLS is for host and port only")
    if "cluster" in given:
        for name in ("host", "port", "unix_socket"):
            if name in given:
                raise ConfigError(name, "contradicts cluster; keep one of them")
        if given.get("db"):
            raise ConfigError("db", "a cluster is used with database 0 alone; leave it out")
    if "credential_provider" in given:
        for name in ("username", "password"):
            if name in given:
                raise ConfigError(name, "contradicts credential_provider; keep one of them")
    if not given.get("ssl"):
        for name in given:
            if name.startswith("ssl_"):
                raise ConfigError(name, "needs TLS: give ssl=True or a rediss:// uri, or remove it")
    if given.get("ssl_verify") is False:
        for name in ("ssl_ca_certs", "ssl_ca_path", "ssl_ca_data"):
            if name in given:
                raise ConfigError(name, "is of no use with ssl_verify=False; keep one of them")
        if given.get("ssl_check_hostname"):
            raise ConfigError("ssl_check_hostname", "True contradicts ssl_verify=False")
    if "ssl_certfile" not in given:
        for name in ("ssl_keyfile", "ssl_keyfile_password"):
            if name in given:
                raise ConfigError(name, "needs ssl_certfile, the certificate it belongs to")


def _named(found: dict[str, sources.Given]) -> Config:
    """A Config whose errors name the variable or key that the user wrote."""
    try:
        return Config(**{name: given.value for name, given in found.items()})
    except ConfigError as error:
        where = found[error.field].where if error.field in found else error.field
        refused = ConfigError(where, error.problem)
    raise refused
