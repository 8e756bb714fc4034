"""Typed options of a plugin, and the overrides that change them for one client, sender or recipient.

Reading overrides from text is the business of `gatepost.configuration.overrides`; this module only holds and applies
them.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationInfo, field_validator

from gatepost.quantity import Duration

if TYPE_CHECKING:
    from collections.abc import Mapping

Mode = Literal["enforce", "observe", "off"]
Policy = Literal["defer", "pass"]
LogLevel = Literal["debug", "info", "warning", "error"]


class Fixed:
    """In `file: Annotated[Path, Fixed]`: an option that is used once, at the start, and is the same for everybody.

    An override of it could have no effect, and is an error.
    """


class NeedsEdge:
    """In `max_connections: Annotated[int, NeedsEdge] = 0`: an option that does nothing without the edge door.

    `gatepost check` warns where it is set, and differs from its default, while that door is off.
    """


class PluginOptions(BaseModel):
    """The keys that every `[[plugin]]` takes beside its name; a plugin's own options are further fields of a subclass.

    A subclass may give one of these another default by declaring it again. An unknown key is an error.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, str_strip_whitespace=True)

    mode: Mode = "enforce"
    """`enforce`; `observe`: the verdict and the edits are logged as would-be, then Declined; `off`: not asked."""
    timeout: Annotated[Duration, Field(gt=0)] = 30.0
    """How long one hook may take, at most; cut to what is left of the reply's time budget."""
    on_error: Policy = "defer"
    """A hook raised, or answered what it may not: `defer` (451) or `pass` (logged, next plugin)."""
    on_timeout: Policy = "defer"
    """A hook took too long: `defer` (451) or `pass`."""
    on_unavailable: Policy = "defer"
    """A service that the plugin needs did not answer: `defer` (451) or `pass`."""
    skip_authenticated: Annotated[bool, NeedsEdge] = False
    """Do not ask this plugin about a transaction whose client has logged in (known with the edge door)."""
    skip_whitelisted: bool = False
    """Do not ask this plugin about a client, a transaction or a recipient that is whitelisted."""
    log_level: Annotated[LogLevel, Fixed] = "info"
    """The least severe of the plugin's own log lines that are written."""

    @field_validator("*", mode="after")
    @classmethod
    def _relative_to_configuration(cls, value: Any, info: ValidationInfo) -> Any:
        if isinstance(value, Path) and info.context:
            return info.context["base"] / value
        return value


@dataclass(frozen=True, slots=True)
class Overrides:
    """Options of several plugins, changed together by one line of a file: `{plugin: {option: value}}`.

    `source` tells people where it comes from (`/etc/gatepost/aliases:12`). Values may be text, as pydantic takes it.
    """

    values: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    source: str = ""

    def __bool__(self) -> bool:
        """Return False when nothing is overridden."""
        return bool(self.values)
