"""Verdicts as administrators write them in configurations and list files: `deny`, `defer`, `allow` and their like.

| word               | other spellings                        | verdict              |
|--------------------|----------------------------------------|----------------------|
| `allow`            | `ok`, `accept`, `permit`               | no denial: see below |
| `deny`             | `reject`                               | `Deny`               |
| `defer`            | `denysoft`, `deny_soft`                | `DenySoft`           |
| `deny_disconnect`  | `denyhard`, `disconnect`               | `DenyDisconnect`     |
| `defer_disconnect` | `denysoft_disconnect`, `deny_soft_...` | `DenySoftDisconnect` |

Case, `-` and `_` do not matter. What `allow` means is the plugin's to say: its other rules are not looked at; later
plugins still are.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BeforeValidator

from gatepost.verdict import Deny, DenyDisconnect, DenySoft, DenySoftDisconnect

ActionWord = Literal["allow", "deny", "defer", "deny_disconnect", "defer_disconnect"]

Denial = Deny | DenySoft | DenyDisconnect | DenySoftDisconnect

_SPELLINGS: dict[str, ActionWord] = {
    "allow": "allow",
    "ok": "allow",
    "accept": "allow",
    "permit": "allow",
    "deny": "deny",
    "reject": "deny",
    "defer": "defer",
    "denysoft": "defer",
    "denydisconnect": "deny_disconnect",
    "denyhard": "deny_disconnect",
    "disconnect": "deny_disconnect",
    "deferdisconnect": "defer_disconnect",
    "denysoftdisconnect": "defer_disconnect",
}

_VERDICTS: dict[ActionWord, type[Denial]] = {
    "deny": Deny,
    "defer": DenySoft,
    "deny_disconnect": DenyDisconnect,
    "defer_disconnect": DenySoftDisconnect,
}


def parse_action(value: object) -> ActionWord:
    """Return the one word for any spelling; ValueError, which names the words, otherwise."""
    if isinstance(value, str):
        word = _SPELLINGS.get(value.lower().replace("_", "").replace("-", ""))
        if word is not None:
            return word
    raise ValueError(f"{value!r} is no action: write allow, deny, defer, deny_disconnect or defer_disconnect")


Action = Annotated[ActionWord, BeforeValidator(parse_action)]
"""An action as an option of a plugin: any spelling is taken, the one word is kept."""


MessageActionWord = Literal["allow", "tag", "quarantine", "defer", "defer_disconnect", "deny", "deny_disconnect"]


def parse_message_action(value: object) -> MessageActionWord:
    """Return the one word for any spelling, `tag` and `quarantine` among them; ValueError otherwise."""
    if isinstance(value, str):
        match value.lower():
            case "quarantine" | "tag" as word:
                return word
    try:
        return parse_action(value)
    except ValueError as error:
        raise ValueError(f"{error}; or quarantine, or tag") from None


MessageAction = Annotated[MessageActionWord, BeforeValidator(parse_message_action)]
"""An action of a plugin that sees the whole message, as an option: `tag` passes it on with a header field that says so,
`quarantine` has Postfix hold it; both are the plugin's to do."""


def denial(action: ActionWord, text: str = "", *, enhanced: str | None = None) -> Denial | None:
    """Return the verdict for `action`; None for `allow`.

    `enhanced` is a permanent enhanced status code such as "5.7.1" (RFC 3463), whose class is made to fit the action.
    """
    if action == "allow":
        return None
    verdict = _VERDICTS[action]
    if enhanced is not None:
        enhanced = ("5" if verdict.permanent else "4") + enhanced[1:]
    return verdict(text, enhanced=enhanced)
