"""A folder of pictures that is searched as it is, and as it changes: `wentu serve --library DIR`.

What is found lies in an ordinary store, so serving it needs nothing new: the service follows that
store's pointer. A process of its own follows the folder and publishes release after release.

    place.py      where the store of a folder is, which model it has, a folder that was moved
    state.py      what is known of each file: a catalog of everything, and marks; on this machine
    scan.py       the folder -> what is new, changed, gone; or that it is out of reach
    reading.py    new files -> pictures, thumbnails, vectors
    writing.py    state against the current release -> a segment, a release, the next pointer
    follow.py     all of that again and again, in a process of its own
    watching.py   that process seen from the service: starting it again, and what it says

The release and the folder are the truth; the state is what saves reading files again. So it may be
lost, and the follower may be killed at any moment: the next one compares, and goes on.
"""
