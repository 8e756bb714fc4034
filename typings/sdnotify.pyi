"""The part of sdnotify that gatepost uses; the library has no types of its own."""

import socket as _socket

class SystemdNotifier:
    socket: _socket.socket | None
    def __init__(self, debug: bool = ...) -> None: ...
    def notify(self, state: str) -> None: ...
