"""Objects of an S3 bucket, one by one: the only module that imports boto3.

Requests are tried again with growing pauses (botocore's standard mode); transfers that break off or
arrive changed as well. What we write carries its SHA-256 and is checked whenever it is read.
"""

from __future__ import annotations

import errno
import hashlib
import os
import time
import uuid
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime
from email.utils import parsedate_to_datetime
from functools import cache, partial
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from wentu.errors import InputError, ServiceError, WentuError
from wentu.formats import batched, file_sha256
from wentu.storage import pages
from wentu.storage.interface import REMOTE

ATTEMPTS = 8
"""Of a request, by botocore, and of a transfer whose body was cut or changed, by us."""
LARGE = 64 * 2**20
"""Bytes above which a file goes and comes in parts, several at a time."""
PARALLEL, PARTS = 32, 8
"""Requests under way at once, for they mostly wait; and parts of one large file."""
BLOCK = 2**20
SHA, TOKEN = "wentu-sha256", "wentu-token"
"""Metadata of what we write: its digest; and which call wrote it."""
_AGAIN = ("XAmzContentSHA256Mismatch", "BadDigest", "IncompleteBody", "ConditionalRequestConflict")
_REFUSED = ("AccessDenied", "403", "Forbidden", "InvalidAccessKeyId", "SignatureDoesNotMatch")
_TAKEN = ("PreconditionFailed", "412")
_MISSING = ("NoSuchKey", "404", "NotFound")
T = TypeVar("T")


class Entry(NamedTuple):
    """An object as a listing tells of it; a tuple, for there may be millions."""

    key: str
    """Relative to the place; a folder's ends in a slash."""
    size: int = 0
    etag: str = ""
    moment: str = ""
    """``changed`` as the server writes it."""

    @property
    def changed(self) -> datetime | None:
        """When it was written, by the server's clock."""
        return datetime.fromisoformat(self.moment) if self.moment else None


class Changed(Exception):
    """What arrived is not what was sent."""


@cache
def client() -> Any:
    """The one client of this process, for all threads; its settings are those of AWS's tools.

    AWS_ENDPOINT_URL_S3 names a server that is not Amazon's; keys come from the environment, the
    shared configuration, or the machine's role.
    """
    import boto3
    from botocore.config import Config
    from botocore.exceptions import BotoCoreError

    config = Config(
        retries={"mode": "standard", "total_max_attempts": ATTEMPTS},
        max_pool_connections=2 * PARALLEL,
        connect_timeout=10,
        read_timeout=60,
        tcp_keepalive=True,
        user_agent="wentu",  # botocore's own is put together anew for each request
        # Checksums in trailers are unknown to many servers; bodies are signed instead, which
        # servers check, and what we read is held against our own digest.
        request_checksum_calculation="when_required",
        response_checksum_validation="when_required",
        s3={"payload_signing_enabled": True},
    )
    try:
        made = boto3.session.Session().client("s3", config=config)
    except (BotoCoreError, ValueError) as error:  # a profile, a region or an address is wrong
        why = str(error).strip().rstrip(".")
        raise ServiceError(
            f"the settings for the object store are wrong: {why}. AWS_ENDPOINT_URL_S3 begins with "
            "https:// or http://, and AWS_PROFILE is one of ~/.aws/config.",
            f"对象存储的设置有误：{why}。AWS_ENDPOINT_URL_S3 应以 https:// 或 http:// 开头，"
            "AWS_PROFILE 应在 ~/.aws/config 中。",
        ) from None
    made.meta.events.register_first(pages.EVENT, pages.read)
    return made


