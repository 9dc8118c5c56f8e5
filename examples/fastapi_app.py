"""FastAPI: no two requests at work on the same order, on however many machines.

Shows:    a client that lives as long as the application, a dependency that holds a lock while
          one request is answered, and what the caller is told when it cannot be had, or is lost.
Run:      pip install 'fastlock[examples]'
          python examples/fastapi_app.py
          curl -i -X POST 'http://localhost:8000/orders/42/pay?seconds=5'
Server:   FASTLOCK_URL=redis://localhost:6379; PORT=8000 and LOCK_TTL=30 can be set, too.
Promises: A second request for an order is refused at once, by 423 and Retry-After, and other
          orders go on. A request whose lock is lost is cut short. A request whose lock is lost,
          or whose release goes unheard, is answered by 409 without Retry-After: it may have been
          carried out. While the server is away, requests get 503 and Retry-After, and nothing is
          begun. What a killed process had locked is free within LOCK_TTL seconds.
"""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Annotated

import uvicorn
from fastapi import Depends, FastAPI, Request
from fastapi.responses import JSONResponse

import fastlock

TTL = float(os.environ.get("LOCK_TTL", "30"))


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[None]:
    """One client, and one connection, for all requests of this process."""
    async with fastlock.aio.Client(fastlock.Config.from_env()) as client:
        await client.ping()  # without a server the application does not start
        app.state.locks = client
        yield


app = FastAPI(lifespan=lifespan)


async def order_lock(order_id: str, request: Request) -> AsyncIterator[fastlock.aio.Lease]:
    """Hold the order's lock while the request is at work; AcquireTimeout if somebody has it."""
    locks: fastlock.aio.Client = request.app.state.locks
    async with locks.lock(
        f"order:{order_id}", ttl=TTL, timeout=0, fence=True, auto_renew=True, cancel_on_lost=True
    ) as lease:
        request.state.begun = True
        yield lease


# scope="function": released before the answer is sent, so that a loss can still be told.
OrderLock = Annotated[fastlock.aio.Lease, Depends(order_lock, scope="function")]


@app.post("/orders/{order_id}/pay")
async def pay(order_id: str, lease: OrderLock, seconds: float = 0.1) -> dict[str, str | int | None]:
    await asyncio.sleep(seconds)  # the payment provider; hand lease.fence to what you write to
    return {"order": order_id, "status": "paid", "fence": lease.fence}


@app.exception_handler(fastlock.FastlockError)
async def answer(request: Request, error: Exception) -> JSONResponse:
    """Every error of a lock, as HTTP says it. The text of an error may name the server."""
    if getattr(request.state, "begun", False):  # it may be paid: nobody may simply try again
        detail = "the order's lock was lost, or is in doubt; see what has become of the order"
        return JSONResponse({"detail": detail}, 409)
    if isinstance(error, fastlock.AcquireTimeout):
        status, detail = 423, "another request is at work on this order"
    else:
        status, detail = 503, "locks cannot be had"
    return JSONResponse({"detail": detail}, status, {"Retry-After": "1"})


if __name__ == "__main__":
    try:
        with fastlock.Client(fastlock.Config.from_env()) as probe:
            probe.ping()
    except fastlock.FastlockError as problem:
        sys.exit(f"{problem}\nStart a server, or name one: FASTLOCK_URL=redis://host:6379")
    uvicorn.run(app, port=int(os.environ.get("PORT", "8000")))
