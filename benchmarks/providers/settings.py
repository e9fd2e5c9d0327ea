"""What is compared: execution providers with their options, and the form of the models that they run."""

from dataclasses import dataclass, field
from typing import Any

from service.provider import Provider
from service.providers import choose


@dataclass(frozen=True)
class Setting:
    """A provider with its options, and which form of the models it runs."""

    name: str
    provider: str
    options: dict[str, Any] = field(default_factory=dict)
    variant: str = ""

    @property
    def providers(self) -> tuple[Provider, ...]:
        """For a session; raises ProviderUnavailable."""
        return choose([self.provider], {self.provider: self.options})

    @property
    def arguments(self) -> list[str]:
        """For the server's command line."""
        flags = [f"--{self.provider}-{name}" for name, value in self.options.items() if value is True]
        values = [
            f"--{self.provider}-{name}={value}" for name, value in self.options.items() if not isinstance(value, bool)
        ]
        return ["--providers", self.provider, *flags, *values]


SETTINGS = {
    setting.name: setting
    for setting in (
        Setting("cpu", "cpu"),
        Setting("cpu-spinning", "cpu", {"spinning": True}),
        Setting("openvino", "openvino"),
        Setting("openvino-bf16", "openvino", {"precision": "bf16"}),
        Setting("cuda", "cuda"),
        Setting("cuda-graphs", "cuda", {"graphs": True}),
        Setting("cuda-tf32", "cuda", {"tf32": True}),
        Setting("cuda-tf32-graphs", "cuda", {"tf32": True, "graphs": True}),
        Setting("cuda-fp16", "cuda", {}, "fp16"),
        Setting("cuda-fp16-tf32", "cuda", {"tf32": True}, "fp16"),
        Setting("cuda-fp16-tf32-graphs", "cuda", {"tf32": True, "graphs": True}, "fp16"),
    )
}
