import pytest

_counts = []


@pytest.fixture
def counted():
    """A function that takes a line for the end of the report."""
    return _counts.append


def pytest_terminal_summary(terminalreporter):
    if _counts:
        terminalreporter.section("counts")
        for line in _counts:
            terminalreporter.line(line)
