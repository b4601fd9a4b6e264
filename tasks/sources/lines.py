"""Text as records: each line, or what belongs together of several, with the number of its first.

The one way in which text is read, whatever its format: bytes come in blocks, are unpacked by what
they are and not by their name, told to be UTF-8, and cut at their line ends. What a record holds is
then told by SQL (`tasks.sources.files`). Nothing is inferred from the first lines, and memory does
not grow with the file.

Line ends are LF or CRLF; in a file whose first line ends with a CR alone, that too. Of a CSV a
quoted value may go on over line ends: its lines are one record. A quote that never closes costs its
own line only.
"""

import codecs
import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from tasks.errors import SourceError

HEAD = 512  # bytes that tell what a file is
BLOCK = 4 * 1024 * 1024  # bytes that are read at a time
LONGEST_LINE = 16 * 1024 * 1024  # bytes of a record; a sequence file has one line a user
SCHEMA = pa.schema([("line_number", pa.int64()), ("line", pa.string()), ("broken", pa.string())])

# By the first bytes: what is unpacked here, and what a person has to unpack or convert.
COMPRESSIONS = {b"\x1f\x8b": "gzip", b"\x28\xb5\x2f\xfd": "zstd", b"BZh": "bz2"}
SUFFIXES = {".gz": "gzip", ".zst": "zstd", ".bz2": "bz2"}
UTF16 = 'UTF-16: set source.encoding = "utf-16", or convert it to UTF-8'
UTF32 = "UTF-32: convert it to UTF-8"
COMPRESS = "compress it with gzip or zstd"
TO_PARQUET = "convert it to Parquet"
OTHERS = {
    b"\xfd7zXZ\x00": f"compressed with xz: {COMPRESS}",
    b"7z\xbc\xaf": "a 7z archive: unpack it",
    b"Rar!": "a RAR archive: unpack it",
    b"\x04\x22\x4d\x18": f"compressed with lz4: {COMPRESS}",
    b"\x1f\x9d": f"compressed with compress: {COMPRESS}",
    b"\x89LZO": f"compressed with lzop: {COMPRESS}",
    b"\xff\x06\x00\x00sNaPpY": f"compressed with snappy: {COMPRESS}",
    b"PAR1": 'Parquet: name it so, or set source.format = "parquet"',
    b"Obj\x01": f"Avro, which is not read: {TO_PARQUET}",
    b"ARROW1": f"Arrow, which is not read: {TO_PARQUET}",
    b"\x89HDF": f"HDF5, which is not read: {TO_PARQUET}",
    b"\xd0\xcf\x11\xe0": "an Excel workbook: save it as CSV",
    b"SQLite format 3": "a SQLite database: export the table",
    b"%PDF": "a PDF: deliver the events as text",
    b"<!DOCTYPE html": "a web page: deliver the events, in whose place it may be an error",
    b"<html": "a web page: deliver the events, in whose place it may be an error",
}
BOM = "\ufeff"
# A file that others were appended to has more of them.
LINE_BOMS = re.compile(rb"^(?:%b)+" % codecs.BOM_UTF8, re.MULTILINE)
BETWEEN_VALUES = re.compile(rf"[\s,\x1e{BOM}]*")  # RFC 7464 has a record separator before each
NOT_UTF8 = 'not UTF-8 (if it is in another encoding, set it, such as source.encoding = "latin-1")'
STRAY_QUOTE = "a line with a quote that opens a value and never closes"
ROWS_IN_QUOTES = (
    "a line with a quote that closes only behind other rows; if these lines are one value, set "
    'source.quote to the quote, and if quotes are letters to ""'
)


