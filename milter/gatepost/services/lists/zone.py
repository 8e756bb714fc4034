"""DNS lists as administrators configure them: a zone, which of its answers count, and what a listing means.

Nothing here asks a name server; `gatepost.services.lists.zone_inquiry` does. The form of the lists is RFC 5782.
"""

from __future__ import annotations

import re
from functools import lru_cache
from ipaddress import AddressValueError, IPv4Address, IPv4Network, IPv6Address
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    FiniteFloat,
    field_validator,
    model_validator,
)

from gatepost.action import Action, ActionWord, parse_action
from gatepost.errors import ConfigError, Unavailable
from gatepost.option import PluginOptions

if TYPE_CHECKING:
    from collections.abc import Iterable

ANSWERS = IPv4Network("127.0.0.0/8")
"""Where the answers of a list are (RFC 5782 section 2.1); others come from a parked domain or a resolver that lies."""

ERROR_ANSWERS = IPv4Network("127.255.255.0/24")
"""By agreement of the large lists: a wrong zone name (.252), an open resolver (.254), too many queries (.255)."""

LOCALHOST = IPv4Address("127.0.0.1")
"""Block lists begin with 127.0.0.2. This is what SURBL and URIBL answer, about anything, to those whom they refuse, and
what a name server says that blocks names itself: taken for a listing it would refuse all mail. It is one where `codes`
name it, and in lists of friends, such as HostKarma's."""

NAME_LIMIT = 253
"""A whole name as text (RFC 1035 section 3.1)."""

_NAME = re.compile(r"(?:[a-z0-9_](?:[a-z0-9_-]{0,61}[a-z0-9_])?\.)*[a-z0-9_](?:[a-z0-9_-]{0,61}[a-z0-9_])?")
_CODE = re.compile(r"(?P<first>[\d.]+)(?:\s*-\s*(?P<last>[\d.]+)|\s*&\s*(?P<mask>0[xX][0-9a-fA-F]+|\d+))?")
_CODE_FORMS = 'write "127.0.0.2", "127.0.0.2-11" or, for a bit, "127.0.0.0&4"'

Effect = ActionWord | Literal["score"]
"""What a listing does: a verdict, `allow`, or that it adds to a sum."""


def _parse_effect(value: object) -> object:
    if value == "score" or value is None:
        return value
    try:
        return parse_action(value)
    except ValueError as error:
        raise ValueError(f"{error}, or score") from error


def _parse_name(text: str) -> str:
    name = text.strip().rstrip(".").lower()
    if not is_host_name(name) or len(name) > NAME_LIMIT - len("1.") or name.replace(".", "").isdigit():
        raise ValueError(f'{text!r} is no zone: write the name of the list alone, such as "zen.example.org"')
    return name


def _check_code(code: object) -> str:
    if not isinstance(code, str):
        raise ValueError(f"{code!r} is no return code: {_CODE_FORMS}")
    _parse_code(code)
    return code.strip()


def _refuse_allow(action: ActionWord) -> ActionWord:
    if action == "allow":
        raise ValueError(
            '"allow" would make every zone a list of friends: write it at the zones that are, or mode = "off"'
        )
    return action


