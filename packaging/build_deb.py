"""Build dist/chaosctl_<version>_amd64.deb and print its path.

The package is what a user installs on every VM: a virtual environment at
/opt/chaosctl with all three programs and exactly the dependencies of uv.lock,
the systemd units, and nothing that is started or enabled by installing it.

Incremental: the third-party part is cached by uv.lock, and a package whose
inputs have not changed is not built again (its control field ``Inputs``).
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
import tomllib
from collections.abc import Iterator, Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
HERE = Path(__file__).resolve().parent
PREFIX = Path("opt/chaosctl")
PYTHON = "/usr/bin/python3"
PROGRAMS = ("chaosctl", "chaos-agent", "chaos-controller")
SYSTEMD = {
    "*.service": ("lib/systemd/system", ""),
    "*.sysusers": ("usr/lib/sysusers.d", ".conf"),
    "*.tmpfiles": ("usr/lib/tmpfiles.d", ".conf"),
}
SOURCES = (
    "proto/chaos_proto", "core", "experiment", "agent", "controller", "ctl", "lab", "systemd",
    "packaging",
)  # fmt: skip
STRAY = (".lock", ".gitignore", "CACHEDIR.TAG")
FILES = ("pyproject.toml", "uv.lock", "README.md", "LICENSE")


def run(argv: Sequence[str | Path], **env: str) -> None:
    """Run a build step; on failure show what it said and end with its exit code."""
    done = subprocess.run(
        [str(word) for word in argv],
        cwd=ROOT,
        env={**os.environ, "UV_PYTHON": PYTHON, **env},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    if done.returncode:
        sys.stderr.write(done.stdout)
        sys.exit(f"build_deb: `{argv[0]} {argv[1]}` ended with {done.returncode}")


def uv() -> str:
    """The uv that tools/bootstrap.sh found or installed."""
    own = ROOT / ".lab/tools/bin/uv"
    found = shutil.which("uv") or (str(own) if own.exists() else None)
    return found or sys.exit("build_deb: uv is missing; run tools/bootstrap.sh")


def digest(paths: Iterator[Path] | Sequence[Path]) -> str:
    """Hash of the names and contents of files."""
    total = hashlib.sha256()
    for path in sorted(paths):
        total.update(f"{path.relative_to(ROOT)}\0".encode())
        total.update(hashlib.sha256(path.read_bytes()).digest())
    return total.hexdigest()[:16]


def inputs() -> Iterator[Path]:
    """Every file that the package is made from."""
    yield from (ROOT / name for name in FILES)
    for source in SOURCES:
        for path in (ROOT / source).rglob("*"):
            if path.is_file() and "__pycache__" not in path.parts:
                yield path


def fix_shebangs(directory: Path, old: Path) -> None:
    """Make the scripts of a virtual environment say where it will be installed."""
    for script in directory.iterdir():
        if script.is_symlink() or not script.is_file():
            continue
        body = script.read_bytes()
        if body.startswith(f"#!{old}/".encode()):
            fixed = script.with_name(f".{script.name}")
            fixed.write_bytes(body.replace(f"#!{old}/".encode(), f"#!/{PREFIX}/".encode(), 1))
            fixed.chmod(0o755)
            fixed.replace(script)


def compile_bytecode(directory: Path, stage: Path) -> None:
    """Compile, so that a root-owned read-only installation starts fast."""
    where = ["-s", str(stage), "-p", "/"]
    run([PYTHON, "-m", "compileall", "-q", "-j0", *where, directory])


def dependencies() -> Path:
    """A virtual environment with the third-party packages only, cached by uv.lock."""
    cache = ROOT / ".lab/cache"
    key = digest([ROOT / "uv.lock", ROOT / "pyproject.toml", Path(__file__).resolve()])
    done = cache / f"deps-{key}"
    if done.is_dir():
        return done
    cache.mkdir(parents=True, exist_ok=True)
    for old in cache.glob("deps-*"):
        shutil.rmtree(old)
    with tempfile.TemporaryDirectory(prefix="new-", dir=cache) as temporary:
        stage = Path(temporary) / "deps"
        venv = stage / PREFIX
        sync = ["sync", "--frozen", "--no-dev", "--no-install-project"]
        sync += ["--all-extras", "--no-extra", "chaostoolkit"]  # that is for where `chaos` runs
        run([uv(), *sync, "--link-mode", "copy"], UV_PROJECT_ENVIRONMENT=str(venv))
        for extra in {*venv.glob("bin/*activate*"), *venv.glob("bin/*.bat")}:
            extra.unlink()
        fix_shebangs(venv / "bin", venv)
        compile_bytecode(venv / "lib", stage)
        stage.rename(done)
    return done


def install_project(stage: Path) -> None:
    """Add the project itself, as a wheel, to the staged environment."""
    venv = stage / PREFIX
    with tempfile.TemporaryDirectory() as temporary:
        run([uv(), "build", "--wheel", "--out-dir", temporary])
        (wheel,) = Path(temporary).glob("*.whl")
        run([uv(), "pip", "install", "--no-deps", "--python", venv / "bin/python3", wheel])
    fix_shebangs(venv / "bin", venv)
    for package in (venv / "lib/python3.11/site-packages").glob("chaos*"):
        if (package / "__init__.py").exists():
            compile_bytecode(package, stage)
    (stage / "usr/bin").mkdir(parents=True)
    for program in PROGRAMS:
        (stage / "usr/bin" / program).symlink_to(f"/{PREFIX}/bin/{program}")


def install_units(stage: Path) -> None:
    """Add units, users and directories from systemd/."""
    count = 0
    for pattern, (target, suffix) in SYSTEMD.items():
        for source in sorted((ROOT / "systemd").glob(pattern)):
            name = f"{source.stem}{suffix}" if suffix else source.name
            path = stage / target / name
            path.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(source, path)
            count += 1
    if count == 0:
        sys.exit("build_deb: systemd/ has no units to install")


def tidy(stage: Path) -> None:
    """Take out what uv keeps for itself, and let nobody but root write to any file."""
    for stray in STRAY:
        (stage / PREFIX / stray).unlink(missing_ok=True)
    run(["chmod", "-R", "go-w", stage])


def install_control(stage: Path, version: str, key: str) -> None:
    """Add the package's metadata and its maintainer scripts."""
    control = stage / "DEBIAN"
    control.mkdir()
    text = (HERE / "control.in").read_text()
    (control / "control").write_text(text.format(version=version, inputs=key))
    for name in ("postinst", "prerm", "postrm"):
        shutil.copyfile(HERE / name, control / name)
        (control / name).chmod(0o755)
    licence = stage / "usr/share/doc/chaosctl/copyright"
    licence.parent.mkdir(parents=True)
    shutil.copyfile(ROOT / "LICENSE", licence)


