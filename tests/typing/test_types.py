"""Types as users' checkers see them: no error, and no Any or unknown type, in a file of what users write."""

import json
import subprocess
import sys
from pathlib import Path

USER_CODE = Path(__file__).parent / "user_code.py"


def run(*command):
    return subprocess.run([sys.executable, "-m", *map(str, command)], capture_output=True, text=True, check=False)


def test_mypy():
    done = run("mypy", "--strict", "--follow-imports=silent", USER_CODE)
    assert done.returncode == 0, done.stdout


def test_pyright(tmp_path):
    """The engine of Pyright and Pylance, as basedpyright packages it, told to report every Any."""
    settings = {"include": [str(USER_CODE)], "typeCheckingMode": "strict", "reportAny": True}
    settings |= {"extraPaths": [str(USER_CODE.parents[2])], "pythonVersion": "3.11"}
    project = tmp_path / "pyrightconfig.json"
    project.write_text(json.dumps(settings))
    done = run("basedpyright", "--project", project, "--pythonpath", sys.executable)
    assert done.returncode == 0, done.stdout + done.stderr