@dataclass(frozen=True)
class Records:
    """How a text file is cut into records."""

    path: Path
    shown: str  # how messages name the file
    separator: str = ""
    quote: str = ""  # "": no value goes on over a line end
    escape: str = ""
    columns: int = 0  # of a row
    sure: bool = False  # that quotes are quotes: the settings say so
    skipped: int = 0  # lines before the first record
    encoding: str = "utf-8"
    values: bool = False  # records are JSON values, wherever their lines end

    @contextmanager
    def reader(self) -> Iterator[pa.RecordBatchReader]:
        """Give the records from the first on, as SCHEMA has them; they can be read once.

        What is wrong with the file is raised as it is, whatever the one who reads makes of it.
        """
        failed: list[Exception] = []

        def batches() -> Iterator[pa.RecordBatch]:
            try:
                yield from self._json_values() if self.values else self._records()
            except Exception as error:
                failed.append(error)
                raise

        try:
            yield pa.RecordBatchReader.from_batches(SCHEMA, batches())
        except Exception:
            if failed:
                raise failed[0] from None
            raise

    def first(self) -> tuple[int, str]:
        """Return the number and the text of the first record that is not blank.

        Raises SourceError when there is none, or it is not UTF-8.
        """
        for batch in self._json_values() if self.values else self._records():
            for number, line, broken in zip(*map(pa.Array.to_pylist, batch.columns), strict=True):
                if broken == NOT_UTF8:
                    raise SourceError(f"{self.shown} line {number} is {broken}")
                if line.strip():
                    return number, line
                if not self.skipped:
                    raise SourceError(
                        f"{self.shown} is empty in its first line: remove it, or leave it out with "
                        "source.skip_rows"
                    )
        if self.skipped:
            raise SourceError(
                f"{self.shown} has nothing behind its first {self.skipped} lines, which are left "
                "out by source.skip_rows: lower it, or remove the file"
            )
        raise SourceError(f"{self.shown} is empty: remove it, or deliver it again")

    def start(self, size: int = 64 * 1024) -> str:
        """Return the first characters."""
        with opened(self.path, self.shown, self.encoding) as stream:
            return stream.read(size).decode("utf-8", "replace").lstrip(BOM)

    def _records(self) -> Iterator[pa.RecordBatch]:
        number = 1
        with opened(self.path, self.shown, self.encoding) as stream:
            rest, mac = stream.read(BLOCK), None
            ended = False
            while not ended:
                more = stream.read(BLOCK)
                ended = not more
                if mac is None and (first := re.search(rb"\r\n?|\n", rest)):
                    # A CR at the end of the block may have its LF in the next one.
                    mac = first[0] == b"\r" and (first.end() < len(rest) or more[:1] != b"\n")
                data = rest
                if mac:
                    if data.endswith(b"\r") and more.startswith(b"\n"):
                        data, more = data + b"\n", more[1:]
                    data = data.replace(b"\r\n", b"\n").replace(b"\r", b"\n")
                if ended and data and not data.endswith(b"\n"):
                    data += b"\n"
                end = data.rfind(b"\n") + 1
                text, last = data[:end], data[end:]
                if codecs.BOM_UTF8 in text:
                    text = LINE_BOMS.sub(b"", text)
                used, lines, batch = self._cut(text, number, ended)
                if batch is not None:
                    yield batch
                number += lines
                left = text[used:] + last
                rest = left + more
                if len(left) > LONGEST_LINE:
                    raise SourceError(
                        f"{self.shown} line {number} is longer than {LONGEST_LINE >> 20} MB: "
                        "correct it, or set source.format to what the file is"
                    )

    def _cut(self, data: bytes, number: int, ended: bool) -> tuple[int, int, pa.RecordBatch | None]:
        """Cut whole lines into records; return the bytes and lines used, and the records."""
        array = np.frombuffer(data, np.uint8)
        feeds = np.flatnonzero(array == 10)
        if not len(feeds):
            return 0, 0, None
        nexts = feeds + 1
        starts = np.concatenate([[0], nexts[:-1]])
        ends, returns = feeds, b"\r" in data
        if returns:
            # The byte before a line's LF; of an empty line at the start there is none.
            ends = feeds - ((feeds > starts) & (array[feeds - 1] == 13))
        lines = _Lines(data, starts, ends)
        joined, odd = self._joined(lines, ended)
        used = len(feeds)
        if joined and joined[-1][1] < 0:  # goes on in the next block
            used = joined.pop()[0]
            if not used:
                return 0, 0, None
            starts, ends, nexts = starts[:used], ends[:used], nexts[:used]
        size = int(nexts[used - 1])
        # A record is from the start of its first line to the end of its last one.
        head = np.ones(used, bool)
        for first, last in joined:
            head[first + 1 : last + 1] = False
        firsts = np.flatnonzero(head)
        lasts = np.append(firsts[1:], used) - 1
        text = data[:size]
        if joined or returns:
            keep = array[:size] != 10
            keep[ends] = False  # the CR of a CRLF, or the LF again
            for first, last in joined:
                keep[starts[first] : ends[last]] = True
            text = array[:size][keep].tobytes()
        else:
            text = text.replace(b"\n", b"")
        offsets = np.zeros(len(firsts) + 1, np.int32)
        np.cumsum(ends[lasts] - starts[firsts], out=offsets[1:])
        numbers = firsts + number
        below = numbers > self.skipped
        broken: dict[int, str] = {
            int(np.searchsorted(firsts, line)): reason for line, reason in odd.items()
        }
        broken |= dict.fromkeys(_not_utf8(data[:size], starts[firsts]), NOT_UTF8)
        if NOT_UTF8 in broken.values():
            texts = [
                data[starts[first] : ends[last]].decode(
                    "latin-1" if broken.get(n) == NOT_UTF8 else "utf-8"
                )
                for n, (first, last) in enumerate(zip(firsts, lasts, strict=True))
            ]
            found = pa.array(texts, pa.string())
        else:
            found = pa.StringArray.from_buffers(
                len(firsts), pa.py_buffer(offsets), pa.py_buffer(text)
            )
        why = pa.nulls(len(firsts), pa.string())
        if broken:
            why = pa.array([broken.get(n) for n in range(len(firsts))], pa.string())
        batch = pa.record_batch([pa.array(numbers), found, why], schema=SCHEMA)
        return size, used, batch if below.all() else batch.filter(pa.array(below))

    def _joined(self, lines: "_Lines", ended: bool) -> tuple[list[tuple[int, int]], dict[int, str]]:
        """Find the lines that belong together: the first and the last of each such record.

        A last one of -1 stands for a record that is not at its end yet. The lines of quotes that
        close nowhere come with the reason.
        """
        joined: list[tuple[int, int]] = []
        odd: dict[int, str] = {}
        if not self.quote and not self.escape:
            return joined, odd
        line, data = -1, lines.data
        for opening in self._opening(lines):
            if opening <= line:
                continue  # within the record before
            line = int(opening)
            last = self._last_line(lines, line)
            if last is None:
                if ended or len(data) - lines.starts[line] > LONGEST_LINE:
                    odd[line] = STRAY_QUOTE
                    continue
                return [*joined, (line, -1)], odd
            if last > line:
                if self._are_rows(lines, line, last):
                    odd[line] = ROWS_IN_QUOTES
                else:
                    joined.append((line, last))
                    line = last
        return joined, odd

    def _opening(self, lines: "_Lines") -> npt.NDArray[np.int64]:
        """Return the lines that may go on over their end: an odd number of quotes, or an escape."""
        array = np.frombuffer(lines.data, np.uint8)
        found = np.zeros(len(lines.starts), bool)
        if self.quote and self.quote.encode() in lines.data:
            quotes = np.flatnonzero(array == ord(self.quote))
            before = np.searchsorted(quotes, np.append(lines.starts, len(lines.data)))
            # With an escape an even number may be odd, too.
            count = np.diff(before)
            found |= (count > 0) if self.escape else count % 2 == 1
        if self.escape and self.escape.encode() in lines.data:
            found |= array[np.maximum(lines.ends - 1, 0)] == ord(self.escape)
        return np.flatnonzero(found)

    def _last_line(self, lines: "_Lines", line: int) -> int | None:
        """Return the line where the record that begins on a line ends; None when it is not here."""
        quote, escape = re.escape(self.quote.encode()), re.escape(self.escape.encode())
        # Of a quoted value its quote ends it, of another one the separator or the line end.
        escaped = escape + rb".|" if escape else b""
        quoted = re.compile(
            rb"%b(?:%b%b%b|[^%b%b])*+%b" % (quote, escaped, quote, quote, quote, escape, quote),
            re.S,
        )
        plain = re.compile(
            rb"(?:%b[^\n%b])*?(%b|\n)" % (escaped, escape, re.escape(self.separator.encode())), re.S
        )
        at = int(lines.starts[line])
        while True:
            if self.quote and lines.data.startswith(self.quote.encode(), at):
                if not (value := quoted.match(lines.data, at)):
                    return None
                at = value.end()
            if not (value := plain.match(lines.data, at)):
                return None
            at = value.end()
            if value[1] == b"\n":
                return lines.of(at - 1)

    def _are_rows(self, lines: "_Lines", first: int, last: int) -> bool:
        """Whether each line of a record is as long as a row by itself.

        Then nobody knows which it is, unless the settings say that quotes are quotes.
        """
        separator = self.separator.encode()
        return not (self.sure or self.escape) and all(
            lines.data.count(separator, lines.starts[n], lines.ends[n]) == self.columns - 1
            for n in range(first, last + 1)
        )

    def _json_values(self) -> Iterator[pa.RecordBatch]:
        """Yield JSON values one after another, those of an array as if they stood by themselves."""
        number, text, at, ended = 1, "", 0, False
        found: list[str] = []
        decoder, in_array = json.JSONDecoder(), False
        unpacked = codecs.getincrementaldecoder("utf-8")()
        with opened(self.path, self.shown, self.encoding) as stream:
            while True:
                at = _skipped(text, at)
                if not in_array and text.startswith("[", at):
                    in_array, at = True, at + 1
                    continue
                if in_array and text.startswith("]", at):
                    in_array, at = False, at + 1
                    continue
                if ended and at == len(text):
                    if in_array:
                        raise SourceError(
                            f"{self.shown} is cut short: its JSON array has no end; deliver it "
                            "again"
                        )
                    break
                try:
                    _, end = decoder.raw_decode(text, at)
                    # A number may go on in the next block.
                    whole = ended or text[end - 1] in '}]"' or end < len(text)
                except ValueError:
                    whole = False
                    if ended or len(text) - at > LONGEST_LINE:
                        raise SourceError(
                            f"{self.shown} value {number + len(found)} is no valid JSON, "
                            f"{text[at : at + 100]!r}: correct it, or deliver it again"
                        ) from None
                if whole:
                    found.append(text[at:end])
                    at = end
                    continue
                if found:
                    yield _batch(number, found)
                    number, found = number + len(found), []
                more = stream.read(BLOCK)
                ended = not more
                text, at = text[at:] + unpacked.decode(more, ended), 0
        yield _batch(number, found)