class Zone(BaseModel):
    """One entry of the option `zones`: a name alone, or a table of these keys.

    The same zone may stand there several times, with other codes and another action.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, str_strip_whitespace=True)

    zone: Annotated[str, AfterValidator(_parse_name)]
    """Where to ask: `zen.example.org`."""
    name: str = ""
    """What replies call the list, where its zone holds a secret (a customer's key); empty: the zone."""
    codes: tuple[Annotated[str, BeforeValidator(_check_code)], ...] = ()
    """The answers that are a listing: `127.0.0.2`, a range `127.0.0.2-11`, or bits `127.0.0.0&6` (any of them set in
    an answer that is otherwise the same); empty: any in 127.0.0.0/8, but 127.0.0.1 only in a list of friends. An error
    answer of the list never is one."""
    action: Annotated[Effect | None, BeforeValidator(_parse_effect)] = None
    """What a listing means; None: what the plugin's options say."""
    score: FiniteFloat = 1.0
    """What a listing adds where `action` is `score`; may be negative."""
    text: str = ""
    """The reason in replies, in place of the list's own TXT."""

    @model_validator(mode="before")
    @classmethod
    def _from_name(cls, value: Any) -> Any:
        return {"zone": value} if isinstance(value, str) else value

    @field_validator("codes", mode="before")
    @classmethod
    def _one_code(cls, value: Any) -> Any:
        return (value,) if isinstance(value, str) else value

    @property
    def label(self) -> str:
        """What people are told that the list is called."""
        return self.name or self.zone

    @property
    def is_friendly(self) -> bool:
        """True if a listing speaks for whom it names."""
        return self.action == "allow" or (self.action in {None, "score"} and self.score < 0)

    def takes(self, kind: str) -> bool:
        """Return True if the list is to be asked questions of that kind: of any, unless a subclass knows kinds."""
        return True

    def lists(self, answers: Iterable[IPv4Address]) -> bool:
        """Return True if these A records are a listing; none at all are not.

        Raises Unavailable when there are only answers that no list gives about what it lists: then it has told nothing.
        """
        unusable = None
        seen = False
        suspect = not self.codes and not self.is_friendly
        for answer in answers:
            if answer not in ANSWERS or answer in ERROR_ANSWERS or (answer == LOCALHOST and suspect):
                unusable = answer
            else:
                seen = True
                if not self.codes or any(_matches(code, int(answer)) for code in self.codes):
                    return True
        if unusable is None or seen:
            return False
        if unusable in ERROR_ANSWERS:
            raise Unavailable(
                self.label, f"refuses to answer ({unusable}): a wrong zone, an open resolver or too many queries"
            )
        raise Unavailable(
            self.label,
            f"answers {unusable}, which is no listing: it refuses to, is gone, or the name server lies",
        )


class ZoneOptions(PluginOptions):
    """The options of a plugin that asks DNS lists."""

    zones: tuple[Zone, ...] = Field(min_length=1)
    action: Annotated[Action, AfterValidator(_refuse_allow)] = "deny"
    """For zones that name none, and for a sum of scores that reaches `reject_score`."""
    reject_score: FiniteFloat = Field(default=0.0, ge=0)
    """Above 0, zones without an action of their own add their score, and the sum decides."""
    skip_authenticated: bool = True
    skip_whitelisted: bool = True

    @field_validator("zones", mode="before")
    @classmethod
    def _one_zone(cls, value: Any) -> Any:
        return (value,) if isinstance(value, str | dict) else value

    def refuse_idle_scores(self) -> None:
        """Raise ConfigError if a zone is there only for a sum that nothing compares: for the plugin's `init`.

        No validator, so that an override may set `reject_score` to 0 and so take the zones that score out.
        """
        idle = next((zone for zone in self.zones if zone.action == "score"), None)
        if idle and not self.reject_score:
            problem = f'zone {idle.label} has action = "score", which does nothing: set reject_score, or another action'
            raise ConfigError(problem)

    def effect(self, zone: Zone) -> Effect:
        """Return what a listing in this zone does here."""
        return zone.action or ("score" if self.reject_score else self.action)


def is_host_name(name: str) -> bool:
    """Return True for what could be a name in DNS: labels of letters, digits, `-` and `_`, without the final dot."""
    return len(name) <= NAME_LIMIT and _NAME.fullmatch(name.lower()) is not None


def reversed_name(ip: IPv4Address | IPv6Address) -> str:
    """Return what stands before the zone: `2.0.0.127`, for IPv6 32 nibbles (RFC 5782 sections 2.1 and 2.4)."""
    if ip.version == 4:
        return ".".join(reversed(str(ip).split(".")))
    return ".".join(reversed(f"{int(ip):032x}"))


@lru_cache(maxsize=1024)
def _parse_code(text: str) -> tuple[int, int, int]:
    """Return the first and the last answer that fit, and the bits of which one must be set (0: none)."""
    match = _CODE.fullmatch(text.strip())
    if match is None:
        raise ValueError(f"{text!r} is no return code: {_CODE_FORMS}")
    try:
        first = IPv4Address(match["first"])
        last = _last(first, match["last"] or match["first"])
    except AddressValueError as error:
        raise ValueError(f"{text!r} is no return code: {error}; {_CODE_FORMS}") from error
    mask = int(match["mask"] or "0", 0)
    if match["mask"]:
        last = first + _free_bits(mask, int(first), text)
    if first not in ANSWERS or last not in ANSWERS:
        raise ValueError(f"{text!r} is no return code: the answers of lists are in {ANSWERS}")
    if first > last:
        raise ValueError(f"{text!r} is no range: the larger number stands last")
    if first in ERROR_ANSWERS:
        raise ValueError(f"{text!r} is no listing: with {ERROR_ANSWERS} a list says that it refuses to answer")
    return int(first), int(last), mask


def _last(first: IPv4Address, text: str) -> IPv4Address:
    if "." not in text:
        text = f"{str(first).rpartition('.')[0]}.{text}"
    return IPv4Address(text)


def _free_bits(mask: int, base: int, text: str) -> int:
    """Return the octets that a mask reaches into, as ones: the part of an answer that may be anything."""
    if not 0 < mask < 1 << 24:
        raise ValueError(f"{text!r} is no return code: a mask is a number from 1 to 0xffffff, mostly of one bit")
    free = 0xFF if mask <= 0xFF else 0xFFFF if mask <= 0xFFFF else 0xFFFFFF
    if base & free:
        raise ValueError(f'{text!r} is no return code: before the "&" stands the answer with no bit set, as 127.0.0.0')
    return free


def _matches(code: str, answer: int) -> bool:
    first, last, mask = _parse_code(code)
    return first <= answer <= last and (not mask or answer & mask != 0)
