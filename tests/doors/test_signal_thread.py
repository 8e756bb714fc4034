"""The start of the milter: nobody is told that it is ready while libmilter may still take a signal that is ours."""

from __future__ import annotations

import signal
import threading
from typing import TYPE_CHECKING

from gatepost.doors import milterd

if TYPE_CHECKING:
    import pytest


def test_libmilters_signal_thread_is_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(milterd, "_SIGNAL_THREAD_S", 60.0)
    end, opened = threading.Event(), threading.Event()

    def wait_for_signals() -> None:
        # sigwait(3) opens what is blocked for as long as it waits; so does the kernel show it.
        end.wait(0.1)
        opened.set()
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGHUP})
        end.wait(60)

    def serve() -> None:
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGHUP})
        waits = threading.Thread(target=wait_for_signals)
        waits.start()
        waits.join()

    before = milterd._threads()
    serves = threading.Thread(target=serve)
    serves.start()
    try:
        milterd._await_signal_thread(before, serves.native_id)
        assert opened.is_set()
    finally:
        end.set()
        serves.join()
