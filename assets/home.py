"""Where everything lies. `FOVEA_HOME` is state that the code can make again, `FOVEA_CONFIG` what a person typed."""

import contextlib
import os
import secrets
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from upath import UPath

from models.errors import FoveaError

ROOT = Path(__file__).resolve().parent.parent


@dataclass(frozen=True)
class Home:
    """All paths of one installation. `data` may be an object store; the others are local."""

    state: Path
    config: Path
    data: UPath

    @classmethod
    def from_environment(cls) -> "Home":
        """FOVEA_HOME (default `.fovea/` in the project), FOVEA_CONFIG (default the project), FOVEA_DATA (default
        `FOVEA_HOME/data`; any fsspec address, such as `s3://bucket/fovea`)."""
        state = Path(os.environ.get("FOVEA_HOME") or ROOT / ".fovea").expanduser().resolve()
        config = Path(os.environ.get("FOVEA_CONFIG") or ROOT).expanduser().resolve()
        if config.is_file() or config.suffix == ".toml":
            raise FoveaError(
                f"FOVEA_CONFIG names the file {config}; it must be the folder that holds fovea.toml"
            )
        data = os.environ.get("FOVEA_DATA")
        return cls(state, config, UPath(data) if data else UPath(state / "data"))

    @property
    def dagster(self) -> Path:
        """Dagster's instance."""
        return self.state / "dagster"

    @property
    def mlflow(self) -> Path:
        """MLflow's embedded store and the tracker's journal."""
        return self.state / "mlflow"

    @property
    def tables(self) -> Path:
        """Parquet and CSV tables."""
        return self.state / "tables"

    @property
    def reports(self) -> Path:
        """HTML reports, one a dataset and sweep."""
        return self.state / "reports"

    @property
    def work(self) -> Path:
        """Checkpoints of unfinished training, one folder a unit."""
        return self.state / "work"

    @property
    def locks(self) -> Path:
        """Lock files."""
        return self.state / "locks"

    @property
    def latest(self) -> Path:
        """For each stage and partition, what it was made from last."""
        return self.state / "latest"


@contextlib.contextmanager
def written_beside(path: Path) -> Iterator[Path]:
    """A temporary path in the same folder, renamed onto `path` when the block ends well, removed when it does not.

    Raises FoveaError when the disk is full or the folder cannot be written.
    """
    beside = path.with_name(f".{path.name}.{os.getpid()}-{secrets.token_hex(4)}")
    with explained(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            yield beside
            beside.replace(path)
        finally:
            beside.unlink(missing_ok=True)


@contextlib.contextmanager
def explained(path: Path | UPath) -> Iterator[None]:
    """Turns the operating system's refusals to write into errors that say what to do."""
    try:
        yield
    except OSError as error:
        import errno

        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise FoveaError(
                f"no space left while writing {path}: free some space or set FOVEA_HOME to a larger disk, then run "
                "the same command again; what is finished is kept"
            ) from error
        if error.errno in (errno.EROFS, errno.EACCES, errno.EPERM):
            raise FoveaError(
                f"cannot write {path}: {error.strerror}; set FOVEA_HOME to a folder you can write"
            ) from error
        raise
