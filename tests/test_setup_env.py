"""The parts of tools/setup_env.sh that decide: what is missing, stale or broken off."""

import dataclasses
import fcntl
import os
import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
HELPERS = ROOT / "tools" / "dev" / "env"
sys.path.insert(0, str(HELPERS))

import check_pins  # noqa: E402
import damaged_packages  # noqa: E402
import install_mmcv  # noqa: E402
import missing_requirements  # noqa: E402
from install_mmcv import Stamp  # noqa: E402

CPU = Stamp(
    mmcv="onedl-mmcv==2.3.6",
    torch="2.13.0+cpu",
    torch_cuda="none",
    python="cpython-311-x86_64-linux-gnu",
    cuda_ops="none",
    cuda_arch="none",
    compiler="c++ 12.2.0",
)
CUDA = dataclasses.replace(
    CPU, torch="2.13.0+cu130", torch_cuda="13.0", cuda_ops="13.0", cuda_arch="9.0"
)


def put_in_cache(cache: Path, stamp: Stamp, name: str = "a") -> Path:
    folder = cache / "wheels" / name
    folder.mkdir(parents=True)
    wheel = folder / "onedl_mmcv-2.3.6-cp311-cp311-linux_x86_64.whl"
    with zipfile.ZipFile(wheel, "w") as content:
        content.writestr("mmcv/_ext.so", name)
    install_mmcv.write_json(folder / install_mmcv.STAMP, stamp.to_json(wheel))
    return wheel


def put_in_environment(
    site: Path, name: str, version: str, files: dict[str, str], direct_url: str = "{}"
) -> None:
    """Install a package of a few files the way pip does, as far as importlib.metadata looks."""
    info = site / f"{name.replace('-', '_')}-{version}.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
    (info / "direct_url.json").write_text(direct_url)
    for path, text in files.items():
        (site / path).parent.mkdir(parents=True, exist_ok=True)
        (site / path).write_text(text)
    lines = [f"{path},sha256=x,{len(text)}" for path, text in files.items()]
    (info / "RECORD").write_text("\n".join([*lines, f"{info.name}/RECORD,,"]) + "\n")


@pytest.fixture
def site(tmp_path, monkeypatch) -> Path:
    """An empty folder of installed packages, the only one that importlib.metadata sees."""
    folder = tmp_path / "site"
    folder.mkdir()
    monkeypatch.setattr(sys, "path", [str(folder)])
    return folder


