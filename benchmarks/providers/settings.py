"""What is compared: execution providers with their options, and the form of the models that they run."""

from dataclasses import dataclass, field
from typing import Any

from service.runtime.execution_provider import Provider
from service.runtime.providers import choose


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
        words = {f"--{self.provider}-{name.replace('_', '-')}": value for name, value in self.options.items()}
        options = [word if value is True else f"{word}={value}" for word, value in words.items()]
        return ["--providers", self.provider, *options]


SETTINGS = {
    setting.name: setting
    for setting in (
        Setting("cpu", "cpu"),
        Setting("cpu-sleeping", "cpu", {"spin_us": 0}),
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
