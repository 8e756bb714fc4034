"""The plugins in their order, and how a hook is decided: the first verdict that is not Declined ends it.

A pipeline is made from one configuration and never changes; a reload makes another, and each transaction stays with the
one it began on. What the doors do with a verdict is in `gatepost.pipeline.flow`.
"""

from __future__ import annotations

import asyncio
import inspect
from concurrent.futures import ThreadPoolExecutor
from itertools import groupby
from time import perf_counter
from typing import TYPE_CHECKING, Any

import structlog

from gatepost.configuration.overrides import still_good
from gatepost.configuration.plugin_file import forget_module, line_in, one_line
from gatepost.deadline import Deadline, of_hook
from gatepost.errors import ConfigError, Unavailable, raise_errors
from gatepost.hooks import HOOKS
from gatepost.pipeline.hook_call import Failure, HookCall
from gatepost.pipeline.steering import Scope, steer_back, steering
from gatepost.pipeline.verdict_log import holder_of, keep, log_whitelisting, log_would_edit, recipient_of, session_of
from gatepost.record import Record
from gatepost.session import Transaction
from gatepost.spending import Account, account
from gatepost.verdict import DECLINED, Declined, DenySoft, DenySoftDisconnect, Verdict

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from gatepost.configuration.loader import LoadedPlugin
    from gatepost.message.message import Message
    from gatepost.option import Overrides, PluginOptions
    from gatepost.plugin import Plugin
    from gatepost.record import Reason
    from gatepost.session import Recipient

_failures = structlog.get_logger("gatepost.plugin")

UNAVAILABLE = DenySoft("temporary failure, please try again later", enhanced="4.3.0", code=451)
"""What a client is told when a plugin fails and its policy is `defer`; internals stay in the log."""

INIT_TIMEOUT_S = 60.0
"""How long one plugin's `init` may take, reading large files included: a reload that never ends would keep every later
one from beginning."""

EVENT_TIMEOUT_S = 30.0
"""How long one plugin's `reload` or `shutdown` may await; systemd waits 160 s for the whole end (TimeoutStopSec)."""


