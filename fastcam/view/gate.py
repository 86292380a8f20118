"""Who may ask: the browser that was given the address, from this page, by this name, and nobody else.

A page that listens on this machine can be reached by every page that the browser has open: by a form, an image, a
script, or by a name that is made to lead here (DNS rebinding). So the name is compared, where the browser says that a
request comes from is compared, and every request needs the token of this run, which others cannot read.
"""

import secrets
from collections.abc import Awaitable, Callable

from starlette.middleware.base import BaseHTTPMiddleware
from starlette.requests import Request
from starlette.responses import PlainTextResponse, RedirectResponse, Response
from starlette.types import ASGIApp

LONGEST_ADDRESS = 16_384  # of path and query
LARGEST_BODY = 2**20
_METHODS = ("GET", "POST")
_SITES = ("none", "same-origin")  # a typed address, and the page itself
HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob: data:; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "X-Frame-Options": "DENY",
}


class Gate(BaseHTTPMiddleware):
    """Refuses what does not come from the page itself.

    Args:
        app: behind it.
        token: of this run.
        port: that is listened on.
    """

    def __init__(self, app: ASGIApp, token: str, port: int) -> None:
        super().__init__(app)
        self.token, self.cookie = token, f"fastcam-{port}"
        self.hosts = {f"{name}:{port}" for name in ("127.0.0.1", "localhost", "[::1]")}
        if port == 80:
            self.hosts |= {"127.0.0.1", "localhost", "[::1]"}
        self.origins = {f"http://{host}" for host in self.hosts}

    async def dispatch(self, request: Request, call_next: Callable[[Request], Awaitable[Response]]) -> Response:
        """Answer a request, or refuse it."""
        response = self._refusal(request) or self._entry(request)
        if response is None:
            response = (
                await call_next(request) if self._knows(request) else _plain(403, "open the address with the token")
            )
        for name, value in HEADERS.items():
            response.headers[name] = value
        return response

    def _refusal(self, request: Request) -> Response | None:
        """Return why a request is refused, whatever it asks for."""
        headers = request.headers
        host, length = headers.get("host", "").lower(), headers.get("content-length", "0")
        is_elsewhere = "origin" in headers and headers["origin"] not in self.origins
        refusals = (
            (headers.getlist("host") != [headers.get("host", "")], 421, "a request has one host"),
            (host not in self.hosts, 421, "this page is not served by that name"),
            (request.method not in _METHODS, 405, "only GET and POST are answered"),
            (is_elsewhere, 403, "the request comes from another page"),
            (request.method == "POST" and "origin" not in headers, 403, "the request does not say where it comes from"),
            (headers.get("sec-fetch-site", "none") not in _SITES, 403, "the request comes from another page"),
            (len(request.url.path) + len(request.url.query) > LONGEST_ADDRESS, 414, "the address is too long"),
            ("transfer-encoding" in headers or not length.isdecimal(), 411, "the length of the body is missing"),
            (length.isdecimal() and int(length[:12]) > LARGEST_BODY, 413, "the body is too large"),
        )
        return next((_plain(status, text) for holds, status, text in refusals if holds), None)

    def _entry(self, request: Request) -> Response | None:
        """Return the answer to the address with the token, which is exchanged for a cookie and leaves the address."""
        if request.method != "GET" or request.url.path != "/" or "token" not in request.query_params:
            return None
        if not secrets.compare_digest(request.query_params["token"].encode(), self.token.encode()):
            return _plain(403, "the token is wrong: start fastcam view again")
        response = RedirectResponse("/", 303)
        response.set_cookie(self.cookie, self.token, httponly=True, samesite="strict")
        return response

    def _knows(self, request: Request) -> bool:
        given = request.cookies.get(self.cookie, "")
        return secrets.compare_digest(given.encode(), self.token.encode())


def _plain(status: int, text: str) -> Response:
    return PlainTextResponse(text + "\n", status)
