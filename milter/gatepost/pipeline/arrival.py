"""What happens before and between messages: a client connects, greets, says something that is no command.

Knows no sockets. Whichever door hears of it first calls it, the edge if it is configured, else the proxy; so does
`gatepost.testing`. A denial at connect or helo is remembered on the session; another greeting is judged by itself.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from gatepost.session import Denial

if TYPE_CHECKING:
    from gatepost.deadline import Deadline
    from gatepost.pipeline.pipeline import Pipeline
    from gatepost.session import Session


async def connect(pipeline: Pipeline, session: Session, deadline: Deadline) -> Denial | None:
    """Run the connect hook; return its denial, which is remembered on the session."""
    verdict = await pipeline.run("connect", session, session, deadline=deadline)
    if verdict.denies:
        session.denial = Denial("connect", verdict)
    return session.denial


async def helo(pipeline: Pipeline, session: Session, deadline: Deadline) -> Denial | None:
    """Run the helo hook for `session.helo`; return the denial that holds for the session from now on.

    One for something else than an earlier greeting stays, and the hook does not run. The deny hooks run when the client
    hears it (`Flow`); at once only for a hang-up, which may be the answer to any command.
    """
    if session.denial is None or session.denial.hook == "helo":
        session.denial = None
        verdict = await pipeline.ask("helo", session, session, session.helo, deadline=deadline)
        is_later = verdict.denies and not verdict.disconnects
        if not is_later:
            verdict = await pipeline.conclude("helo", session, verdict, deadline=deadline)
        if verdict.denies:
            session.denial = Denial("helo", verdict, given=not is_later)
    return session.denial


async def greet(pipeline: Pipeline, session: Session, deadline: Deadline) -> None:
    """Run the connect and helo hooks of a new session, one right after the other."""
    await connect(pipeline, session, deadline)
    if session.helo is not None:
        await helo(pipeline, session, deadline)


async def unrecognized(pipeline: Pipeline, session: Session, verb: str, deadline: Deadline) -> Denial | None:
    """Run the unrecognized_command hook; a hang-up that was decided before comes first."""
    if session.denial is not None and session.denial.verdict.disconnects:
        return session.denial
    verdict = await pipeline.run("unrecognized_command", session, session, verb, deadline=deadline)
    return Denial("unrecognized_command", verdict) if verdict.denies else None
