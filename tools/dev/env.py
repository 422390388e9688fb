"""Install the pinned stack into this Python environment and prove that it works.

    python tools/dev/env.py [--active] [--cpu-ops]    # as tools/setup_env.sh calls it
    python tools/dev/env.py --check                   # the proof alone

pip decides what is missing. What it cannot do is done here: keep an installed PyTorch, accept a
package that fills the same import name, reinstall what a killed run left incomplete, and build
MMCV, which has no wheel for current PyTorch, against the PyTorch that is installed.
"""

import argparse
import csv
import json
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import tempfile
import time
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path
from urllib.parse import unquote

from pip._vendor.packaging.requirements import Requirement

ROOT = Path(__file__).resolve().parents[2]
REQUIREMENTS = ROOT / "requirements"
CONSTRAINTS = REQUIREMENTS / "constraints.txt"
OPENMMLAB = REQUIREMENTS / "openmmlab.txt"
LOG = ROOT / ".cache" / "setup_env.log"
#: Exit status of --check if MMCV's operators do not run.
OPERATORS_FAIL = 3
#: What GCC 12 holds at most while it compiles one of the units of :func:`merge_sources`.
GIGABYTES_PER_JOB = 3.0


class SetupError(Exception):
    """Something that the user has to fix, in one sentence."""


# --- requirements ---------------------------------------------------------------------------------


def read_requirements(path: Path) -> Iterator[tuple[Requirement, Requirement | None]]:
    """Yield each requirement of a file and the alternative named behind it by ``# or: NAME>=...``.

    The alternative fills the same import package: where it is installed, it is used, since
    installing ours over it would leave a mixture of both.
    """
    for line in path.read_text(encoding="utf-8").splitlines():
        if text := line.partition("#")[0].strip():
            alternative = re.search(r"# or: (\S+)$", line)
            yield Requirement(text), Requirement(alternative[1]) if alternative else None


def wanted(path: Path) -> list[str]:
    """Return the requirements of a file without those that an installed alternative meets.

    Raises:
        SetupError: An installed alternative is outside its range.
    """
    requirements = []
    for requirement, alternative in read_requirements(path):
        version = installed_version(alternative.name) if alternative else None
        if version is None:
            requirements.append(str(requirement))
        elif not alternative.specifier.contains(version, prereleases=True):
            raise SetupError(
                f"{alternative.name} {version} is installed in {sys.prefix}, but only "
                f"{alternative} is supported: change it, or uninstall it to get "
                f"{requirement.name} instead."
            )
    return requirements


def pinned(name: str) -> str:
    """Return the line ``NAME==VERSION`` of requirements/constraints.txt."""
    return next(str(pin) for pin, _ in read_requirements(CONSTRAINTS) if pin.name == name)


def installed_version(name: str) -> str | None:
    """Return the version of an installed distribution, or None."""
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def is_complete(package: metadata.Distribution) -> bool:
    """Return whether all files of an installed distribution exist with their recorded sizes."""
    record = package.read_text("RECORD")
    if record is None:  # pip writes it last
        return False
    for path, _, size in csv.reader(record.splitlines()):
        if size and not path.endswith(".pyc"):
            file = Path(package.locate_file(path))
            if not file.is_file() or file.stat().st_size != int(size):
                return False
    return True


def damaged_packages() -> list[str]:
    """Return the distributions that lack files, which pip takes for installed."""
    return [
        f"{package.metadata['Name']}=={package.version}"
        for package in metadata.distributions()
        if package.read_text("METADATA") and not is_complete(package)
    ]


# --- running --------------------------------------------------------------------------------------


def step(title: str) -> None:
    """Print what is done next."""
    print(f"==> {title}", flush=True)


