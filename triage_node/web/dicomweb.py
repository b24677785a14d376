"""STOW-RS (PS3.18 10.5): images come in by HTTP. Who sends shows a token; a session of the pages is of no use here."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import suppress
from typing import Final, TypeVar

from anyio import CapacityLimiter, to_thread
from fastapi import APIRouter, HTTPException, Request
from fastapi.responses import JSONResponse
from starlette.requests import ClientDisconnect

from triage_node.domain import StoreAnswer
from triage_node.web.pages import site_of
from triage_node.web.site import StoreRequest

PREFIX: Final = "/dicom-web/"
THREADS: Final = 4
"""That take what comes, of all requests together: the pages keep theirs."""
DRAINED_BYTES: Final = 16_000_000
"""So much of a refused request is still read, and forgotten: who is cut off while it sends hears no answer."""
RETRY_AFTER_S: Final = 30
_HEADERS: Final = {401: {"WWW-Authenticate": "Bearer"}, 503: {"Retry-After": str(RETRY_AFTER_S)}}

T = TypeVar("T")

router = APIRouter()


@router.post(PREFIX + "studies")
@router.post(PREFIX + "studies/{study_uid}")
async def store(request: Request, study_uid: str = "") -> JSONResponse:
    """Take instances, of one study where the path names it."""
    receiver = site_of(request).stow
    if receiver is None:
        raise HTTPException(404, "no [[source]] of this node sends by STOW-RS")
    chunks = request.stream()

    def begin() -> StoreRequest | StoreAnswer:
        return receiver.begin(
            authorization=request.headers.get("authorization", ""),
            content_type=request.headers.get("content-type", ""),
            address=request.client.host if request.client else "",
            study_uid=study_uid,
        )

    begun = await _in_thread(request, begin)
    if isinstance(begun, StoreAnswer):
        if "expect" not in request.headers:  # else it waits to be told to go on
            await _drain(request, chunks)
        return _response(begun)
    code = 500  # where this is cancelled
    try:
        code = await _feed(request, begun, chunks)
    finally:
        answer = await _in_thread(request, lambda: begun.end(code=code))
    if answer.code not in (200, 202, 409):
        await _drain(request, chunks)
    return _response(answer)


async def _feed(request: Request, begun: StoreRequest, chunks: AsyncIterator[bytes]) -> int:
    """Hand over all that comes; returns the HTTP status with which it broke off, or 0."""
    stall_s = site_of(request).config.node.stall_timeout_s
    try:
        while True:
            chunk = await asyncio.wait_for(anext(chunks), stall_s)
            if chunk and not await _in_thread(request, lambda part=chunk: begun.take(part)):  # type: ignore[misc]
                return 0
    except StopAsyncIteration:
        return 0
    except TimeoutError:
        return 408
    except ClientDisconnect:
        return 400  # nobody reads it


async def _drain(request: Request, chunks: AsyncIterator[bytes]) -> None:
    left = DRAINED_BYTES
    with suppress(ClientDisconnect, TimeoutError):
        async with asyncio.timeout(site_of(request).config.node.stall_timeout_s):
            async for chunk in chunks:
                left -= len(chunk)
                if left < 0:
                    return


async def _in_thread(request: Request, job: Callable[[], T]) -> T:
    limiter: CapacityLimiter = request.app.state.storing
    return await to_thread.run_sync(job, limiter=limiter)


def _response(answer: StoreAnswer) -> JSONResponse:
    return JSONResponse(
        answer.content,
        status_code=answer.code,
        headers=_HEADERS.get(answer.code),
        media_type="application/dicom+json",
    )
