"""Publish the events that wait in the outbox to KAFKA_TOPIC, until SIGTERM or Ctrl-C.

    PYTHONPATH=. python scripts/outbox_relay.py

Each event is published at least once, those of one symbol and provider in the order they were stored. PostgreSQL and Kafka
may come and go. Several may run: one publishes, the others stand by.
Exit codes: 0 stopped, 1 failed, 2 wrong usage or a bad setting, 130 and 143 at a second signal.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from app import relay, service

if __name__ == "__main__":
    sys.exit(service.main("relay", __doc__, relay.work))
