"""The count of the tools' tests: what passes, what fails, and the exit status."""

import sys

import pytest

from tests.compat import their_tests

CASES = """
import pytest

@pytest.mark.parametrize("value", [1, 2, 3])
def test_values(value):
    assert value != 2

def test_left_out():
    pytest.skip("no")

@pytest.fixture
def broken():
    raise OSError

def test_error(broken):
    pass
"""


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ([], (2, ["test_cases::test_values[2]", "test_cases::test_error"], False)),
        (["-k", "nothing"], (0, [], False)),
        (["--unknown"], (0, [], True)),
    ],
)
def test_what_is_counted(tmp_path, monkeypatch, arguments, expected):
    (tmp_path / "test_cases.py").write_text(CASES)
    monkeypatch.setattr(sys, "argv", ["their_tests", *arguments])
    monkeypatch.setenv("PYTEST_DISABLE_PLUGIN_AUTOLOAD", "1")  # which starts faster
    assert their_tests.run(tmp_path, ["test_cases.py"]) == expected


@pytest.mark.parametrize(
    ("result", "status"),
    [
        ((3, [], False), 0),
        ((3, ["a::b"], False), 0),
        ((3, ["a::c"], False), 1),
        ((3, ["a::b", "a::c"], False), 1),
        ((3, [], True), 1),
    ],
)
def test_the_status_and_the_lines(monkeypatch, capsys, result, status):
    monkeypatch.setattr(their_tests, "KNOWN", {"a::b": "a reason"})
    monkeypatch.setattr(their_tests, "fetched", lambda folder: folder)
    monkeypatch.setattr(their_tests, "run", lambda root, tests: result)
    assert their_tests.main() == status
    lines = capsys.readouterr().out.splitlines()
    for tool in ("pytorch-grad-cam", "captum", "torch-cam"):
        assert f"{tool}: 3 of {3 + len(result[1])} passed" in lines
    assert lines.count("  a::b: a reason") == 3 * ("a::b" in result[1])