class TestCachedWheel:
    def test_a_wheel_for_the_same_stack_is_used(self, tmp_path):
        wheel = put_in_cache(tmp_path, CPU)
        assert install_mmcv.cached_wheel(tmp_path, CPU) == (wheel, [])

    @pytest.mark.parametrize(
        ("field", "value", "said"),
        [
            ("torch", "2.12.1+cpu", "torch was 2.13.0+cpu, is 2.12.1+cpu"),
            ("torch", "2.13.0+cu130", "torch was 2.13.0+cpu, is 2.13.0+cu130"),
            ("torch_cuda", "13.0", "torch cuda was none, is 13.0"),
            ("python", "cpython-312-x86_64-linux-gnu", "python was cpython-311"),
            ("mmcv", "onedl-mmcv==2.3.7", "mmcv was onedl-mmcv==2.3.6"),
            ("cuda_ops", "13.0", "cuda ops was none, is 13.0"),
            ("compiler", "c++ 13.1.0", "compiler was c++ 12.2.0, is c++ 13.1.0"),
        ],
    )
    def test_a_wheel_for_another_stack_is_not(self, tmp_path, field, value, said):
        put_in_cache(tmp_path, CPU)
        wheel, differences = install_mmcv.cached_wheel(
            tmp_path, dataclasses.replace(CPU, **{field: value})
        )
        assert wheel is None
        assert len(differences) == 1
        assert differences[0].startswith(said)

    def test_the_fitting_wheel_is_found_among_others(self, tmp_path):
        put_in_cache(tmp_path, dataclasses.replace(CPU, torch="2.12.1+cpu"), "a")
        wheel = put_in_cache(tmp_path, CPU, "b")
        put_in_cache(tmp_path, CUDA, "c")
        assert install_mmcv.cached_wheel(tmp_path, CPU) == (wheel, [])

    def test_the_nearest_wheel_explains_a_miss(self, tmp_path):
        put_in_cache(tmp_path, CUDA, "a")
        put_in_cache(tmp_path, dataclasses.replace(CPU, torch="2.12.1+cpu"), "b")
        _, differences = install_mmcv.cached_wheel(tmp_path, CPU)
        assert differences == ["torch was 2.12.1+cpu, is 2.13.0+cpu"]

    def test_a_changed_wheel_is_not_used(self, tmp_path):
        wheel = put_in_cache(tmp_path, CPU)
        wheel.write_bytes(wheel.read_bytes()[:-10])
        found, differences = install_mmcv.cached_wheel(tmp_path, CPU)
        assert found is None
        assert differences == ["its file was changed since"]

    @pytest.mark.parametrize("text", ["", '{"torch": "2.13.0+cpu"}', "[]"])
    def test_a_broken_stamp_is_passed_over(self, tmp_path, text):
        wheel = put_in_cache(tmp_path, CPU)
        wheel.with_name(install_mmcv.STAMP).write_text(text)
        assert install_mmcv.cached_wheel(tmp_path, CPU) == (None, [])

    def test_a_wheel_without_its_stamp_is_passed_over(self, tmp_path):
        wheel = put_in_cache(tmp_path, CPU)
        wheel.with_name(install_mmcv.STAMP).unlink()
        assert install_mmcv.cached_wheel(tmp_path, CPU) == (None, [])

    def test_what_cannot_be_told_here_is_not_held_against_a_wheel(self, tmp_path):
        wheel = put_in_cache(tmp_path, CUDA)
        # As on a login node: no GPU, no compiler, no toolkit.
        here = dataclasses.replace(CUDA, cuda_arch=None, compiler=None, cuda_ops=None)
        assert install_mmcv.cached_wheel(tmp_path, here) == (wheel, [])

    def test_operators_without_cuda_do_not_serve_where_cuda_is_needed(self, tmp_path):
        put_in_cache(tmp_path, dataclasses.replace(CUDA, cuda_ops="none", cuda_arch="none"))
        here = dataclasses.replace(CUDA, cuda_arch=None, compiler=None, cuda_ops=None)
        _, differences = install_mmcv.cached_wheel(tmp_path, here)
        assert differences == ["it has no CUDA operators"]


class TestInstalledMMCV:
    @pytest.fixture
    def installed(self, site, tmp_path, monkeypatch) -> Path:
        wheel = put_in_cache(tmp_path, CPU)
        stamp = tmp_path / "installed.json"
        install_mmcv.write_json(stamp, CPU.to_json(wheel))
        monkeypatch.setattr(install_mmcv, "INSTALLED_STAMP", stamp)
        origin = f'{{"archive_info": {{"hashes": {{"sha256": "{install_mmcv.sha256(wheel)}"}}}}}}'
        put_in_environment(site, "onedl-mmcv", "2.3.6", {"mmcv/_ext.so": "code"}, origin)
        return stamp

    def test_it_stays_if_it_fits(self, installed):
        assert install_mmcv.installed_differences("onedl-mmcv", CPU) == []

    def test_it_goes_with_its_torch(self, installed):
        newer = dataclasses.replace(CPU, torch="2.14.0+cpu")
        assert install_mmcv.installed_differences("onedl-mmcv", newer) == [
            "torch was 2.13.0+cpu, is 2.14.0+cpu"
        ]

    def test_it_goes_if_files_are_missing(self, installed, site):
        (site / "mmcv" / "_ext.so").unlink()
        assert install_mmcv.installed_differences("onedl-mmcv", CPU) == [
            "some of its files are missing"
        ]

    def test_a_stamp_for_another_file_says_nothing(self, installed, tmp_path):
        other = put_in_cache(tmp_path, CPU, "other")
        install_mmcv.write_json(installed, CPU.to_json(other))
        assert install_mmcv.installed_differences("onedl-mmcv", CPU) == [
            install_mmcv.UNKNOWN_ORIGIN
        ]

    def test_none_is_told_from_one_that_fits(self, site):
        assert install_mmcv.installed_differences("onedl-mmcv", CPU) is None


