"""The table of parity differences, printed at the end of a test run."""

import json
from pathlib import Path

import numpy as np
import pytest
from golden import relative_difference

#: Largest allowed max |ours - reference| / max |reference|, in the order of the computation.
PARITY_BARS = {
    "noise": 1e-6,
    "voice K/V": 1e-5,
    "text K/V": 1e-5,
    "z": 1e-5,
    "EOS logit": 1e-5,
    "1st latent": 1e-5,
    "latents": 1e-3,
    "Mimi": 1e-5,
    "waveform": 1e-3,
}


class ParityReport:
    """Largest difference per model, precision, instruction set and stage."""

    def __init__(self) -> None:
        self.differences: dict[tuple[str, str, str], dict[str, float]] = {}

    def add(self, case: tuple[str, str, str], stage: str, difference: float) -> None:
        """Keep `difference` when it is the largest so far."""
        stages = self.differences.setdefault(case, {})
        stages[stage] = max(stages.get(stage, 0.0), difference)

    def check(
        self, case: tuple[str, str, str], stage: str, actual: np.ndarray, expected: np.ndarray
    ) -> None:
        """Assert that `actual` is within the bar of `stage`, and keep the difference.

        Parameters
        ----------
        case : tuple of str
            Model, precision and instruction set.
        stage : str
            A key of `PARITY_BARS`.
        actual, expected : array_like
            What this package and the reference computed, of equal shape.
        """
        difference = relative_difference(actual, expected)
        self.add(case, stage, difference)
        assert difference <= PARITY_BARS[stage], (
            f"{stage} of {' '.join(case)}: {difference:.1e} > {PARITY_BARS[stage]:.0e}"
        )

    def lines(self) -> list[str]:
        """Format the table, one line per case."""
        width = max(len(" ".join(case)) for case in self.differences) + 2
        lines = [
            "".ljust(width) + "".join(stage.rjust(12) for stage in PARITY_BARS),
            "bar".ljust(width) + "".join(f"{bar:12.0e}" for bar in PARITY_BARS.values()),
        ]
        for case, stages in sorted(self.differences.items()):
            cells = (
                f"{stages[name]:12.1e}" if name in stages else " " * 12 for name in PARITY_BARS
            )
            lines.append(" ".join(case).ljust(width) + "".join(cells))
        return lines

    def write(self, path: Path) -> None:
        """Write the differences for `read`."""
        rows = [[list(case), stages] for case, stages in self.differences.items()]
        path.write_text(json.dumps(rows), encoding="utf-8")

    def read(self, path: Path) -> None:
        """Add the differences that another run has written."""
        for case, stages in json.loads(path.read_text(encoding="utf-8")):
            for stage, difference in stages.items():
                self.add(tuple(case), stage, difference)


REPORT = pytest.StashKey[ParityReport]()


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add ``--parity-report``."""
    parser.addoption("--parity-report", help="write the parity differences to this JSON file")


def pytest_configure(config: pytest.Config) -> None:
    """Start an empty report."""
    config.stash[REPORT] = ParityReport()


def pytest_terminal_summary(
    terminalreporter: pytest.TerminalReporter, config: pytest.Config
) -> None:
    """Print the table when parity tests have run."""
    report = config.stash[REPORT]
    if config.getoption("--parity-report"):
        report.write(Path(config.getoption("--parity-report")))
    if report.differences:
        terminalreporter.section("largest difference from the reference, relative to its maximum")
        for line in report.lines():
            terminalreporter.write_line(line)


@pytest.fixture(scope="session")
def parity(pytestconfig: pytest.Config) -> ParityReport:
    """The session's parity report."""
    return pytestconfig.stash[REPORT]
