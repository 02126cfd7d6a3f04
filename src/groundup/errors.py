"""Everything groundup raises on purpose.

    GroundupError
    ├── UsageError         the command line or an argument of the Python API
    ├── ConfigError        a key, a type or a combination in the configuration
    ├── DataError          a source text, or a folder of prepared tokens
    ├── TokenizerError     a tokenizer that cannot be read, or that does not fit
    ├── CheckpointError    a run or checkpoint folder
    │   └── NewerFormatError   one that a newer groundup wrote: nothing is wrong with it
    ├── TrainingError      a training run that cannot go on
    └── ExportError        another program would compute something else than the model

Every message is one sentence, or two: the place, the value, the remedy. The command line prints it and exits
with `exit_status`; a traceback therefore always means a fault of ours, never of the user's.
"""


class GroundupError(Exception):
    """Base of all errors below; catch this one to catch what groundup has to say."""

    exit_status = 2


class UsageError(GroundupError):
    """The command line, or an argument given to the Python API, makes no sense."""


class ConfigError(GroundupError):
    """A configuration key is unknown, has the wrong type, or contradicts another."""


class DataError(GroundupError):
    """A source cannot be read as text, or a folder of prepared tokens is not usable."""


class TokenizerError(GroundupError):
    """A tokenizer cannot be loaded, or cannot express the text it was given."""


class CheckpointError(GroundupError):
    """A run or checkpoint folder is missing, damaged or does not match."""


class NewerFormatError(CheckpointError):
    """A checkpoint was written by a newer groundup, which is no damage: this one must be updated."""


class TrainingError(GroundupError):
    """Training cannot go on: the loss stayed non-finite, or the machine gave out."""

    exit_status = 1


class ExportError(GroundupError):
    """What was written for another program does not compute what the model does, so it was removed again."""

    exit_status = 1
