"""h2load (nghttp2-client): a load generator in C that costs far less than what it measures.

It looks at HTTP status only, and gRPC errors are HTTP 200, so the bytes that came back are counted
too: each answer must be as long as the right one.
"""

import re
import shutil
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path

from benchmarks.empty import MODEL_INFER
from benchmarks.errors import BenchmarkError
from benchmarks.samples import Figures, latencies
from benchmarks.workload import Workload

FRAME_HEADER_BYTES = 5
"""Of a gRPC message on the wire: a flag and a length."""
LIMIT_S = 300.0
"""No single run takes longer, whatever happens."""


@dataclass(frozen=True)
class Concurrency:
    """A closed loop: each stream sends its next request when it has its answer."""

    connections: int
    streams: int
    """On each connection."""

    @property
    def in_flight(self) -> int:
        """Requests on their way at any time."""
        return self.connections * self.streams


LONE = Concurrency(1, 1)


def find() -> str:
    """The program's path; raises BenchmarkError where it is missing."""
    program = shutil.which("h2load")
    if program is None:
        raise BenchmarkError("h2load is missing: install it with `apt-get install nghttp2-client`")
    return program


class H2load:
    """Runs of one workload's request against any address."""

    def __init__(self, workload: Workload, folder: Path) -> None:
        """Writes the request into the folder; raises BenchmarkError where h2load is missing."""
        self._program = find()
        self._frame = folder / "request.bin"
        self._frame.write_bytes(workload.frame)
        self._answer_bytes = FRAME_HEADER_BYTES + len(workload.answer)
        self._folder = folder

    def rate(self, address: str, concurrency: Concurrency, requests: int) -> Figures:
        """Answered requests per second."""
        return {"requests_per_s": self._run(address, concurrency, requests)}

    def lone(self, address: str, requests: int) -> Figures:
        """Microseconds from request to answer, one request at a time on one connection."""
        with tempfile.TemporaryDirectory(dir=self._folder) as folder:
            log = Path(folder) / "log.tsv"
            self._run(address, LONE, requests, f"--log-file={log}")
            return latencies([float(line.split("\t")[2]) for line in log.read_text().splitlines()])

    def _run(self, address: str, concurrency: Concurrency, requests: int, *options: str) -> float:
        command = [
            *(self._program, f"-n{requests}", f"-c{concurrency.connections}", f"-m{concurrency.streams}"),
            *("-d", str(self._frame), "-H", "content-type: application/grpc", "-H", "te: trailers", *options),
            f"http://{address}{MODEL_INFER}",
        ]
        try:
            run = subprocess.run(command, capture_output=True, text=True, timeout=LIMIT_S, check=False)
        except subprocess.TimeoutExpired:
            raise BenchmarkError(
                f"{requests} requests took more than {LIMIT_S:.0f} s: ask for fewer with --requests or --seconds"
            ) from None
        rate = re.search(r"finished in .*?, ([\d.]+) req/s", run.stdout)
        succeeded = re.search(r"(\d+) succeeded", run.stdout)
        data = re.search(r"\((\d+)\) data", run.stdout)
        if run.returncode or not (rate and succeeded and data):
            raise BenchmarkError(f"h2load failed: {(run.stderr or run.stdout).strip().splitlines()[-1:]}")
        answered = int(data[1]) / self._answer_bytes
        if int(succeeded[1]) != requests or answered != requests:
            raise BenchmarkError(
                f"of {requests} requests, {succeeded[1]} succeeded and {answered:.1f} brought an answer of the right "
                "length: the server refused some under this load"
            )
        return float(rate[1])
