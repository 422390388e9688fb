"""Install MMCV's compiled operators, built for the PyTorch of this environment.

MMCV has no wheel for current PyTorch versions: it is built from its source distribution, and the
result runs with the very PyTorch it was built for, no other. So the wheel is kept in a cache with a
stamp of all that it depends on, and is built again when the stamp does not fit any more.

    python tools/dev/env/install_mmcv.py --cache DIR --log FILE [--cpu-ops] onedl-mmcv==VERSION

With a CUDA PyTorch the operators are built for CUDA as well, whether or not a GPU is visible here.
Plain builds take long because each source file parses PyTorch's headers anew; GCC is given them
precompiled (see cxx_with_pch.sh).
"""

import argparse
import contextlib
import dataclasses
import fcntl
import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import tempfile
import time
import zipfile
from collections.abc import Iterator
from importlib import metadata, util
from pathlib import Path

from damaged_packages import is_complete

STAMP = "stamp.json"
# Which wheel is installed in this environment. Not next to the package, whose folder pip owns.
INSTALLED_STAMP = Path(sys.prefix, "mmdet-eql-mmcv.json")
UNKNOWN_ORIGIN = "it is not one that this script installed"
CXX_WITH_PCH = Path(__file__).with_name("cxx_with_pch.sh")
# Its hashes: pip runs a source distribution as soon as it has it.
SOURCE = Path(__file__).parents[3] / "requirements" / "mmcv-source.txt"
# All of MMCV's operators include it, directly or not.
PCH_HEADER = "torch/types.h"
# What g++ 12 takes at most for one of MMCV's files. MAX_JOBS overrides what follows from it.
GIGABYTES_PER_JOB = 2.2


class SetupError(Exception):
    """Something that the user has to mend, told in one sentence."""


@dataclasses.dataclass(frozen=True)
class Stamp:
    """What a build of MMCV depends on.

    Attributes:
        mmcv (str): The requirement that was built, with its version.
        torch (str): PyTorch's version with its local tag, e.g. ``2.13.0+cpu``.
        torch_cuda (str): The CUDA version PyTorch was built for, or ``none``.
        python (str): The tag of Python's binary interface and of the platform.
        cuda_ops (str, optional): The CUDA toolkit the operators are built with, or ``none``. None:
            it has to be CUDA, but the toolkit that a build would need is not here.
        cuda_arch (str, optional): The GPU architectures built for. None: no GPU is visible here and
            none was asked for, so nothing is known against any.
        compiler (str, optional): The C++ compiler. None: there is none here.
    """

    mmcv: str
    torch: str
    torch_cuda: str
    python: str
    cuda_ops: str | None
    cuda_arch: str | None
    compiler: str | None

    def differences(self, wanted: "Stamp") -> list[str]:
        """Tell in words where this build does not fit what is wanted; empty if it fits."""
        found = []
        for field in dataclasses.fields(self):
            built, want = getattr(self, field.name), getattr(wanted, field.name)
            if field.name == "cuda_ops" and want is None:
                if built == "none":
                    found.append("it has no CUDA operators")
            elif want is not None and built != want:
                name = field.name.replace("_", " ")
                found.append(f"{name} was {built or 'not known'}, is {want}")
        return found

    def to_json(self, wheel: Path) -> dict:
        """Return the stamp of a wheel file as JSON data."""
        return {**dataclasses.asdict(self), "wheel": wheel.name, "sha256": sha256(wheel)}

    @classmethod
    def from_json(cls, data: dict) -> "Stamp":
        """Return a stamp from what :meth:`to_json` gave; KeyError if a field is missing."""
        return cls(**{field.name: data[field.name] for field in dataclasses.fields(cls)})


