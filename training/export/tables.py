"""What `python -m training.export` prints at its end, and for --list."""

from dataclasses import dataclass
from pathlib import Path

from rich.table import Table

from ..errors import ModelFileError
from ..networks import NETWORKS
from ..onnx_file import read_metadata
from ..recipes import RECIPES
from . import parity


@dataclass(frozen=True)
class Export:
    """One line of the final table: a file in the models folder, and what was measured on it."""

    path: Path
    metadata: dict[str, str]
    differences: parity.Differences | None
    """None for a file that was there already, and for a variant."""
    remark: str
    """How long it took, or why nothing was done."""

    @property
    def name(self) -> str:
        """The model's name."""
        return self.path.parent.parent.name


def path_of(models_dir: Path, name: str) -> Path:
    """Give the place of a model's file, where the server looks for it too."""
    return models_dir / name / "1" / "model.onnx"


def of_exports(exports: list[Export]) -> Table:
    """Draw the table that ends a run."""
    table = Table("name", "data set")
    for column in (
        "parameters",
        "size",
        "test accuracy",
        "max |Δ| torch, float64",
        "ORT, float64",
        "ORT, torch",
        "time",
    ):
        table.add_column(column, justify="right")
    table.add_column("path", overflow="fold")
    for done in exports:
        metadata, found = done.metadata, done.differences
        values = (found.torch_reference, found.onnx_reference, found.onnx_torch) if found is not None else ()
        table.add_row(
            done.name,
            metadata["dataset"],
            f"{int(metadata['parameters']):,}",
            f"{done.path.stat().st_size / 1e6:.2f} MB",
            accuracy(metadata),
            *([f"{value:.1e}" for value in values] or ["-"] * 3),
            done.remark,
            str(done.path),
        )
    return table


def of_networks(models_dir: Path) -> Table:
    """Draw the table of all networks, and of other files in place: what they are, and how well the files answer."""
    table = Table("name", "data set", "architecture", "epochs", "exported, test accuracy")
    for name, recipe in RECIPES.items():
        path = path_of(models_dir, name)
        table.add_row(name, recipe.dataset, NETWORKS[recipe.network].architecture, str(recipe.epochs), _state(path))
    for path in sorted(models_dir.glob(str(path_of(Path(), "*")))):
        name = path.parent.parent.name
        if name not in RECIPES:
            metadata = _read(path)
            origin = metadata.get("network")
            if "variant_of" in metadata:
                origin = f"{metadata['precision']} of {metadata['variant_of']}"
            table.add_row(name, metadata.get("dataset", "-"), origin or "-", "-", _state(path))
    return table


def accuracy(metadata: dict[str, str]) -> str:
    """Give a file's test accuracy in percent; a variant's beside that of the fp32 file it was made from."""
    if "test_accuracy" not in metadata:
        return "-"
    own = f"{float(metadata['test_accuracy']):.2%}"
    if "fp32_test_correct" not in metadata:
        return own
    return f"{own} (fp32 {int(metadata['fp32_test_correct']) / int(metadata['test_images']):.2%})"


def _state(path: Path) -> str:
    if not path.exists():
        return "no"
    metadata = _read(path)
    return accuracy(metadata) if metadata else "not a file of ours"


def _read(path: Path) -> dict[str, str]:
    """Give a file's metadata; nothing of one that we did not write, which may well lie there and be served."""
    try:
        return read_metadata(path)
    except ModelFileError:
        return {}