@dataclass(frozen=True)
class _Lines:
    """Where the lines of a block begin and end, without their line ends."""

    data: bytes
    starts: npt.NDArray[np.int64]
    ends: npt.NDArray[np.int64]

    def of(self, position: int) -> int:
        """Return the line that a byte is in."""
        return int(np.searchsorted(self.starts, position, side="right")) - 1


def compression_of(start: bytes) -> str | None:
    """Tell the compression of a file by its first bytes; None: it has none that is known."""
    if re.match(rb"[\x50-\x5f]\x2a\x4d\x18", start):
        return "zstd"  # a frame that is skipped, as some tools write before the others
    return next((kind for magic, kind in COMPRESSIONS.items() if start.startswith(magic)), None)


def refuse_no_parquet(path: Path, shown: str) -> None:
    """Raise SourceError for a file that is no Parquet."""
    with path.open("rb") as file:
        start = file.read(HEAD)
    if start.startswith(b"PAR1"):
        return
    if start.startswith(b"PARE"):
        raise SourceError(f"{shown} is encrypted Parquet, which is not read: decrypt it")
    if kind := compression_of(start):
        raise SourceError(
            f"{shown} is compressed with {kind}: unpack it, Parquet is small by itself"
        )
    what = _other_of(start)
    raise SourceError(
        f"{shown} is {what}" if what else f"{shown} is no Parquet: set source.format to what it is"
    )


