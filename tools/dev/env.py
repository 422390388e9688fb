"""Install the pinned stack into this Python environment and prove that it works.

    python tools/dev/env.py [--active] [--cpu-ops] [--originals]  # as tools/setup_env.sh calls it
    python tools/dev/env.py --check                               # the proof alone

pip decides what is missing. What it cannot do is done here: keep an installed PyTorch, accept a
package that fills the same import name, reinstall what a killed run left incomplete, and build
MMCV, which has no wheel for current PyTorch, against the PyTorch that is installed.
"""

import csv
import json
import os
import re
import runpy
import shutil
import subprocess
import sys
import sysconfig
import tempfile
import time
from contextlib import suppress
from importlib import metadata
from pathlib import Path
from urllib.parse import unquote

from pip._vendor.packaging.requirements import Requirement

ROOT = Path(__file__).resolve().parents[2]
REQUIREMENTS = ROOT / "requirements"
CONSTRAINTS = REQUIREMENTS / "constraints.txt"
OPENMMLAB = REQUIREMENTS / "openmmlab.txt"
#: Built wheels of MMCV, for all clones of the repository.
WHEELS = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache", "mmdet_eql", "mmcv")
#: Exit status of --check if MMCV's operators do not run.
OPERATORS_FAIL = 3
#: What GCC 12 holds at most while it compiles one of the units of :func:`merge_sources`.
GIGABYTES_PER_JOB = 3.0


class SetupError(Exception):
    """Something that the user has to fix, in one sentence."""


def requirements(path: Path) -> list[Requirement]:
    """Return the requirements of a file.

    ``# or: NAME>=...`` behind one names an alternative for the same import package. It counts where
    it is installed, since installing ours over it would leave a mixture of both.
    """
    chosen = []
    for line in path.read_text(encoding="utf-8").splitlines():
        texts = [line.partition("#")[0].strip(), *re.findall(r"# or: (\S+)$", line)]
        if texts[0]:
            ours, *alternatives = map(Requirement, texts)
            chosen.append(next((r for r in alternatives if installed_version(r.name)), ours))
    return chosen


def pinned(name: str) -> str:
    """Return the line ``NAME==VERSION`` of requirements/constraints.txt."""
    return next(str(pin) for pin in requirements(CONSTRAINTS) if pin.name == name)


def installed_version(name: str) -> str | None:
    """Return the version of an installed distribution, or None."""
    with suppress(metadata.PackageNotFoundError):
        return metadata.version(name)


def damaged_packages() -> list[str]:
    """Return the distributions that lack files, as NAME==VERSION; pip takes them for installed."""
    damaged = []
    for package in metadata.distributions():
        record = package.read_text("RECORD")  # pip completes it last
        whole = record and all(
            Path(file).is_file() and Path(file).stat().st_size == int(size)
            for path, _, size in csv.reader(record.splitlines())
            if size and not path.endswith(".pyc") and (file := package.locate_file(path))
        )
        if package.read_text("METADATA") and not whole:
            damaged.append(f"{package.metadata['Name']}=={package.version}")
    return damaged


def pip(*arguments: str | Path, cwd: Path | None = None, **env: str) -> None:
    """Run pip in this environment, which prints errors alone; SetupError if it fails."""
    command = [sys.executable, "-m", "pip", "-qq", *map(str, arguments)]
    env = {**os.environ, **env}
    if subprocess.run(command, cwd=cwd, env=env, stdin=subprocess.DEVNULL).returncode:
        raise SetupError(f"'pip {' '.join(command[4:])}' failed, as printed above.")


def missing_torch() -> list[str]:
    """Return the PyTorch to install: the pinned one, or none if one in range is there.

    Replacing a CUDA build by the pinned version could cost gigabytes and the GPU.
    """
    installed = installed_version("torch")
    (supported,) = requirements(REQUIREMENTS / "torch.txt")
    if installed and not supported.specifier.contains(installed):
        raise SetupError(
            f"PyTorch {installed} is installed in {sys.prefix}, but {supported} is supported: "
            f"install one of these by {sys.executable} -m pip, such as {pinned('torch')}."
        )
    return [] if installed else [pinned("torch")]