def sha256(path: Path) -> str:
    """Return the SHA-256 of a file in hexadecimal digits."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


def write_json(path: Path, data: dict) -> None:
    """Write a JSON file that is either whole or not there."""
    part = path.with_name(f"{path.name}.{os.getpid()}.part")
    part.write_text(json.dumps(data, indent=2) + "\n", encoding="utf-8")
    os.replace(part, path)


def read_json(path: Path) -> dict | None:
    """Return the data of a JSON file, or None if it cannot be read."""
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return data if isinstance(data, dict) else None


def torch_versions() -> tuple[str, str | None]:
    """Return PyTorch's version and the CUDA version it was built for, without importing it."""
    spec = util.find_spec("torch")
    if spec is None or not spec.submodule_search_locations:
        raise SetupError(f"PyTorch is not installed in {sys.prefix}; install it first.")
    values: dict = {}
    source = Path(spec.submodule_search_locations[0], "version.py").read_text(encoding="utf-8")
    exec(source, values)
    return str(values["__version__"]), values.get("cuda")


def cuda_home() -> Path | None:
    """Return the folder of the CUDA toolkit that PyTorch's build would pick, or None."""
    named = os.environ.get("CUDA_HOME") or os.environ.get("CUDA_PATH")
    if named:
        return Path(named)
    nvcc = shutil.which("nvcc")
    if nvcc:
        return Path(nvcc).parent.parent
    usual = Path("/usr/local/cuda")
    return usual if usual.exists() else None


def first_output(*command: str) -> str | None:
    """Return what a command prints, or None if it cannot be run or fails."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return None
    return done.stdout.strip()


def nvcc_version(home: Path | None) -> str | None:
    """Return the version of a CUDA toolkit's compiler, e.g. ``12.8``, or None."""
    if home is None:
        return None
    found = re.search(r"release (\d+\.\d+)", first_output(f"{home}/bin/nvcc", "--version") or "")
    return found[1] if found else None


def choose_cuda_ops(torch_cuda: str | None, toolkit: str | None, cpu_ops: bool) -> str | None:
    """Return the CUDA toolkit to build the operators with (see :class:`Stamp`).

    Args:
        torch_cuda (str, optional): The CUDA version PyTorch was built for.
        toolkit (str, optional): The version of the CUDA toolkit found here.
        cpu_ops (bool): Whether the user asked for operators without CUDA.
    """
    if torch_cuda is None or cpu_ops:
        return "none"
    same_major = toolkit is not None and toolkit.split(".")[0] == torch_cuda.split(".")[0]
    return toolkit if same_major else None


def cuda_architectures() -> str | None:
    """Return the GPU architectures to build for, as in ``8.0;9.0``; None if nothing tells."""
    asked = os.environ.get("TORCH_CUDA_ARCH_LIST")
    if asked:
        return asked
    visible = first_output("nvidia-smi", "--query-gpu=compute_cap", "--format=csv,noheader")
    return ";".join(sorted(set(visible.split()))) if visible else None


def wanted_stamp(requirement: str, cpu_ops: bool) -> Stamp:
    """Return what a build of MMCV in this environment would depend on."""
    torch, torch_cuda = torch_versions()
    cuda_ops = choose_cuda_ops(torch_cuda, nvcc_version(cuda_home()), cpu_ops)
    compiler = first_output(os.environ.get("CXX", "c++"), "--version")
    return Stamp(
        mmcv=requirement,
        torch=torch,
        torch_cuda=torch_cuda or "none",
        python=str(sysconfig.get_config_var("SOABI")),
        cuda_ops=cuda_ops,
        cuda_arch=cuda_architectures() if cuda_ops != "none" else "none",
        compiler=compiler.splitlines()[0] if compiler else None,
    )


def cached_wheel(cache: Path, wanted: Stamp) -> tuple[Path | None, list[str]]:
    """Look for a wheel that fits.

    Args:
        cache (Path): The cache folder.
        wanted (Stamp): What the wheel has to have been built for.

    Returns:
        tuple: The wheel, or None; and where the nearest wheel that does not fit differs, in words.
    """
    nearest: list[str] = []
    for path in sorted(cache.glob(f"wheels/*/{STAMP}")):
        data = read_json(path)
        try:
            differences = Stamp.from_json(data or {}).differences(wanted)
            wheel = path.with_name(data["wheel"])
            if not differences and sha256(wheel) != data["sha256"]:
                differences = ["its file was changed since"]
        except (KeyError, OSError):
            continue
        if not differences:
            return wheel, []
        if not nearest or len(differences) < len(nearest):
            nearest = differences
    return None, nearest


