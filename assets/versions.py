"""Code versions: what a unit of work was computed by.

The version of a unit is a digest of the syntax trees, without docstrings and comments, of the first-party modules that
its entry modules import: transitively and statically, imports inside functions included. Grids and registries are left
out, since the values that matter reach the key through the record. A comment, a docstring or the layout of the code
changes no version; a constant does.
"""

import ast
import functools
import hashlib
import os
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from assets.home import ROOT

PACKAGES = ("models", "assets", "pipelines")

#: grids, registries and reporting: their content reaches a key by value, or cannot change a result
LEFT_OUT = frozenset(
    {
        "models.arms",
        "models.config",
        "models.experiments",
        "models.presets",
        "models.sweeps",
        "models.validation",
        "models.card",
        "models.tracking",
        "models.errors",
        "models.memory",
        "models.codecs.catalogue",
        "models.saliency.catalogue",
        "assets.chain",
        "assets.figures",
        "assets.graph",
        "assets.handover",
        "assets.home",
        "assets.log",
        "assets.remote",
        "assets.settings",
        "assets.store",
        "assets.versions",
        "assets.world",
        "assets.datasets",
    }
)

#: libraries whose version is recorded with each unit; a change is reported, and stale only with --strict
LIBRARIES = (
    "torch",
    "compressai",
    "numpy",
    "opencv-python-headless",
    "imagecodecs",
    "scipy",
    "pandas",
    "pytorch-msssim",
    "piq",
)


def module_file(name: str, root: Path = ROOT) -> Path | None:
    """The source file of a first-party module, or of a user's codec, named by its path; None for others."""
    if name.endswith(".py"):
        return Path(name)
    if name.split(".")[0] not in PACKAGES:
        return None
    base = root.joinpath(*name.split("."))
    for path in (base.with_suffix(".py"), base / "__init__.py"):
        if path.is_file():
            return path
    return None


def imported_by(tree: ast.AST, root: Path = ROOT) -> set[str]:
    """First-party modules that a syntax tree imports anywhere, `from package import module` included."""
    found: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            found.add(node.module)
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return {name for name in found if module_file(name, root)}


def _without_docstrings(tree: ast.Module) -> ast.Module:
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            first = node.body[0] if node.body else None
            if (
                isinstance(first, ast.Expr)
                and isinstance(first.value, ast.Constant)
                and isinstance(first.value.value, str)
            ):
                node.body = node.body[1:] or [ast.Pass()]
    return tree


def syntax_digest(source: str) -> str:
    """Digest of a module's syntax tree: blind to comments, docstrings, blank lines and quotes."""
    return _read(source, ROOT)[0]


@functools.lru_cache(maxsize=512)
def _read(source: str, root: Path) -> tuple[str, frozenset[str]]:
    """Digest of a module and what it imports, from one parse: closures share most of their modules."""
    tree = ast.parse(source)
    imports = frozenset(imported_by(tree, root))
    return hashlib.sha256(ast.dump(_without_docstrings(tree)).encode()).hexdigest(), imports


def closure(*entries: str, root: Path = ROOT, left_out: frozenset[str] = LEFT_OUT) -> dict[str, str]:
    """Module name → syntax digest of everything that the entry modules reach."""
    found: dict[str, str] = {}
    waiting = list(entries)
    while waiting:
        name = waiting.pop()
        if name in found or name in left_out:
            continue
        path = module_file(name, root)
        if path is None:
            raise ModuleNotFoundError(f"code version of {name}: no such first-party module")
        found[name], imports = _read(path.read_text(), root)
        waiting += sorted(imports)
    return found


@functools.cache
def code_version(*entries: str, apart: tuple[str, ...] = ()) -> str:
    """12 hexadecimal digits for what a unit is computed by, without the modules `apart`; read once a process."""
    modules = closure(*entries, left_out=LEFT_OUT.union(apart))
    named = {Path(name).name if name.endswith(".py") else name: digest for name, digest in modules.items()}
    return hashlib.sha256("".join(f"{k}={named[k]};" for k in sorted(named)).encode()).hexdigest()[:12]


@functools.cache
def library_versions() -> dict[str, str]:
    """Versions of the libraries that can change a number."""
    found = {}
    for name in LIBRARIES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = "absent"
    return found


@functools.cache
def commit() -> str:
    """The Git commit of the code, with `+` when files differ from it; "" outside a repository and without Git.

    FOVEA_COMMIT names it where the code was copied without its repository, as in a container's image.
    """
    import subprocess

    def git(*words: str) -> str:
        try:
            done = subprocess.run(
                ["git", "-C", str(ROOT), *words], capture_output=True, text=True, timeout=20, check=False
            )
        except OSError:
            return ""
        return done.stdout.strip() if done.returncode == 0 else ""

    if baked := os.environ.get("FOVEA_COMMIT", "").strip():
        return baked

    name = git("rev-parse", "--short=12", "HEAD")
    return name + ("+" if name and git("status", "--porcelain", "--untracked-files=no") else "")
