"""A stand-in for Yahoo's servers: the development machines cannot reach the real ones. Its prices are simulated.

    python -m tests.yahoo --port 8899 [--symbol TSLA=404 ...] [--price AAPL=196.45 ...] [--storm]

The real yfinance speaks to it unmodified, by two environment variables: HTTPS_PROXY, since it is an HTTP proxy that answers
for Yahoo's hosts itself, over TLS, and REQUESTS_CA_BUNDLE with its certificate, made anew at every start. The command
prints both as shell lines, and runs until Ctrl-C. It speaks to this machine only.

While it runs, it is told what to answer, in tests by the methods of `Yahoo`, from a shell with curl:

    curl -X PUT http://127.0.0.1:8899/symbols/AAPL -d 429       the answer for a symbol, one of FIXTURES
    curl -X PUT http://127.0.0.1:8899/prices/AAPL -d 196.45     the price of all its bars
    curl -X PUT http://127.0.0.1:8899/storm -d on               429 to everything, until: -d off
    curl http://127.0.0.1:8899/counts                           how often was asked what
"""

from __future__ import annotations

import argparse
import contextlib
import datetime
import json
import math
import re
import signal
import socket
import ssl
import struct
import sys
import tempfile
import threading
import time
import zlib
from collections import Counter
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit
from zoneinfo import ZoneInfo

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

FIXTURES = {
    "normal": "one-minute and daily bars that end now",
    "daily": "daily bars only",
    "empty": "a chart without any bar",
    "nan": "bars without prices",
    "zero": "bars with the price 0",
    "404": "Yahoo's own Not Found",
    "429": "too many requests, with Retry-After",
    "500": "an error of the server",
    "slow": "the normal answer after `slow_s` seconds",
    "half-close": "half of the normal answer, then the end of the connection",
    "consent": "a redirect to the HTML page that asks for consent",
}
HOSTS = (
    "fc.yahoo.com",
    "query1.finance.yahoo.com",
    "query2.finance.yahoo.com",
    "finance.yahoo.com",
    "guce.yahoo.com",
    "consent.yahoo.com",
)
ELSE = ""  # in place of a symbol: the requests for cookies and crumbs, which may be 429, slow or normal
FILES = Path(__file__).resolve().parent / "yahoo_fixtures"
HOST = "127.0.0.1"
NEW_YORK = ZoneInfo("America/New_York")
MINUTE_S, DAY_S = 60, 86_400
OPENING_S = 13 * 3_600 + 30 * 60  # of a daily bar, seconds after midnight UTC
STEPS_S = {"1m": MINUTE_S, "5m": 5 * MINUTE_S, "1d": DAY_S}
BARS_S = {"1d": 30 * MINUTE_S, "5d": 5 * DAY_S}  # how far back a range reaches; for a day half an hour is enough
_COOKIE = "A3=d=stand-in; Expires=Fri, 31 Dec 2032 23:59:59 GMT; Domain=.yahoo.com; Path=/; Secure; HttpOnly"
_GONE = (ConnectionError, ssl.SSLError, TimeoutError)


