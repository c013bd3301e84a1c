"""The layout of docs/design.md as a test: who imports whom, and which modules touch the world."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
OURS = ("sor", "allocator", "config", "utils", "broker", "kafka_producer", "backtest", "benchmarks")
EDGES = {
    "__init__",
    "feed",
    "stream",
    "security",
    "plot",
    "synthetic",
    "cli",
    "days",
    "ledger",
    "log",
    "doctor",
    "verify",
}  # modules and packages of sor that may touch the world
ONLY_IN = {"kafka": "stream", "matplotlib": "plot", "pyarrow": "feed", "dask": "days", "distributed": "days"}
MAY_IMPORT = {
    "sor": {"sor", "allocator"},
    "allocator": {"sor.errors"},
    "config": set(),
    "utils": set(),
    "kafka_producer": {"sor", "config", "utils"},
    "backtest": {"sor", "allocator", "config", "utils"},
    "broker": {"broker", "sor.errors"},
}
SERVICE = ROOT / "market_data_service"
SERVICE_MAY_IMPORT = {  # its image holds `app` and the scripts alone
    "app": {"app"},
    "scripts": {"app", "local", "benchmarks", "tests"},
    "migrations": {"app"},
    "local": {"app", "local", "broker", "sor.errors", "scripts"},
    "benchmarks": {"app", "local", "benchmarks", "broker", "sor.errors", "scripts"},
}
SERVICE_ONLY_IN = {
    "kafka": "kafka.py",
    "sqlalchemy": "models.py",
    "yfinance": "providers/yfinance.py",
    "alembic": "",
}  # of app
SERVICE_SOURCES = sorted(path for folder in SERVICE_MAY_IMPORT for path in (SERVICE / folder).glob("**/*.py"))
IMPURE_CALLS = {"print", "open", "input"}
IMPURE_ATTRIBUTES = {
    ("time", "time"), ("time", "monotonic"), ("time", "perf_counter"), ("time", "sleep"),
    ("os", "environ"), ("os", "getenv"), ("datetime", "now"), ("datetime", "today"),
    ("sys", "stdout"), ("sys", "stderr"), ("sys", "argv"),
}  # fmt: skip
SOURCES = sorted(path for pattern in ("*.py", "sor/**/*.py", "broker/*.py") for path in ROOT.glob(pattern))


def imported(tree: ast.AST) -> set[str]:
    """Full names of all modules a file imports, function bodies included."""
    names: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "relative imports hide who imports whom"
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    return names


def owner(path: Path) -> str:
    relative = path.relative_to(ROOT)
    return relative.parts[0] if len(relative.parts) > 1 else relative.stem


def part_of_sor(path: Path) -> str:
    """The module or package of sor that a file is or belongs to; empty for other files."""
    return path.relative_to(ROOT / "sor").parts[0].removesuffix(".py") if owner(path) == "sor" else ""


def allowed(name: str, rules: set[str]) -> bool:
    return any(name == rule or name.startswith(f"{rule}.") for rule in rules)


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_imports_follow_the_layout(path: Path) -> None:
    names = imported(ast.parse(path.read_text(encoding="utf-8")))
    ours = {name for name in names if allowed(name, set(OURS))}
    assert {name for name in ours if not allowed(name, MAY_IMPORT[owner(path)])} == set()
    elsewhere = {library for library, module in ONLY_IN.items() if module != part_of_sor(path)}
    assert not any(allowed(name, elsewhere) for name in names)


@pytest.mark.parametrize("path", SERVICE_SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_imports_of_the_service_follow_the_layout(path: Path) -> None:
    names = imported(ast.parse(path.read_text(encoding="utf-8")))
    folder, *rest = path.relative_to(SERVICE).parts
    ours = {name for name in names if allowed(name, {*OURS, *SERVICE_MAY_IMPORT, "tests"})}
    assert {name for name in ours if not allowed(name, SERVICE_MAY_IMPORT[folder])} == set()
    if folder == "app":
        elsewhere = {library for library, module in SERVICE_ONLY_IN.items() if module != "/".join(rest)}
        assert not any(allowed(name, elsewhere) for name in names)


def is_pure(path: Path) -> bool:
    return owner(path) == "allocator" or (owner(path) == "sor" and part_of_sor(path) not in EDGES)


@pytest.mark.parametrize("path", list(filter(is_pure, SOURCES)), ids=lambda path: str(path.relative_to(ROOT)))
def test_pure_modules_touch_neither_clock_nor_terminal_nor_environment(path: Path) -> None:
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
            assert node.func.id not in IMPURE_CALLS, f"{path.name}:{node.lineno} calls {node.func.id}"
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
            assert (node.value.id, node.attr) not in IMPURE_ATTRIBUTES, f"{path.name}:{node.lineno}"


def test_the_top_level_holds_the_five_programs_of_the_trial_and_no_other_module() -> None:
    assert {path.stem for path in ROOT.glob("*.py")} == {"allocator", "backtest", "config", "kafka_producer", "utils"}
    assert not (ROOT / "kafka").exists(), "a folder of this name shadows kafka-python"


OBJECTS_FROM_BYTES = {"pickle", "marshal", "shelve", "dill", "cloudpickle", "joblib"}  # run what they read
FORBIDDEN_CALLS = {
    "eval", "exec", "compile", "__import__", "os.system", "os.popen", "subprocess.getoutput", "subprocess.getstatusoutput",
    "tempfile.mktemp", "yaml.load", "yaml.unsafe_load", "yaml.full_load", "pd.read_pickle", "pandas.read_pickle",
}  # fmt: skip
FORBIDDEN_WORDS = {"shell": True, "allow_pickle": True}
EVERY_SOURCE = [
    *SOURCES, *SERVICE_SOURCES, *sorted((ROOT / "benchmarks").glob("*.py")), *sorted((ROOT / "deploy").glob("*.py")),
]  # fmt: skip


def what_could_run_strange_code(tree: ast.AST) -> list[str]:
    """Imports and calls that make code or objects out of data."""
    found = [name for name in imported(tree) if name.split(".")[0] in OBJECTS_FROM_BYTES]
    for call in (node for node in ast.walk(tree) if isinstance(node, ast.Call)):
        found += [name for name in [ast.unparse(call.func)] if name in FORBIDDEN_CALLS or name.endswith(".to_pickle")]
        for word in call.keywords:
            if word.arg in FORBIDDEN_WORDS and getattr(word.value, "value", True) is not False:
                found.append(f"{word.arg}={ast.unparse(word.value)}")
    return found


@pytest.mark.parametrize("path", EVERY_SOURCE, ids=lambda path: str(path.relative_to(ROOT)))
def test_no_code_or_object_is_made_out_of_data(path: Path) -> None:
    assert what_could_run_strange_code(ast.parse(path.read_text(encoding="utf-8"))) == []


@pytest.mark.parametrize(
    "text",
    ["import pickle", "from pickle import load", "eval('1')", "subprocess.run('ls', shell=True)", "yaml.load(text)",
     "np.load(path, allow_pickle=True)", "np.load(path, allow_pickle=flag)", "os.system('ls')", "frame.to_pickle(path)"],
)  # fmt: skip
def test_the_rule_against_it_sees_it(text: str) -> None:
    assert what_could_run_strange_code(ast.parse(text))
    assert not what_could_run_strange_code(
        ast.parse("re.compile('x'); np.load(path, allow_pickle=False); run(shell=False)")
    )
