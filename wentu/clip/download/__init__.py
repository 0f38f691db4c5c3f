"""`wentu weights get`: pretrained weights from Hugging Face or ModelScope, proven by their digest.

    names     which files a name stands for, where hosts keep them, and where they land here
    hosts     what Hugging Face and ModelScope say of a file: its address, size and digest
    web       requests: redirects, what went wrong in words, trying again
    arrival   having the files: which place to ask, then one file's way from there to its path

A file arrives as ``NAME.part``, goes on after a dropped connection where it was left, is compared
with the size and digest that the host states, and only then gets its name. ``NAME.part.json`` says
what the part belongs to, so that it is never continued with another version. The digest is taken
from the finished file, not on the way: 1 to 3 s per GB, and it proves what is on the disk.

HF_ENDPOINT           a mirror of https://huggingface.co
HF_TOKEN              for repositories that need one; sent to that endpoint and nowhere else
MODELSCOPE_ENDPOINT   another https://www.modelscope.cn
"""

from wentu.clip.download.arrival import get
from wentu.clip.download.hosts import SOURCES
from wentu.clip.download.names import REPOSITORIES, target

__all__ = ["REPOSITORIES", "SOURCES", "get", "target"]