class Yahoo:
    """The stand-in: `with Yahoo() as yahoo:` serves on `yahoo.port`, with `yahoo.environ` in the client's environment.

    Parameters
    ----------
    port
        0 takes a free one.
    clock
        Seconds since 1970; the newest bar is the one that holds this time.
    """

    def __init__(self, port: int = 0, clock: Callable[[], float] = time.time) -> None:
        self.clock = clock
        self.slow_s = 30.0
        self.retry_after: str | None = "30"
        self.counts: Counter[str] = Counter()
        self.most_at_once = 0
        self.stopping = threading.Event()
        self._fixtures: dict[str, str] = {}
        self._prices: dict[str, float] = {}
        self._storm = False
        self._now = 0
        self._lock = threading.Lock()
        self._folder = tempfile.TemporaryDirectory(prefix="yahoo-stand-in-")
        self.certificate = Path(self._folder.name) / "certificate.pem"
        self._server = _Server((HOST, port), self)
        self._server.tls = _tls(self.certificate)

    @property
    def port(self) -> int:
        """Where it listens, on 127.0.0.1."""
        return int(self._server.server_address[1])

    @property
    def environ(self) -> dict[str, str]:
        """What a client's environment must have. A lower-case https_proxy or a no_proxy there would win over it."""
        return {"HTTPS_PROXY": f"http://{HOST}:{self.port}", "REQUESTS_CA_BUNDLE": str(self.certificate)}

    def answer(self, symbol: str, fixture: str) -> None:
        """From now on, what requests about a symbol get: one of FIXTURES."""
        if fixture not in FIXTURES:
            raise ValueError(f"fixture is {fixture!r}; it must be one of {', '.join(FIXTURES)}")
        self._fixtures[symbol] = fixture

    def price(self, symbol: str, price: float) -> None:
        """From now on, the price of all bars of a symbol."""
        self._prices[symbol] = price

    def storm(self, on: bool) -> None:
        """From now on, whether everything is answered with 429."""
        self._storm = on

    def fixture_of(self, symbol: str) -> str:
        """What a symbol's requests get now; `normal` if nothing was said."""
        return "429" if self._storm else self._fixtures.get(symbol, "normal")

    @contextlib.contextmanager
    def counted(self, kind: str, symbol: str = "") -> Iterator[None]:
        """Count a request, and how many are under way."""
        with self._lock:
            self.counts[kind] += 1
            if symbol:
                self.counts[f"{kind} {symbol}"] += 1
            self._now += 1
            self.most_at_once = max(self.most_at_once, self._now)
        try:
            yield
        finally:
            with self._lock:
                self._now -= 1

    def chart(self, symbol: str, query: dict[str, str]) -> dict[str, Any]:
        """The answer of /v8/finance/chart, in Yahoo's form."""
        fixture, interval = self.fixture_of(symbol), query["interval"]
        is_bare = fixture == "empty" or (fixture == "daily" and interval != "1d")
        times = [] if is_bare else self._times(interval, query)
        quote = self._columns(symbol, fixture, times)
        bars = {"timestamp": times, "indicators": {"quote": [quote]}} if times else {"indicators": {"quote": [{}]}}
        meta = json.loads((FILES / "meta.json").read_text(encoding="utf-8"))
        meta |= {"symbol": symbol, "range": query.get("range", ""), "dataGranularity": interval}
        meta |= {"regularMarketTime": int(self.clock()), "regularMarketPrice": self._price(symbol, self.clock())}
        if interval != "1d":
            meta["tradingPeriods"] = [[_trading_day(day)] for day in sorted({_day(t) for t in [*times, self.clock()]})]
        return {"chart": {"result": [{"meta": meta, **bars}], "error": None}}

    def _times(self, interval: str, query: dict[str, str]) -> list[int]:
        """When the bars begin: from period1, or as far back as the range reaches, to now."""
        step, now = STEPS_S[interval], int(self.clock())
        offset = OPENING_S if interval == "1d" else 0
        first = int(query.get("period1") or now - BARS_S.get(query.get("range", ""), DAY_S) + 1)
        last = min(int(query.get("period2") or now), now)
        return list(range(math.ceil((first - offset) / step) * step + offset, last + 1, step))

    def _columns(self, symbol: str, fixture: str, times: list[int]) -> dict[str, list[float | None]]:
        fixed: dict[str, list[float | None]] = {"nan": [None] * len(times), "zero": [0.0] * len(times)}
        closes = fixed.get(fixture) or [self._price(symbol, t) for t in times]
        volumes: list[float | None] = [None if close is None else 100 for close in closes]
        return dict.fromkeys(("open", "high", "low", "close"), closes) | {"volume": volumes}

    def _price(self, symbol: str, t: float) -> float:
        """Simulated: around a mean of the symbol's own, in cents, rounded to 32 bits as Yahoo does."""
        mean = 50 + zlib.crc32(symbol.encode()) % 400
        price = self._prices.get(symbol, round(mean * (1 + 0.01 * math.sin(t // MINUTE_S / 7)), 2))
        return float(struct.unpack("f", struct.pack("f", price))[0])

    def __enter__(self) -> Yahoo:
        threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stopping.set()
        self._server.shutdown()
        self._server.server_close()
        self._folder.cleanup()


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False
    request_queue_size = 128
    tls: ssl.SSLContext

    def __init__(self, address: tuple[str, int], yahoo: Yahoo) -> None:
        self.yahoo = yahoo
        super().__init__(address, _Proxy)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that went away is none."""
        if not isinstance(sys.exc_info()[1], _GONE):
            super().handle_error(request, client_address)


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    wbufsize = -1  # an answer leaves in one piece, without waiting for the client's acknowledgement of its head
    disable_nagle_algorithm = True
    server: _Server

    @property
    def yahoo(self) -> Yahoo:
        return self.server.yahoo

    def log_message(self, *_: object) -> None:
        """Nothing: `counts` tells what was asked."""

    def reply(self, status: int, body: bytes = b"", kind: str = "application/json", **headers: str) -> None:
        """A whole answer; underscores in the names of headers stand for dashes."""
        self._head(status, len(body), kind, headers)
        self.wfile.write(body)
        self.wfile.flush()

    def _head(self, status: int, length: int, kind: str, headers: dict[str, str]) -> None:
        self.send_response(status)
        for name, value in {"Content-Type": kind, "Content-Length": str(length), **headers}.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()

    def body(self) -> str:
        """What the client sent."""
        return self.rfile.read(int(self.headers.get("Content-Length", 0))).decode()


class _Proxy(_Handler):
    """What is said before TLS: CONNECT of clients, and GET and PUT of whoever directs the stand-in."""

    def do_CONNECT(self) -> None:
        host = self.path.partition(":")[0]
        self.close_connection = True
        if host not in HOSTS:
            self.reply(403, f"{host} is no host of this stand-in\n".encode(), "text/plain")
            return
        self.wfile.write(b"HTTP/1.1 200 Connection established\r\n\r\n")
        self.wfile.flush()
        with self.server.tls.wrap_socket(self.connection, server_side=True) as connection:
            _Site(connection, self.client_address, self.server)

    def do_GET(self) -> None:
        if self.path != "/counts":
            self.reply(404)
            return
        self.reply(200, json.dumps(self.yahoo.counts).encode())

    def do_PUT(self) -> None:
        value = self.body().strip()
        try:
            direct(self.yahoo, self.path, value)
        except ValueError as error:
            self.reply(422, f"{error}\n".encode(), "text/plain")
        else:
            self.reply(204)


class _Site(_Handler):
    """Yahoo's hosts."""

    def do_GET(self) -> None:
        host, path = self.headers.get("Host", ""), urlsplit(self.path).path
        chart = re.fullmatch(r"/v8/finance/chart/([^/]+)", path)
        symbol = unquote(chart[1]) if chart else ""
        kind = (
            "chart" if chart else "crumb" if path.endswith("/getcrumb") else "cookie" if host[:2] == "fc" else "other"
        )
        with self.yahoo.counted(kind, symbol):
            if symbol:
                self._chart(symbol)
            elif self.yahoo.fixture_of(ELSE) == "429":
                self._too_many()
            elif self.yahoo.fixture_of(ELSE) != "slow" or not self.yahoo.stopping.wait(self.yahoo.slow_s):
                self._other(host, kind)

    def do_POST(self) -> None:
        self.body()
        self.do_GET()

    def _other(self, host: str, kind: str) -> None:
        if kind == "cookie":
            self.reply(404, kind="text/html", Set_Cookie=_COOKIE)
        elif kind == "crumb":
            self.reply(200, b"stand.in/crumb", "text/plain")
        elif host.startswith(("guce.", "consent.")):
            self.reply(200, _file("consent.html"), "text/html")
        else:
            self.reply(404, b'{"finance": {"result": null, "error": {"code": "Not Found"}}}')

    def _chart(self, symbol: str) -> None:
        fixture = self.yahoo.fixture_of(symbol)
        if fixture == "404":
            self.reply(404, _file("not_found.json"))
        elif fixture == "429":
            self._too_many()
        elif fixture == "500":
            self.reply(500, b"Internal Server Error", "text/plain")
        elif fixture == "consent":
            self.reply(302, Location="https://consent.yahoo.com/v2/collectConsent?sessionId=3_cc-session_stand-in")
        else:
            self._bars(symbol, fixture)

    def _bars(self, symbol: str, fixture: str) -> None:
        query = {name: values[0] for name, values in parse_qs(urlsplit(self.path).query).items()}
        body = json.dumps(self.yahoo.chart(symbol, query)).encode()
        if fixture == "slow" and self.yahoo.stopping.wait(self.yahoo.slow_s):
            return
        if fixture == "half-close":
            self._head(200, len(body), "application/json", {})
            self.wfile.write(body[: len(body) // 2])
            self.wfile.flush()
            self.connection.shutdown(socket.SHUT_WR)
            self.close_connection = True
        else:
            self.reply(200, body)

    def _too_many(self) -> None:
        wait = {} if self.yahoo.retry_after is None else {"Retry_After": self.yahoo.retry_after}
        self.reply(429, _file("too_many_requests.txt"), "text/plain", **wait)


def direct(yahoo: Yahoo, path: str, value: str) -> None:
    """Do what a PUT says; a ValueError tells what it must say."""
    _, kind, symbol = [*path.split("/"), ""][:3]
    if kind == "symbols" and symbol:
        yahoo.answer(unquote(symbol), value)
    elif kind == "prices" and symbol:
        yahoo.price(unquote(symbol), float(value))
    elif kind == "storm" and value in ("on", "off"):
        yahoo.storm(value == "on")
    else:
        raise ValueError(
            "it must be /symbols/SYMBOL with a fixture, /prices/SYMBOL with a number, /storm with on or off"
        )


def _file(name: str) -> bytes:
    return (FILES / name).read_bytes()


def _day(t: float) -> datetime.date:
    return datetime.datetime.fromtimestamp(t, NEW_YORK).date()


def _trading_day(day: datetime.date) -> dict[str, Any]:
    """A trading period from midnight to midnight: the stand-in never closes."""
    start = datetime.datetime.combine(day, datetime.time(), NEW_YORK)
    end = datetime.datetime.combine(day + datetime.timedelta(days=1), datetime.time(), NEW_YORK)
    return {"timezone": "EDT", "gmtoffset": -14_400, "start": int(start.timestamp()), "end": int(end.timestamp())}


def _tls(file: Path) -> ssl.SSLContext:
    """A server's TLS with a new certificate for Yahoo's hosts, which signs itself, is written to `file` and lasts a week."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "stand-in for Yahoo, tests only")])
    now = datetime.datetime.now(datetime.timezone.utc)
    certificate = (
        x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(hours=1))
        .not_valid_after(now + datetime.timedelta(days=7))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(host) for host in HOSTS]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .sign(key, hashes.SHA256())
    )
    file.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    key_file = file.with_name("key.pem")
    form = (serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    key_file.write_bytes(key.private_bytes(*form))
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    tls.load_cert_chain(file, key_file)
    tls.set_alpn_protocols(["http/1.1"])
    key_file.unlink()
    return tls


@pytest.fixture
def yahoo(monkeypatch: pytest.MonkeyPatch) -> Iterator[Yahoo]:
    """The stand-in, with this process's environment set, so that processes which a test starts speak to it."""
    for name in ("https_proxy", "all_proxy", "ALL_PROXY", "no_proxy", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
    with Yahoo() as stand_in:
        for name, value in stand_in.environ.items():
            monkeypatch.setenv(name, value)
        yield stand_in


def main(argv: list[str] | None = None) -> int:
    """Run it as a command."""
    parser = argparse.ArgumentParser(prog="python -m tests.yahoo", description=(__doc__ or "").partition("\n\n")[0])
    parser.add_argument("--port", type=int, default=0, help="0 (the default) takes a free one")
    parser.add_argument("--symbol", action="append", default=[], metavar="SYMBOL=FIXTURE", help=" | ".join(FIXTURES))
    parser.add_argument("--price", action="append", default=[], metavar="SYMBOL=PRICE")
    parser.add_argument("--storm", action="store_true", help="answer everything with 429 from the start")
    options = parser.parse_args(argv)
    try:
        stand_in = _directed(options)
    except (OSError, OverflowError, ValueError) as error:
        sys.stderr.write(f"error: {error}\n")
        return 2
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    with contextlib.suppress(KeyboardInterrupt), stand_in:
        for name, value in stand_in.environ.items():
            print(f"export {name}={value}", flush=True)
        threading.Event().wait()
    return 130


def _directed(options: argparse.Namespace) -> Yahoo:
    stand_in = Yahoo(options.port)
    for kind in ("symbol", "price"):
        for given in getattr(options, kind):
            symbol, _, value = given.rpartition("=")
            direct(stand_in, f"/{kind}s/{symbol}", value)
    stand_in.storm(options.storm)
    return stand_in


if __name__ == "__main__":
    sys.exit(main())