def install_mmcv(active: bool, cpu_ops: bool) -> None:
    """Provide an MMCV whose operators run with this PyTorch: installed, a wheel or new."""
    # The original MMDetection takes no MMCV as new as the maintained one.
    name = "mmcv" if installed_version("mmdet") else "onedl-mmcv"
    lines = (REQUIREMENTS / "mmcv-source.txt").read_text(encoding="utf-8").splitlines()
    source = next(line for line in lines if line.startswith(f"{name}=="))
    spec = source.split()[0]
    torch, cuda = torch_versions()
    if cpu_ops or not (cuda_toolkit() or shutil.which("nvidia-smi")):
        cuda = None
    # A build runs with the PyTorch and Python it was made for, with no other.
    kind = f"{'cuda' if cuda else 'cpu'}-{sysconfig.get_config_var('SOABI')}"
    folder = WHEELS / f"{spec}-torch{torch}-{kind}"
    if keeps_mmcv(spec, folder, active) and prove():
        return
    print(f"==> MMCV with compiled operators for PyTorch {torch}", flush=True)
    wheels = [str(path) for path in folder.glob("*.whl")]
    if cuda and name == "onedl-mmcv":
        fits = f"{name}-cu{cuda.replace('.', '')}-torch{'-'.join(torch.split('.')[:2])}"
        published = requirements(REQUIREMENTS / "mmcv-wheels.txt")
        wheels += [str(requirement) for requirement in published if requirement.name == fits]
    for wheel in wheels:
        with suppress(SetupError):
            install_wheel(wheel)
        if prove():
            return
    install_wheel(build_mmcv(source, folder, cuda))
    if not prove():
        raise SetupError("MMCV was built, but its operators do not run.")


def keeps_mmcv(spec: str, folder: Path, active: bool) -> bool:
    """Return whether the installed MMCV may stay, if its operators run.

    One that was built here has to be for this PyTorch. Another one stays if its version is the
    pinned one, with --active one in the range, or if it goes by another name.
    """
    name = next(iter(metadata.packages_distributions().get("mmcv", [])), None)
    if name is None or f"{name}=={metadata.version(name)}" in damaged_packages():
        return False
    package = metadata.distribution(name)
    origin = Path(unquote(json.loads(package.read_text("direct_url.json") or "{}").get("url", "")))
    if origin.parent.parent.name == "mmcv":
        # Operators for the GPU run without one, too, as on a login node.
        return origin.parent.name in (folder.name, folder.name.replace("-cpu-", "-cuda-"))
    known = requirements(OPENMMLAB) if active else [Requirement(spec)]
    return all(r.specifier.contains(package.version) for r in known if r.name == name)


def install_wheel(wheel: str) -> None:
    """Install an MMCV, from a file or by its name, in the place of any other."""
    others = set(metadata.packages_distributions().get("mmcv", []))
    # pip cannot uninstall what was not wholly installed, but it can write over it.
    if whole := [name for name in others if metadata.distribution(name).read_text("RECORD")]:
        pip("uninstall", "--yes", *whole)
    pip("install", "--no-deps", "--ignore-installed", "--only-binary", ":all:", wheel)


def torch_versions() -> tuple[str, str | None]:
    """Return PyTorch's version and the CUDA version it was built for, without importing it."""
    path = metadata.distribution("torch").locate_file("torch/version.py")
    values = runpy.run_path(str(path))
    return str(values["__version__"]), values.get("cuda")


