"""sor names the folder of compiled kernels after its sources, so that an update never runs an old one."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from sor import kernel_folder

ROOT = Path(__file__).parent.parent
SOURCE = "from numba import njit\n"


@pytest.fixture
def sources(tmp_path: Path) -> Path:
    """Two files, one in a package beneath."""
    (tmp_path / "beneath").mkdir()
    for path in (tmp_path / "kernel.py", tmp_path / "beneath" / "part.py"):
        path.write_text(SOURCE)
    return tmp_path


def test_a_change_of_any_source_gives_another_folder(sources: Path) -> None:
    before = kernel_folder(sources)
    assert before == kernel_folder(sources)
    assert before.parent == sources / "__pycache__"
    os.utime(sources / "beneath" / "part.py", ns=(1, 1))
    touched = kernel_folder(sources)
    (sources / "kernel.py").write_text(SOURCE + "\n")
    assert len({before, touched, kernel_folder(sources)}) == 3


@pytest.mark.parametrize("given", ["", "elsewhere"])
def test_importing_sor_names_the_folder_unless_one_is_given(given: str) -> None:
    code = "import os, sor; print(os.environ['NUMBA_CACHE_DIR'])"
    env = {name: value for name, value in os.environ.items() if name != "NUMBA_CACHE_DIR"}
    env |= {"NUMBA_CACHE_DIR": given} if given else {}
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, env=env, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == (given or str(kernel_folder(ROOT / "sor")))
