"""Code versions: what a unit of work was computed by.

The version of a unit is a digest of the syntax trees, without docstrings and comments, of the first-party modules that
its entry modules import: transitively and statically, imports inside functions included. Grids and registries are left
out, since the values that matter reach the key through the record. A comment, a docstring or the layout of the code
changes no version; a constant does.
"""

import ast
import atexit
import contextlib
import functools
import hashlib
import json
import os
import subprocess
import sys
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from assets.home import ROOT, written_beside
from models.errors import FoveaError

PACKAGES = ("models", "assets", "pipelines")

#: grids, registries and reporting: their content reaches a key by value, or cannot change a result
LEFT_OUT = frozenset({
    "models.arms", "models.config", "models.experiments", "models.presets", "models.sweeps",
    "models.validation", "models.card", "models.tracking", "models.errors", "models.memory",
    "models.codecs.catalogue", "models.saliency.catalogue", "assets.chain", "assets.figures", "assets.graph",
    "assets.handover", "assets.home", "assets.log", "assets.mirror", "assets.remote", "assets.settings",
    "assets.store", "assets.versions", "assets.world", "assets.datasets",
})  # fmt: skip

#: libraries whose version is recorded with each unit; a change makes none stale
LIBRARIES = (
    "torch", "compressai", "numpy", "opencv-python-headless", "imagecodecs", "scipy", "pandas", "piq",
)  # fmt: skip


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


def _names_imported(tree: ast.AST) -> set[str]:
    """What a syntax tree imports of the packages here, anywhere; of `from package import name` both, whatever name is."""
    found: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            found.add(node.module)
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return {name for name in found if name.split(".")[0] in PACKAGES}


def _without_docstrings(tree: ast.Module) -> ast.Module:
    for node in ast.walk(tree):
        if (
            isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef)
            and ast.get_docstring(node, clean=False) is not None
        ):
            node.body = node.body[1:] or [ast.Pass()]
    return tree


#: modules that the file of `Parsed` holds, the last that were parsed
MOST_PARSED = 4000


@dataclass
class Parsed:
    """What was read of modules, by the digest of their source and the Python that parsed it: parsing takes most of the
    time of a command that finds nothing to do."""

    path: Path | None = None
    modules: dict[str, tuple[str, list[str]]] = field(default_factory=dict)
    grown: bool = False

    def keep_in(self, path: Path) -> None:
        """Read what earlier processes left in a file, and leave there at this process's end what was added."""
        if path == self.path:
            return
        if self.path is None:
            atexit.register(self.save)
        self.path, self.grown = path, True
        # a file that is damaged or of another layout is made anew
        with contextlib.suppress(OSError, ValueError, TypeError, AttributeError):
            kept = {k: (str(d), [str(n) for n in names]) for k, (d, names) in json.loads(path.read_text()).items()}
            self.grown = bool(self.modules.keys() - kept.keys())
            self.modules = kept | self.modules

    def save(self) -> None:
        """Write the file if it lacks something, where there is a state at all."""
        if self.grown and self.path is not None and self.path.parent.parent.is_dir():
            with contextlib.suppress(OSError, FoveaError), written_beside(self.path) as beside:
                beside.write_text(json.dumps(dict(list(self.modules.items())[-MOST_PARSED:])))

    def module(self, source: str) -> tuple[str, list[str]]:
        """Digest of a module's syntax tree, and the names of packages here that it imports."""
        key = hashlib.sha256(f"{sys.version_info[:2]}{source}".encode()).hexdigest()[:32]
        if key not in self.modules:
            tree = ast.parse(source)
            names = sorted(_names_imported(tree))
            digest = hashlib.sha256(ast.dump(_without_docstrings(tree)).encode()).hexdigest()
            self.modules[key], self.grown = (digest, names), True
        return self.modules[key]


PARSED = Parsed()


@functools.lru_cache(maxsize=512)
def _read(source: str, root: Path) -> tuple[str, frozenset[str]]:
    """Digest of a module and which modules it imports: closures share most of them."""
    digest, names = PARSED.module(source)
    return digest, frozenset(name for name in names if module_file(name, root))


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


def code_modules(*entries: str, apart: tuple[str, ...] = ()) -> dict[str, str]:
    """Name → syntax digest of the modules that a unit is computed by, without those `apart`; a user's codec by its file's
    name, wherever that lies."""
    modules = closure(*entries, left_out=LEFT_OUT.union(apart))
    return {Path(name).name if name.endswith(".py") else name: modules[name] for name in sorted(modules)}


@functools.cache
def code_version(*entries: str, apart: tuple[str, ...] = ()) -> str:
    """12 hexadecimal digits for what a unit is computed by; read once a process."""
    modules = code_modules(*entries, apart=apart)
    return hashlib.sha256("".join(f"{k}={modules[k]};" for k in sorted(modules)).encode()).hexdigest()[:12]


@functools.cache
def library_versions(names: tuple[str, ...] = LIBRARIES) -> dict[str, str]:
    """Versions of libraries; default: those that can change a number."""
    found = {}
    for name in names:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = "absent"
    return found


@functools.cache
def commit() -> str:
    """The Git commit of the code, with `+` when files differ from it; "" outside a repository and without Git. FOVEA_COMMIT
    names it where the code was copied without its repository, as in a container's image."""

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
