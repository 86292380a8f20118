"""Fixtures of the command line's tests."""

import sys

import pytest

from tests.cli.command_line import SMALL_MODEL


@pytest.fixture
def work(tmp_path, monkeypatch):
    """An empty working folder with a module that builds a small model."""
    (tmp_path / "small_model_of_a_test.py").write_text(SMALL_MODEL)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.path", list(sys.path))
    yield tmp_path
    sys.modules.pop("small_model_of_a_test", None)
