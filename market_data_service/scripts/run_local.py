"""Start the whole service without Docker: PostgreSQL, Kafka, migrations, API, relay, poller, consumer. Ctrl-C stops it.

    python scripts/run_local.py                       make run does the same, after make setup
    python scripts/run_local.py --mode zookeeper      Kafka with a ZooKeeper
    python scripts/run_local.py --replay              without internet: yfinance asks a stand-in with simulated prices

Settings are those of the service, from the environment or the file .env (.env.example lists them). DATABASE_URL or
POSTGRES_HOST set: that PostgreSQL is used, and none started; KAFKA_BOOTSTRAP_SERVERS set: likewise that Kafka. Without
POSTGRES_PASSWORD one is made up at the first start and kept in .local, where data and logs are, too.
Ports, on 127.0.0.1: API_PORT 8000, POSTGRES_PORT 5432, KAFKA_PORT 9092, ZOOKEEPER_PORT 2181 (--mode zookeeper), and
METRICS_PORT 9101 with the two above it (relay, consumer, poller).
It stops first what takes work (poller, API), then relay and consumer, then Kafka and PostgreSQL; a second signal ends all
at once. When one of its programs ends by itself, everything stops.
Exit codes: 0 stopped by SIGTERM, 1 failed, 2 wrong usage, a bad setting or a taken port, 130 stopped by Ctrl-C.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from local import run

if __name__ == "__main__":
    sys.exit(run.main(__doc__))
