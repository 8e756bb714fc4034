"""The few threads in which work for the processor is done, so that the event loop does none and all of it is bounded.

However many messages are being parsed, checked and scanned, no more threads compete with the event loop than there are
processors to compete for. What waits in the queue waits on its hook's time. Large messages have a queue and threads of
their own, so that small ones, nearly all mail, never wait for them: a few at once would use up everybody's time.
"""

from __future__ import annotations

import asyncio
import os
from concurrent.futures import ThreadPoolExecutor
from contextvars import copy_context
from typing import TYPE_CHECKING, Any, TypeVar

from gatepost.message.body import MEMORY_LIMIT_BYTES
from gatepost.message.message import Message

if TYPE_CHECKING:
    from collections.abc import Callable

THREADS = max(2, os.cpu_count() or 1)
"""Both kinds together; Python runs one of them at a time for the most part."""

T = TypeVar("T")

_for_large = ThreadPoolExecutor(THREADS // 2, thread_name_prefix="processor of large messages")
_for_others = ThreadPoolExecutor(THREADS - THREADS // 2, thread_name_prefix="processor")


async def in_thread(work: Callable[..., T], *arguments: Any) -> T:
    """Run `work(*arguments)` in one of the threads and return its result, or raise what it raises.

    A message among the arguments tells whether it is about a large one.

    When the caller is cancelled, work that has not begun is dropped; what has begun goes on to its end, unheard.
    """
    is_large = any(isinstance(one, Message) and one.body.size > MEMORY_LIMIT_BYTES for one in arguments)
    run = copy_context().run
    return await asyncio.get_running_loop().run_in_executor(
        _for_large if is_large else _for_others, run, work, *arguments
    )


def shutdown() -> None:
    """Let the threads end, each once its work is done; what has not begun is dropped. Nothing can be run afterwards."""
    for threads in (_for_large, _for_others):
        threads.shutdown(wait=False, cancel_futures=True)
