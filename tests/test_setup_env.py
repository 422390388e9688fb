"""The parts of tools/setup_env.sh that decide: what is missing, stale or broken off."""

import fcntl
import os
import re
import shutil
import subprocess
import sys
from importlib import metadata
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "tools" / "dev"))

import env as setup  # noqa: E402
from env import Requirement, SetupError  # noqa: E402


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


class TestTorch:
    @pytest.fixture
    def missing(self, site):
        """What is to be installed beside a PyTorch of a version, or without any."""

        def run(installed: str | None) -> list[str]:
            if installed:
                put_in_environment(site, "torch", installed, {"torch/version.py": ""})
            return setup.missing_torch()

        return run

    def test_the_pinned_version_is_the_default(self, missing):
        assert missing(None) == [setup.pinned("torch")]

    @pytest.mark.parametrize("version", ["2.6.0", "2.8.0+cu128"])
    def test_one_in_range_stays(self, missing, version):
        assert missing(version) == []

    def test_one_outside_the_range_is_not_replaced_unasked(self, missing):
        with pytest.raises(SetupError, match=r"PyTorch 1\.13\.1 .* torch.*>=2\.6.* is supported"):
            missing("1.13.1")

    def test_its_versions_are_read_without_importing_it(self, site):
        source = "__version__ = '2.6.0+cu124'\ncuda: str = '12.4'\n"
        files = {"torch/version.py": source, "torch/__init__.py": "raise ImportError"}
        put_in_environment(site, "torch", "2.6.0", files)
        assert setup.torch_versions() == ("2.6.0+cu124", "12.4")


