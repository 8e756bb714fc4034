"""The plugins in their order, and how a hook is decided: the first verdict that is not Declined ends it.

A pipeline is made from one configuration and never changes; a reload makes another, and each transaction stays with the
one it began on. What the doors do with a verdict is in `gatepost.flow`.
"""

from __future__ import annotations

import asyncio
import inspect
from concurrent.futures import ThreadPoolExecutor
from time import perf_counter
from typing import TYPE_CHECKING, Any

import structlog

from gatepost.errors import ConfigError, Unavailable, raise_errors
from gatepost.hook_call import THREADS_PER_PLUGIN, Failure, HookCall
from gatepost.hooks import HOOKS
from gatepost.overrides import still_good
from gatepost.plugin_file import forget_module, line_in, one_line
from gatepost.record import Record
from gatepost.session import Recipient, Session, Transaction
from gatepost.spending import Account, account
from gatepost.steering import Scope, Steering, newly_whitelisted, steer_back, steering
from gatepost.verdict import DECLINED, Declined, DenySoft, DenySoftDisconnect, Verdict

if TYPE_CHECKING:
    from collections.abc import Sequence

    from gatepost.deadline import Deadline
    from gatepost.loader import LoadedPlugin
    from gatepost.message import Message
    from gatepost.option import Overrides, PluginOptions
    from gatepost.plugin import Plugin
    from gatepost.record import Reason

_log = structlog.get_logger("gatepost.verdict")
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
            loaded.name: ThreadPoolExecutor(THREADS_PER_PLUGIN, thread_name_prefix=f"hook {loaded.name}")
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
        session = _session(scope)
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
        plugin that fails half way, or goes on after its time is over, has changed nothing.
        """
        for call in self.calls["data_post"]:
            candidate = message.copy()
            record = await self._ask_one(call, transaction, (transaction, candidate), deadline)
            if record is None or not record.is_failure:
                if call.loaded.plugin.options(transaction).mode != "observe":
                    message = candidate
                elif edits := candidate.summary()[len(message.summary()) :]:
                    _log.info("would edit", txn=transaction.id, plugin=call.loaded.name, edits="; ".join(edits))
            if record is not None and record.in_force is not DECLINED:
                return record.in_force, message
        return DECLINED, message

    async def _ask_one(
        self, call: HookCall, scope: Scope, arguments: tuple[Any, ...], deadline: Deadline
    ) -> Record | None:
        """Ask one plugin; None means Declined, anything else has been kept and logged as a record."""
        plugin: Plugin[Any] = call.loaded.plugin
        options: PluginOptions
        answer: Verdict | Failure
        started = perf_counter()
        try:
            options = plugin.options(scope)
        except Exception as error:  # noqa: BLE001 - what checks options together is the plugin's own code
            options, answer = plugin.options(), Failure("error", str(error))
        else:
            asked = _log_context(scope).asked
            if _skips(options, scope) and not (call.hook.closes and plugin.name in asked):
                return None
            asked.add(plugin.name)
            _session(scope).asked.add(plugin.name)
            answer = await self._answer(call, scope, arguments, options, deadline)
        if isinstance(answer, Declined):
            return None
        milliseconds = (perf_counter() - started) * 1000
        reason: Reason = "observed" if options.mode == "observe" else "answer"
        detail = None
        if isinstance(answer, Failure):
            reason, detail = answer.reason, answer.detail
            answer = self._by_policy(call, options, answer)
        record = Record(call.hook.name, call.loaded.name, answer, milliseconds, reason, detail, _recipient(scope))
        keep(scope, record)
        return record

    @staticmethod
    async def _answer(
        call: HookCall, scope: Scope, arguments: tuple[Any, ...], options: PluginOptions, deadline: Deadline
    ) -> Verdict | Failure:
        timeout_s = min(options.timeout, deadline.remaining())
        if timeout_s <= 0:
            return Failure("timeout", "no time was left")
        before = steering(scope)
        holder = _log_context(scope)
        token = account.set(Account(holder.spending if isinstance(holder, Transaction) else None))
        try:
            answer = await call(arguments, timeout_s)
        finally:
            account.reset(token)
        if steering(scope) != before:
            if not isinstance(answer, Failure):
                _log_whitelisting(call, scope, before, options)
            if options.mode == "observe" or isinstance(answer, Failure):
                steer_back(scope, before)
        return answer

    @staticmethod
    def _by_policy(call: HookCall, options: PluginOptions, failure: Failure) -> Verdict:
        policy = {"error": options.on_error, "timeout": options.on_timeout, "unavailable": options.on_unavailable}
        # In observe mode nothing is refused; queue_post and its like have nothing to refuse.
        refuses = options.mode != "observe" and DenySoft in call.hook.verdicts
        return UNAVAILABLE if refuses and policy[failure.reason] == "defer" else DECLINED


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


def _session(scope: Scope) -> Session:
    match scope:
        case Session():
            return scope
        case Transaction():
            return scope.session
        case Recipient():
            return scope.transaction.session


def _log_context(scope: Scope) -> Session | Transaction:
    return scope.transaction if isinstance(scope, Recipient) else scope


def _recipient(scope: Scope) -> str | None:
    return str(scope.address) if isinstance(scope, Recipient) else None


def _skips(options: PluginOptions, scope: Scope) -> bool:
    """Return True when a plugin with these options is not to be asked."""
    return (
        options.mode == "off"
        or (options.skip_authenticated and _session(scope).login is not None)
        or (options.skip_whitelisted and scope.whitelisted)
    )


def _log_whitelisting(call: HookCall, scope: Scope, before: Steering, options: PluginOptions) -> None:
    """Say once whom a plugin has whitelisted, so that no check is skipped unnoticed."""
    for whom in newly_whitelisted(scope, before):
        fields: dict[str, Any] = {"session": _session(whom).id}
        match whom:
            case Session():
                fields["client"] = whom.address
            case Transaction():
                fields |= {"txn": whom.id, "sender": str(whom.sender)}
            case Recipient():
                fields |= {"txn": whom.transaction.id, "rcpt": str(whom.address)}
        fields |= {"plugin": call.loaded.name, "hook": call.hook.name, "by": whom.whitelist_reason}
        _log.info("would whitelist" if options.mode == "observe" else "whitelisted", **fields)


def keep(scope: Scope, record: Record) -> None:
    """Put the record on the transaction (or the session, outside of one) and into the log."""
    holder = _log_context(scope)
    holder.records.append(record)
    fields: dict[str, Any] = {"session": _session(scope).id}
    if isinstance(holder, Transaction):
        fields["txn"] = holder.id
    fields |= {"plugin": record.plugin, "hook": record.hook, "verdict": record.verdict.kind}
    if record.recipient is not None:
        fields["rcpt"] = record.recipient
    if record.verdict.text:
        fields["text"] = record.verdict.text
    if record.reason != "answer":
        fields["reason"] = record.reason
    if record.detail:
        fields["problem"] = record.detail
    fields["ms"] = round(record.milliseconds, 2)
    write = _log.error if record.is_failure else _log.info
    write("would answer" if record.reason == "observed" else "verdict", **fields)
