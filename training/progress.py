"""What a training shows: a bar on a terminal, one line for each epoch everywhere."""

from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

from .checkpoint import Epoch


class TrainingProgress:
    """Shows loss, accuracy, images/s and time left while a training runs; use it as a context manager."""

    def __init__(self, name: str, epochs: int, console: Console) -> None:
        self._name = name
        self._epochs = epochs
        self._console = console
        self._bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            TextColumn("{task.fields[metrics]}"),
            TimeRemainingColumn(),
            console=console,
            transient=True,
            disable=not console.is_terminal,
        )
        self._task = self._bar.add_task(name, total=epochs, metrics="")

    def __enter__(self) -> "TrainingProgress":
        self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._bar.stop()

    def advance(self, epoch: int, done: float, loss: float, accuracy: float, images_per_s: float) -> None:
        """Show the metrics of `epoch` (from 0), of which this share is done."""
        self._bar.update(
            self._task,
            completed=epoch + done,
            description=f"{self._name} {epoch + 1}/{self._epochs}",
            metrics=f"loss {loss:.4f}  accuracy {accuracy:.2%}  {images_per_s:,.0f} images/s",
        )

    def end_epoch(self, epoch: int, done: Epoch, images: int) -> None:
        """Print the line of a finished epoch (from 0) of so many images, once its checkpoint is on disk."""
        line = f"{self._name}: epoch {epoch + 1}/{self._epochs}  loss {done['loss']:.4f}"
        line += f"  accuracy: train {done['accuracy']:.2%}"
        for part, accuracy in (("validation", done["validation_accuracy"]), ("test", done["test_accuracy"])):
            if accuracy is not None:
                line += f", {part} {accuracy:.2%}"
        line += f"  {images / done['seconds']:,.0f} images/s"
        self._console.print(line, highlight=False, soft_wrap=True)

    def end_early(self, best: int, epochs: int) -> None:
        """Print which epoch (from 0) of so many gave the weights, where the one of least validation loss does."""
        line = f"{self._name}: {epochs} epochs; the weights are of epoch {best + 1}, whose validation loss is the least"
        self._console.print(line, highlight=False, soft_wrap=True)
