"""PostgreSQL and Kafka of this folder, without Docker: for scripts/run_local.py and the tests. The image does not hold it.

Kafka is the repository's `broker`, one folder up: importing this package makes it importable, here and nowhere else.
"""

import sys
from pathlib import Path

SERVICE = Path(__file__).resolve().parent.parent
ROOT = SERVICE.parent
HOME = SERVICE / ".local"  # data, logs and the password that was made up; nothing of it is committed

if str(ROOT) not in sys.path:
    sys.path.append(str(ROOT))  # last: the service's own modules win
