"""Whose turn it is to extend a lease of an asyncio client.

Law: one extension of a lease at a time, as of ``_turns.py``; tasks wait for theirs.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterable
from contextlib import AsyncExitStack, asynccontextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ._aio_lease import Lease
    from ._aio_renewal import AsyncRenewal


def turn(lease: Lease) -> asyncio.Lock | AsyncRenewal:
    """To be entered by who extends it; that of a renewed one pauses its renewal."""
    if lease._turn is None:
        lease._turn = asyncio.Lock()
    found: asyncio.Lock | AsyncRenewal = lease._turn
    return found


@asynccontextmanager
async def turns(leases: Iterable[Lease | None]) -> AsyncIterator[None]:
    """Everybody's turn to be extended; taken in one order by all."""
    distinct = {id(lease): lease for lease in leases if lease is not None}
    async with AsyncExitStack() as stack:
        for number in sorted(distinct):
            await stack.enter_async_context(turn(distinct[number]))
        yield
