"""A file of the hub, read piece by piece."""

import io

from groundup.sources.hub_client import HubSpec, with_retries

# Bytes. A request takes about as long as the transfer of half a megabyte, so we do not ask for less than one; and of
# a longer column not for more than four, so that memory stays flat.
LEAST_READ = 1 << 20
MOST_READ = 4 << 20
FOOTER_READ = 1 << 16  # holds the table of contents of most parquet files


class RemoteFile(io.RawIOBase):
    """A file of the hub as if it were here: only the pieces that are read are asked for, each of them patiently."""

    def __init__(self, spec: HubSpec, url: str) -> None:
        self._spec, self._url = spec, url
        self._at = 0
        self._piece, self.size = with_retries(spec, lambda: self._get(f"bytes=-{FOOTER_READ}"))
        self._start = self.size - len(self._piece)  # of the piece, in the file

    def readable(self) -> bool:
        """Yes."""
        return True

    def seekable(self) -> bool:
        """Yes."""
        return True

    def tell(self) -> int:
        """Bytes from the beginning."""
        return self._at

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        """Move without asking for anything."""
        self._at = offset + (0, self._at, self.size)[whence]
        return self._at

    def read(self, size: int | None = -1) -> bytes:
        """The next `size` bytes, all of them unless the file ends before. Raises DataError."""
        rest = max(self.size - self._at, 0)
        size = rest if size is None or size < 0 else min(size, rest)
        if size and not self._start <= self._at <= self._at + size <= self._start + len(self._piece):
            stop = self._at + min(max(size, LEAST_READ), rest)
            self._piece, _ = with_retries(
                self._spec, lambda: self._get(f"bytes={self._at}-{stop - 1}", stop - self._at)
            )
            self._start = self._at
        begin = self._at - self._start
        self._at += size
        return self._piece[begin : begin + size]

    def _get(self, part: str, expected: int | None = None) -> tuple[bytes, int]:
        """A range of the file, and the size of all of it, in bytes."""
        from huggingface_hub.constants import HF_HUB_DOWNLOAD_TIMEOUT
        from huggingface_hub.utils import build_hf_headers, get_session, hf_raise_for_status

        headers = {**build_hf_headers(), "Range": part, "Accept-Encoding": "identity"}
        answer = get_session().get(self._url, headers=headers, timeout=HF_HUB_DOWNLOAD_TIMEOUT)
        hf_raise_for_status(answer)
        whole = answer.headers.get("Content-Range", "").rpartition("/")[2]
        if answer.status_code != 206 or not whole.isdigit():
            raise OSError(f"{self._url} cannot be read in parts")
        if expected is not None and len(answer.content) != expected:
            raise ConnectionError(f"{len(answer.content)} of {expected} bytes arrived")
        return answer.content, int(whole)
