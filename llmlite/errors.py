class LLMLiteError(Exception):
    """Bad input or an impossible request, in one sentence for a person: what, where and what to do.
    The command line prints it and exits with code 2."""


class DataError(LLMLiteError):
    """The corpus cannot be had, or is not what it says it is."""


class TokenizerError(LLMLiteError):
    """A tokenizer cannot be trained, loaded or asked for this."""


class CheckpointError(LLMLiteError):
    """A file of weights or a training state is missing, damaged or belongs to something else."""


class MissingRunError(LLMLiteError):
    """A run that is to be shown has not been trained, and cannot be trained here."""


class DivergedError(LLMLiteError):
    """The loss or the gradient became NaN or infinite; the run was stopped and says where."""


class OutOfMemoryError(LLMLiteError):
    """A batch did not fit into the device's memory; says which accumulation would."""


class BusyError(LLMLiteError):
    """Another process is at work in this folder."""


class DiskFullError(LLMLiteError):
    """There is no room left for a file; what was there before is whole."""
