"""What can go wrong in training and export, drawn as a tree; each message is one sentence that names the remedy.

TrainingError
├── DataError        a data set is missing, damaged or cannot be downloaded
├── BusyError        another process is making the same model or checkpoint
├── PlaceError       a folder cannot take what is to be made: no folder, not writable, or no room
├── DeviceError      the device that was asked for is not there
├── CheckpointError  a checkpoint is damaged, or belongs to another network or recipe
├── DivergedError    the loss is no longer a finite number
├── ModelFileError   a file in models/ is not one that this package wrote
├── ModuleError      a module, an ONNX file of others, or what is said of it, cannot become a model file
└── ParityError      NumPy, PyTorch and ONNX Runtime do not compute the same function, or a variant strays too far
"""


class TrainingError(Exception):
    """Anything that a command of this package reports in one sentence, with a non-zero exit."""


class DataError(TrainingError):
    """A data set is missing, damaged or cannot be downloaded."""


class BusyError(TrainingError):
    """Another process is making the same model or checkpoint."""


class PlaceError(TrainingError):
    """A folder cannot take what is to be made: it is none, cannot be written to, or has no room."""


class DeviceError(TrainingError):
    """The device that was asked for is not there."""


class CheckpointError(TrainingError):
    """A checkpoint is damaged, or belongs to another network or recipe."""


class DivergedError(TrainingError):
    """The loss is no longer a finite number."""


class ModelFileError(TrainingError):
    """A file in models/ is not one that this package wrote."""


class ModuleError(TrainingError):
    """A module, an ONNX file of others, or what is said of it, cannot become a model file."""


class ParityError(TrainingError):
    """NumPy, PyTorch and ONNX Runtime do not compute the same function, or a variant strays too far from its model."""
