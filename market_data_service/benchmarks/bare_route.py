"""The reference of the API: a FastAPI route that returns a constant, which is in BENCH_CONSTANT as JSON.

    BENCH_CONSTANT='{"symbol": "AAPL"}' python -m benchmarks.bare_route PORT

It runs on the same uvicorn as the API does: one worker, uvloop, httptools, no access log.
"""

from __future__ import annotations

import json
import os
import sys
from typing import Any

import uvicorn
from fastapi import FastAPI

CONSTANT = json.loads(os.environ["BENCH_CONSTANT"])

app = FastAPI()


@app.get("/prices/latest")
async def latest() -> Any:
    """The constant."""
    return CONSTANT


if __name__ == "__main__":
    uvicorn.run(app, port=int(sys.argv[1]), access_log=False, log_level="warning")
