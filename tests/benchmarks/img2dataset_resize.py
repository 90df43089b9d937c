"""img2dataset's own resizing of the images of a folder of tars; prints its processor time in seconds.

Run by `filter.py` in an environment that has img2dataset and nothing of ours.
"""

import io
import sys
import tarfile
import time
from pathlib import Path

import cv2
from img2dataset.resizer import Resizer

cv2.setNumThreads(1)
resize = Resizer(image_size=int(sys.argv[2]), resize_mode="border", resize_only_if_bigger=False)
started = time.process_time()
for path in sorted(Path(sys.argv[1]).glob("*.tar")):
    with tarfile.open(path) as tar:
        for member in tar:
            if member.name.endswith(".jpg"):
                *_, error = resize(io.BytesIO(tar.extractfile(member).read()))
                assert error is None, error
print(time.process_time() - started)
