"""Types as users' checkers see them: no error, and no Any or unknown type, in a file of what users write.

mypy reads the same file in ``make lint``.
"""

import json
import subprocess
import sys
from pathlib import Path

USER_CODE = Path(__file__).parent / "user_code.py"


def test_pyright(tmp_path):
    """The engine of Pyright and Pylance, as basedpyright packages it, told to report every Any."""
    settings = {"include": [str(USER_CODE)], "typeCheckingMode": "strict", "reportAny": True}
    settings |= {"extraPaths": [str(USER_CODE.parents[2])], "pythonVersion": "3.11"}
    project = tmp_path / "pyrightconfig.json"
    project.write_text(json.dumps(settings))
    command = ["basedpyright", "--project", str(project), "--pythonpath", sys.executable]
    done = subprocess.run([sys.executable, "-m", *command], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