def build_mmcv(source: str, folder: Path, cuda: str | None) -> str:
    """Build MMCV from ``NAME==VERSION --hash=...`` and return the path of the wheel in a folder."""
    import psutil  # of requirements/build.txt, which is in place by now

    check_tools(cuda)
    kind = "GPU" if cuda else "CPU"
    print(f"    building {source.split()[0]} for the {kind}; minutes, once", flush=True)
    with tempfile.TemporaryDirectory() as scratch:
        line = Path(scratch, "source.txt")
        line.write_text(source, encoding="utf-8")
        options = ["--no-deps", "--no-build-isolation"]
        pip("download", *options, "--no-binary", ":all:", "--dest", scratch, "--requirement", line)
        (archive,) = Path(scratch).glob("*.tar.gz")
        shutil.unpack_archive(archive, scratch)
        tree = Path(scratch, archive.name.removesuffix(".tar.gz"))
        if cuda:
            env = dict(FORCE_CUDA="1")  # also where no GPU is visible, as on a login node
        else:
            env = dict(FORCE_CUDA="0", CUDA_VISIBLE_DEVICES="", CFLAGS="-O2 -DNDEBUG -w")
            merge_sources(tree / "mmcv" / "ops" / "csrc" / "pytorch")
        # One file to a core, as far as the memory goes.
        jobs = min(os.cpu_count(), int(psutil.virtual_memory().available / 1e9 / GIGABYTES_PER_JOB))
        env["MAX_JOBS"] = os.environ.get("MAX_JOBS") or str(max(jobs, 1))
        pip("wheel", *options, "--wheel-dir", scratch, ".", cwd=tree, **env)
        (wheel,) = Path(scratch).glob("*.whl")
        folder.mkdir(parents=True, exist_ok=True)
        # The name is given only to a whole file.
        part = shutil.copy(wheel, folder / f"{wheel.name}.part")
        return str(Path(part).replace(folder / wheel.name))


def cuda_toolkit() -> str | None:
    """Return the major version of the CUDA toolkit, or None."""
    home = os.environ.get("CUDA_HOME", "/usr/local/cuda")
    if nvcc := shutil.which("nvcc", path=f"{home}/bin{os.pathsep}{os.environ['PATH']}"):
        text = subprocess.run([nvcc, "--version"], capture_output=True, text=True).stdout
        return next(iter(re.findall(r"release (\d+)", text)), None)


def check_tools(cuda: str | None) -> None:
    """Raise SetupError if there is nothing to build MMCV's operators with."""
    compiler, header = os.environ.get("CXX", "c++"), Path(sysconfig.get_path("include"), "Python.h")
    missing = None
    if cuda and (found := cuda_toolkit()) != cuda.split(".")[0]:
        missing = (
            f"the CUDA toolkit of PyTorch's major version, CUDA {cuda}, but nvcc is "
            f"{found or 'missing'}: set CUDA_HOME, install an MMCV that fits, or pass --cpu-ops to "
            "do without the GPU"
        )
    if not shutil.which(compiler.split()[0]):
        missing = f"the C++ compiler '{compiler}': apt-get install g++, or set CXX"
    if not header.exists():
        missing = f"{header}: install the development files of this Python"
    if missing:
        raise SetupError(f"MMCV's operators have to be compiled, which takes {missing}.")


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


def prove() -> bool:
    """Run :func:`check` in a process of its own; return whether MMCV's operators run.

    Raises:
        SetupError: Something else is wrong with the environment.
    """
    done = subprocess.run([sys.executable, __file__, "--check"], capture_output=True, text=True)
    problem = (done.stderr.splitlines() or ["it was killed"])[-1]
    if done.returncode == OPERATORS_FAIL:
        print(f"    MMCV's operators do not run: {problem}", flush=True)
    elif done.returncode:
        raise SetupError(f"{done.stderr}\nThe proof of the environment failed: {problem}")
    else:
        print("    " + "\n    ".join(done.stdout.splitlines()[-2:]), flush=True)
    return not done.returncode


