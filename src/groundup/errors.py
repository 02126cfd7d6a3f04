"""Errors that groundup raises on purpose.

    GroundupError
    ├── UsageError         the command line or an argument of the Python API
    ├── ConfigError        a key, a type or a combination in the configuration
    ├── DataError          a source text, or a folder of prepared tokens
    ├── TokenizerError     a tokenizer that cannot be read, or that does not fit
    ├── CheckpointError    a run or checkpoint folder
    │   ├── NewerFormatError   one that a newer groundup wrote: it is not damaged
    │   └── UnreadableError    one that the system cannot read now: it is not known to be damaged
    ├── TrainingError      a training run that cannot continue
    └── ExportError        an export whose results differ from the model's

Every message is one or two sentences: the place, the value, the remedy. The command line prints it and exits with
`exit_status`; a traceback therefore always means a bug, never a user's mistake.
"""


class GroundupError(Exception):
    """Base of all errors below."""

    exit_status = 2


class UsageError(GroundupError):
    """The command line, or an argument given to the Python API, is invalid."""


class ConfigError(GroundupError):
    """A configuration key is unknown, has the wrong type, or contradicts another."""


class DataError(GroundupError):
    """A source cannot be read as text, or a folder of prepared tokens cannot be used."""


class TokenizerError(GroundupError):
    """A tokenizer cannot be loaded, or cannot express the text it was given."""


class CheckpointError(GroundupError):
    """A run or checkpoint folder is missing, damaged or does not match."""


class NewerFormatError(CheckpointError):
    """A checkpoint was written by a newer groundup; this installation must be updated."""


class UnreadableError(CheckpointError):
    """The system could not read a run or checkpoint: no reason to reject or delete anything."""


class TrainingError(GroundupError):
    """Training cannot continue: the loss stayed non-finite, or the machine failed."""

    exit_status = 1


class ExportError(GroundupError):
    """An export does not compute what the model does, and was removed."""

    exit_status = 1


class FallbackWarning(UserWarning):
    """Something goes on in another way than the best one, such as slower; the message says why."""
