"""``fastcam view`` as a process: what it prints, how it ends, and what it refuses."""

import re
import signal
import socket
import subprocess
import sys
import urllib.error
import urllib.request

import pytest

from tests.cli.command_line import run
from tests.view.served import maps_of, photographs

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    root = tmp_path_factory.mktemp("command")
    source = photographs(root / "photos")
    return source, maps_of(source, root / "maps", ("grad_cam",))


def test_it_serves_until_it_is_interrupted(folders):
    source, maps = folders
    program = "from fastcam.cli import main; main()"
    command = [sys.executable, "-c", program, "view", str(maps), "--source", str(source), "--no-browser"]
    server = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        line = server.stdout.readline()
        assert re.match(r"25 maps at http://127\.0\.0\.1:\d+/", line)
        address = re.search(r"http://\S+", line)[0]
        opener = urllib.request.build_opener(urllib.request.HTTPCookieProcessor())
        assert b"<title>Maps</title>" in opener.open(address, timeout=20).read()
        with pytest.raises(urllib.error.HTTPError, match="403"):
            urllib.request.urlopen(address.split("?")[0], timeout=20)
        server.send_signal(signal.SIGINT)
        _, errors = server.communicate(timeout=20)
    finally:
        server.kill()
        server.wait()
    assert server.returncode == 0
    assert errors == ""


def test_mistakes(folders, tmp_path):
    _, maps = folders
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        done = run("view", str(maps), "--port", port, "--no-browser")
        assert (done.exit_code, f"port {port} cannot be listened on" in done.stderr) == (2, True)
    for arguments, words in (
        ([str(tmp_path)], "holds no maps"),
        ([str(maps), "--source", str(tmp_path / "none")], "there is nothing at"),
    ):
        done = run("view", *arguments, "--no-browser")
        assert done.exit_code == 2
        assert words in done.stderr