class TestCUDA:
    @pytest.mark.parametrize(
        ("torch_cuda", "toolkit", "cpu_ops", "expected"),
        [
            (None, None, False, "none"),
            (None, "13.0", False, "none"),
            ("13.0", "13.0", False, "13.0"),
            ("12.8", "12.4", False, "12.4"),
            ("12.8", "13.0", False, None),
            ("12.8", None, False, None),
            ("12.8", "12.8", True, "none"),
        ],
    )
    def test_the_toolkit_follows_torch(self, torch_cuda, toolkit, cpu_ops, expected):
        assert install_mmcv.choose_cuda_ops(torch_cuda, toolkit, cpu_ops) == expected

    @pytest.fixture
    def toolkit(self, tmp_path, monkeypatch):
        """A toolkit of version 12.8, as far as anyone asks it."""
        nvcc = tmp_path / "cuda" / "bin" / "nvcc"
        nvcc.parent.mkdir(parents=True)
        nvcc.write_text('#!/bin/sh\necho "Cuda compilation tools, release 12.8, V12.8.93"\n')
        nvcc.chmod(0o755)
        monkeypatch.setenv("CUDA_HOME", str(tmp_path / "cuda"))
        return tmp_path / "cuda"

    def test_the_toolkit_tells_its_version(self, toolkit):
        assert install_mmcv.nvcc_version(install_mmcv.cuda_home()) == "12.8"

    def test_a_toolkit_of_another_major_version_is_refused(self, toolkit):
        stamp = dataclasses.replace(CUDA, cuda_ops=None)
        with pytest.raises(install_mmcv.SetupError, match=r"CUDA 13\.0.*found is 12\.8.*CUDA_HOME"):
            install_mmcv.check_tools(stamp)

    def test_cuda_is_built_without_a_visible_gpu(self, toolkit, tmp_path, monkeypatch):
        monkeypatch.delenv("TORCH_CUDA_ARCH_LIST", raising=False)
        env = install_mmcv.build_environment(CUDA, tmp_path)
        assert env["FORCE_CUDA"] == "1"
        assert env["CUDA_HOME"] == str(toolkit)
        assert env["TORCH_CUDA_ARCH_LIST"] == "9.0"
        # nvcc takes its host compiler from CC: the stand-in is not for CUDA sources.
        assert env.get("CC") == os.environ.get("CC")

    def test_the_cpu_build_stays_one_in_sight_of_a_gpu(self, tmp_path, monkeypatch):
        monkeypatch.setenv("FORCE_CUDA", "1")
        env = install_mmcv.build_environment(CPU, tmp_path)
        assert env["FORCE_CUDA"] == "0"
        assert env["CUDA_VISIBLE_DEVICES"] == ""


def test_torch_is_looked_at_without_importing_it(tmp_path, monkeypatch):
    package = tmp_path / "torch"
    package.mkdir()
    (package / "__init__.py").write_text("raise ImportError('imported')\n")
    (package / "version.py").write_text("__version__ = '2.6.0+cu124'\ncuda: str = '12.4'\n")
    code = "import install_mmcv; print(*install_mmcv.torch_versions())"
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "PYTHONPATH": f"{tmp_path}{os.pathsep}{HELPERS}"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.split() == ["2.6.0+cu124", "12.4"]


PINS = {"numpy": "2.2.6", "opencv-python-headless": "4.12.0.88"}