class Objects:
    """The objects below ``s3://bucket/prefix``; keys are relative to it.

    Raises ServiceError where the server refuses or does not answer, with what to do.
    """

    def __init__(self, place: str) -> None:
        bucket, _, prefix = place[len(REMOTE) :].partition("/")
        prefix = prefix.strip("/")
        if not bucket:
            raise InputError(f"{place}: give s3://bucket/prefix.", f"{place}：应为 s3://桶/前缀。")
        self.place = f"{REMOTE}{bucket}/{prefix}".rstrip("/")
        self.bucket, self.prefix = bucket, f"{prefix}/" if prefix else ""

    def where(self, key: str) -> dict[str, str]:
        """Bucket and whole key, as boto3 wants them."""
        return {"Bucket": self.bucket, "Key": self.prefix + key}

    # --- reading -------------------------------------------------------------------------------

    def head(self, key: str) -> dict[str, Any] | None:
        """The answer to HEAD; None where there is no such object."""
        from botocore.exceptions import ClientError

        try:
            found: dict[str, Any] = self._tried(lambda: client().head_object(**self.where(key)))
        except Exception as error:
            if isinstance(error, ClientError) and code_of(error) in _MISSING:
                return None
            raise self.explained(error, key) from error
        return found

    @staticmethod
    def sha_of(head: dict[str, Any]) -> str:
        """The SHA-256 that an object of ours was written with; empty for others."""
        return str(head["Metadata"].get(SHA, ""))

    def get(self, key: str, *, start: int | None = None) -> bytes:
        """The bytes of an object, or its first ``start``; FileNotFoundError where there is none.

        Checked against our own digest; of others' objects, against the length and, where the
        server's ETag is an MD5, that.
        """
        from botocore.exceptions import ConnectionClosedError, ReadTimeoutError

        more = {} if start is None else {"Range": f"bytes=0-{start - 1}"}

        def attempt() -> bytes:
            answer = client().get_object(**self.where(key), **more)
            try:
                data: bytes = answer["Body"].read()
            except (ReadTimeoutError, ConnectionClosedError) as error:
                raise Changed(str(error)) from error
            if start is None:
                check(hashlib.sha256(data).hexdigest(), hashlib.md5(data).hexdigest, answer)
            return data

        return self._got(attempt, key)

    def download(self, key: str, path: Path) -> str:
        """An object into a file, large ones in parts; returns its SHA-256.

        FileNotFoundError where there is none.
        """
        from boto3.s3.transfer import TransferConfig

        def attempt() -> str:
            # One request for a small one; boto3's transfers ask three times, with threads for each.
            answer = client().get_object(**self.where(key))
            if answer["ContentLength"] <= LARGE:
                return self._save(answer, path)
            answer["Body"].close()
            client().download_file(
                self.bucket,
                self.prefix + key,
                str(path),
                Config=TransferConfig(multipart_threshold=LARGE, num_download_attempts=ATTEMPTS),
            )
            digest = file_sha256(path)
            check(digest, lambda: _file_md5(path), answer)
            return digest

        return self._got(attempt, key)

    @staticmethod
    def _save(answer: dict[str, Any], path: Path) -> str:
        """The body of an answer into a file; raises Changed where it breaks off or is another."""
        from botocore.exceptions import ConnectionClosedError, ReadTimeoutError

        seen = hashlib.sha256()
        try:
            with path.open("wb") as file:
                for block in answer["Body"].iter_chunks(BLOCK):
                    file.write(block)
                    seen.update(block)
        except (ReadTimeoutError, ConnectionClosedError) as error:
            raise Changed(str(error)) from error
        check(seen.hexdigest(), lambda: _file_md5(path), answer)
        return seen.hexdigest()

    def list(self, prefix: str = "", *, deep: bool = False) -> Iterator[Entry]:
        """Objects whose keys begin so, in the order of their bytes, a thousand a request.

        deep: also those in folders; else a folder is one entry.
        """
        for page in self._pages(prefix, {} if deep else {"Delimiter": "/"}):
            for name, size, etag, moment in sorted(page):
                yield Entry(name[len(self.prefix) :], size, etag, moment)

    def _pages(self, prefix: str, more: dict[str, str]) -> Iterator[Iterable[pages.Listed]]:
        """The pages of a listing: while one is used, the next is on its way."""
        page, following = self._page(prefix, more)
        if not following:
            yield page
            return
        with ThreadPoolExecutor(1) as ahead:
            while following:
                more = more | {"ContinuationToken": following}
                coming = ahead.submit(self._page, prefix, more)
                yield page
                page, following = coming.result()
            yield page

    def _page(self, prefix: str, more: dict[str, str]) -> pages.Page:
        """One page of a listing, and what the next one is asked for with."""
        whole = self.prefix + prefix
        try:
            answer = self._tried(
                lambda: client().list_objects_v2(Bucket=self.bucket, Prefix=whole, **more)
            )
        except Exception as error:
            raise self.explained(error, prefix) from error
        page: pages.Page = answer[pages.PAGE]
        return page

    def now(self) -> datetime:
        """The server's time, to the second."""
        try:
            answer = self._tried(
                lambda: client().list_objects_v2(
                    Bucket=self.bucket, Prefix=self.prefix + "locks/", MaxKeys=1
                )
            )
        except Exception as error:
            raise self.explained(error, "") from error
        return parsedate_to_datetime(answer["ResponseMetadata"]["HTTPHeaders"]["date"])

    # --- writing -------------------------------------------------------------------------------

    def put(self, key: str, data: bytes | Path, *, only_new: bool = False) -> bool:
        """Write an object whole; with ``only_new`` False where there is one already.

        A file above BLOCK is not read into memory; above LARGE it goes in parts, without
        ``only_new``.
        """
        from boto3.s3.transfer import TransferConfig
        from botocore.exceptions import ClientError

        if isinstance(data, Path) and data.stat().st_size <= BLOCK:
            # Of a file botocore asks first whether to send it: twice the wait.
            data = data.read_bytes()
        digest = file_sha256(data) if isinstance(data, Path) else hashlib.sha256(data).hexdigest()
        token = uuid.uuid4().hex
        known = {"Metadata": {SHA: digest, TOKEN: token}}

        def attempt() -> None:
            if isinstance(data, bytes):
                more = {"IfNoneMatch": "*"} if only_new else {}
                client().put_object(**self.where(key), **known, **more, Body=data)
            elif only_new or data.stat().st_size <= LARGE:
                more = {"IfNoneMatch": "*"} if only_new else {}
                with data.open("rb") as file:
                    client().put_object(**self.where(key), **known, **more, Body=file)
            else:
                parts = TransferConfig(multipart_threshold=LARGE, max_concurrency=PARTS)
                whole = self.prefix + key
                client().upload_file(str(data), self.bucket, whole, ExtraArgs=known, Config=parts)

        try:
            self._tried(attempt)
        except ClientError as error:
            if not (only_new and code_of(error) in _TAKEN):
                raise self.explained(error, key) from error
            # An answer that was lost looks like this too: then the object is the one of this call.
            there = self.head(key)
            return there is not None and there["Metadata"].get(TOKEN) == token
        except Exception as error:
            raise self.explained(error, key) from error
        return True

    def delete(self, keys: Iterable[str]) -> None:
        """Remove objects, a thousand a request."""
        for part in batched(keys, 1000):
            what = {"Objects": [{"Key": self.prefix + key} for key in part], "Quiet": True}
            try:
                answer = self._tried(
                    partial(client().delete_objects, Bucket=self.bucket, Delete=what)
                )
            except Exception as error:
                raise self.explained(error, part[0]) from error
            failures = answer.get("Errors", [])
            if failures:
                first, count = failures[0], len(failures)
                why = ": ".join(first[name] for name in ("Code", "Message") if first.get(name))
                where = f"{REMOTE}{self.bucket}/{first.get('Key', '')}"
                more = f" and {count - 1:,} more" if count > 1 else ""
                also = f"等 {count:,} 个对象" if count > 1 else ""
                raise ServiceError(
                    f"{where}{more}: could not be deleted ({why}).",
                    f"{where}{also}：无法删除({why})。",
                )

    # --- what goes wrong -----------------------------------------------------------------------

    def _got(self, attempt: Callable[[], T], key: str) -> T:
        from botocore.exceptions import ClientError

        try:
            return self._tried(attempt)
        except ClientError as error:
            if code_of(error) in _MISSING:
                why = errno.ENOENT, os.strerror(errno.ENOENT), f"{self.place}/{key}"
                raise FileNotFoundError(*why) from None
            raise self.explained(error, key) from error
        except Exception as error:
            raise self.explained(error, key) from error

    @staticmethod
    def _tried(attempt: Callable[[], T]) -> T:
        """What botocore does not try again: bodies that were cut off or changed on the way."""
        from botocore import exceptions as them
        from s3transfer.exceptions import RetriesExceededError

        broken = (
            *(them.IncompleteReadError, them.ResponseStreamingError),
            *(RetriesExceededError, Changed),
        )
        for number in range(ATTEMPTS):
            try:
                return attempt()
            except broken:
                if number == ATTEMPTS - 1:
                    raise
            except them.ClientError as error:
                if number == ATTEMPTS - 1 or code_of(error) not in _AGAIN:
                    raise
            time.sleep(min(10.0, 0.1 * 2**number))
        raise AssertionError

    def explained(self, error: Exception, key: str) -> WentuError:
        """What a failed request means to a user."""
        from botocore import exceptions as them

        if isinstance(error, WentuError):
            return error
        where = f"{self.place}/{key}" if key else self.place
        code = code_of(error)
        if isinstance(error, them.NoCredentialsError | them.PartialCredentialsError):
            return ServiceError(
                f"{where}: no keys for this object store; set AWS_ACCESS_KEY_ID and "
                "AWS_SECRET_ACCESS_KEY, or a profile or role.",
                f"{where}：没有该对象存储的密钥；请设置 AWS_ACCESS_KEY_ID 与 "
                "AWS_SECRET_ACCESS_KEY，或配置 profile、角色。",
            )
        if code in _REFUSED:
            return ServiceError(
                f"{where}: the object store refuses access ({code}); check the keys and their "
                "rights to this bucket.",
                f"{where}：对象存储拒绝访问({code})；请检查密钥及其对该桶的权限。",
            )
        if code == "NoSuchBucket":
            return ServiceError(
                f"{where}: there is no bucket {self.bucket}; create it or check the name.",
                f"{where}：不存在桶 {self.bucket}；请先创建或检查名称。",
            )
        if isinstance(error, Changed):
            return ServiceError(
                f"{where}: arrived changed {ATTEMPTS} times ({error}); is it damaged, or the "
                "network?",
                f"{where}：{ATTEMPTS} 次传输后内容均不符({error})；对象或网络可能已损坏。",
            )
        if code == "NotImplemented":
            return ServiceError(
                f"{where}: this object store cannot write an object only where there is none "
                "(If-None-Match), which a store needs; pictures, captions and models may lie "
                "there, the store not.",
                f"{where}：该对象存储不支持“仅当不存在时写入”(If-None-Match)，而仓库需要它；"
                "图片、描述和模型可以放在那里，仓库不可以。",
            )
        if isinstance(error, them.ParamValidationError):
            return InputError(
                f"{where}: no bucket or object can be called that; give s3://bucket/prefix.",
                f"{where}：桶或对象不能这样命名；应为 s3://桶/前缀。",
            )
        server = client().meta.endpoint_url
        why = str(error).strip().replace("\n", " ")[:200]
        return ServiceError(
            f"{where}: the object store {server} did not do it ({why}).",
            f"{where}：对象存储 {server} 未能完成请求({why})。",
        )


def check(sha: str, md5: Callable[[], str], answer: dict[str, Any]) -> None:
    """Hold what arrived against what the server tells of the object; raises Changed."""
    expected = answer.get("Metadata", {}).get(SHA)
    etag = str(answer.get("ETag", "")).strip('"')
    if expected:
        if sha != expected:
            raise Changed(f"SHA-256 {sha[:12]}, not {expected[:12]}")
    # An ETag of 32 hexadecimal digits is an MD5 unless the server encrypts with its own keys.
    elif len(etag) == 32 and "SSEKMSKeyId" not in answer and "SSECustomerAlgorithm" not in answer:
        found = md5()
        if found != etag:
            raise Changed(f"MD5 {found[:12]}, not {etag[:12]}")


def code_of(error: Exception) -> str:
    """The server's code for what went wrong; empty where it did not answer."""
    response = getattr(error, "response", None) or {}
    return str(response.get("Error", {}).get("Code", ""))


def _file_md5(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "md5").hexdigest()


def threads() -> int:
    """How many requests at once are worth it here."""
    return min(PARALLEL, 8 * (os.cpu_count() or 1) + 16)