class TestMMCV:
    @pytest.fixture
    def steps(self, site, tmp_path, monkeypatch):
        """Provide an MMCV, and return what was done: install a wheel, build one, prove it."""
        self.put_torch(site, "2.13.0+cpu", None)
        done = []
        monkeypatch.setattr(setup, "WHEELS", tmp_path / "mmcv")
        monkeypatch.setattr(setup, "install_wheel", lambda wheel: done.append(Path(wheel).name))
        monkeypatch.setattr(setup, "build_mmcv", lambda *_: done.append("build") or "new.whl")
        monkeypatch.setenv("PATH", str(tmp_path / "bin"))
        monkeypatch.setenv("CUDA_HOME", str(tmp_path / "cuda"))

        def run(*proofs: bool, active: bool = False) -> list[str]:
            answers = iter(proofs)
            monkeypatch.setattr(setup, "prove", lambda: done.append("prove") or next(answers))
            setup.install_mmcv(active, cpu_ops=False)
            return done

        return run

    def put_torch(self, site: Path, version: str, cuda: str | None) -> None:
        shutil.rmtree(site)
        source = f"__version__ = {version!r}\ncuda = {cuda!r}"
        put_in_environment(site, "torch", version, {"torch/version.py": source})

    def put_nvcc(self, tmp_path: Path) -> None:
        nvcc = tmp_path / "cuda" / "bin" / "nvcc"
        nvcc.parent.mkdir(parents=True)
        nvcc.write_text('#!/bin/sh\necho "Cuda compilation tools, release 12.8, V12.8.93"\n')
        nvcc.chmod(0o755)

    def test_a_published_one_for_this_gpu_is_tried_first(self, steps, site, tmp_path):
        self.put_torch(site, "2.8.0+cu128", "12.8")
        self.put_nvcc(tmp_path)
        wheel = "onedl-mmcv-cu128-torch2-8<2.4,>=2.3.1"
        assert steps(False, True) == [wheel, "prove", "build", "new.whl", "prove"]

    def test_without_gpu_and_toolkit_a_cuda_build_of_torch_takes_one_for_the_cpu(
        self, steps, site, tmp_path
    ):
        self.put_torch(site, "2.13.0", "13.0")
        self.put_in_cache(tmp_path, "2.13.0")
        assert steps(True) == ["cached.whl", "prove"]

    def test_one_for_the_gpu_stays_where_there_is_none(self, steps, site, tmp_path):
        folder = self.folder(tmp_path)
        folder = folder.with_name(folder.name.replace("-cpu-", "-cuda-"))
        self.put_installed(site, (folder / "a.whl").as_uri())
        assert steps(True) == ["prove"]

    def folder(self, tmp_path: Path, torch: str = "2.13.0+cpu") -> Path:
        soabi = setup.sysconfig.get_config_var("SOABI")
        return tmp_path / "mmcv" / f"{setup.pinned('onedl-mmcv')}-torch{torch}-cpu-{soabi}"

    def put_in_cache(self, tmp_path: Path, torch: str = "2.13.0+cpu") -> None:
        self.folder(tmp_path, torch).mkdir(parents=True)
        (self.folder(tmp_path, torch) / "cached.whl").touch()

    def put_installed(self, site: Path, url: str, name="onedl-mmcv", version=None) -> None:
        version = version or setup.pinned("onedl-mmcv").partition("==")[2]
        files = {"mmcv/__init__.py": "", "mmcv/_ext.so": "code"}
        put_in_environment(site, name, version, files, f'{{"url": "{url}"}}')

    def test_it_is_built_where_there_is_none(self, steps):
        assert steps(True) == ["build", "new.whl", "prove"]

    def test_one_for_this_torch_is_taken_from_the_cache(self, steps, tmp_path):
        self.put_in_cache(tmp_path)
        assert steps(True) == ["cached.whl", "prove"]

    def test_one_for_another_torch_is_not(self, steps, tmp_path):
        self.put_in_cache(tmp_path, "2.12.1+cpu")
        assert steps(True) == ["build", "new.whl", "prove"]

    def test_one_in_the_cache_that_does_not_run_is_built_anew(self, steps, tmp_path):
        self.put_in_cache(tmp_path)
        assert steps(False, True) == ["cached.whl", "prove", "build", "new.whl", "prove"]

    def test_a_new_one_that_does_not_run_is_an_error(self, steps):
        with pytest.raises(SetupError, match="operators do not run"):
            steps(False)

    def test_the_installed_one_stays(self, steps, site, tmp_path):
        self.put_installed(site, (self.folder(tmp_path) / "a.whl").as_uri())
        assert steps(True) == ["prove"]

    def test_it_goes_with_its_torch(self, steps, site, tmp_path):
        self.put_installed(site, (self.folder(tmp_path, "2.12.1+cpu") / "a.whl").as_uri())
        assert steps(True) == ["build", "new.whl", "prove"]

    def test_it_goes_if_it_does_not_run(self, steps, site, tmp_path):
        self.put_installed(site, (self.folder(tmp_path) / "a.whl").as_uri())
        assert steps(False, True) == ["prove", "build", "new.whl", "prove"]

    def test_it_goes_if_files_are_missing(self, steps, site, tmp_path):
        self.put_installed(site, (self.folder(tmp_path) / "a.whl").as_uri())
        (site / "mmcv" / "_ext.so").unlink()
        assert steps(True) == ["build", "new.whl", "prove"]

    @pytest.mark.parametrize(
        ("name", "version", "stays"),
        [
            ("onedl-mmcv", "2.3.9", True),
            ("onedl-mmcv", "2.2.0", False),
            ("mmcv", "2.1.0", True),
            ("onedl-mmcv-cu128-torch2-8", "2.3.1", True),
        ],
    )
    def test_a_users_own_stays_in_the_users_environment(self, steps, site, name, version, stays):
        self.put_installed(site, "https://example.org/mmcv.whl", name, version)
        assert steps(True, active=True) == (["prove"] if stays else ["build", "new.whl", "prove"])

    def test_a_cuda_toolkit_of_another_major_version_is_refused(self, tmp_path, monkeypatch):
        self.put_nvcc(tmp_path)
        monkeypatch.setenv("CUDA_HOME", str(tmp_path / "cuda"))
        setup.check_tools("12.4")
        with pytest.raises(SetupError, match=r"CUDA 13\.0.*nvcc is 12.*CUDA_HOME"):
            setup.check_tools("13.0")

    def test_merged_sources_hold_every_file_once(self, tmp_path):
        names = ["a", "b", "roi_align", "cpu/bezier_align", "cpu/psamask", "cpu/roi_align"]
        names += ["cpu/roi_align_rotated", "cpu/voxelization"]
        (tmp_path / "cpu").mkdir()
        for name in names:
            (tmp_path / f"{name}.cpp").touch()
        setup.merge_sources(tmp_path)
        units = [path.read_text().splitlines() for path in sorted(tmp_path.glob("**/*.cpp"))]
        assert len(units) == 3
        assert sorted(line for unit in units for line in unit) == sorted(
            f'#include "{name}.inl"' for name in names
        )
        assert all((tmp_path / f"{name}.inl").exists() for name in names)
        assert units[2][-1] == '#include "cpu/psamask.inl"'