class TestRequirements:
    @pytest.fixture
    def file(self, tmp_path) -> Path:
        path = tmp_path / "requirements.txt"
        path.write_text(
            "# Comment\n-c constraints.txt\n"
            "numpy>=1.26,<2.5    # arrays\n"
            "opencv-python-headless>=4.9,<5.1  # images  # or: opencv-python>=4.9,<5.1\n"
            "regex; sys_platform == 'no such platform'\n"
        )
        return path

    def test_everything_is_missing_from_an_empty_environment(self, site, file):
        assert missing_requirements.missing([file]) == [
            "numpy<2.5,>=1.26",
            "opencv-python-headless<5.1,>=4.9",
        ]
        assert missing_requirements.missing([file], PINS) == [
            "numpy==2.2.6",
            "opencv-python-headless==4.12.0.88",
        ]

    def test_a_version_in_range_is_kept_unless_pinned(self, site, file):
        put_in_environment(site, "numpy", "2.0.0", {})
        put_in_environment(site, "opencv-python-headless", "4.12.0.88", {})
        assert missing_requirements.missing([file]) == []
        assert missing_requirements.missing([file], PINS) == ["numpy==2.2.6"]

    def test_a_version_outside_the_range_is_replaced(self, site, file):
        put_in_environment(site, "numpy", "1.19.0", {})
        put_in_environment(site, "opencv-python-headless", "4.12.0.88", {})
        assert missing_requirements.missing([file]) == ["numpy<2.5,>=1.26"]

    @pytest.mark.parametrize("pins", [None, PINS])
    def test_an_alternative_serves(self, site, file, pins):
        put_in_environment(site, "numpy", "2.2.6", {})
        put_in_environment(site, "opencv-python", "4.10.0.84", {})
        assert missing_requirements.missing([file], pins) == []

    def test_an_alternative_outside_its_range_is_a_conflict(self, site, file):
        put_in_environment(site, "opencv-python", "3.4.0.12", {})
        with pytest.raises(missing_requirements.ConflictError, match=r"opencv-python 3\.4\.0\.12"):
            missing_requirements.missing([file])

    def test_every_requirement_is_pinned_within_its_range(self):
        pins = missing_requirements.read_pins(ROOT / "requirements" / "constraints.txt")
        files = [ROOT / "requirements.txt", *(ROOT / "requirements").glob("*.txt")]
        files.remove(ROOT / "requirements" / "constraints.txt")
        files.remove(ROOT / "requirements" / "mmcv-source.txt")
        files.remove(ROOT / "requirements" / "originals.txt")
        assert len(files) == 6
        for path in files:
            for requirement, _ in missing_requirements.read_requirements(path):
                pin = pins[missing_requirements.normalized(requirement.name)]
                assert requirement.specifier.contains(pin), f"{path.name}: {requirement}, {pin}"

    def test_the_hashed_source_of_mmcv_is_the_pinned_version(self):
        pins = missing_requirements.read_pins(ROOT / "requirements" / "constraints.txt")
        source = (ROOT / "requirements" / "mmcv-source.txt").read_text()
        assert f"onedl-mmcv=={pins['onedl-mmcv']} --hash=sha256:" in source

    def test_the_originals_are_within_the_ranges_and_have_hashes(self):
        folder = ROOT / "requirements"
        alternatives = {
            alternative.name: alternative.specifier
            for _, alternative in missing_requirements.read_requirements(folder / "openmmlab.txt")
            if alternative is not None
        }
        lines = "\n".join(
            (folder / name).read_text() for name in ("originals.txt", "mmcv-source.txt")
        )
        found = re.findall(r"^(mm\w+)==(\S+) --hash=sha256:[0-9a-f]{64}$", lines, re.MULTILINE)
        assert {name for name, _ in found} == set(alternatives) == {"mmcv", "mmdet", "mmengine"}
        assert all(alternatives[name].contains(version) for name, version in found)


