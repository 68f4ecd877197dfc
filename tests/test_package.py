"""What is installed, and what a user's program sees of it: the wheel, types, version, a light import."""

import os
import subprocess
import sys
import zipfile

import pytest

import discreteness
from tests.conftest import ROOT


def python(*words, **options):
    done = subprocess.run([sys.executable, *map(str, words)], capture_output=True, text=True, timeout=600, **options)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def wheel(upload, tmp_path_factory):
    """The wheel, unpacked; built without the network."""
    folder = tmp_path_factory.mktemp("wheel")
    build = "import sys; from setuptools import build_meta; print(build_meta.build_wheel(sys.argv[1]))"
    name = python("-c", build, folder, cwd=upload).splitlines()[-1]
    with zipfile.ZipFile(folder / name) as file:
        file.extractall(folder / "site")
    return folder / "site"


def test_the_wheel_holds_both_packages_their_data_and_nothing_else(wheel):
    installed = {path.relative_to(wheel).as_posix() for path in wheel.rglob("*") if path.is_file()}
    listed = subprocess.run(["git", "ls-files", "-co", "--exclude-standard"], cwd=ROOT, capture_output=True, text=True)
    expected = {
        name.removeprefix("modded-nanogpt/")
        for name in listed.stdout.splitlines()
        if name.startswith(("discreteness/", "modded-nanogpt/speedrun/")) and (ROOT / name).is_file()
    }
    assert {name for name in installed if ".dist-info/" not in name} == expected
    assert "discreteness/py.typed" in expected


def test_the_version_is_one(wheel):
    (about,) = wheel.glob("discreteness-*.dist-info/METADATA")
    assert f"\nVersion: {discreteness.__version__}\n" in about.read_text()
    assert f"\nversion: {discreteness.__version__}\n" in (ROOT / "CITATION.cff").read_text()
    assert python("-m", "discreteness", "--version") == f"discreteness {discreteness.__version__}\n"


def test_a_users_type_checker_knows_what_open_returns(wheel, tmp_path):
    (tmp_path / "user.py").write_text(
        "import discreteness\n"
        "dataset = discreteness.open('runs/first')\n"
        "reveal_type(dataset)\n"
        "reveal_type(discreteness.__version__)\n"
        "reveal_type(dataset.steps)\n"
    )
    flags = ["--follow-imports=silent", "--ignore-missing-imports", "--cache-dir", tmp_path / "cache"]
    environment = {**os.environ, "MYPYPATH": str(wheel)}
    told = python("-m", "mypy", *flags, "user.py", cwd=tmp_path, env=environment)
    for revealed in ('"discreteness.dataset.reader.Dataset"', '"str"', '"list[int]"'):
        assert revealed in told.replace("builtins.", ""), told


def test_a_plain_import_loads_no_package_of_others():
    code = "import sys; before = {name.partition('.')[0] for name in sys.modules}; import discreteness; "
    code += "new = {name.partition('.')[0] for name in sys.modules} - before - sys.stdlib_module_names; print(*new)"
    assert python("-c", code).split() == ["discreteness"]


def test_what_the_package_exports_is_there():
    assert discreteness.__all__ == ["Recorder", "__version__", "open"]
    assert all(hasattr(discreteness, name) for name in discreteness.__all__)
