"""The log: one line a record, which nobody can forge and everybody can read back."""

from __future__ import annotations

import codecs
import io
import re
from typing import TYPE_CHECKING

import pytest
import structlog
from hypothesis import example, given
from hypothesis import strategies as st

from gatepost.ops import log
from gatepost.ops.log import logfmt_value, render_logfmt

if TYPE_CHECKING:
    from collections.abc import Iterator

ANY_TEXT = st.text(st.characters(exclude_categories=()))
FIELD = re.compile(r'([a-z_]+)=("(?:[^"\\]|\\.)*"|[^\s="]*)(?: |\Z)')


def read_value(value: str) -> str:
    """Read one value back, as a log collector would: escapes are those of JSON and C."""
    if not value.startswith('"'):
        return value
    inner = re.sub(r'\\(["\\])', lambda match: f"\\x{ord(match[1]):02x}", value[1:-1])
    return re.sub(
        r"\\(x[0-9a-f]{2}|u[0-9a-f]{4}|U[0-9a-f]{8}|[tnr])",
        lambda match: codecs.decode(match[0], "unicode_escape"),
        inner,
    )


def read_line(line: str) -> dict[str, str]:
    fields = FIELD.findall(line)
    assert "".join(f"{key}={value} " for key, value in fields) == line + " "
    return {key: read_value(value) for key, value in fields}


@pytest.mark.parametrize(
    ("value", "written"),
    [
        ("plain", "plain"),
        ("user+box@example.org", "user+box@example.org"),
        ("<>", "<>"),
        ("two words", '"two words"'),
        ("a=b", '"a=b"'),
        ('say "hi"', r'"say \"hi\""'),
        ("back\\slash", r'"back\\slash"'),
        ("two\nlines", r'"two\nlines"'),
        ("cr\rlf\r\n", r'"cr\rlf\r\n"'),
        ("\x00\x1b[31m\x7f", r'"\x00\x1b[31m\x7f"'),
        ("\x85\u2028\u202e", r'"\x85\u2028\u202e"'),
        ("\udcff", r'"\udcff"'),
        ("ärger", '"ärger"'),
        ("", '""'),
        (None, "-"),
        ("-", '"-"'),
        (True, "true"),
        (False, "false"),
        (0, "0"),
        (1.5, "1.5"),
    ],
)
def test_a_value_is_bare_where_that_is_unambiguous_and_quoted_elsewhere(value: object, written: str) -> None:
    assert logfmt_value(value) == written


@given(ANY_TEXT)
@example('\\"')
@example("\\n")
@example("\\x41")
@example("\ud800")
def test_a_value_reads_back_as_the_same_text(text: str) -> None:
    assert read_value(logfmt_value(text)) == text


@given(ANY_TEXT)
def test_no_value_ends_its_line_or_breaks_the_terminal(text: str) -> None:
    written = logfmt_value(text)

    assert written.isprintable()
    assert len(written.splitlines()) == 1
    written.encode("utf-8")


@given(st.dictionaries(st.sampled_from(["rcpt", "helo", "text", "ms"]), ANY_TEXT), ANY_TEXT)
@example({"helo": 'x" verdict="Ok'}, "verdict")
def test_no_field_can_forge_another(fields: dict[str, str], event: str) -> None:
    line = render_logfmt(None, "info", {**fields, "event": event, "level": "info"})

    assert read_line(line) == {"level": "info", "event": event, **fields}


def test_time_level_and_event_come_first_and_the_rest_in_its_order() -> None:
    record: dict[str, object] = {"txn": "s.1", "event": "verdict", "ms": 1.5, "level": "info", "time": "2026-11-23"}

    assert render_logfmt(None, "info", record) == "time=2026-11-23 level=info event=verdict txn=s.1 ms=1.5"


@pytest.fixture
def stream(monkeypatch: pytest.MonkeyPatch) -> Iterator[io.StringIO]:
    """Return where the log goes, outside of the journal; the configuration of the other tests comes back."""
    monkeypatch.delenv("JOURNAL_STREAM", raising=False)
    before = structlog.get_config()
    yield io.StringIO()
    structlog.configure(**before)


def test_records_below_the_level_are_not_written(stream: io.StringIO) -> None:
    log.configure("warning", stream)
    logger = structlog.get_logger("test")
    logger.info("not this")
    logger.warning("this", key="a b")

    fields = read_line(stream.getvalue().removesuffix("\n"))
    assert list(fields) == ["time", "level", "event", "key"]
    assert (fields["level"], fields["event"], fields["key"]) == ("warning", "this", "a b")


def test_in_the_journal_the_time_is_left_out(stream: io.StringIO, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("JOURNAL_STREAM", "8:12345")
    log.configure("info", stream)
    structlog.get_logger("test").info("this")

    assert stream.getvalue() == "level=info event=this\n"


def test_a_traceback_stays_on_the_line_of_its_record(stream: io.StringIO) -> None:
    log.configure("info", stream)
    try:
        raise ValueError("bad")
    except ValueError:
        structlog.get_logger("test").exception("bug")

    line = stream.getvalue()
    assert line.count("\n") == 1
    assert "ValueError: bad" in read_line(line.removesuffix("\n"))["exception"]
