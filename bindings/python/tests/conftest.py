"""Ranks print lines to one pipe: buffered, each line is one write; unbuffered, print writes its parts."""

import os

os.environ.pop("PYTHONUNBUFFERED", None)
