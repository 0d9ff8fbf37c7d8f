"""Nothing that comes from outside may run code: no pickle, no torch.load of whole objects, no remote code, no eval."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SOURCES = sorted(path for part in ("datashunt", "workers", "migrations") for path in (ROOT / part).rglob("*.py"))
MODULES = {"pickle", "cPickle", "dill", "cloudpickle", "joblib", "shelve", "marshal"}
CALLS = {"eval", "exec", "compile", "__import__", "os.system", "os.popen", "yaml.unsafe_load", "yaml.full_load"}


def dotted(node: ast.expr) -> str:
    return ast.unparse(node) if isinstance(node, ast.Name | ast.Attribute) else ""


def faults(tree: ast.AST) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Import | ast.ImportFrom):
            names = [node.module or ""] if isinstance(node, ast.ImportFrom) else [one.name for one in node.names]
            yield from (f"imports {name}" for name in names if name.split(".")[0] in MODULES)
        elif isinstance(node, ast.Call):
            given = {one.arg: one.value for one in node.keywords}
            if dotted(node.func) in CALLS:
                yield f"calls {dotted(node.func)}"
            if dotted(node.func) == "torch.load" and not is_constant(given.get("weights_only"), value=True):
                yield "torch.load without weights_only=True"
            if "trust_remote_code" in given and not is_constant(given["trust_remote_code"], value=False):
                yield "trusts remote code"
            if is_constant(given.get("shell"), value=True):
                yield "a shell"
            if given.get("allow_pickle") is not None and not is_constant(given["allow_pickle"], value=False):
                yield "allows pickles"


def is_constant(node: ast.expr | None, *, value: bool) -> bool:
    return isinstance(node, ast.Constant) and node.value is value


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_no_file_of_ours_runs_code_that_came_as_data(path: Path) -> None:
    assert list(faults(ast.parse(path.read_text(encoding="utf-8")))) == []


@pytest.mark.parametrize(
    "bad",
    [
        "import pickle",
        "from joblib import load",
        "torch.load(p)",
        "torch.load(p, weights_only=False)",
        "f(trust_remote_code=x)",
        "eval(s)",
        "subprocess.run(c, shell=True)",
        "np.load(p, allow_pickle=True)",
    ],
)
def test_the_search_finds_it(bad: str) -> None:
    assert list(faults(ast.parse(bad)))