class Pipeline:
    """The configured plugins, in order."""

    def __init__(self, plugins: Sequence[LoadedPlugin]) -> None:
        self.plugins = tuple(plugins)
        self._threads = {
            loaded.name: ThreadPoolExecutor(loaded.plugin.threads, thread_name_prefix=f"hook {loaded.name}")
            for loaded in plugins
            if loaded.plugin.blocking
        }
        self.calls = {
            hook: tuple(
                HookCall(loaded, hook, self._threads.get(loaded.name)) for loaded in plugins if hook in loaded.hooks
            )
            for hook in HOOKS
        }
        self.content_hooks = frozenset(
            hook for hook, calls in self.calls.items() if calls and HOOKS[hook].reads_content
        )
        """The content hooks that some plugin has; empty means that the milter has nothing to do."""
        self._data_post = tuple(_groups(self.calls["data_post"]))
        self._late = tuple(loaded.plugin for loaded in plugins if loaded.reads_content or "data" in loaded.hooks)
        self._started: list[LoadedPlugin] = []

    async def start(self) -> None:
        """Run every plugin's `init`; ConfigErrors, with all that failed, when one raises."""
        raise_errors([error for errors in (await self.try_start()).values() for error in errors])

    async def try_start(self) -> dict[str, list[ConfigError]]:
        """Run every plugin's `init`; return what is wrong, each error with a place, by plugin."""
        failed: dict[str, list[ConfigError]] = {}
        for loaded in self.plugins:
            try:
                async with asyncio.timeout(INIT_TIMEOUT_S):
                    await _event(loaded, "init")
                self._started.append(loaded)
            except ConfigError as error:
                failed[loaded.name] = [one.at(*loaded.place) for one in error.each]
            except Unavailable as error:
                failed[loaded.name] = [ConfigError(f"plugin {loaded.name} cannot start: {error}", *loaded.place)]
            except TimeoutError as error:
                reason = one_line(error) or f"init took longer than {INIT_TIMEOUT_S:g} s"
                failed[loaded.name] = [ConfigError(f"plugin {loaded.name} cannot start: {reason}", *loaded.place)]
            except (Exception, SystemExit) as error:  # noqa: BLE001 - a hook call like any other
                problem = f"plugin {loaded.name} cannot start: {type(error).__name__}: {one_line(error)}"
                failed[loaded.name] = [ConfigError(problem, loaded.file, line_in(error, loaded.file))]
        return failed

    async def stop(self, event: str = "shutdown") -> None:
        """Run `shutdown`, or `reload` when a successor has taken over, in every plugin whose `init` went well.

        Failures are only logged; an event that awaits for longer than `EVENT_TIMEOUT_S` is one.
        """
        for loaded in self._started:
            try:
                async with asyncio.timeout(EVENT_TIMEOUT_S):
                    await _event(loaded, event)
            except (Exception, SystemExit) as error:  # noqa: BLE001 - a hook call like any other
                _failures.error("event failed", plugin=loaded.name, event_hook=event, problem=repr(error))
        for threads in self._threads.values():
            threads.shutdown(wait=False, cancel_futures=True)
        for loaded in self.plugins:
            forget_module(type(loaded.plugin))

    def still_good(self, overrides: Sequence[Overrides]) -> tuple[Overrides, ...]:
        """Return what these plugins still take of overrides that were checked for the pipeline before this one."""
        models = {loaded.name: loaded.plugin.options_class for loaded in self.plugins}
        return tuple(kept for one in overrides if (kept := still_good(one, models)))

    def late_options(self, recipient: Recipient) -> tuple[object, ...]:
        """Return the recipient's options of every plugin with a data or content hook: equal ones agree.

        None stands for a plugin that is not asked about this recipient.
        """
        return tuple(_comparable_options(plugin, recipient) for plugin in self._late)

    async def run(self, hook: str, scope: Scope, *arguments: Any, deadline: Deadline) -> Verdict:
        """Ask the plugins in order and return the first verdict that is not Declined; then run `deny` or `ok`.

        `scope` is whose options count: the narrowest of session, transaction, recipient. A denial that a `deny` hook
        turned into a hang-up is returned as that.
        """
        if not self.calls[hook] and not self.calls["ok"]:
            return DECLINED
        verdict = await self.ask(hook, scope, *arguments, deadline=deadline)
        return await self.conclude(hook, scope, verdict, deadline=deadline)

    async def ask(self, hook: str, scope: Scope, *arguments: Any, deadline: Deadline) -> Verdict:
        """Do as `run` does, without the deny and ok hooks."""
        for call in self.calls[hook]:
            record = await self._ask_one(call, scope, arguments, deadline)
            if record is not None and record.in_force is not DECLINED:
                return record.in_force
        return DECLINED

    async def conclude(self, hook: str, scope: Scope, verdict: Verdict, *, deadline: Deadline) -> Verdict:
        """Run `deny` in every plugin after a denial, `ok` after anything else; return the verdict that then stands.

        Each is told the verdict that was given; the first hang-up that one of them answers stands in its place.
        """
        about = "deny" if verdict.denies else "ok"
        if not verdict.denies and not self.calls["ok"]:
            return verdict
        session = session_of(scope)
        session.denied_for_good |= verdict.permanent
        stands = verdict
        for call in self.calls[about]:
            record = await self._ask_one(call, scope, (session, hook, verdict), deadline)
            if record is not None and record.in_force.disconnects and stands is verdict:
                stands = record.in_force
                if stands.permanent and not session.denied_for_good:
                    # The client was only ever asked to come again later: its mail must not be lost for good.
                    stands = DenySoftDisconnect(stands.text)
        return stands

    async def edit(self, transaction: Transaction, message: Message, *, deadline: Deadline) -> tuple[Verdict, Message]:
        """Run the data_post hook; return the verdict and the message with the edits that stand.

        Each plugin works on a copy, which replaces the message only when the plugin is enforced and did not fail: so a
        plugin that fails half way, or goes on after its time is over, has changed nothing. Neighbouring scanners work
        on the same message at the same time; what they say and edit is then taken in their order.
        """
        for group in self._data_post:
            if len(group) > 1:
                verdict, message = await self._side_by_side(group, transaction, message, deadline)
            else:
                branch = message.copy()
                record = await self._judge(group[0], transaction, (transaction, branch), deadline)
                verdict, message = self._take(group[0], transaction, record, message, branch, message)
            if verdict is not DECLINED:
                return verdict, message
        return DECLINED, message

    async def _side_by_side(
        self, scanners: Sequence[HookCall], transaction: Transaction, origin: Message, deadline: Deadline
    ) -> tuple[Verdict, Message]:
        message = origin
        before = steering(transaction)
        branches = [origin.copy() for _ in scanners]
        asked = [
            asyncio.create_task(self._judge(call, transaction, (transaction, branch), deadline))
            for call, branch in zip(scanners, branches, strict=True)
        ]
        try:
            for call, branch, answer in zip(scanners, branches, asked, strict=True):
                verdict, message = self._take(call, transaction, await answer, message, branch, origin)
                if verdict is not DECLINED:
                    return verdict, message
            return DECLINED, message
        finally:
            # Whom nobody asks any more.
            for task in asked:
                task.cancel()
            await asyncio.gather(*asked, return_exceptions=True)
            if steering(transaction) != before:
                steer_back(transaction, before)
                names = ", ".join(call.loaded.name for call in scanners)
                _failures.error("a scanner set options or whitelisted, which was undone", plugins=names)

    def _take(
        self,
        call: HookCall,
        transaction: Transaction,
        record: Record | None,
        message: Message,
        branch: Message,
        origin: Message,
    ) -> tuple[Verdict, Message]:
        """Keep the record; return its verdict, and the message with the edits that stand of `branch`, origin's copy."""
        if record is not None:
            keep(transaction, record)
        edits = branch.summary()[len(origin.summary()) :]
        if edits and not (record is not None and record.is_failure):
            if call.loaded.plugin.options(transaction).mode == "observe":
                log_would_edit(call, transaction, edits)
            elif message is origin:
                message = branch
            else:
                try:
                    message = message.with_edits_of(branch, origin)
                except ValueError as error:
                    failure = Failure("error", f"its edits do not go together with those before: {error}")
                    record = self._record(call, transaction, call.loaded.plugin.options(transaction), failure, 0.0)
                    keep(transaction, record)
        return (DECLINED if record is None else record.in_force), message

    async def _ask_one(
        self, call: HookCall, scope: Scope, arguments: tuple[Any, ...], deadline: Deadline
    ) -> Record | None:
        """Ask one plugin; None means Declined, anything else has been kept and logged as a record."""
        record = await self._judge(call, scope, arguments, deadline)
        if record is not None:
            keep(scope, record)
        return record

    async def _judge(
        self, call: HookCall, scope: Scope, arguments: tuple[Any, ...], deadline: Deadline
    ) -> Record | None:
        """Ask one plugin; None means Declined, anything else is a record that is still to be kept."""
        plugin: Plugin[Any] = call.loaded.plugin
        options: PluginOptions
        answer: Verdict | Failure
        started = perf_counter()
        try:
            options = plugin.options(scope)
        except Exception as error:  # noqa: BLE001 - what checks options together is the plugin's own code
            options, answer = plugin.options(), Failure("error", str(error))
        else:
            asked = holder_of(scope).asked
            if _skips(options, scope) and not (call.hook.closes and plugin.name in asked):
                return None
            asked.add(plugin.name)
            session_of(scope).asked.add(plugin.name)
            answer = await self._answer(call, scope, arguments, options, deadline)
        if isinstance(answer, Declined):
            return None
        return self._record(call, scope, options, answer, (perf_counter() - started) * 1000)

    def _record(
        self, call: HookCall, scope: Scope, options: PluginOptions, answer: Verdict | Failure, milliseconds: float
    ) -> Record:
        reason: Reason = "observed" if options.mode == "observe" else "answer"
        detail = None
        if isinstance(answer, Failure):
            reason, detail = answer.reason, answer.detail
            answer = self._by_policy(call, options, answer)
        return Record(call.hook.name, call.loaded.name, answer, milliseconds, reason, detail, recipient_of(scope))

    @staticmethod
    async def _answer(
        call: HookCall, scope: Scope, arguments: tuple[Any, ...], options: PluginOptions, deadline: Deadline
    ) -> Verdict | Failure:
        timeout_s = min(options.timeout, deadline.remaining())
        if timeout_s <= 0:
            return Failure("timeout", "no time was left")
        before = steering(scope)
        holder = holder_of(scope)
        token = account.set(Account(holder.spending if isinstance(holder, Transaction) else None))
        limit = of_hook.set(Deadline.after(timeout_s))
        try:
            answer = await call(arguments, timeout_s)
        finally:
            of_hook.reset(limit)
            account.reset(token)
        if steering(scope) != before:
            if not isinstance(answer, Failure):
                log_whitelisting(call, scope, before, options)
            if options.mode == "observe" or isinstance(answer, Failure):
                steer_back(scope, before)
        return answer

    @staticmethod
    def _by_policy(call: HookCall, options: PluginOptions, failure: Failure) -> Verdict:
        policy = {"error": options.on_error, "timeout": options.on_timeout, "unavailable": options.on_unavailable}
        # In observe mode nothing is refused; queue_post and its like have nothing to refuse.
        refuses = options.mode != "observe" and DenySoft in call.hook.verdicts
        return UNAVAILABLE if refuses and policy[failure.reason] == "defer" else DECLINED


