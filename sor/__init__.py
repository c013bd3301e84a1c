"""What the programs share; docs/design.md has the map.

Importing it names the folder of compiled kernels after the sources: numba keeps a kernel when only a function or a constant
that it took from another file has changed, and after an update would go on with the old one.
"""

import os
from hashlib import sha256
from pathlib import Path


def kernel_folder(sources: Path) -> Path:
    """Where kernels compiled from the Python files under `sources` are kept: another folder once one of them changes."""
    found = ((str(path), path.stat()) for path in sorted(sources.rglob("*.py")))
    stamps = [(path, stat.st_size, stat.st_mtime_ns) for path, stat in found]
    return sources / "__pycache__" / f"kernels-{sha256(repr(stamps).encode()).hexdigest()[:16]}"


os.environ.setdefault("NUMBA_CACHE_DIR", str(kernel_folder(Path(__file__).parent)))
