"""A network namespace of the kernel: a machine of its own, as far as the network goes."""

import os
import shutil
import subprocess
from types import TracebackType
from typing import Self

IP = shutil.which("ip", path=f"{os.environ['PATH']}:/usr/sbin:/sbin")


def why_not() -> str:
    """Why there can be no namespaces here; empty where there can."""
    if IP is None:
        return "needs ip (Debian: iproute2)"
    if os.geteuid() != 0:
        return "needs root, for network namespaces"
    tried = subprocess.run([IP, "netns", "add", f"try{os.getpid()}"], capture_output=True, text=True, check=False)
    if tried.returncode:
        return f"no network namespaces: {tried.stderr.strip()}"
    subprocess.run([IP, "netns", "delete", f"try{os.getpid()}"], check=True)
    return ""


class Namespace:
    """A namespace joined to ours by two ends of a wire, which can be cut; gone on exit."""

    def __init__(self, number: int) -> None:
        self.name = f"cv{os.getpid()}-{number}"
        self._near, self._far = f"n{os.getpid()}-{number}", f"f{os.getpid()}-{number}"
        net = f"10.199.{os.getpid() % 250}"
        self._near_address, self.address = f"{net}.{4 * number + 1}", f"{net}.{4 * number + 2}"
        self.within = (str(IP), "netns", "exec", self.name)
        """What a command begins with, to be run there."""

    def __enter__(self) -> Self:
        self._ip("netns", "add", self.name)
        self._ip("link", "add", self._near, "type", "veth", "peer", "name", self._far, "netns", self.name)
        self._ip("address", "add", f"{self._near_address}/30", "dev", self._near)
        self._ip("link", "set", self._near, "up")
        self._ip("-n", self.name, "address", "add", f"{self.address}/30", "dev", self._far)
        self.join()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._ip("link", "delete", self._near)
        self._ip("netns", "delete", self.name)

    def cut(self) -> None:
        """Nothing passes any more, and neither side is told."""
        self._ip("-n", self.name, "link", "set", self._far, "down")

    def join(self) -> None:
        """All passes."""
        self._ip("-n", self.name, "link", "set", self._far, "up")

    def _ip(self, *arguments: str) -> None:
        subprocess.run([str(IP), *arguments], check=True, capture_output=True, text=True)
