"""pandas without pyarrow, which it loads wherever that is installed: 35 MB and 60 ms for nothing."""

import sys

sys.modules.setdefault("pyarrow", None)
import pandas as pd  # noqa: E402

if sys.modules["pyarrow"] is None:
    del sys.modules["pyarrow"]  # `sor.feed.arrow` loads it when Parquet is read or written

__all__ = ["pd"]