def run(*command: str | Path, cwd: Path | None = None, **env: str) -> None:
    """Run a command with its output in the log; SetupError if it fails."""
    line, env = " ".join(map(str, command)), {**os.environ, **env}
    with LOG.open("a", encoding="utf-8") as log:
        print(f"$ {line}", file=log, flush=True)
        pipes = dict(stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        done = subprocess.run(command, cwd=cwd, env=env, **pipes)
    if done.returncode:
        raise SetupError(f"'{line}' failed.")


def pip(*arguments: str | Path, cwd: Path | None = None, **env: str) -> None:
    """Run pip in this environment."""
    run(sys.executable, "-m", "pip", *arguments, cwd=cwd, **env)


# --- PyTorch --------------------------------------------------------------------------------------


def install_torch() -> None:
    """Install PyTorch, unless one in range is there and TORCH_SPEC names no other.

    Replacing a CUDA build by the pinned version could cost gigabytes and the GPU.
    """
    installed, spec = installed_version("torch"), os.environ.get("TORCH_SPEC")
    ((supported, _),) = read_requirements(REQUIREMENTS / "torch.txt")
    if installed and Requirement(spec or str(supported)).specifier.contains(installed):
        return
    if installed and not spec:
        raise SetupError(
            f"PyTorch {installed} is installed in {sys.prefix}, but {supported} is supported: name "
            f"the one to install, as in TORCH_SPEC={pinned('torch')}, or keep it with "
            f"TORCH_SPEC=torch=={installed}"
        )
    index = os.environ.get("TORCH_INDEX_URL")
    step(f"Installing {spec or pinned('torch')}")
    options = [] if spec else ["-c", CONSTRAINTS]
    pip("install", *options, *(["--index-url", index] if index else []), spec or pinned("torch"))


# --- MMCV -----------------------------------------------------------------------------------------


def install_mmcv(cache: Path, active: bool, cpu_ops: bool) -> None:
    """Provide an MMCV whose operators run with this PyTorch: the installed, a cached or a new one.

    Raises:
        SetupError: It cannot be built, or the proof fails for another reason.
    """
    spec = os.environ.get("MMCV_SPEC") or pinned("onedl-mmcv")
    torch, cuda = torch_versions()
    with_cuda = cuda is not None and not cpu_ops
    # A build runs with the PyTorch and Python it was made for, with no other.
    kind = "cuda" if with_cuda else "cpu"
    folder = cache / "mmcv" / f"{spec}-torch{torch}-{kind}-{sysconfig.get_config_var('SOABI')}"
    if keeps_mmcv(spec, folder, active) and prove():
        return
    step(f"MMCV with compiled operators for PyTorch {torch}")
    if wheels := list(folder.glob("*.whl")):
        install_wheel(wheels[0])
        if prove():
            return
    install_wheel(build_mmcv(spec, folder, cuda if with_cuda else None))
    if not prove():
        raise SetupError("MMCV was built, but its operators do not run.")


def keeps_mmcv(spec: str, folder: Path, active: bool) -> bool:
    """Return whether the installed MMCV may stay, if its operators run.

    One from the cache has to be from the folder of this PyTorch. One that the user installed by
    other means, under whichever name, stays in the user's own environment.
    """
    name = next(iter(metadata.packages_distributions().get("mmcv", [])), None)
    if name is None or not is_complete(package := metadata.distribution(name)):
        return False
    origin = Path(unquote(json.loads(package.read_text("direct_url.json") or "{}").get("url", "")))
    if origin.parent.parent.name == "mmcv":
        return origin.parent.name == folder.name
    if active and "MMCV_SPEC" not in os.environ:
        ours = next(r for r, _ in read_requirements(OPENMMLAB) if r.name == "onedl-mmcv")
        return name != ours.name or ours.specifier.contains(package.version)
    return f"{name}=={package.version}" == spec


def install_wheel(wheel: Path) -> None:
    # pip cannot uninstall what was not wholly installed, but it can write over it.
    pip("install", "--no-deps", "--ignore-installed", wheel)


def torch_versions() -> tuple[str, str | None]:
    """Return PyTorch's version and the CUDA version it was built for, without importing it."""
    package = metadata.distribution("torch")
    values: dict = {}
    exec(Path(package.locate_file("torch/version.py")).read_text(encoding="utf-8"), values)
    return str(values["__version__"]), values.get("cuda")


def build_mmcv(spec: str, folder: Path, cuda: str | None) -> Path:
    """Build MMCV from its source distribution and return the wheel, which is kept in a folder."""
    import psutil  # of requirements/build.txt, which is in place by now

    check_tools(cuda)
    print(f"    building {spec} for the {'GPU' if cuda else 'CPU'}; minutes, once", flush=True)
    with tempfile.TemporaryDirectory() as scratch:
        source = download_source(spec, Path(scratch))
        if cuda:
            env = dict(FORCE_CUDA="1")  # also where no GPU is visible, as on a login node
        else:
            env = dict(FORCE_CUDA="0", CUDA_VISIBLE_DEVICES="", CFLAGS="-O2 -DNDEBUG -w")
            merge_sources(source / "mmcv" / "ops" / "csrc" / "pytorch")
        # One file to a core, as far as the memory goes.
        jobs = min(os.cpu_count(), int(psutil.virtual_memory().available / 1e9 / GIGABYTES_PER_JOB))
        env["MAX_JOBS"] = os.environ.get("MAX_JOBS") or str(max(jobs, 1))
        # The build looks for ninja on the path.
        env["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
        build = ["wheel", "--verbose", "--no-deps", "--no-build-isolation", "--wheel-dir", scratch]
        pip(*build, ".", cwd=source, **env)
        (wheel,) = Path(scratch).glob("*.whl")
        folder.mkdir(parents=True, exist_ok=True)
        # The name is given only to a whole file.
        part = shutil.copy(wheel, folder / f"{wheel.name}.part")
        return Path(part).replace(folder / wheel.name)


def check_tools(cuda: str | None) -> None:
    """Raise SetupError if there is nothing to build MMCV's operators with."""
    if cuda:
        home = os.environ.get("CUDA_HOME", "/usr/local/cuda")
        nvcc = shutil.which("nvcc", path=f"{home}/bin{os.pathsep}{os.environ['PATH']}") or "nvcc"
        found = re.search(r"release (\d+)", first_output(nvcc, "--version"))
        if not found or found[1] != cuda.split(".")[0]:
            raise SetupError(
                f"PyTorch was built for CUDA {cuda}, and MMCV's operators need a CUDA toolkit of "
                "the same major version, but "
                f"{f'{nvcc} is {found[1]}' if found else 'there is none'}: "
                "set CUDA_HOME to one, or pass --cpu-ops to build operators that run on the CPU "
                "only. With --active an MMCV that you installed yourself is kept."
            )
    compiler = os.environ.get("CXX", "c++")
    if not first_output(compiler, "--version"):
        raise SetupError(
            f"MMCV's operators have to be compiled, but the C++ compiler '{compiler}' cannot be "
            "run: install one (Debian and Ubuntu: apt-get install g++) or set CXX."
        )
    header = Path(sysconfig.get_path("include"), "Python.h")
    if not header.exists():
        raise SetupError(
            f"MMCV's operators have to be compiled, but {header} is missing: install the "
            f"development files of Python {sys.version_info.major}.{sys.version_info.minor}."
        )


def first_output(*command: str) -> str:
    """Return what a command prints; nothing if it cannot be run or fails."""
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout
    except (OSError, subprocess.CalledProcessError):
        return ""


def download_source(spec: str, folder: Path) -> Path:
    """Download and unpack MMCV's source distribution; with a hash if it is in mmcv-source.txt."""
    sources = (REQUIREMENTS / "mmcv-source.txt").read_text(encoding="utf-8")
    hashed = re.search(rf"^{re.escape(spec)} --hash.*$", sources, re.MULTILINE)
    file = folder / "source.txt"
    file.write_text(hashed[0] if hashed else spec, encoding="utf-8")
    options = ["--no-deps", "--no-build-isolation", "--no-binary", ":all:", "--dest", folder]
    # Constraints have no hashes.
    pip("download", *options, "--requirement", file, PIP_CONSTRAINT="")
    (archive,) = folder.glob("*.tar.gz")
    run("tar", "-xzf", archive, "-C", folder)
    return folder / archive.name.removesuffix(".tar.gz")


def merge_sources(folder: Path) -> None:
    """Merge the C++ files of MMCV's operators into three units.

    Nearly all of the time to compile one of the 78 files goes into PyTorch's headers.
    """
    # These two and others define the same names.
    apart = [folder / "cpu" / f"{name}.cpp" for name in ("bezier_align", "roi_align")]
    # psamask defines macros: last.
    rest = sorted(folder.glob("cpu/*.cpp"), key=lambda path: (path.stem == "psamask", path))
    files = sorted(folder.glob("*.cpp"))
    units = [
        [*files[::2], apart[0]],
        [*files[1::2], apart[1]],
        [path for path in rest if path not in apart],
    ]
    for number, unit in enumerate(units):
        merged = [path.rename(path.with_suffix(".inl")).relative_to(folder) for path in unit]
        text = "".join(f'#include "{path}"\n' for path in merged)
        (folder / f"unit_{number}.cpp").write_text(text, encoding="utf-8")


# --- proof ----------------------------------------------------------------------------------------


def prove() -> bool:
    """Run :func:`check` in a process of its own; return whether MMCV's operators run.

    Raises:
        SetupError: Something else is wrong with the environment.
    """
    command = [sys.executable, __file__, "--check"]
    done = subprocess.run(command, capture_output=True, text=True)
    with LOG.open("a", encoding="utf-8") as log:
        print(f"$ {' '.join(command)}\n{done.stderr}{done.stdout}", file=log)
    if done.returncode == OPERATORS_FAIL:
        return False
    if done.returncode:
        problem = (done.stderr.splitlines() or ["it was killed"])[-1]
        raise SetupError(f"the environment is set up, but its proof failed: {problem}")
    print("\n".join(f"    {line}" for line in done.stdout.splitlines()[-3:]), flush=True)
    return True


def check() -> None:
    """Run MMCV's operators on all devices, and import what a config can name."""
    try:
        import mmcv
        import torch
        from mmcv.ops import get_compiling_cuda_version

        check_ops("cpu")
        devices = "CPU"
        if torch.cuda.is_available():
            if get_compiling_cuda_version() == "not available":
                devices = "CPU only: MMCV is built without CUDA, so no training on the GPU"
            else:
                check_ops("cuda")
                devices = "CPU and GPU"
    except Exception as error:
        print(f"{type(error).__name__}: {error}", file=sys.stderr)
        sys.exit(OPERATORS_FAIL)
    import mmdet.apis
    import mmengine

    import mmdet_eql  # noqa: F401

    print(f"Python {sys.version.split()[0]}, PyTorch {torch.__version__}, MMCV {mmcv.__version__},")
    print(f"MMEngine {mmengine.__version__}, MMDetection {mmdet.__version__};")
    print(f"NMS and RoIAlign give the known answers on: {devices}")


def check_ops(device: str) -> None:
    """Run NMS and RoIAlign on a device; AssertionError if a result is not the known one."""
    import torch
    from mmcv.ops import nms, roi_align

    # The first two boxes overlap with an IoU of 81/100, so the lower score goes.
    boxes = [[0.0, 0.0, 10.0, 10.0], [1.0, 1.0, 10.0, 10.0], [20.0, 20.0, 30.0, 30.0]]
    scores = torch.tensor([0.7, 0.9, 0.8], device=device)
    _, kept = nms(torch.tensor(boxes, device=device), scores, iou_threshold=0.5)
    if kept.tolist() != [1, 2]:
        raise AssertionError(f"NMS on {device} kept boxes {kept.tolist()} instead of [1, 2]")
    # Bilinear sampling of the plane 8y + x gives its value at the sampling points, which lie at
    # 0.5 and 2.5 in both directions after the half-pixel shift.
    plane = torch.arange(64.0, device=device).view(1, 1, 8, 8)
    roi = torch.tensor([[0.0, 0.0, 0.0, 4.0, 4.0]], device=device)
    pooled = roi_align(plane, roi, (2, 2), 1.0, 0, "avg", True).flatten().cpu()
    expected = torch.tensor([4.5, 6.5, 20.5, 22.5])
    if not torch.allclose(pooled, expected, atol=1e-4):
        raise AssertionError(f"RoIAlign on {device} gave {pooled} instead of {expected}")


# --- the whole ------------------------------------------------------------------------------------


def set_up(active: bool, cpu_ops: bool) -> None:
    """Bring this environment in line with the requirement files.

    Args:
        active (bool): Keep what is in the ranges of the requirement files instead of installing
            the pinned versions.
        cpu_ops (bool): Build MMCV's operators without CUDA even for a CUDA build of PyTorch.

    Raises:
        SetupError: Something cannot be installed or does not work.
    """
    began = time.monotonic()
    constrain = [] if active else ["-c", CONSTRAINTS]
    cache = Path(os.environ.get("MMDET_EQL_CACHE") or ROOT / ".cache").resolve()
    unfinished = Path(sys.prefix, "setup_env.unfinished")
    if unfinished.exists() and (damaged := [p for p in damaged_packages() if "mmcv==" not in p]):
        step(f"Reinstalling what a broken-off run left: {', '.join(damaged)}")
        pip("install", "--no-deps", "--no-build-isolation", "--ignore-installed", *damaged)
    unfinished.touch()
    install_torch()
    step("Libraries")
    files = [REQUIREMENTS / "build.txt", ROOT / "requirements.txt", REQUIREMENTS / "dev.txt"]
    pip("install", *constrain, *(line for file in files for line in wanted(file)))
    step("OpenMMLab packages and this project")
    mm = [line for line in wanted(OPENMMLAB) if "mmcv" not in line]
    mm += wanted(REQUIREMENTS / "merge.txt")
    pip("install", "--no-deps", "--no-build-isolation", *constrain, *mm, "--editable", ROOT)
    install_mmcv(cache, active, cpu_ops)
    unfinished.unlink()
    print(f"Ready after {time.monotonic() - began:.0f} s: {sys.executable}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    for name in ("--active", "--cpu-ops", "--check"):
        parser.add_argument(name, action="store_true", help="see tools/setup_env.sh --help")
    args = parser.parse_args()
    if args.check:
        check()
        return
    LOG.parent.mkdir(exist_ok=True)
    LOG.write_text("")
    try:
        set_up(args.active, args.cpu_ops)
    except SetupError as error:
        if os.environ.get("CI") == "true":  # the machine may be gone when somebody reads the log
            print(LOG.read_text(encoding="utf-8")[-4000:], file=sys.stderr)
        sys.exit(f"setup_env: {error}\nThe full output is in {LOG}")


if __name__ == "__main__":
    main()
