"""The report on the verification of one adapter."""

from dataclasses import dataclass

from adapters.manifest import Manifest
from adapters.problem import Problem


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """Every problem of one folder, errors first; `manifest` is None if the content cannot be read.

    An accepted adapter has a manifest. `signed_by` is the id of the trusted key that signed it, or empty.
    """

    folder: str
    problems: tuple[Problem, ...]
    manifest: Manifest | None
    signed_by: str = ""

    @property
    def is_accepted(self) -> bool:
        """Whether there are no errors; there may be warnings."""
        return not self.errors

    @property
    def errors(self) -> tuple[Problem, ...]:
        """The problems that refuse the adapter."""
        return tuple(problem for problem in self.problems if problem.is_error)

    @property
    def warnings(self) -> tuple[Problem, ...]:
        """The problems that are reported and do not refuse the adapter."""
        return tuple(problem for problem in self.problems if not problem.is_error)

    def check(self) -> Manifest:
        """Return the manifest of an accepted adapter.

        Raises:
            Refused: There are errors; the message has each on a line of its own.
        """
        if self.errors or self.manifest is None:
            raise Refused(self)
        return self.manifest


class Refused(ValueError):
    """The adapter is refused; the message has every reason on a line of its own."""

    def __init__(self, report: Report) -> None:
        self.report = report
        super().__init__("\n".join(sentence(problem) for problem in report.errors))


def sentence(problem: Problem) -> str:
    """Return a problem on one line: code, place, what, how much, the limit, and what to do."""
    where = f"{problem.where}: " if problem.where else ""
    value = f" `{problem.value}`" if problem.value is not None else ""
    limit = f" (needed: {problem.limit})" if problem.limit is not None else ""
    return f"{problem.code}: {where}{problem.message}{value}{limit}; {problem.remedy}"