def present_key(deb: Path) -> str:
    """What an existing package was built from, or nothing."""
    if not deb.exists():
        return ""
    field = subprocess.run(
        ["/usr/bin/dpkg-deb", "--field", deb, "Inputs"],
        capture_output=True,
        text=True,
        check=False,
    )
    return field.stdout.strip()


def main() -> None:
    """Build the package if its inputs have changed, and print its path."""
    os.umask(0o022)
    version = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    deb = ROOT / "dist" / f"chaosctl_{version}_amd64.deb"
    key = digest(inputs())
    if present_key(deb) != key:
        deb.parent.mkdir(exist_ok=True)
        third_party = dependencies()
        with tempfile.TemporaryDirectory(prefix="new-", dir=ROOT / ".lab/cache") as temporary:
            stage = Path(temporary) / "deb"
            run(["cp", "-a", "--reflink=auto", third_party, stage])
            install_project(stage)
            install_units(stage)
            tidy(stage)
            install_control(stage, version, key)
            new = Path(temporary) / deb.name
            # gzip, since the dpkg of Debian 11 and older knows no zstd.
            run(["dpkg-deb", "--root-owner-group", "-Zgzip", "-z1", "--build", stage, new])
            new.replace(deb)
    print(deb)


if __name__ == "__main__":
    main()
