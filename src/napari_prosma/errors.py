"""Errors that a user can act on: what was found, where, and what to do. The shell exits 2 on each."""


class ProsmaError(Exception):
    """Base of every error whose text is meant for the user, word for word."""


class DataError(ProsmaError):
    """An image, a label or a folder cannot be used as it is."""


class MissingMasksError(DataError):
    """Some images have a mask, others have none; which may be meant so while a folder is being annotated."""


class CheckpointError(ProsmaError):
    """A checkpoint is missing, damaged, not ours, or made for another task."""


class ConfigError(ProsmaError):
    """A setting, or a combination of settings, makes no sense."""


class DataMovedError(ConfigError):
    """The data of a run are no longer where they were; it goes on once it is told where they are."""
