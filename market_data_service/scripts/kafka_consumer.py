"""Keep the moving averages: read the events of KAFKA_TOPIC as one of the group KAFKA_GROUP, until SIGTERM or Ctrl-C.

    PYTHONPATH=. python scripts/kafka_consumer.py
    PYTHONPATH=. python scripts/kafka_consumer.py --once               drain what is on the topic, then end
    PYTHONPATH=. python scripts/kafka_consumer.py --from-beginning     work on the whole topic again

Each average is the mean of the MA_WINDOW newest prices up to a price's time. A message that is no event goes to
KAFKA_DLQ_TOPIC (scripts/replay_dlq.py). PostgreSQL and Kafka may come and go. Several may run: they share the partitions.
Exit codes: 0 stopped or drained, 1 failed, 2 wrong usage or a bad setting, 130 and 143 at a second signal.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from app import consumer, service

if __name__ == "__main__":
    sys.exit(service.main("consumer", __doc__, consumer.work, add_flags=consumer.add_flags))