def check() -> None:
    """Run MMCV's operators on all devices, and import what a config can name."""
    try:
        import mmcv
        import torch
        from mmcv.ops import get_compiling_cuda_version

        gpu, built = torch.cuda.is_available(), get_compiling_cuda_version() != "not available"
        devices = ["cpu", "cuda"] if gpu and built else ["cpu"]
        for device in devices:
            check_ops(device)
    except Exception as error:
        print(f"{type(error).__name__}: {error}", file=sys.stderr)
        sys.exit(OPERATORS_FAIL)
    import mmdet.apis
    import mmengine

    import mmdet_eql  # noqa: F401

    packages = dict(PyTorch=torch, MMCV=mmcv, MMEngine=mmengine, MMDetection=mmdet)
    print(", ".join(f"{name} {package.__version__}" for name, package in packages.items()))
    without = "; no training on the GPU, as MMCV is built without CUDA" if gpu and not built else ""
    print(f"NMS and RoIAlign give the known answers on {' and '.join(devices)}{without}")


def check_ops(device: str) -> None:
    """Run NMS and RoIAlign on a device; AssertionError if a result is not the known one."""
    import torch
    from mmcv.ops import nms, roi_align

    # The first two boxes overlap with an IoU of 81/100, so the lower score goes.
    boxes = [[0.0, 0.0, 10.0, 10.0], [1.0, 1.0, 10.0, 10.0], [20.0, 20.0, 30.0, 30.0]]
    scores = torch.tensor([0.7, 0.9, 0.8], device=device)
    kept = nms(torch.tensor(boxes, device=device), scores, iou_threshold=0.5)[1].tolist()
    # Bilinear sampling of the plane 8y + x gives its value at the sampling points, which lie at
    # 0.5 and 2.5 in both directions after the half-pixel shift.
    plane = torch.arange(64.0, device=device).view(1, 1, 8, 8)
    roi = torch.tensor([[0.0, 0.0, 0.0, 4.0, 4.0]], device=device)
    pooled = roi_align(plane, roi, (2, 2), 1.0, 0, "avg", True).flatten()
    right = torch.allclose(pooled.cpu(), torch.tensor([4.5, 6.5, 20.5, 22.5]), atol=1e-4)
    if kept != [1, 2] or not right:
        raise AssertionError(f"on {device}, NMS kept boxes {kept} and RoIAlign gave {pooled}")


def set_up(active: bool = False, cpu_ops: bool = False, originals: bool = False) -> None:
    """Bring this environment in line with the requirement files; the options of setup_env.sh."""
    began = time.monotonic()
    no_deps = ["install", "--no-deps", "--no-build-isolation"]
    constrain = [] if active else ["-c", CONSTRAINTS]
    unfinished = Path(sys.prefix, "setup_env.unfinished")
    if unfinished.exists() and (damaged := [p for p in damaged_packages() if "mmcv" not in p]):
        print(f"==> Reinstalling what a broken-off run left: {', '.join(damaged)}", flush=True)
        pip(*no_deps, "--ignore-installed", *damaged)
    unfinished.touch()
    print("==> PyTorch and libraries", flush=True)
    files = [REQUIREMENTS / "build.txt", ROOT / "requirements.txt", REQUIREMENTS / "dev.txt"]
    libraries = [str(requirement) for file in files for requirement in requirements(file)]
    pip("install", "--no-warn-conflicts", *constrain, *missing_torch(), *libraries)
    print("==> OpenMMLab packages and this project", flush=True)
    if originals:
        pip(*no_deps, "--require-hashes", "-r", REQUIREMENTS / "originals.txt")
    mm = [*requirements(OPENMMLAB), *requirements(REQUIREMENTS / "merge.txt")]
    mm = [str(requirement) for requirement in mm if "mmcv" not in requirement.name]
    pip(*no_deps, *constrain, *mm, "--editable", ROOT)
    install_mmcv(active, cpu_ops)
    unfinished.unlink()
    print(f"Ready after {time.monotonic() - began:.0f} s: {sys.executable}")


def main() -> None:
    options = {option[2:].replace("-", "_"): True for option in sys.argv[1:]}
    try:
        check() if "check" in options else set_up(**options)
    except (SetupError, OSError) as error:
        sys.exit(f"setup_env: {error}")


if __name__ == "__main__":
    main()
