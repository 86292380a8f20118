"""Sixty requests that the page must refuse, sent as bytes to a real server; and what it answers."""

import http.client
import io
import json
import re
import socket

import numpy as np
import pytest
from PIL import Image

from fastcam.view.gate import HEADERS
from fastcam.view.pictures import MapValues
from tests.view.served import TOKEN, maps_of, photographs, served

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    root = tmp_path_factory.mktemp("gate")
    (root / "secret.png").write_bytes(b"secret")
    source = photographs(root / "photos")
    link = source / "red" / "98.png"
    link.symlink_to(root / "secret.png")  # a link out of the source, which has a row of its own
    folder = maps_of(source, root / "maps", ("grad_cam",))
    with served([folder], source) as found:
        yield found


def ask(server, method="GET", path="/api/about", headers=None, body=None, cookie=True):
    """Send a request as it stands; None leaves a header out."""
    sent = {"Host": f"127.0.0.1:{server.port}", "Cookie": f"fastcam-{server.port}={TOKEN}" if cookie else None}
    sent |= headers or {}
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=20)
    connection.putrequest(method, path, skip_host=True, skip_accept_encoding=True)
    for name, value in sent.items():
        for each in value if isinstance(value, list) else [value]:
            if each is not None:
                connection.putheader(name, each)
    if body is not None and "Content-Length" not in sent:
        connection.putheader("Content-Length", str(len(body)))
    connection.endheaders(body)
    response = connection.getresponse()
    found = response.status, response.read(), dict(response.getheaders())
    connection.close()
    return found


def post(server, content, **headers):
    origin = {"Origin": server.address, "Content-Type": "application/json"}
    return ask(server, "POST", "/api/tags", {**origin, **headers}, content)


HOSTS = [
    "evil.example",
    "127.0.0.1",
    "127.0.0.1:1",
    "localhost.evil.example:{port}",
    "127.0.0.1.evil.example:{port}",
    "[::1].evil.example:{port}",
    "evil.example:{port}",
    "127.0.0.1:{port}.evil.example",
    "2130706433:{port}",
    "0.0.0.0:{port}",
    "",
    None,
]
ORIGINS = [
    "http://evil.example",
    "null",
    "https://127.0.0.1:{port}",
    "http://127.0.0.1:1",
    "http://127.0.0.1:{port}.evil.example",
    "http://evil.example:{port}",
    "file://",
    "http://127.0.0.1:{port}/",
    "",
]
PATHS = [
    "/page/../server.py",
    "/page/%2e%2e/server.py",
    "/page/..%2fserver.py",
    "/page/%2e%2e%2f%2e%2e%2fcli/view.py",
    "/page//etc/passwd",
    "/page/%00",
    "/etc/passwd",
    "/../../etc/passwd",
    "/api/photographs/../about2",
    "/api/photographs/..%2f..%2fsecret.png",
    "/api/photographs/-1",
    "/api/photographs/1e3",
    "/api/photographs/999999999",
    "/api/photographs/0?side=100000",
    "/api/photographs/0?side=-1",
    "/api/maps?places=-1",
    "/api/maps?places=1;2",
    "/api/maps?places=" + ",".join(["1"] * 300),
    "/api/rows?limit=-1",
    "/api/rows?offset=99999999999999999999",
    "/api/rows?sort=(select+1)",
    "/api/rows?where=not-json",
    "/api/rows?where=[[[[[[",
    "/api/rows?where=" + "[" * 5000,
    "/api/rows?where=%5B%7B%22column%22%3A%22map%22%2C%22operator%22%3A%22is%22%2C%22value%22%3A1%7D%5D",
    "/api/values?column=map",
    "/api/values?column=score)%3B--",
    "/api/histogram?column=label",
    "/api/colours?colours=../x",
    "/api/rows?x=" + "a" * 20000,
]
BODIES = [
    b"",
    b"[]",
    b"{",
    b'{"places": 1}',
    b'{"places": ["a"], "tag": 1}',
    b'{"places": [-1], "tag": 1}',
    b'{"places": [0], "tag": 10}',
    b'{"places": [0], "tag": true}',
    b'{"places": [0], "tag": "1"}',
    b"[" * 100_000,
    b'{"places": [0.5], "tag": 1}',
]


def test_there_are_sixty():
    assert len(HOSTS) + len(ORIGINS) + len(PATHS) + len(BODIES) >= 60


@pytest.mark.parametrize("host", HOSTS)
def test_other_names_of_this_machine(server, host):
    status, body, _ = ask(server, headers={"Host": host and host.format(port=server.port)})
    assert status in (400, 421)
    assert b"stores" not in body


@pytest.mark.parametrize("origin", ORIGINS)
def test_other_pages(server, origin):
    status, body, _ = ask(server, headers={"Origin": origin.format(port=server.port)})
    assert status == 403
    assert b"stores" not in body


@pytest.mark.parametrize("path", PATHS, ids=lambda path: path[:60])
def test_addresses_that_lead_elsewhere(server, path):
    status, body, _ = ask(server, path=path)
    assert status in (400, 404, 414), body[:200]
    for secret in (b"root:", b"secret", b"import ", b"Traceback", b"SELECT"):
        assert secret not in body


@pytest.mark.parametrize("body", BODIES, ids=lambda body: body[:30].decode())
def test_bodies_that_are_no_tags(server, body):
    status, text, _ = post(server, body)
    assert status == 400
    assert b"Traceback" not in text
    assert server.table.tagged() == []


