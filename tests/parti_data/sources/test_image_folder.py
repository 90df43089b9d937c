import os

import pytest

from parti_data.errors import SourceError
from parti_data.sources.image_folder import ImageFolder
from parti_data.sources.pairs import Location
from parti_data.storage import publish_bytes


@pytest.fixture
def root(tmp_path):
    """A folder of images with a secret beside it, and links of every kind."""
    for name in ("a.png", "deep/b.png", "~c.png", "x:1.png", "xy::1.png", "../secret", "../images2/d.png"):
        name = os.path.normpath(f"images/{name}")
        publish_bytes(f"{tmp_path}/{name}", f"bytes of {name}".encode())
    images = tmp_path / "images"
    (images / "inside.png").symlink_to("deep/b.png")
    (images / "outside.png").symlink_to("../secret")
    (images / "sibling.png").symlink_to("../images2/d.png")
    (images / "out").symlink_to("..")
    (images / "root").symlink_to("/")
    (images / "loop").symlink_to("loop")
    (images / "dangling").symlink_to("nothing")
    os.mkfifo(images / "pipe")
    return images


@pytest.mark.parametrize(
    ("name", "file"),
    [("a.png", "a.png"), ("deep/b.png", "deep/b.png"), ("./deep//b.png", "deep/b.png"), ("inside.png", "deep/b.png"),
     ("xy::1.png", "xy::1.png")],
)  # fmt: skip
def test_names_below_the_folder_are_read(root, name, file):
    location, image = ImageFolder(str(root)).read(name, 100)
    assert image == f"bytes of images/{file}".encode()
    assert location == Location(f"{root}/{os.path.normpath(name)}", 0, len(image))
    assert ImageFolder(str(root)).fetch(location) == image


@pytest.mark.parametrize(
    "name",
    ["", ".", "..", "deep", "none.png", "deep/none.png", "a.png/x", "../secret", "deep/../../secret", "deep/../a.png",
     "/etc/passwd", "//etc/passwd", "{root}/a.png", "~/a", "~c.png", "C:\\a.png", "c:/a.png", "x:1.png", "..\\secret",
     "\\\\host\\x", "file:///etc/passwd", "http://example.com/a.png", "memory://secret/a.png",
     "simplecache::file:///etc/passwd", "a\0.png", "a.png\0", "half \ud800", "x" * 300, "x/" * 5000, "outside.png",
     "out/secret", "root/etc/passwd", "loop", "dangling", "pipe", "../images2/d.png", "sibling.png", "*.png", "a.png?",
     " a.png"],
)  # fmt: skip
def test_other_names_are_no_images_and_nothing_is_opened_for_them(root, monkeypatch, name):
    from parti_data.sources import image_folder

    monkeypatch.setattr(image_folder, "read_range", None)
    publish_bytes("memory://secret/a.png", b"secret")
    assert ImageFolder(str(root)).read(name.replace("{root}", str(root)), 100) is None


def test_a_file_that_may_not_be_read_is_no_image(root, monkeypatch):
    def refuse(*_: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("parti_data.sources.image_folder.read_range", refuse)
    assert ImageFolder(str(root)).read("a.png", 100) is None


def test_a_fault_of_the_disk_is_no_missing_image(root, monkeypatch):
    def fail(*_: object) -> None:
        raise OSError(5, "input/output error")

    monkeypatch.setattr("parti_data.sources.image_folder.read_range", fail)
    with pytest.raises(OSError, match="input/output error"):
        ImageFolder(str(root)).read("a.png", 100)


def test_an_image_over_the_limit_is_cut_one_byte_behind_it(root):
    location, image = ImageFolder(str(root)).read("a.png", 4)
    assert (image, location.size) == (b"bytes", len("bytes of images/a.png"))


def test_a_folder_may_be_a_link_or_the_working_directory(root, tmp_path, monkeypatch):
    (tmp_path / "link").symlink_to("images")
    assert ImageFolder(f"{tmp_path}/link").read("a.png", 100)[1] == b"bytes of images/a.png"
    assert ImageFolder(f"{tmp_path}/link").read("outside.png", 100) is None
    monkeypatch.chdir(root)
    assert ImageFolder("").read("a.png", 100)[0].path == f"{root}/a.png"


def test_images_behind_a_url_are_read():
    publish_bytes("memory://images/deep/a.png", b"abc")
    location, image = ImageFolder("memory://images").read("deep/a.png", 10)
    assert (location, image) == (Location("memory:///images/deep/a.png", 0, 3), b"abc")
    assert ImageFolder("memory://images").fetch(location) == b"abc"
    assert ImageFolder("memory://images").read("deep/none.png", 10) is None
    assert ImageFolder("memory://images").read("deep", 10) is None
    assert ImageFolder("memory://images").read("deep/a.png::x", 10) is None  # a chain of URLs


@pytest.mark.parametrize("path", ["{root}/none.png", "{root}/../secret", "/etc/passwd", "{root}/outside.png", "a.png"])
def test_fetching_what_is_not_below_the_folder_is_refused(root, path):
    path = path.format(root=root)
    with pytest.raises(SourceError, match="expected the image that filter read, found none in .*/images; put it back"):
        ImageFolder(str(root)).fetch(Location(path, 0, 5))
