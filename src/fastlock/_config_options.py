"""What clients take beside a uri, by name and type, for whoever checks types.

Law: the fields of ``Config``, each with its annotation there, and ``uri``; a test compares the two.
Nothing here is looked at when a program runs: what is allowed stands in ``_config_fields.py``.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal, TypedDict

if sys.version_info >= (3, 11):
    from typing import Unpack
elif TYPE_CHECKING:
    from typing_extensions import Unpack
else:  # what reads annotations when a program runs finds something
    Unpack = dict

__all__ = ["Options", "Settings", "Unpack"]


class Settings(TypedDict, total=False):
    """What may stand beside a uri; see ``Config`` for what it means."""

    host: str
    port: int
    unix_socket: str | None
    sentinels: str | Sequence[str] | None
    service: str | None
    sentinel_username: str | None
    sentinel_password: str | None
    cluster: str | Sequence[str] | None
    db: int
    username: str | None
    password: str | None
    credential_provider: Any
    ssl: bool
    ssl_ca_certs: str | None
    ssl_ca_path: str | None
    ssl_ca_data: str | None
    ssl_certfile: str | None
    ssl_keyfile: str | None
    ssl_keyfile_password: str | None
    ssl_check_hostname: bool
    ssl_verify: bool
    ssl_min_version: str | None
    socket_timeout: float
    connect_timeout: float
    client_name: str | None
    protocol: int
    prefix: str
    label: str | None
    push: bool
    retry_timeout: float
    retries: int
    handover: Literal["swap", "local"]
    handover_limit: int
    handover_time: float
    metrics: bool


class Options(Settings, total=False):
    """Keyword arguments of ``Client`` and its like.

    For functions that hand them on: ``def connect(**options: Unpack[Options])``.
    """

    uri: str | None
