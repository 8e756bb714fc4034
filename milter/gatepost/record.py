"""Records of what was decided: one per verdict that is not Declined, kept on the transaction and written to the log."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from gatepost.verdict import DECLINED, Declined, Verdict

Outcome = Literal["accepted", "refused", "deferred", "held", "discarded", "aborted"]
"""How a recipient that was offered ended. Every recipient has exactly one in the end: nobody is dropped silently."""

Reason = Literal["answer", "observed", "error", "timeout", "unavailable"]


@dataclass(frozen=True, slots=True)
class Record:
    """One verdict: who gave it, where, and how long that took.

    `reason` is `answer` for a plugin's own verdict, `observed` for one that was only logged (mode = "observe"), else
    the failure whose policy gave it; `detail` is the failure in words, for the administrator only, or None. `plugin` is
    `gatepost` for the pipeline's own refusals. `recipient` is None outside the rcpt hook.
    """

    hook: str
    plugin: str
    verdict: Verdict
    milliseconds: float
    reason: Reason = "answer"
    detail: str | None = None
    recipient: str | None = None

    @property
    def is_failure(self) -> bool:
        """True when the plugin gave no answer and its policy spoke for it."""
        return self.reason in {"error", "timeout", "unavailable"}

    @property
    def in_force(self) -> Verdict:
        """The verdict that counts: Declined where it was only observed."""
        return DECLINED if self.reason == "observed" or isinstance(self.verdict, Declined) else self.verdict