class TestDamagedPackages:
    def test_complete(self, site, capsys):
        put_in_environment(site, "whole", "1.0", {"whole/a.py": "a", "whole/b.py": "b"})
        damaged_packages.main()
        assert capsys.readouterr().out == ""

    @pytest.mark.parametrize("damage", ["gone", "cut", "no record"])
    def test_damaged(self, site, capsys, damage):
        put_in_environment(site, "whole", "1.0", {"whole/a.py": "a"})
        put_in_environment(site, "half", "2.0", {"half/a.py": "some code"})
        if damage == "gone":
            (site / "half" / "a.py").unlink()
        elif damage == "cut":
            (site / "half" / "a.py").write_text("some")
        else:
            (site / "half-2.0.dist-info" / "RECORD").unlink()
        damaged_packages.main()
        assert capsys.readouterr().out == "half==2.0\n"

    def test_bytecode_may_change(self, site, capsys):
        put_in_environment(site, "whole", "1.0", {"whole/a.py": "a", "whole/a.pyc": "bytes"})
        (site / "whole" / "a.pyc").write_text("other bytes")
        damaged_packages.main()
        assert capsys.readouterr().out == ""

    def test_a_package_without_metadata_counts_as_not_installed(self, site, capsys):
        (site / "half-2.0.dist-info").mkdir()
        damaged_packages.main()
        assert capsys.readouterr().out == ""


@pytest.mark.skipif(not install_mmcv.is_gcc("c++"), reason="the compiler is not GCC")
class TestPrecompiledHeader:
    @pytest.fixture
    def compile(self, tmp_path):
        """Compile a file with the stand-in, and tell what GCC read in."""
        (tmp_path / "include").mkdir()
        (tmp_path / "include" / "big.h").write_text(
            "#ifndef BIG\n#define BIG\ninline int big() { return LEVEL; }\n#endif\n"
        )
        (tmp_path / "one.cpp").write_text("#include <big.h>\nint one() { return big(); }\n")
        pch = tmp_path / "pch"
        pch.mkdir()
        env = {
            **os.environ,
            "PCH_CXX": "c++",
            "PCH_HEADER": "big.h",
            "PCH_DIR": str(pch),
            "LC_ALL": "C",
        }

        def run(*flags: str) -> subprocess.CompletedProcess:
            command = [str(install_mmcv.CXX_WITH_PCH), "-MMD", "-MF", "one.d", *flags]
            command += ["-isystem", "include", "-H", "-c", "-c", "one.cpp", "-o", "one.o"]
            return subprocess.run(command, cwd=tmp_path, env=env, capture_output=True, text=True)

        run.folder = pch
        return run

    def test_it_is_made_once_and_used(self, compile):
        for _ in range(2):
            done = compile("-O2", "-DLEVEL=1")
            assert done.returncode == 0, done.stderr
            (header,) = compile.folder.glob("*.gch")
            # GCC's -H marks a precompiled header it uses with "!", one it rejects with "x".
            assert f"! {header}" in done.stderr

    def test_other_flags_get_their_own(self, compile):
        assert compile("-O2", "-DLEVEL=1").returncode == 0
        done = compile("-O2", "-fPIC", "-DLEVEL=2")
        assert done.returncode == 0
        assert len(list(compile.folder.glob("*.gch"))) == 2
        assert "! " in done.stderr

    def test_a_header_that_does_not_compile_is_left_out(self, compile):
        # Without LEVEL neither the header nor the file compiles; the error is the file's own.
        done = compile("-O2")
        assert done.returncode != 0
        assert "LEVEL" in done.stderr
        assert (compile.folder / "failed").exists()
        done = compile("-O2", "-DLEVEL=1")
        assert done.returncode == 0
        assert not list(compile.folder.glob("*.gch"))

    def test_a_header_broken_off_is_made_again(self, compile):
        assert compile("-DLEVEL=1").returncode == 0
        (header,) = compile.folder.glob("*.gch")
        header.rename(header.with_suffix(".part"))
        assert compile("-DLEVEL=1").returncode == 0
        assert header.exists()

    def test_questions_reach_the_compiler(self, compile, tmp_path):
        command = [str(install_mmcv.CXX_WITH_PCH), "-dumpversion"]
        done = subprocess.run(
            command,
            env={**os.environ, "PCH_CXX": "c++", "PCH_HEADER": "big.h", "PCH_DIR": str(tmp_path)},
            capture_output=True,
            text=True,
            check=True,
        )
        assert done.stdout.strip() == install_mmcv.first_output("c++", "-dumpversion")


