"""Uploaded pictures are decoded in processes of their own, which may die of them.

What decodes pictures is 300,000 lines of C; a file that crashes it, fills the memory or never ends
takes a decoder with it and not the service. A decoder gets a file's bytes and how the model wants
its pixels, and answers with those alone, [R, R, 3]: little to hand over, and nothing that a
decoder, were it taken over, could say but a picture or a sentence. Or it makes a JPEG of a file in
whose format a place may hide. It has limits of memory and time, is the first to go where memory
runs out, and ends with the service.

    service -> decoder   4 bytes of length, {"language", "pixels", "preprocessing"} as JSON; 4, file
    decoder -> service   4 bytes of length, {"error"} as JSON; 4, R * R * 3 bytes, or a JPEG where
                         "preprocessing" is null

``python -m wentu.search.decoders FD MEMORY SECONDS`` is a decoder.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import resource
import signal
import socket
import struct
import subprocess
import sys
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any

import wentu
from wentu import pictures
from wentu.errors import InputError
from wentu.language import language, pick, speaking
from wentu.pictures import PictureError, Preprocessing

if TYPE_CHECKING:
    from PIL.Image import Image

SECONDS = 30.0
"""That a picture may take: 64 megapixels of the slowest format take a third on a small machine."""
BYTES_A_PIXEL, BYTES_BESIDE = 32, 400_000_000
"""Address space of a decoder: what the greediest kind of picture (16-bit grey, which is computed
in floats) was measured to take, and the interpreter with its libraries."""
Frame = tuple[dict[str, Any], bytes]


class NoDecoderError(Exception):
    """The machine has no room for another process."""


class Decoders:
    """A pool: as many decoders as pictures are decoded at once."""

    def __init__(self, most_pixels: int, seconds: float = SECONDS) -> None:
        """most_pixels: width times height above which a picture is refused."""
        self.most_pixels, self.seconds = most_pixels, seconds
        self._lock = threading.Lock()
        self._idle: list[_Decoder] = []
        self._closed = False

    def warm(self) -> None:
        """Have one ready."""
        with contextlib.suppress(NoDecoderError):  # the first picture will say it
            self._give_back(self._start())

    def close(self) -> None:
        """End those that are idle, and those at work when they are done."""
        with self._lock:
            self._closed = True
            idle, self._idle = self._idle, []
        for each in idle:
            each.end()

    def decode(self, data: bytes, preprocessing: Preprocessing) -> Image:
        """A file's bytes as the picture that the model sees, mode RGB, R x R pixels.

        Raises PictureError for what cannot be decoded, or not within the limits; NoDecoderError
        where none can be started.
        """
        from PIL import Image

        pixels = self._ask(data, preprocessing.to_json())
        side = preprocessing.resolution
        return Image.frombytes("RGB", (side, side), pixels)

    def as_jpeg(self, data: bytes) -> bytes:
        """A file's bytes as those of a JPEG, upright and of the same size; raises as ``decode``."""
        return self._ask(data, None)

    def _ask(self, data: bytes, preprocessing: dict[str, Any] | None) -> bytes:
        question = {
            "language": language(),
            "pixels": self.most_pixels,
            "preprocessing": preprocessing,
        }
        decoder = self._take()
        try:
            said, answer = decoder.ask(question, data, self.seconds)
        except BaseException as error:
            status = decoder.end()
            if not isinstance(error, OSError | EOFError):
                raise
            raise lost(error, status, self.seconds) from None
        self._give_back(decoder)
        if "error" in said:
            raise PictureError(str(said["error"]))
        return answer

    def _take(self) -> _Decoder:
        while True:
            with self._lock:
                decoder = self._idle.pop() if self._idle else None
            if decoder is None:
                return self._start()
            if decoder.process.poll() is None:
                return decoder
            decoder.end()  # somebody else ended it

    def _start(self) -> _Decoder:
        try:
            return _Decoder(BYTES_BESIDE + BYTES_A_PIXEL * self.most_pixels, self.seconds)
        except (OSError, MemoryError) as error:
            raise NoDecoderError(str(error)) from error

    def _give_back(self, decoder: _Decoder) -> None:
        with self._lock:
            if not self._closed:
                self._idle.append(decoder)
                return
        decoder.end()


