"""What workers on other machines are given: the wheel, and the image that the Dockerfile describes."""

import re
import tomllib
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
PINS = dict(line.split("==") for line in (ROOT / "constraints.txt").read_text().split())


def test_the_wheel_holds_every_module_and_what_they_read(wheel):
    with zipfile.ZipFile(wheel) as archive:
        held = set(archive.namelist())
    places = {"parti_data": "*.py", "model": "*.py", "pipelines": "*.py", "pipelines/report": "*.html"}
    places |= {"model/evaluation": "prompt_page.*"}
    wanted = {
        str(path.relative_to(ROOT)) for place, pattern in places.items() for path in (ROOT / place).rglob(pattern)
    }
    wanted |= {f"pipelines/{path.relative_to(ROOT)}" for path in (ROOT / "configs").rglob("*.toml")}
    assert len(wanted) > 80
    assert wanted <= held
    assert not any(name.startswith("tests") for name in held)


@pytest.fixture(scope="module")
def dockerfile() -> str:
    return (ROOT / "Dockerfile").read_text()


def test_the_image_has_the_beam_that_submits(dockerfile):
    python, beam = re.findall(r"^FROM apache/beam_python([\d.]+)_sdk:([\d.]+)$", dockerfile, re.MULTILINE)[0]
    assert beam == PINS["apache-beam"]
    assert PROJECT["project"]["requires-python"] == f">={python}"


def test_the_image_copies_all_that_the_package_is_made_of(dockerfile):
    copied = {word for line in re.findall(r"^COPY (.+) \S+$", dockerfile, re.MULTILINE) for word in line.split()}
    settings = PROJECT["tool"]["setuptools"]
    folders = {settings["package-dir"].get(name, name.partition(".")[0]) for name in settings["packages"]}
    assert folders | {"pyproject.toml", "README.md", "LICENSE", "constraints.txt"} == copied
    assert all((ROOT / name).exists() for name in copied)


def test_the_image_has_the_extras_of_the_stages(dockerfile):
    extras = re.findall(r"'/parti\[(.+)\]'", dockerfile)[0].split(",")
    assert extras == ["pipelines", "model", "opencv", "openvino", "gcs", "s3"]
    assert set(extras) <= PROJECT["project"]["optional-dependencies"].keys()


def test_the_readme_names_the_image_and_the_client_as_they_are(dockerfile):
    readme = (ROOT / "README.md").read_text()
    version = PROJECT["project"]["version"]
    assert f"parti-worker:{version}" in readme
    assert f"parti-worker:{version}" in dockerfile
    assert f"dist/parti-{version}-py3-none-any.whl" in readme


def test_torch_s_index_for_the_cpu_reaches_pip_wherever_it_is_set(dockerfile):
    option = "--extra-index-url https://download.pytorch.org/whl/cpu"
    makefile = (ROOT / "Makefile").read_text()
    assert all(option in text for text in (dockerfile, makefile, (ROOT / "README.md").read_text()))
    assert re.search(r"pip install .*\$PIP_OPTIONS ", dockerfile)
    assert re.search(r"pip install .*\$\(PIP_OPTIONS\) ", makefile)
