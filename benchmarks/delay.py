"""A proxy that delays what passes, each way: a network at a distance, where the kernel has no netem."""

import asyncio
import contextlib
import threading
from types import TracebackType
from typing import Self


class DelayingProxy:
    """Listens in a thread of its own until the block ends; a round trip through it takes ``round_trip_s`` longer."""

    def __init__(self, address: str, round_trip_s: float, recordings: list[bytearray] | None = None) -> None:
        """``recordings`` gets all that each client sends."""
        self.recordings = recordings
        self._host, _, self._port = address.rpartition(":")
        self._delay_s = round_trip_s / 2
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        listening = asyncio.start_server(self._accept, "127.0.0.1", 0)
        self._server = asyncio.run_coroutine_threadsafe(listening, self._loop).result()
        self.address = f"127.0.0.1:{self._server.sockets[0].getsockname()[1]}"
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        asyncio.run_coroutine_threadsafe(self._end(), self._loop).result()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    async def _end(self) -> None:
        self._server.close()
        tasks = asyncio.all_tasks() - {asyncio.current_task()}
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(asyncio.CancelledError, OSError):
            recording = None
            if self.recordings is not None:
                self.recordings.append(recording := bytearray())
            behind, before = await asyncio.open_connection(self._host, self._port)
            try:
                await asyncio.gather(self._pass(reader, before, recording), self._pass(behind, writer))
            finally:
                before.close()
                writer.close()

    async def _pass(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, recording: bytearray | None = None
    ) -> None:
        while data := await reader.read(2**18):
            if recording is not None:
                recording += data
            self._loop.call_later(self._delay_s, writer.write, data)
        self._loop.call_later(self._delay_s, writer.close)