class TestScript:
    @pytest.fixture
    def setup_env(self, tmp_path):
        """Run a copy of the script in a repository without an environment."""
        shutil.copytree(ROOT / "tools" / "dev" / "env", tmp_path / "tools" / "env")
        shutil.copy(ROOT / "tools" / "setup_env.sh", tmp_path / "tools")

        def run(*args: str, **env: str) -> subprocess.CompletedProcess:
            command = ["bash", str(tmp_path / "tools" / "setup_env.sh"), *args]
            return subprocess.run(
                command,
                env={**os.environ, **env},
                cwd="/",
                capture_output=True,
                text=True,
                timeout=60,
            )

        return run

    def fake_python(self, folder: Path, minor: int) -> Path:
        """A Python that claims another version."""
        path = folder / "python"
        path.write_text(
            f"#!{sys.executable}\nimport sys\nsys.version_info = (3, {minor}, 0, 'final', 0)\n"
            "exec(sys.argv[2])\n"
        )
        path.chmod(0o755)
        return path

    def test_help(self, setup_env):
        done = setup_env("--help")
        assert done.returncode == 0
        assert "--active" in done.stdout

    def test_unknown_option(self, setup_env):
        done = setup_env("--gpu")
        assert done.returncode == 1
        assert done.stderr == (
            "setup_env: '--gpu' is not an option; see bash tools/setup_env.sh --help\n"
        )

    @pytest.mark.parametrize("minor", [9, 13])
    def test_python_outside_the_range(self, setup_env, tmp_path, minor):
        python = self.fake_python(tmp_path, minor)
        done = setup_env(PYTHON=str(python))
        assert done.returncode == 1
        assert done.stderr == (
            "setup_env: Python 3.10, 3.11 or 3.12 is needed, "
            f"but PYTHON={python} is Python 3.{minor}.\n"
        )
        assert not (tmp_path / ".venv").exists()

    def test_python_that_is_not_there(self, setup_env, tmp_path):
        done = setup_env(PYTHON=str(tmp_path / "python3.11"))
        assert done.returncode == 1
        assert "not a Python that runs" in done.stderr

    def test_active_without_an_active_environment(self, setup_env):
        done = setup_env("--active", VIRTUAL_ENV="", CONDA_PREFIX="")
        assert done.returncode == 1
        assert "no virtual or conda environment is active" in done.stderr

    def test_an_environment_of_another_python_is_not_touched(self, setup_env, tmp_path):
        (tmp_path / ".venv" / "bin").mkdir(parents=True)
        self.fake_python(tmp_path / ".venv" / "bin", 13)
        done = setup_env()
        assert done.returncode == 1
        assert f"{tmp_path}/.venv holds Python 3.13" in done.stderr
        assert os.listdir(tmp_path / ".venv") == ["bin"]

    def test_two_runs_do_not_overlap(self, setup_env, tmp_path):
        (tmp_path / ".cache").mkdir()
        with open(tmp_path / ".cache" / "setup_env.lock", "w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            with pytest.raises(subprocess.TimeoutExpired) as waiting:
                subprocess.run(
                    ["bash", str(tmp_path / "tools" / "setup_env.sh")],
                    capture_output=True,
                    timeout=2,
                )
        assert b"Waiting for another run" in waiting.value.stdout
        assert not (tmp_path / ".venv").exists()


def test_pins_are_compared_with_what_is_installed():
    version = missing_requirements.installed_version
    numpy, torch = version("numpy"), version("torch").partition("+")[0]
    assert check_pins.differences({"numpy": numpy, "torch": torch}, {"numpy", "torch", "pip"}) == []
    found = check_pins.differences({"numpy": "0.1", "no-such-package": "1.0"}, {"numpy", "torch"})
    assert found == [
        "no-such-package==1.0 is not installed",
        f"numpy is {numpy}, but 0.1 is pinned",
        f"torch {version('torch')} is not pinned",
    ]
