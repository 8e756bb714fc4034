"""One call of one hook of one plugin: in time, off the event loop where it must be, and never able to break the caller.

This is one of the two places that catch every exception. What went wrong comes back as a `Failure`, never raised.

Theory of operation. A hook is called on the spot. Where that gives a coroutine, because it is an `async def` or has to
wait this once, the coroutine gets a task of its own: when its time is over the task is cancelled and left, so that a
hook that swallows the cancellation holds nobody up. What runs on the event loop is timed, so that a step that holds it
is named. A plain hook of a `blocking` plugin runs in the plugin's own few threads; one that overruns cannot be stopped,
keeps its thread until it is done, and can starve only its own plugin.
"""

from __future__ import annotations

import asyncio
import inspect
import reprlib
from contextvars import copy_context
from dataclasses import dataclass
from time import perf_counter
from types import CoroutineType
from typing import TYPE_CHECKING, Any, Literal

import structlog

from gatepost.errors import Unavailable
from gatepost.hooks import HOOKS
from gatepost.verdict import DECLINED, Verdict

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Coroutine, Generator
    from concurrent.futures import ThreadPoolExecutor

    from gatepost.configuration.loader import LoadedPlugin

LOOP_GUARD_S = 0.1
"""How long one step of a hook may hold the event loop, and with it every other session, before the log names it."""

_log = structlog.get_logger("gatepost.guard")


@dataclass(frozen=True, slots=True)
class Failure:
    """Why a hook gave no answer: `reason` decides which policy applies, `detail` is for the log."""

    reason: Literal["error", "timeout", "unavailable"]
    detail: str


class HookCall:
    """One hook of one plugin, ready to be called again and again."""

    __slots__ = ("_call", "_method", "hook", "loaded")

    def __init__(self, loaded: LoadedPlugin, hook: str, threads: ThreadPoolExecutor | None) -> None:
        self.loaded = loaded
        self.hook = HOOKS[hook]
        self._method: Callable[..., Any] = getattr(loaded.plugin, hook)
        self._call: Callable[[tuple[Any, ...], float], Coroutine[Any, Any, Any]] | None
        if threads is not None and not inspect.iscoroutinefunction(self._method):
            self._call = lambda arguments, timeout: _in_thread(threads, self._method, arguments, timeout)
        else:
            self._call = None

    async def __call__(self, arguments: tuple[Any, ...], timeout_s: float) -> Verdict | Failure:
        """Ask the plugin; within `timeout_s` seconds, which must be positive, return its verdict or what went wrong."""
        if self._call is not None:
            answer = await self._call(arguments, timeout_s)
        else:
            answer = self._on_the_spot(arguments)
            if isinstance(answer, CoroutineType):
                answer = await self._in_task(answer, timeout_s)
        match answer:
            case None:
                return DECLINED
            case _Raised(error=error):
                return self._failure(error)
            case Failure():
                return answer
            case Verdict() if type(answer) in self.hook.verdicts:
                return answer
            case Verdict():
                return Failure("error", f"answered {answer.kind}, which the {self.hook.name} hook does not allow")
            case _:
                return Failure("error", f"answered {reprlib.repr(answer)}, which is no verdict")

    def _on_the_spot(self, arguments: tuple[Any, ...]) -> Any:
        started = perf_counter()
        try:
            return self._method(*arguments)
        except KeyboardInterrupt:
            raise
        except BaseException as error:  # noqa: BLE001 - a plugin cannot take the daemon down
            return _Raised(error)
        finally:
            if (held := perf_counter() - started) > LOOP_GUARD_S:
                self._report_held_loop(held)

    async def _in_task(self, coroutine: Coroutine[Any, Any, Any], timeout_s: float) -> Any:
        task = asyncio.get_running_loop().create_task(_guarded(coroutine, self._report_held_loop))
        try:
            await asyncio.wait({task}, timeout=timeout_s)
        finally:
            if not task.done():
                task.cancel()
                task.add_done_callback(_ignore_late_end)
        if not task.done():
            return _overrun(timeout_s)
        if task.cancelled():
            return Failure("error", "the hook cancelled itself")
        error = task.exception()
        return task.result() if error is None else _Raised(error)

    def _failure(self, error: BaseException) -> Failure:
        try:
            text = str(error)
        except Exception:  # noqa: BLE001 - the exception is the plugin's, too
            text = "(no text)"
        if isinstance(error, Unavailable):
            return Failure("unavailable", text)
        detail = f"{type(error).__name__}: {text}".removesuffix(": ") + self._place(error)
        # A plugin that limits its own waiting raises this: also a service that took too long.
        return Failure("timeout" if isinstance(error, TimeoutError) else "error", detail)

    def _report_held_loop(self, held_s: float) -> None:
        _log.warning(
            "event loop held up: use async def, or blocking = True",
            plugin=self.loaded.name,
            hook=self.hook.name,
            ms=round(held_s * 1000),
        )

    def _place(self, error: BaseException) -> str:
        """Return ` (FILE:LINE)` of the plugin's own line on the way to the error; empty if there is none."""
        place = ""
        traceback = error.__traceback__
        while traceback:
            if traceback.tb_frame.f_code.co_filename == str(self.loaded.file):
                place = f" ({self.loaded.file}:{traceback.tb_lineno})"
            traceback = traceback.tb_next
        return place


