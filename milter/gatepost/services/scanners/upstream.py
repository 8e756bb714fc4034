"""A service on one or several servers: who is asked, in what time, and who is left alone for a while.

    servers = Upstreams("clamav", endpoints, log)
    result = await servers.ask(scan, probe=ping)     # scan(endpoint) and ping(endpoint) are coroutine functions

Theory of operation. The servers are asked in their order, each in an equal share of the time that is left; the first
that answers is the one. A server that fails `FAILURES` times in a row is not asked for a while (a circuit breaker): it
is spared, and so is the time of messages that would wait in vain. When the while is over, one message tries it, with
`probe` before its question if there is one: only a server that answers the probe in `PROBE_S` is asked. Once it has,
others need not wait until the first one's question is answered, which may be a long one; they probe it, too, until one
question was. The while doubles with each failure, up to a limit. There is no background task: no mail, no probe.

A message that comes while every server is left alone is told so at once (`Unavailable`); the plugin's `on_unavailable`
decides what that means.
"""

from __future__ import annotations

import asyncio
from time import monotonic
from typing import TYPE_CHECKING, TypeVar

from gatepost import deadline
from gatepost.errors import Unavailable

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

    import structlog.typing

    from gatepost.endpoint import Endpoint

FAILURES = 3
"""In a row before a server is left alone: one may be a message that nobody can scan, or a restart."""

PAUSE_S = 5.0
"""For how long at first: a daemon that is restarted is back by then."""

LONGEST_PAUSE_S = 60.0
"""And at most: mail that was put off is tried again after minutes."""

PROBE_S = 2.0
"""For an answer to a question that costs the server nothing."""

FAIR_S = 0.1
"""Who gives a server less time than this has learnt nothing about it when there is no answer: the time went elsewhere,
and a slow list before it must not bring a healthy scanner into disrepute."""

SPARE = 0.95
"""Of the hook's time, for the servers: what is left is for the caller to note that there was no answer."""

TIME_S = 30.0
"""For code that no hook runs."""

T = TypeVar("T")

FAULTS = (Unavailable, OSError, EOFError)
"""What counts as the server's failure; OSError has every connection error and TimeoutError in it, EOFError asyncio's
IncompleteReadError. Anything else is a mistake of the caller."""


class Upstream:
    """One server: whether it may be asked now."""

    __slots__ = ("_clock", "_log", "_pause_s", "_trial", "_until", "down_since", "endpoint", "failures", "problem")

    def __init__(
        self, endpoint: Endpoint, log: structlog.typing.FilteringBoundLogger, clock: Callable[[], float] = monotonic
    ) -> None:
        self.endpoint = endpoint
        self.failures = 0
        """In a row."""
        self.problem = ""
        """The newest one."""
        self.down_since: float | None = None
        self._until = 0.0
        self._pause_s = PAUSE_S
        self._trial = False
        self._log = log
        self._clock = clock

    @property
    def is_down(self) -> bool:
        """True from `FAILURES` failures in a row until it has answered again."""
        return self.down_since is not None

    @property
    def may_be_asked(self) -> bool:
        """False while it is left alone, and while another message finds out whether it is back."""
        return not self.is_down or (self._clock() >= self._until and not self._trial)

    @property
    def state(self) -> str:
        """In words why it is not asked, for `Unavailable`."""
        if self._trial:
            return f"{self.endpoint} is being tried again ({self.problem})"
        return f"{self.endpoint} is left alone for {max(0.0, self._until - self._clock()):.0f} s ({self.problem})"

    async def ask(
        self,
        work: Callable[[Endpoint], Awaitable[T]],
        time_s: float,
        probe: Callable[[Endpoint], Awaitable[object]] | None,
    ) -> T:
        """Return what `work` makes of this server; raises what it raises, TimeoutError after `time_s`."""
        is_trial = self._trial = self.is_down
        until = self._until
        try:
            async with asyncio.timeout(time_s):
                if is_trial and probe is not None:
                    await self._probe(probe)
                    self._trial = False
                result = await work(self.endpoint)
        except FAULTS as error:
            if time_s >= FAIR_S or not isinstance(error, TimeoutError):
                # Of several who tried it at the same time, the first to fail has told.
                self._failed(_words(error, time_s), is_trial=is_trial and until == self._until)
            raise
        except asyncio.CancelledError:
            # On a busy machine the hook's time may be over before `work` has put away what it had open: silence, too.
            if time_s >= FAIR_S and _time_left_s() <= 0:
                self._failed(_words(TimeoutError(), time_s), is_trial=is_trial and until == self._until)
            raise
        finally:
            if is_trial:
                self._trial = False
        self._answered()
        return result

    async def _probe(self, probe: Callable[[Endpoint], Awaitable[object]]) -> None:
        try:
            async with asyncio.timeout(PROBE_S):
                await probe(self.endpoint)
        except TimeoutError as error:
            raise TimeoutError(f"no answer to a probe within {PROBE_S:g} s") from error

    def _failed(self, problem: str, *, is_trial: bool) -> None:
        self.failures += 1
        self.problem = problem
        fields = {"server": str(self.endpoint), "problem": problem, "failures": self.failures}
        if self.is_down and not is_trial:
            return  # It was asked when it still seemed well.
        if self.failures < FAILURES:
            self._log.warning("server failed", **fields)
            return
        self._pause_s = min(self._pause_s * 2, LONGEST_PAUSE_S) if is_trial else PAUSE_S
        self._until = self._clock() + self._pause_s
        if self.down_since is None:
            self.down_since = self._clock()
        self._log.error("server left alone", **fields, for_s=self._pause_s)

    def _answered(self) -> None:
        if self.down_since is not None:
            self._log.info("server is back", server=str(self.endpoint), down_s=round(self._clock() - self.down_since))
        self.failures = 0
        self.down_since = None


class Upstreams:
    """The servers of one service, in the order in which they are preferred."""

    def __init__(
        self,
        service: str,
        endpoints: Sequence[Endpoint],
        log: structlog.typing.FilteringBoundLogger,
        clock: Callable[[], float] = monotonic,
    ) -> None:
        self._service = service
        self.servers = tuple(Upstream(endpoint, log, clock) for endpoint in endpoints)

    async def ask(
        self,
        work: Callable[[Endpoint], Awaitable[T]],
        probe: Callable[[Endpoint], Awaitable[object]] | None = None,
    ) -> T:
        """Return the first answer; Unavailable, naming every server and its problem, when there is none.

        `work` is called for one server after the other and must leave nothing open when it is cancelled. It reports a
        server's failure as Unavailable, OSError or EOFError; any other exception goes up, and counts as no failure.
        """
        problems = []
        for place, server in enumerate(self.servers):
            if not server.may_be_asked:
                problems.append(server.state)
                continue
            left = sum(other.may_be_asked for other in self.servers[place:])
            time_s = _time_left_s() / left
            try:
                return await server.ask(work, time_s, probe)
            except FAULTS as error:
                problems.append(f"{server.endpoint}: {_words(error, time_s)}")
        raise Unavailable(self._service, "; ".join(problems))


def _time_left_s() -> float:
    limit = deadline.of_hook.get()
    return TIME_S if limit is None else limit.remaining() * SPARE


def _words(error: BaseException, time_s: float) -> str:
    match error:
        case Unavailable():
            return error.reason
        case TimeoutError():
            return str(error) or f"no answer within {time_s:.3g} s"
        case asyncio.IncompleteReadError():
            return f"closed the connection in the middle of its answer ({len(error.partial)} bytes)"
        case OSError():
            return error.strerror or str(error) or type(error).__name__
        case _:
            return str(error) or "closed the connection without an answer"
