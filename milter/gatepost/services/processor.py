"""The few threads in which work for the processor is done, so that the event loop does none and all of it is bounded.

One pool for the whole process: however many messages are being parsed, checked and scanned, no more threads compete
with the event loop than there are processors to compete for. What waits in the queue waits on its hook's time.
"""

from __future__ import annotations

import asyncio
import os
from concurrent.futures import ThreadPoolExecutor
from contextvars import copy_context
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable

THREADS = max(2, os.cpu_count() or 1)
"""Python runs one of them at a time for the most part; a second lets small messages pass a large one."""

T = TypeVar("T")

_pool = ThreadPoolExecutor(THREADS, thread_name_prefix="processor")


async def in_thread(work: Callable[..., T], *arguments: Any) -> T:
    """Run `work(*arguments)` in one of the threads and return its result, or raise what it raises.

    When the caller is cancelled, work that has not begun is dropped; what has begun goes on to its end, unheard.
    """
    run = copy_context().run
    return await asyncio.get_running_loop().run_in_executor(_pool, run, work, *arguments)
