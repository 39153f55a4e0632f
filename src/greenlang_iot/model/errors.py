"""Typed errors. A library's own errors are translated once, at the boundary."""


class GatewayError(Exception):
    """A failure a person reads: one clear sentence (what, where, what to do). Exit code 1."""


class InputError(GatewayError):
    """The user's input is wrong: settings, registry, arguments. Exit code 2.

    `problems` holds one sentence each, so that every mistake is shown at once.
    """

    def __init__(self, message: str, problems: tuple[str, ...] = ()) -> None:
        super().__init__(message)
        self.problems = problems


class SinkError(Exception):
    """A chunk could not be delivered.

    retryable: trying the same bytes again can help (a dead service, a busy one).
    down: the sink is known to be down (refused, unauthorised, no such bucket): spool at once.
    retry_after: seconds the service asked to wait, or None.
    reason: bounded word for metrics (`timeout`, `refused`, `unauthorized`, `http_503`, …).
    """

    def __init__(
        self,
        message: str,
        *,
        reason: str,
        retryable: bool = True,
        down: bool = False,
        retry_after: float | None = None,
    ) -> None:
        super().__init__(message)
        self.reason = reason
        self.retryable = retryable
        self.down = down
        self.retry_after = retry_after


class MqttError(Exception):
    """A connection to a broker failed or was refused, said in words."""

    def __init__(self, message: str, *, reason: str, retryable: bool = True) -> None:
        super().__init__(message)
        self.reason = reason
        self.retryable = retryable