def _ignore_late_end(task: asyncio.Future[Any]) -> None:
    if not task.cancelled():
        task.exception()


@dataclass(frozen=True, slots=True)
class _Raised:
    """What a hook raised, as a value: several exceptions mean something else to the machinery that carries answers."""

    error: BaseException


def _overrun(timeout_s: float) -> Failure:
    return Failure("timeout", f"no answer within {timeout_s:.3g} s")


def _captured(method: Callable[..., Any], arguments: tuple[Any, ...]) -> Any:
    try:
        return method(*arguments)
    except BaseException as error:  # noqa: BLE001 - it ends this call, not the thread
        return _Raised(error)


async def _in_thread(
    threads: ThreadPoolExecutor, method: Callable[..., Any], arguments: tuple[Any, ...], timeout_s: float
) -> Any:
    try:
        # In the caller's context: what the hook asks other services for is on its account there, too.
        run = copy_context().run
        future = asyncio.get_running_loop().run_in_executor(threads, run, _captured, method, arguments)
    except RuntimeError as error:
        # Shut down, or the system gives no more threads.
        return _Raised(error)
    try:
        await asyncio.wait({future}, timeout=timeout_s)
        return future.result() if future.done() else _overrun(timeout_s)
    except asyncio.CancelledError:
        if future.cancelled():
            return Failure("error", "the plugin was shut down")
        raise
    finally:
        future.cancel()


async def _guarded(coroutine: Coroutine[Any, Any, Any], report: Callable[[float], None]) -> Any:
    return await _Guarded(coroutine, report)


class _Guarded:
    """Runs a coroutine and reports each of its steps that holds the event loop too long."""

    __slots__ = ("_coroutine", "_report")

    def __init__(self, coroutine: Awaitable[Any], report: Callable[[float], None]) -> None:
        self._coroutine = coroutine.__await__()
        self._report = report

    def __await__(self) -> Generator[Any, Any, Any]:
        thrown: BaseException | None = None
        while True:
            started = perf_counter()
            try:
                waiting_for = next(self._coroutine) if thrown is None else self._coroutine.throw(thrown)
            except StopIteration as stop:
                return stop.value
            except SystemExit as error:
                # In a task it would end the event loop.
                raise RuntimeError("the hook called sys.exit").with_traceback(error.__traceback__) from error
            finally:
                if (held := perf_counter() - started) > LOOP_GUARD_S:
                    self._report(held)
            thrown = None
            try:
                yield waiting_for
            except GeneratorExit:
                self._coroutine.close()
                raise
            except BaseException as error:  # noqa: BLE001 - handed on to the hook
                thrown = error