def _groups(calls: Sequence[HookCall]) -> Iterator[tuple[HookCall, ...]]:
    """Yield the calls in their order, neighbouring scanners together, every other alone."""
    for scanner, neighbours in groupby(calls, key=lambda call: call.loaded.plugin.scanner):
        if scanner:
            yield tuple(neighbours)
        else:
            yield from ((call,) for call in neighbours)


def _comparable_options(plugin: Plugin[Any], recipient: Recipient) -> object:
    try:
        options = plugin.options(recipient)
        return None if _skips(options, recipient) else options
    except Exception as error:  # noqa: BLE001 - what checks options together is the plugin's own code
        # They agree with nothing but the same mistake; the plugin's own hooks then fail with it, and say so.
        return str(error)


async def _event(loaded: LoadedPlugin, event: str) -> None:
    """Run a process event: a plain one in a thread, because reading large files must not hold up a live daemon."""
    method = getattr(loaded.plugin, event, None)
    if inspect.iscoroutinefunction(method):
        await method()
    elif method is not None:
        await asyncio.to_thread(method)


def _skips(options: PluginOptions, scope: Scope) -> bool:
    """Return True when a plugin with these options is not to be asked."""
    return (
        options.mode == "off"
        or (options.skip_authenticated and session_of(scope).login is not None)
        or (options.skip_whitelisted and scope.whitelisted)
    )
