"""The component's configuration: from the framework's sections to fastlock's Config.

Law: connections and credentials are found by the framework's own resolvers; entries that
name nothing are left out before, so that "not configured" is told apart from a default.
Times are milliseconds here and seconds in Config.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from pip_services4_commons.errors import ApplicationException, ConfigException
from pip_services4_components.refer import References
from pip_services4_config.auth import CredentialParams, CredentialResolver
from pip_services4_config.connect import ConnectionParams, ConnectionResolver

from fastlock.config import Config
from fastlock.errors import ConfigError

from ._faults import as_context, misconfigured, trace_id_of

_PLACES = ("uri", "host", "ip", "port")
_DAY = 86_400_000
#: Name -> default, least, most; milliseconds but for ``retries``.
_OPTIONS = {
    "retry_timeout": (100, 1, 3_600_000),
    "retries": (3, 0, 1000),
    "timeout": (30_000, 1, _DAY),
    "connect_timeout": (2_000, 1, _DAY),
    "socket_timeout": (5_000, 1, _DAY),
}
_SECONDS = ("connect_timeout", "socket_timeout")


@dataclass
class Settings:
    """What ``configure`` was given so far. Owned by one component."""

    connections: list[Any] = field(default_factory=list)  # ConnectionParams
    credentials: list[Any] = field(default_factory=list)  # CredentialParams
    options: dict[str, int] = field(default_factory=dict)  # only those given

    def update(self, config: Any) -> None:
        """Take over ConfigParams.

        A call that names a connection replaces connection and credential, one that names
        a credential replaces that; options that it does not name stay. Raises
        ConfigException for an option that is no number or out of range.
        """
        options = _options(config)
        connections, credentials = _connections(config), _credentials(config)
        if connections or credentials:
            self.credentials = credentials
        if connections:
            self.connections = connections
        self.options |= options

    @property
    def opening(self) -> float:
        """Seconds after which ``open`` makes no further attempt to connect."""
        return self.options.get("timeout", _OPTIONS["timeout"][0]) / 1000

    @property
    def retry_timeout(self) -> int:
        """Milliseconds between two tries for a lock that somebody else holds."""
        return self.options.get("retry_timeout", _OPTIONS["retry_timeout"][0])

    def resolve(self, context: Any, references: Any) -> Config:
        """What to connect with; asks discovery services and credential stores.

        Raises ConfigException and ReferenceException.
        """
        if references is None:
            references = References()  # the resolvers expect some
        try:
            place = self._place(as_context(context), references)
            login = self._login(as_context(context), references)
        except ApplicationException as error:
            # The resolvers put the whole context where the trace id belongs.
            raise error.with_trace_id(trace_id_of(context)) from None
        try:
            config = Config.from_mapping({"connection": place, "options": self._behaviour()})
            if config.connect_timeout > self.opening:
                config = config.replace(connect_timeout=self.opening)
            if config.password is None and login is not None:
                username = config.username or login.get_username()
                config = config.replace(username=username, password=login.get_password())
        except ConfigError as error:
            raise misconfigured(context, error) from None
        return config

    def _place(self, context: Any, references: Any) -> dict[str, str]:
        """Where the server is, in the words of Config."""
        resolver = ConnectionResolver(None, references)
        for connection in self.connections:
            resolver.add(connection)
        given = _filled(resolver.resolve(context) or {})
        if not _says_where(given):
            problem = "Connection is not configured"
            sought = [one.get_discovery_key() for one in self.connections if one.use_discovery()]
            if sought:
                problem += f": no discovery service knows {' or '.join(map(repr, sought))}"
            raise ConfigException(None, "NO_CONNECTION", problem)
        if "uri" in given:
            return {"uri": given["uri"]}
        names = ("host" if "host" in given else "ip", "port")
        return {name: given[name] for name in names if name in given}

    def _login(self, context: Any, references: Any) -> Any:
        """CredentialParams with a password, or None."""
        resolver = CredentialResolver(None, references)
        for credential in self.credentials:
            resolver.add(credential)
        found = resolver.lookup(context)
        if found is not None and found.get_password():
            return found
        sought = [one.get_store_key() for one in self.credentials if one.use_credential_store()]
        if sought:
            problem = f"no credential store knows a password for {' or '.join(map(repr, sought))}"
            raise ConfigException(None, "NO_CREDENTIAL", problem)
        return None

    def _behaviour(self) -> dict[str, float]:
        """The options that Config has too, in its units."""
        wanted = {
            "push": False,
            **self.options,
        }  # ``retry_timeout`` is the pause, if no more is said
        wanted.pop("timeout", None)
        return {n: v / 1000 if n in _SECONDS else v for n, v in wanted.items()}


def _filled(params: Mapping[str, Any]) -> dict[str, str]:
    """Without what is empty: templates of configurations leave such entries behind."""
    texts = {name: "" if value is None else str(value) for name, value in params.items()}
    return {name: text for name, text in texts.items() if text.strip()}


def _says_where(params: Mapping[str, Any]) -> bool:
    return any(name in params for name in _PLACES)


def _connections(config: Any) -> list[Any]:
    """Those that say where; bare keys count where there is no section."""
    found = [ConnectionParams(_filled(one)) for one in ConnectionParams.many_from_config(config)]
    if not any(name.startswith(("connection.", "connections.")) for name in config):
        bare = {name: value for name, value in config.items() if name in _PLACES}
        found = [ConnectionParams(_filled(bare))]
    return [one for one in found if one.use_discovery() or _says_where(one)]


def _credentials(config: Any) -> list[Any]:
    """Those that can be of use: a user name alone is not."""
    found = [CredentialParams(_filled(one)) for one in CredentialParams.many_from_config(config)]
    return [one for one in found if one.use_credential_store() or one.get_password()]


def _options(config: Any) -> dict[str, int]:
    given = _filled(config.get_section("options"))
    options = {name: _option(name, given[name]) for name in _OPTIONS if name in given}
    if "push" in given:
        options["push"] = _flag("push", given["push"])
    return options


def _flag(name: str, text: str) -> bool:
    if text.lower() not in ("true", "false"):
        problem = f"{text!r} is neither true nor false"
        raise misconfigured(None, ConfigError(f"options.{name}", problem))
    return text.lower() == "true"


def _option(name: str, text: str) -> int:
    _, least, most = _OPTIONS[name]
    try:
        number = float(text)
    except ValueError:
        number = float("nan")
    if not least <= number <= most or not number.is_integer():
        unit = "" if name == "retries" else " of milliseconds"
        problem = f"{text!r} is not a whole number{unit} from {least} to {most}"
        raise misconfigured(None, ConfigError(f"options.{name}", problem))
    return int(number)
