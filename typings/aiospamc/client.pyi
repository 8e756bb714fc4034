from aiospamc.connections import ConnectionManager
from aiospamc.requests import Request
from aiospamc.responses import Response

class Client:
    def __init__(self, connection_manager: ConnectionManager) -> None: ...
    async def request(self, req: Request) -> Response: ...