def installed_differences(package: str, wanted: Stamp) -> list[str] | None:
    """Tell in words why the installed MMCV cannot stay; empty if it can, None if there is none."""
    try:
        installed = metadata.distribution(package)
    except metadata.PackageNotFoundError:
        return None
    if not is_complete(installed):
        return ["some of its files are missing"]
    data = read_json(INSTALLED_STAMP)
    # pip notes the file a package was installed from: a stamp for another file says nothing.
    # Before 23.1 it did so under "hash" alone.
    origin = json.loads(installed.read_text("direct_url.json") or "{}").get("archive_info", {})
    digest = origin.get("hashes", {}).get("sha256") or origin.get("hash", "").partition("=")[2]
    try:
        if data is None or digest != data["sha256"]:
            return [UNKNOWN_ORIGIN]
        return Stamp.from_json(data).differences(wanted)
    except KeyError:
        return ["the note about its build cannot be read"]


def check_tools(stamp: Stamp) -> None:
    """Raise SetupError if there is nothing to build with."""
    if stamp.cuda_ops is None:
        # Operators without CUDA would look fine until training stops in its first NMS.
        toolkit = nvcc_version(cuda_home())
        found = f"the one found is {toolkit}" if toolkit else "there is none"
        raise SetupError(
            f"PyTorch was built for CUDA {stamp.torch_cuda}, and MMCV's operators need a CUDA "
            f"toolkit of the same major version, but {found}: set CUDA_HOME to one, or pass "
            "--cpu-ops to build operators that run on the CPU only."
        )
    if stamp.compiler is None:
        name = os.environ.get("CXX", "c++")
        raise SetupError(
            f"MMCV's operators have to be compiled, but the C++ compiler '{name}' cannot be run: "
            "install one (Debian and Ubuntu: apt-get install g++) or set CXX."
        )
    header = Path(sysconfig.get_path("include"), "Python.h")
    if not header.exists():
        raise SetupError(
            f"MMCV's operators have to be compiled, but {header} is missing: install the "
            f"development files of Python {sys.version_info.major}.{sys.version_info.minor}."
        )


def is_gcc(compiler: str) -> bool:
    """Tell whether a C++ compiler is GCC; Clang sets GCC's macros too."""
    macros = first_output(compiler, "-dM", "-E", "-x", "c++", os.devnull) or ""
    return "__GNUC__" in macros and "__clang__" not in macros


def number_of_jobs() -> int:
    """Return how many files to compile at once: one per core, as far as the memory goes."""
    import psutil  # MMCV's build needs it too; here, so that the rest works without

    cores = len(os.sched_getaffinity(0))
    gigabytes = psutil.virtual_memory().available / 1e9
    return max(1, min(cores, int(gigabytes / GIGABYTES_PER_JOB)))