@contextmanager
def opened(path: Path, shown: str, encoding: str = "utf-8") -> Iterator["_Text"]:
    """Open a text file, unpacked by its first bytes, as UTF-8.

    Raises
    ------
    SourceError
        It is empty, of a kind that is not read, or not compressed as its name says.
    """
    with path.open("rb") as file:
        start = file.read(HEAD)
    if not start:
        raise SourceError(f"{shown} is empty: remove it, or deliver it again")
    named = SUFFIXES.get(path.suffix.lower())
    kind = compression_of(start)
    if named and named != kind:
        raise SourceError(f"{shown} is not compressed as its name says: rename it")
    with pa.input_stream(str(path), compression=kind) as stream:
        start = stream.read(HEAD)
        if not start:
            raise SourceError(f"{shown} is empty: remove it, or deliver it again")
        if kind and compression_of(start):
            raise SourceError(f"{shown} is compressed twice: unpack it once")
        if what := _other_of(start):
            raise SourceError(f"{shown} is {what}")
        text = _Text(start, stream, encoding, shown)
        if text.decoder is None and (what := _utf_of(start)):
            raise SourceError(f"{shown} is {what}")
        yield text


class _Text:
    """A stream of UTF-8, with what was read of it put back before it."""

    def __init__(self, start: bytes, stream: pa.NativeFile, encoding: str, shown: str) -> None:
        self.start, self.stream, self.encoding, self.shown = start, stream, encoding, shown
        plain = codecs.lookup(encoding).name == "utf-8"
        self.decoder = None if plain else codecs.getincrementaldecoder(encoding)()
        self.lines = 1

    def read(self, size: int) -> bytes:
        """Return the next bytes, about `size` of them and only at the end none.

        Raises SourceError where they are not of the encoding.
        """
        while True:
            start, self.start = self.start, b""
            found = start + bytes(self.stream.read(max(size - len(start), 1)))
            if self.decoder is None:
                return found
            try:
                text = self.decoder.decode(found, final=not found)
            except UnicodeError as error:
                raise self._refused(error) from None
            self.lines += text.count("\n")
            if text or not found:
                return text.encode()

    def _refused(self, error: UnicodeError) -> SourceError:
        where = ""
        if isinstance(error, UnicodeDecodeError):
            before = error.object[: error.start].decode(self.encoding, "replace")
            wrong = error.object[error.start : error.end]
            where = f" line {self.lines + before.count(chr(10))} has {wrong!r}, which"
        return SourceError(
            f"{self.shown}{where} is not {self.encoding}, as source.encoding says: correct it, or "
            "convert the file to UTF-8"
        )


