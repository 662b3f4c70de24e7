"""The errors a user can meet, each answered by the command line on one screen.

`ConfigError` is raised while a record is built, before anything is trained: its
message is one sentence that names the field, the bad value and the fix.
"""


class SandboxError(Exception):
    """Base of every error whose message is meant for the user.

    Attributes:
      exit_code: what a command that ends with it returns.
    """

    exit_code = 2


class ConfigError(SandboxError, ValueError):
    """A record was built with an impossible value or combination."""


class StoreError(SandboxError):
    """A run folder is missing, incomplete, altered or held by another process."""


class Busy(StoreError):
    """A run folder is held by another process; what it does is found there later."""

    exit_code = 75


class Interrupted(SandboxError):
    """A signal asked the work to stop; its state was saved and it can be resumed."""

    exit_code = 75


class DivergenceError(SandboxError):
    """Every lane of a run became non-finite; the last good state was kept."""


def require(condition: bool, message: str) -> None:
    """Raises `ConfigError(message)` unless `condition` holds."""
    if not condition:
        raise ConfigError(message)