def build_environment(stamp: Stamp, work: Path) -> dict[str, str]:
    """Return the environment variables for a build of what a stamp says."""
    env = dict(os.environ)
    # The build looks for ninja on the path.
    env["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{env.get('PATH', '')}"
    cuda = stamp.cuda_ops != "none"
    env.setdefault("MAX_JOBS", str(number_of_jobs()))
    if cuda:
        env["FORCE_CUDA"] = "1"  # also where no GPU is visible, as on a login node
        env["CUDA_HOME"] = str(cuda_home())
        if stamp.cuda_arch:
            env["TORCH_CUDA_ARCH_LIST"] = stamp.cuda_arch
    else:
        env["FORCE_CUDA"] = "0"
        env["CUDA_VISIBLE_DEVICES"] = ""
    compiler = env.get("CXX", "c++")
    hindrance = None
    if not is_gcc(compiler):
        hindrance = f"'{compiler}' is not GCC"
    elif re.search(r"\s", f"{work}{CXX_WITH_PCH}"):
        hindrance = "there are blanks in the path"  # which no setting for a compiler can carry
    if hindrance:
        say(f"{hindrance}: building without precompiled headers, which takes several times as long")
    else:
        pch = work / "pch"
        pch.mkdir(exist_ok=True)
        # nvcc picks its host compiler by CC, so this changes nothing for CUDA sources.
        env.update(CXX=str(CXX_WITH_PCH), PCH_CXX=compiler, PCH_HEADER=PCH_HEADER, PCH_DIR=str(pch))
    return env


def download_source(requirement: str, work: Path, log: Path) -> Path:
    """Return MMCV's unpacked source distribution in a work folder, fetching it if need be."""
    source = work / "source"
    if source.exists():
        return source
    with tempfile.TemporaryDirectory(dir=work) as scratch:
        pip = [sys.executable, "-m", "pip", "download", "--no-deps", "--no-build-isolation"]
        package = re.split(r"[=<>~! ]", requirement)[0]
        wanted = [requirement]
        for line in SOURCE.read_text(encoding="utf-8").splitlines():
            if line.split()[:1] == [requirement]:
                hashed = Path(scratch, "hashed.txt")
                hashed.write_text(line, encoding="utf-8")
                wanted = ["--require-hashes", "--requirement", str(hashed)]
        run([*pip, "--no-binary", package, "--dest", scratch, *wanted], log)
        (archive,) = Path(scratch).glob("*.tar.gz")
        with tarfile.open(archive) as tar:
            if hasattr(tarfile, "data_filter"):
                tar.extractall(scratch, filter="data")
            else:
                tar.extractall(scratch)
        os.replace(Path(scratch, archive.name.removesuffix(".tar.gz")), source)
    return source


def build_wheel(stamp: Stamp, cache: Path, log: Path) -> Path:
    """Build MMCV and put the wheel and its stamp into the cache.

    A build that was broken off goes on from the files it had compiled.

    Returns:
        Path: The wheel in the cache.
    """
    key = hashlib.sha256(repr(stamp).encode()).hexdigest()[:16]
    work = cache / "build" / key
    for other in cache.glob("build/*"):
        if other != work:  # broken off, and not wanted any more
            shutil.rmtree(other)
    resumed = (work / "source").exists()
    work.mkdir(parents=True, exist_ok=True)
    source = download_source(stamp.mmcv, work, log)
    env = build_environment(stamp, work)
    try:
        wheel = run_build(source, work, env, log)
    except SetupError:
        if not resumed:
            raise
        say("what the broken-off build left cannot be used; starting afresh")
        shutil.rmtree(work)
        return build_wheel(stamp, cache, log)
    failed = work / "pch" / "failed"
    if failed.exists():
        say("PyTorch's headers could not be precompiled, so this build took its full time")
        with log.open("a", encoding="utf-8") as out:
            out.write(failed.read_text(encoding="utf-8", errors="replace"))

    kept = cache / "wheels" / key
    kept.mkdir(parents=True, exist_ok=True)
    os.replace(wheel, kept / wheel.name)
    wheel = kept / wheel.name
    write_json(kept / STAMP, stamp.to_json(wheel))
    shutil.rmtree(work)
    return wheel


def run_build(source: Path, work: Path, env: dict[str, str], log: Path) -> Path:
    """Run the build in an unpacked source folder and return the wheel, after a look inside."""
    # Whole object files are recognized by ninja's log, but a linked library or a folder to pack is
    # taken as it lies, so none may be left from a build that was broken off.
    for left in (*source.glob("build/lib*"), *source.glob("build/bdist*"), work / "wheel"):
        shutil.rmtree(left, ignore_errors=True)
    pip = [sys.executable, "-m", "pip", "wheel", "--verbose", "--no-deps", "--no-build-isolation"]
    run([*pip, "--wheel-dir", str(work / "wheel"), str(source)], log, env)
    wheels = list((work / "wheel").glob("*.whl"))
    if len(wheels) != 1:
        raise SetupError("The build of MMCV gave no wheel.")
    with zipfile.ZipFile(wheels[0]) as content:
        names = content.namelist()
        if content.testzip() or not any(re.match(r"mmcv/_ext\..*so$", name) for name in names):
            raise SetupError("The build of MMCV gave a wheel without its compiled operators.")
    return wheels[0]


def run(command: list[str], log: Path, env: dict[str, str] | None = None) -> None:
    """Run a command with its output in the log, telling now and then how far a compile is."""
    told = time.monotonic()
    with log.open("a", encoding="utf-8") as out:
        out.write(f"$ {' '.join(command)}\n")
        out.flush()
        process = subprocess.Popen(
            command,
            env=env,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            # Hands on the locks that this process holds, so that the next run waits for a build
            # that goes on after this process was killed.
            close_fds=False,
        )
        for line in process.stdout:
            out.write(line)
            out.flush()
            step = re.match(r"\s*\[(\d+)/(\d+)\] ", line)
            if step and time.monotonic() - told > 30:
                told = time.monotonic()
                say(f"compiled {step[1]} of {step[2]} files")
        if process.wait() != 0:
            what = "The build of MMCV" if "wheel" in command else f"'pip {command[3]}'"
            raise SetupError(f"{what} failed.")


def say(text: str) -> None:
    """Print one line of progress under the step's own."""
    print(f"    {text}", flush=True)


@contextlib.contextmanager
def locked(cache: Path) -> Iterator[None]:
    """Hold the cache for one process at a time; environments can share one."""
    cache.mkdir(parents=True, exist_ok=True)
    with open(cache / "lock", "a") as lock:
        os.set_inheritable(lock.fileno(), True)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            say(f"waiting for another run that uses {cache}")
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def install(requirement: str, cache: Path, log: Path, cpu_ops: bool, keep: bool) -> None:
    """Bring the environment's MMCV in line with its PyTorch.

    Args:
        requirement (str): Package and version of MMCV.
        cache (Path): Where wheels are kept.
        log (Path): Receives all output of pip and the compiler.
        cpu_ops (bool): Build without CUDA even for a CUDA PyTorch.
        keep (bool): Leave an MMCV alone that was installed by other means.
    """
    package = re.split(r"[=<>~! ]", requirement)[0]
    with contextlib.suppress(metadata.PackageNotFoundError):
        say(f"kept: mmcv {metadata.version('mmcv')}, which fills the same import package")
        return
    wanted = wanted_stamp(requirement, cpu_ops)
    differences = installed_differences(package, wanted)
    if differences == []:
        say("already there")
        return
    if keep and differences == [UNKNOWN_ORIGIN]:
        say(f"kept: {package} {metadata.version(package)}, which was installed by other means")
        return
    if differences:
        say(f"the installed MMCV does not fit: {'; '.join(differences)}")
    with locked(cache):
        wheel, nearest = cached_wheel(cache, wanted)
        if wheel is not None:
            say(f"from the cache: {wheel}")
        else:
            if nearest:
                say(f"the cached wheel does not fit: {'; '.join(nearest)}")
            check_tools(wanted)
            kind = "for the CPU" if wanted.cuda_ops == "none" else f"with CUDA {wanted.cuda_ops}"
            say(f"building {requirement} {kind} for PyTorch {wanted.torch}; minutes, once")
            wheel = build_wheel(wanted, cache, log)
        INSTALLED_STAMP.unlink(missing_ok=True)
        # pip cannot uninstall what it has not wholly installed, but it can write over it.
        whole = differences is None or is_complete(metadata.distribution(package))
        how = "--force-reinstall" if whole else "--ignore-installed"
        run([sys.executable, "-m", "pip", "install", "--no-deps", how, str(wheel)], log)
        built = read_json(wheel.with_name(STAMP))
        write_json(INSTALLED_STAMP, built)


def main() -> None:
    parser = argparse.ArgumentParser(
        description="Install MMCV's compiled operators, built for the PyTorch of this environment."
    )
    parser.add_argument("requirement", help="the version to build, e.g. onedl-mmcv==2.3.6")
    parser.add_argument("--cache", type=Path, required=True, help="where wheels are kept")
    parser.add_argument("--log", type=Path, required=True, help="file to append all output to")
    parser.add_argument(
        "--cpu-ops", action="store_true", help="build without CUDA even for a CUDA PyTorch"
    )
    parser.add_argument(
        "--keep", action="store_true", help="leave an MMCV alone that was installed by other means"
    )
    args = parser.parse_args()
    try:
        cache, log = args.cache.resolve(), args.log.resolve()
        install(args.requirement, cache, log, args.cpu_ops, args.keep)
    except SetupError as error:
        sys.exit(str(error))


if __name__ == "__main__":
    main()
