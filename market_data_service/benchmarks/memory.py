"""The most memory of the API's process while all its routes are at work, beside that of the bare FastAPI route.

The provider's child process is apart, since that is what it is for: yfinance brings pandas. It is loaded in full, for
yfinance asks the tests' stand-in for Yahoo's servers. Figures are resident memory, looked at every 50 ms.
"""

from __future__ import annotations

import contextlib
import json
import re
import urllib.error
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

from benchmarks import cached, misses
from benchmarks.stage import MEGABYTE, BenchError, Stage, Watched, check
from benchmarks.table import Row

MOST_MB = 100
JOBS = 1_000
EACH = 20
AT_ONCE = 8
PLACES = (
    "/prices/latest?symbol=AAPL&provider=replay&max_age=0",
    "/prices/latest?symbol=MSFT&provider=yfinance&max_age=0",
    "/prices/history?symbol=AAPL&provider=yfinance&limit=200",
    "/prices/moving-average?symbol=AAPL&provider=yfinance&window=20",
    "/prices/poll",
    "/docs",
    "/openapi.json",
    "/metrics",
    "/health",
)
_EXPORT = re.compile(r"^export (HTTPS_PROXY|REQUESTS_CA_BUNDLE)=(.*)$", re.MULTILINE)


def rows(stage: Stage) -> list[Row]:
    """The one claim; a single round, for the most of a process does not depend on chance."""
    seconds = max(1, stage.scale.loads * stage.scale.load_s // 3)
    environment = {"REPLAY_FILE": str(misses.recording(stage.folder, ["AAPL"]))}
    with yahoo(stage) as proxy, cached.serving(stage, cached.SHORT, **environment, **proxy) as api:
        api.load(seconds)
        use_everything(api.url.partition("/prices")[0])
        api.load(seconds)
        children_mb = sum(each.memory_info().rss for each in api.watched.children()) / MEGABYTE
        with cached.bare(stage, api.body) as bare:
            bare.load(seconds)
            figures = {"api_mb": api.watched.peak_mb, "child_mb": children_mb, "bare_mb": bare.watched.peak_mb}
    ours, beside = figures["api_mb"], figures["bare_mb"]
    text = f"bare FastAPI route {beside:.0f} MB; its provider process {children_mb:.0f} MB"
    return [Row("API: memory", f"{ours:.0f} MB", text, ours / beside, f"<= {MOST_MB} MB", ours <= MOST_MB, figures)]


@contextlib.contextmanager
def yahoo(stage: Stage) -> Iterator[dict[str, str]]:
    """The stand-in for Yahoo's servers, for the block: the environment that yfinance finds it with."""
    with stage.program("yahoo", "-m", "tests.yahoo", settings=stage.settings("postgres", with_kafka=False)) as watched:
        yield watched.wait(lambda: _exports(watched), "its address") | dict.fromkeys(("https_proxy", "no_proxy"), "")


def _exports(watched: Watched) -> dict[str, str]:
    found = dict(_EXPORT.findall(watched.program.log))
    return found if len(found) == 2 else {}


def use_everything(base: str) -> None:
    """Make polling jobs, and ask for each of PLACES EACH times, AT_ONCE at a time; every answer must be good."""
    for start in range(0, JOBS, 100):
        symbols = [f"S{number}" for number in range(start, start + 100)]
        told = json.loads(
            _answer(f"{base}/prices/poll", {"symbols": symbols, "interval_minutes": 60, "provider": "replay"})
        )
        check(told["message"].startswith("Polling job"), f"POST /prices/poll answers {told}")
    with ThreadPoolExecutor(AT_ONCE) as pool:
        for body in pool.map(lambda place: _answer(f"{base}{place}"), PLACES * EACH):
            check(bool(body), "an answer was empty")


def _answer(url: str, body: object = None) -> bytes:
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(url, data, {"Content-Type": "application/json"})
    try:
        with urllib.request.urlopen(request, timeout=60) as response:
            return response.read()
    except urllib.error.HTTPError as error:
        check(False, f"{url} answers {error.code}: {error.read()[:300]!r}")
        raise
    except OSError as error:
        raise BenchError(f"{url}: {error}") from None