def test_requests_without_the_token(server):
    for path in ("/", "/api/about", "/api/rows", "/api/photographs/0", "/page/main.js", "/api/export.csv"):
        assert ask(server, path=path, cookie=False)[0] == 403
    assert ask(server, path="/?token=wrong", cookie=False)[0] == 403
    assert ask(server, path="/?token=", cookie=False)[0] == 403
    assert ask(server, headers={"Cookie": f"fastcam-{server.port}={TOKEN[:-1]}"})[0] == 403


def test_the_token_becomes_a_cookie(server):
    status, _, headers = ask(server, path=f"/?token={TOKEN}", cookie=False)
    assert (status, headers["location"]) == (303, "/")
    assert "HttpOnly" in headers["set-cookie"]
    assert "SameSite=strict" in headers["set-cookie"]


@pytest.mark.parametrize("site", ["cross-site", "same-site"])
def test_what_the_browser_says_of_other_sites(server, site):
    assert ask(server, headers={"Sec-Fetch-Site": site})[0] == 403


@pytest.mark.parametrize("method", ["PUT", "DELETE", "OPTIONS", "PATCH", "HEAD", "TRACE"])
def test_other_methods(server, method):
    assert ask(server, method)[0] == 405


def test_posts_from_nowhere(server):
    assert ask(server, "POST", "/api/tags", {}, b"{}")[0] == 403
    assert post(server, b"{}", **{"Content-Length": "2000000"})[0] == 413
    assert post(server, b"2\r\n{}\r\n0\r\n\r\n", **{"Content-Length": None, "Transfer-Encoding": "chunked"})[0] == 411


def test_two_hosts(server):
    names = [f"127.0.0.1:{server.port}", "evil.example"]
    with socket.create_connection(("127.0.0.1", server.port), 10) as connection:
        lines = [
            "GET /api/about HTTP/1.1",
            *(f"Host: {name}" for name in names),
            f"Cookie: fastcam-{server.port}={TOKEN}",
        ]
        connection.sendall("\r\n".join([*lines, "Connection: close", "", ""]).encode())
        answer = connection.recv(65536)
    assert answer.split(b" ")[1] in (b"400", b"421")


def test_a_link_out_of_the_source(server):
    rows = json.loads(ask(server, path="/api/rows")[1])["rows"]
    (place,) = (row["place"] for row in rows if row["image_id"].endswith("98.png"))
    status, body, _ = ask(server, path=f"/api/photographs/{place}")
    assert status == 404
    assert b"outside of the source" in body


def test_every_answer_has_its_headers(server):
    for path in ("/", "/api/about", "/nothing", "/page/main.js", "/api/rows?where=x"):
        headers = ask(server, path=path)[2]
        for name, value in HEADERS.items():
            assert headers[name.lower()] == value


def test_what_is_answered(server):
    assert ask(server, headers={"Host": f"localhost:{server.port}"})[0] == 200
    assert ask(server, headers={"Host": f"[::1]:{server.port}", "Origin": f"http://[::1]:{server.port}"})[0] == 200
    status, body, headers = ask(server, path="/api/photographs/0?side=64")
    assert (status, headers["content-type"], body[:2]) == (200, "image/jpeg", b"\xff\xd8")
    assert post(server, b'{"places": [0, 1], "tag": 3}')[0] == 200
    assert [row["tag"] for row in json.loads(ask(server, path="/api/rows?limit=3")[1])["rows"]] == [3, 3, None]
    assert post(server, b'{"places": [0, 1], "tag": null}')[0] == 200
    lines = ask(server, path="/api/export.csv")[1].decode().splitlines()
    assert lines[0].startswith("folder,image_id,label")
    assert len(lines) == server.table.count() + 1


def test_a_page_of_the_chosen_rows(server):
    where = "%5B%7B%22column%22%3A%22label%22%2C%22operator%22%3A%22is%22%2C%22value%22%3A%22lime%22%7D%5D"
    status, body, headers = ask(server, path=f"/api/export.html?where={where}&sort=score&descending=1")
    assert (status, headers["content-disposition"]) == (200, 'attachment; filename="maps.html"')
    entries = json.loads(re.search(r'id="entries">(.*?)</script>', body.decode())[1])
    assert [entry["title"] for entry in entries] == ["lime/10.png", "lime/07.png", "lime/04.png", "lime/01.png"]
    assert all(len(entry["maps"]) == 2 for entry in entries)  # the two highest classes
    assert entries[0]["maps"][0]["name"].startswith("grad_cam, lime, ")


def test_a_sheet_of_the_chosen_rows(server):
    status, body, headers = ask(server, path="/api/export.png?colours=gray&opacity=100&sort=place")
    assert (status, headers["content-disposition"]) == (200, 'attachment; filename="maps.png"')
    sheet = np.asarray(Image.open(io.BytesIO(body)))
    place = server.table.page([], "place", False, 0, 1)[0]["place"]
    values = MapValues(server.table).scaled(place)
    cell = np.asarray(Image.fromarray(values).resize((224, 224), Image.Resampling.BILINEAR))
    np.testing.assert_allclose(sheet[:224, :224, 0], cell * 255, atol=1)
    page = ask(server, path="/api/export.html?sort=entropy")[1].decode()
    assert ", entropy 0." in page  # the numbers of the order
    for wrong in ("colours=../x", "opacity=-1", "opacity=x"):
        assert ask(server, path=f"/api/export.png?{wrong}")[0] == 400