def _other_of(start: bytes) -> str | None:
    """Say what a file is that is not read, by its first bytes."""
    if start.startswith(b"PK\x03\x04"):
        book = b"[Content_Types].xml" in start or b"xl/" in start
        return "an Excel workbook: save it as CSV" if book else "a zip archive: unpack it"
    if start[257:262] == b"ustar":
        return "a tar archive: unpack it"
    if start.startswith(b"ORC") and b"\0" in start:
        return f"ORC, which is not read: {TO_PARQUET}"
    begun = start.lstrip(b"\xef\xbb\xbf \r\n")
    return next((what for magic, what in OTHERS.items() if begun.startswith(magic)), None)


def _utf_of(start: bytes) -> str | None:
    """Say that a text is in another UTF than the one of 8 bits."""
    if start.startswith((b"\xff\xfe\0\0", b"\0\0\xfe\xff")):
        return UTF32
    halves = start[:64:2], start[1:64:2]
    bare = len(start) > 8 and any(not half.strip(b"\0") for half in halves)
    return UTF16 if bare or start.startswith((b"\xff\xfe", b"\xfe\xff")) else None


def _not_utf8(data: bytes, starts: npt.NDArray[np.int64]) -> Iterator[int]:
    """Yield which of the records that start there are not UTF-8."""
    at, view = 0, memoryview(data)
    while not data.isascii():
        try:
            codecs.utf_8_decode(view[at:], "strict", True)
            return
        except UnicodeDecodeError as error:
            bad = int(np.searchsorted(starts, at + error.start, side="right")) - 1
            yield bad
            if bad + 1 == len(starts):
                return
            at = int(starts[bad + 1])


def _skipped(text: str, at: int) -> int:
    """Return where the next JSON value begins."""
    between = BETWEEN_VALUES.match(text, at)
    assert between is not None  # it may be empty
    return between.end()


def _batch(number: int, values: list[str]) -> pa.RecordBatch:
    numbers = np.arange(number, number + len(values))
    return pa.record_batch(
        [pa.array(numbers), pa.array(values, pa.string()), pa.nulls(len(values), pa.string())],
        schema=SCHEMA,
    )