class _Decoder:
    """One process."""

    def __init__(self, memory: int, seconds: float) -> None:
        self._socket, theirs = socket.socketpair()
        env = os.environ | {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
        ours = str(Path(wentu.__file__).parents[1])
        env["PYTHONPATH"] = os.pathsep.join(filter(None, (ours, env.get("PYTHONPATH"))))
        words = (str(theirs.fileno()), str(memory), str(seconds))
        try:
            self.process = subprocess.Popen(
                [sys.executable, "-P", "-m", "wentu.search.decoders", *words],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                pass_fds=[theirs.fileno()],
                env=env,
            )
        except BaseException:
            self._socket.close()
            raise
        finally:
            theirs.close()

    def ask(self, question: dict[str, Any], data: bytes, seconds: float) -> Frame:
        """Its answer; TimeoutError, and EOFError or another OSError where it ends meanwhile."""
        self._socket.settimeout(seconds + 5)  # it ends itself before
        send(self._socket, question, data)
        return receive(self._socket)

    def end(self) -> int:
        """End it, at once; its exit status."""
        self._socket.close()
        with contextlib.suppress(subprocess.TimeoutExpired):
            return self.process.wait(timeout=1)  # it sees that nobody asks any more
        self.process.kill()
        return self.process.wait()


def lost(error: Exception, status: int, seconds: float) -> PictureError:
    """What is said of a picture that a decoder died of."""
    if isinstance(error, TimeoutError) or status == -signal.SIGALRM:
        return PictureError(
            f"it takes longer than {seconds:g} seconds to decode: save it again as JPEG, smaller",
            f"解码时间超过 {seconds:g} 秒：请另存为较小的 JPEG",
        )
    return PictureError(
        "what decodes it crashed on it: save it again as JPEG",
        "解码器处理该文件时崩溃：请另存为 JPEG",
    )


# --- what is said between them -----------------------------------------------------------------


def send(to: socket.socket, said: dict[str, Any], data: bytes) -> None:
    """One frame."""
    text = json.dumps(said).encode()
    to.sendall(struct.pack("!II", len(text), len(data)) + text)
    to.sendall(data)


def receive(of: socket.socket) -> Frame:
    """One frame; EOFError where there is none any more."""
    first, second = struct.unpack("!II", exactly(of, 8))
    return json.loads(exactly(of, first)), exactly(of, second)


def exactly(of: socket.socket, size: int) -> bytes:
    """So many bytes."""
    data, read = bytearray(size), 0
    while read < size:
        count = of.recv_into(memoryview(data)[read:])
        if not count:
            raise EOFError
        read += count
    return bytes(data)


# --- a decoder --------------------------------------------------------------------------------


def main(number: int, memory: int, seconds: float) -> None:
    """Decode what is sent until nobody sends any more."""
    from PIL import Image

    signal.signal(signal.SIGINT, signal.SIG_IGN)  # a terminal's is meant for the service
    Image.init()  # what is imported now needs no memory later
    resource.setrlimit(resource.RLIMIT_AS, (memory, memory))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    with contextlib.suppress(OSError):  # where memory runs out, this is what the kernel ends
        Path("/proc/self/oom_score_adj").write_text("1000", encoding="ascii")
    with socket.socket(fileno=number) as service:
        while True:
            try:
                question, data = receive(service)
            except (EOFError, ConnectionError):
                return
            signal.setitimer(signal.ITIMER_REAL, seconds)  # nobody handles it: it ends the process
            answer = decoded(question, data)
            signal.setitimer(signal.ITIMER_REAL, 0)
            del data
            send(service, *answer)


def decoded(question: dict[str, Any], data: bytes) -> Frame:
    """The pixels, or what is wrong with the picture, in the language of who sent it."""
    with speaking(question["language"]):
        try:
            picture = pictures.decode(data, max_pixels=int(question["pixels"]))
            if question["preprocessing"] is None:
                buffer = io.BytesIO()
                picture.save(buffer, "JPEG", quality=95)
                return {}, buffer.getvalue()
            wanted = Preprocessing.from_json(question["preprocessing"])
            return {}, wanted.to_array(picture).tobytes()
        except InputError as error:
            return {"error": str(error)}, b""
        except MemoryError:
            return {"error": pick("too large for the memory left", "图片太大，内存不足")}, b""


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]), float(sys.argv[3]))