class TestRequirements:
    @pytest.fixture
    def file(self, tmp_path) -> Path:
        path = tmp_path / "requirements.txt"
        path.write_text(
            "# Comment\nnumpy>=1.26,<2.5    # arrays\n"
            "opencv-python-headless>=4.9,<5.1  # images  # or: opencv-python>=4.9,<5.1\n"
        )
        return path

    def chosen(self, file: Path) -> list[str]:
        return [str(requirement) for requirement in setup.requirements(file)]

    def test_ours_count_in_an_empty_environment(self, site, file):
        assert self.chosen(file) == ["numpy<2.5,>=1.26", "opencv-python-headless<5.1,>=4.9"]

    def test_an_installed_alternative_counts(self, site, file):
        put_in_environment(site, "opencv-python", "4.10.0.84", {})
        assert self.chosen(file) == ["numpy<2.5,>=1.26", "opencv-python<5.1,>=4.9"]

    def test_every_requirement_is_pinned_within_its_range(self):
        files = [ROOT / "requirements.txt"]
        files += [
            ROOT / "requirements" / f"{name}.txt" for name in ("build", "dev", "openmmlab", "torch")
        ]
        for path in files:
            for requirement in setup.requirements(path):
                pin = Requirement(setup.pinned(requirement.name))
                (version,) = (each.version for each in pin.specifier)
                assert requirement.specifier.contains(version), f"{path.name}: {requirement}"

    def test_what_they_pull_in_is_pinned(self):
        """Nothing that pip installs is left to the day; what runs here may be other versions."""
        pins = {normalized(pin.name) for pin in setup.requirements(setup.CONSTRAINTS)}
        # These are installed with --no-deps: what they need is in requirements.txt.
        no_deps = {
            normalized(requirement.name)
            for name in ("openmmlab", "merge")
            for requirement in setup.requirements(ROOT / "requirements" / f"{name}.txt")
        }
        todo = pins - no_deps
        seen = set(todo)
        while todo:
            for text in metadata.requires(todo.pop()) or ():
                needed = Requirement(text)
                name = normalized(needed.name)
                if needed.marker and not needed.marker.evaluate({"extra": ""}):
                    continue
                assert name in pins, text
                if name not in seen:
                    seen.add(name)
                    todo.add(name)

    def test_the_sources_of_mmcv_have_hashes(self):
        source = (ROOT / "requirements" / "mmcv-source.txt").read_text()
        assert f"{setup.pinned('onedl-mmcv')} --hash=sha256:" in source

    def test_the_originals_are_within_the_ranges_and_have_hashes(self):
        folder = ROOT / "requirements"
        texts = re.findall(r"# or: (\S+)$", (folder / "openmmlab.txt").read_text(), re.MULTILINE)
        alternatives = {each.name: each.specifier for each in map(Requirement, texts)}
        lines = "\n".join(
            (folder / name).read_text() for name in ("originals.txt", "mmcv-source.txt")
        )
        found = re.findall(r"^(mm\w+)==(\S+) --hash=sha256:[0-9a-f]{64}$", lines, re.MULTILINE)
        assert {name for name, _ in found} == set(alternatives) == {"mmcv", "mmdet", "mmengine"}
        assert all(alternatives[name].contains(version) for name, version in found)


def normalized(name: str) -> str:
    """A package name as the package index compares it."""
    return re.sub(r"[-_.]+", "-", name).lower()


class TestDamagedPackages:
    def test_complete(self, site):
        put_in_environment(site, "whole", "1.0", {"whole/a.py": "a", "whole/b.py": "b"})
        assert setup.damaged_packages() == []

    @pytest.mark.parametrize("damage", ["gone", "cut", "no record"])
    def test_damaged(self, site, damage):
        put_in_environment(site, "whole", "1.0", {"whole/a.py": "a"})
        put_in_environment(site, "half", "2.0", {"half/a.py": "some code"})
        if damage == "gone":
            (site / "half" / "a.py").unlink()
        elif damage == "cut":
            (site / "half" / "a.py").write_text("some")
        else:
            (site / "half-2.0.dist-info" / "RECORD").unlink()
        assert setup.damaged_packages() == ["half==2.0"]

    def test_bytecode_may_change(self, site):
        put_in_environment(site, "whole", "1.0", {"whole/a.py": "a", "whole/a.pyc": "bytes"})
        (site / "whole" / "a.pyc").write_text("other bytes")
        assert setup.damaged_packages() == []

    def test_a_package_without_metadata_counts_as_not_installed(self, site):
        (site / "half-2.0.dist-info").mkdir()
        assert setup.damaged_packages() == []


class TestScript:
    @pytest.fixture
    def setup_env(self, tmp_path):
        """Run a copy of the script in a repository without an environment."""
        (tmp_path / "tools").mkdir()
        shutil.copy(ROOT / "tools" / "setup_env.sh", tmp_path / "tools")

        def run(*args: str, **env: str) -> subprocess.CompletedProcess:
            command = ["bash", str(tmp_path / "tools" / "setup_env.sh"), *args]
            options = dict(cwd="/", capture_output=True, text=True, timeout=60)
            return subprocess.run(command, env={**os.environ, **env}, **options)

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
        assert done.stderr.startswith(
            "setup_env: Python 3.10, 3.11 or 3.12 is needed, "
            f"but PYTHON={python} is Python 3.{minor}:"
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
        assert f"{tmp_path}/.venv/bin/python is Python 3.13: remove" in done.stderr
        assert os.listdir(tmp_path / ".venv") == ["bin"]

    def test_an_active_environment_without_python_is_not_touched(self, setup_env, tmp_path):
        done = setup_env("--active", VIRTUAL_ENV=str(tmp_path))
        assert done.returncode == 1
        assert f"{tmp_path}/bin/python is not a Python that runs" in done.stderr

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
