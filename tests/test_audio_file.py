"""Every container, codec, chunk order and false length: decoded completely, or refused."""

import io
import json
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import soundfile
from numpy.typing import NDArray

from service.errors import CallerError, Unreadable
from service.model.formats import audio_file
from tests.hostile.sounds import _ogg_checksum as ogg_checksum

SECONDS = 1.0
CUT = "is cut"
ANEW = "damaged|cut|lacks"


class Variant(NamedTuple):
    name: str
    payload: bytes
    expected: NDArray[np.float64] | str  # the sound, or what the refusal says
    tolerance: float = 1e-3
    delay: int = 0  # samples that the encoder puts in front
    longer: int = 0  # samples that a codec of blocks may add


def sound(rate: int, seconds: float = SECONDS) -> NDArray[np.float64]:
    """A tone that swells, so that each moment is different."""
    time = np.arange(round(rate * seconds)) / rate
    return np.sin(2 * np.pi * 440 * time) * (0.1 + 0.4 * time / seconds)


def encode(form: str, subtype: str, rate: int = 8000, channels: int = 1, **options: Any) -> bytes:
    file = io.BytesIO()
    wave = np.stack([sound(rate)] * channels, axis=1)
    soundfile.write(file, wave, rate, subtype, format=form, **options)
    return file.getvalue()


def chunk(name: bytes, content: bytes, size: int | None = None, order: str = "<") -> bytes:
    return name + struct.pack(order + "I", len(content) if size is None else size) + content


PCM = (sound(8000) * 32767).round().astype("<i2").tobytes()
LAYOUT = struct.pack("<HHIIHH", 1, 1, 8000, 16000, 2, 16)


def riff(*chunks: bytes, size: int | None = None, name: bytes = b"RIFF", order: str = "<") -> bytes:
    return chunk(name, b"WAVE" + b"".join(chunks), size, order)


# ---- what libsndfile writes ----

TOLERANCES = {
    **dict.fromkeys(("PCM_S8", "PCM_U8"), 1e-2),
    **dict.fromkeys(("ULAW", "ALAW", "MS_ADPCM"), 3e-2),
    **dict.fromkeys(("VORBIS", "OPUS", "MPEG_LAYER_III", "IMA_ADPCM"), 0.1),
    **dict.fromkeys(("GSM610", "G721_32", "G723_24", "G723_40"), 0.15),
    **dict.fromkeys(("NMS_ADPCM_16", "NMS_ADPCM_24", "NMS_ADPCM_32"), 0.15),
}
TELEPHONE = ("GSM610", "G721_32", "G723_24", "G723_40", "NMS_ADPCM_16", "NMS_ADPCM_24")
FORMS = ("WAV", "WAVEX", "RF64", "W64", "AIFF", "AU", "CAF", "NIST", "FLAC", "OGG", "MP3")
OTHER_FORMS = ("AVR", "HTK", "IRCAM", "MAT4", "MAT5", "PAF", "PVF", "SVX", "VOC", "XI", "SDS")


def written() -> Iterator[Variant]:
    """Containers, codecs, rates and channels."""
    for form in FORMS:
        for subtype in soundfile.available_subtypes(form):
            if subtype.startswith(("ALAC", "DWVW")) or subtype in ("MPEG_LAYER_I", "MPEG_LAYER_II"):
                continue
            if (form, subtype) == ("WAV", "MPEG_LAYER_III"):
                continue  # read, but not written: see `mp3s`
            for rate, channels in ((8000, 1), (16000, 2), (44100, 6), (48000, 2)):
                telephone = subtype in TELEPHONE or subtype == "NMS_ADPCM_32"
                most = {"MP3": 2, "ADPCM": 2}.get(form, 8)
                if channels > (2 if "ADPCM" in subtype else most) or (telephone and rate != 8000):
                    continue
                if subtype == "OPUS" and rate == 44100:
                    continue
                yield Variant(
                    f"{form} {subtype} {rate} Hz, {channels} channels",
                    encode(form, subtype, rate, channels),
                    sound(rate),
                    TOLERANCES.get(subtype, 1e-3),
                    longer=3000 if "ADPCM" in subtype or telephone else 0,
                )
    for form in OTHER_FORMS:
        subtype = soundfile.default_subtype(form)
        yield Variant(f"{form} {subtype}", encode(form, subtype), "send WAV, FLAC, OGG, MP3")
    dwvw = encode("AIFF", "DWVW_16")
    yield Variant("AIFF DWVW", dwvw, "DWVW in AIFF is not supported; send WAV")
    yield Variant("CAF ALAC", encode("CAF", "ALAC_16"), "send WAV, FLAC, OGG, MP3")


# ---- WAV ----

PLACEHOLDERS = (0, 0x7F000000, 0x7FFFF000, 0x7FFFFFFF, 0x80000000, 0xFFFFFFDB, 0xFFFFFFFF)


def wav_lengths() -> Iterator[Variant]:
    """Whole recordings whose header does not know it, and cut ones whose header does."""
    whole, odd = sound(8000), PCM + b"\x01"
    parts: tuple[bytes, ...]
    for size in PLACEHOLDERS:
        for total in (None, 0, size, min(2**32 - 1, size + 36), 36 + len(PCM) + 5000):
            parts = chunk(b"fmt ", LAYOUT), chunk(b"data", PCM, size)
            yield Variant(f"data {size:#x}, RIFF {total}", riff(*parts, size=total), whole)
        info = chunk(b"LIST", b"INFOISFT\x06\0\0\0Lavf58")
        parts = chunk(b"fmt ", LAYOUT), info, chunk(b"data", PCM, size)
        yield Variant(f"data {size:#x} behind a LIST", riff(*parts, size=size), whole)
        parts = chunk(b"fmt ", LAYOUT), chunk(b"data", odd, size)
        yield Variant(f"data {size:#x}, half a sample more", riff(*parts, size=size), whole)
        big = struct.pack(">HHIIHH", 1, 1, 8000, 16000, 2, 16)
        content = np.frombuffer(PCM, "<i2").astype(">i2").tobytes()
        parts = chunk(b"fmt ", big, order=">"), chunk(b"data", content, size, ">")
        yield Variant(f"RIFX, data {size:#x}", riff(*parts, name=b"RIFX", order=">"), whole)
        ds64 = chunk(b"ds64", struct.pack("<QQQI", size, size, 0, 0))
        parts = ds64, chunk(b"fmt ", LAYOUT), chunk(b"data", PCM, 2**32 - 1)
        for name in (b"RF64", b"BW64"):
            label = f"{name.decode()}, ds64 {size:#x}"
            yield Variant(label, riff(*parts, size=2**32 - 1, name=name), whole)
        gsm = encode("WAV", "GSM610")
        at = gsm.index(b"data") + 4
        payload = gsm[:at] + struct.pack("<I", size) + gsm[at + 4 :]
        yield Variant(f"GSM, data {size:#x}", payload, whole, 0.15, longer=3000)
    for total in (None, 0, 36 + len(PCM) + 5000, 2**31 - 1, 2**32 - 1, 100):
        parts = chunk(b"fmt ", LAYOUT), chunk(b"data", PCM)
        yield Variant(f"data right, RIFF {total}", riff(*parts, size=total), whole)
    for declared in (len(PCM) + 2, 2 * len(PCM), 10**6, 10**9, 0x7D000000, 0xFD000000):
        parts = chunk(b"fmt ", LAYOUT), chunk(b"data", PCM, declared)
        yield Variant(f"cut: {declared:,} bytes declared", riff(*parts), CUT)
    parts = chunk(b"fmt ", LAYOUT), chunk(b"data", PCM, len(PCM) + 1)
    yield Variant("a padding byte is declared", riff(*parts), whole)
    for share in (0.3, 0.6, 0.99):
        for form in ("WAV", "RF64", "W64", "AIFF", "AU", "CAF", "NIST", "FLAC", "OGG", "MP3"):
            payload = encode(form, soundfile.default_subtype(form))
            yield Variant(f"{form} cut at {share}", payload[: int(share * len(payload))], ANEW)
    ds64 = chunk(b"ds64", struct.pack("<QQQI", 10**6, 10**6, 0, 0))
    parts = ds64, chunk(b"fmt ", LAYOUT), chunk(b"data", PCM, 2**32 - 1)
    yield Variant("RF64 cut", riff(*parts, name=b"RF64"), CUT)


def wav_chunks() -> Iterator[Variant]:
    """Chunks in any order, of any size, once, twice or never."""
    whole = sound(8000)
    layout, data = chunk(b"fmt ", LAYOUT), chunk(b"data", PCM)
    info, bext = chunk(b"LIST", b"INFOISFT\x04\0\0\0abcd"), chunk(b"bext", bytes(602))
    odd = {name: chunk(name, b"odd") for name in (b"LIST", b"JUNK", b"note", b"bext")}
    orders = {
        "plain": (layout, data),
        "LIST first": (info, layout, data),
        "JUNK first": (chunk(b"JUNK", bytes(28)), layout, data),
        "bext first": (bext, layout, data),
        "bext and LIST between": (layout, bext, info, data),
        "LIST last": (layout, data, info),
        "data first": (data, layout),
        "data, LIST, fmt": (data, info, layout),
        "an empty LIST": (layout, chunk(b"LIST", b""), data),
        "fact": (layout, chunk(b"fact", struct.pack("<I", 3)), data),
        "fact of 0xFFFFFFFF": (layout, chunk(b"fact", b"\xff" * 4), data),
        "fmt of 18 bytes": (chunk(b"fmt ", LAYOUT + b"\0\0"), data),
        "bytes behind": (layout, data, b"\0\0\0\0\0"),
        "text behind": (layout, data, b"some text behind the sound"),
        **{f"odd {n.decode()}, padded": (c + b"\0", layout, data) for n, c in odd.items()},
        **{f"odd {n.decode()}, not padded": (c, layout, data) for n, c in odd.items()},
        **{f"odd {n.decode()} between": (layout, c, data) for n, c in odd.items()},
        **{f"odd {n.decode()} between, padded": (layout, c + b"\0", data) for n, c in odd.items()},
    }
    for name, parts in orders.items():
        yield Variant(name, riff(*parts), whole)
        yield Variant(f"{name}, RIFF size 0", riff(*parts, size=0), whole)
    eight = (sound(8000) * 127 + 128).round().astype("u1").tobytes()[:-1]
    bytes_ = chunk(b"fmt ", struct.pack("<HHIIHH", 1, 1, 8000, 8000, 1, 8)), chunk(b"data", eight)
    yield Variant("odd data", riff(*bytes_), whole[:-1], 1e-2)
    yield Variant("odd data, padded, LIST", riff(*bytes_, b"\0", info), whole[:-1], 1e-2)
    yield Variant("odd data, not padded, LIST", riff(*bytes_, info), whole[:-1], 1e-2)
    yield Variant("odd data of size 0", riff(bytes_[0], chunk(b"data", eight, 0)), whole[:-1], 1e-2)
    yield Variant("ID3 in front", b"ID3\4\0\0\0\0\0\x0a" + bytes(10) + riff(layout, data), whole)
    yield Variant("two data", riff(layout, data, data), "2 data chunks; save it with one")
    yield Variant("two fmt", riff(layout, layout, data), "2 fmt chunks; save it with one")
    yield Variant(
        "two WAV", riff(layout, data) * 2, "several audio streams; send each in its own file"
    )
    yield Variant("no data", riff(layout, info), "no data chunk; save it again")
    yield Variant("no fmt", riff(data), "no fmt chunk; save it again")
    yield Variant("wavl", riff(layout, chunk(b"LIST", b"wavl" + data)), "no data chunk")
    yield Variant("empty", riff(layout, chunk(b"data", b"")), "has no samples")
    yield Variant("empty, LIST", riff(layout, chunk(b"data", b""), info), "has no samples")
    yield Variant("a LIST beyond the end", riff(layout, chunk(b"LIST", b"", 9999), data), "no data")
    for tag, name in ((0x161, "WMA"), (0xFF, "AAC"), (0x7777, "unknown"), (0x2000, "AC3")):
        other = chunk(b"fmt ", struct.pack("<HHIIHH", tag, 1, 8000, 16000, 2, 16))
        yield Variant(f"{name} in WAV", riff(other, data), "codec is not supported; send WAV")


def wav_layouts() -> Iterator[Variant]:
    """Samples of any width in frames of any size."""
    whole = sound(8000)
    guid = bytes.fromhex("000000001000800000aa00389b71")

    def layout(bits: int, frame: int, tag: int = 1, valid: int = 0) -> bytes:
        plain = struct.pack("<HHIIHH", tag, 1, 8000, 8000 * frame, frame, bits)
        return plain + (struct.pack("<HHIH", 22, valid, 4, 1) + guid if tag == 0xFFFE else b"")

    def samples(bits: int, width: int) -> bytes:
        numbers = (whole * (2 ** (bits - 1) - 1)).round().astype(int) << (width * 8 - bits)
        return b"".join(int(number).to_bytes(width, "little", signed=True) for number in numbers)

    for name, head, content in (
        ("12 bits in 16", layout(12, 2), samples(12, 2)),
        ("20 bits in 24", layout(20, 3), samples(20, 3)),
        ("24 bits in 32", layout(24, 4), samples(24, 4)),
        ("20 valid bits of 24", layout(24, 3, 0xFFFE, 20), samples(20, 3)),
        ("24 valid bits of 32", layout(32, 4, 0xFFFE, 24), samples(24, 4)),
        ("16 bits of 16, none of them valid", layout(16, 2, 0xFFFE), samples(16, 2)),
        ("frames of no byte", layout(16, 0), PCM),
        ("frames of one byte", layout(16, 1), PCM),
    ):
        parts = chunk(b"fmt ", head), chunk(b"data", content)
        yield Variant(name, riff(*parts), whole)
        yield Variant(f"{name}, no length", riff(parts[0], chunk(b"data", content, 0)), whole)
    for bits, frame, tag in (
        *((bits, 2, 1) for bits in (1, 4, 7, 8, 17, 31)),
        *((16, 4, 1), (16, 8, 1), (24, 4, 0xFFFE), (32, 8, 3), (12, 4, 1)),
    ):
        parts = chunk(b"fmt ", layout(bits, frame, tag)), chunk(b"data", PCM)
        name = f"{bits} bits in frames of {frame} bytes, {tag}"
        yield Variant(name, riff(*parts), "do not agree; save the audio again")
    for bits in (0, 33, 64):
        parts = chunk(b"fmt ", layout(bits, max(1, -(-bits // 8)))), chunk(b"data", PCM)
        yield Variant(f"{bits} bits", riff(*parts), "send WAV, FLAC|do not agree")
    for length in (0, 12, 14):
        parts = chunk(b"fmt ", LAYOUT[:length]), chunk(b"data", PCM)
        yield Variant(f"fmt of {length} bytes", riff(*parts), "send WAV, FLAC|save")


def containers() -> Iterator[Variant]:
    """False lengths in the other containers."""
    whole = sound(8000)
    big = np.frombuffer(PCM, "<i2").astype(">i2").tobytes()
    rate = bytes.fromhex("400bfa00000000000000")  # 8000 as an 80-bit float
    for size in (*PLACEHOLDERS, 8):
        for frames in (0, len(PCM) // 2, 0x3F800000, 2**32 - 1):
            comm = chunk(b"COMM", struct.pack(">HIH", 1, frames, 16) + rate, order=">")
            ssnd = chunk(b"SSND", bytes(8) + big, size, ">")
            if size == 8 and not frames:
                continue
            for order, parts in (("", comm + ssnd),):
                payload = chunk(b"FORM", b"AIFF" + parts, order=">")
                yield Variant(f"AIFF{order}, SSND {size:#x}, {frames} frames", payload, whole)
    comm = chunk(b"COMM", struct.pack(">HIH", 1, len(PCM) // 2, 16) + rate, order=">")
    ssnd = chunk(b"SSND", bytes(8) + big, order=">")
    name = chunk(b"NAME", b"odd", order=">")
    for label, parts in {
        "SSND first": ssnd + comm,
        "odd NAME": name + b"\0" + comm + ssnd,
        "odd NAME, not padded": name + comm + ssnd,
    }.items():
        yield Variant(f"AIFF, {label}", chunk(b"FORM", b"AIFF" + parts, order=">"), whole)
    form = chunk(b"FORM", b"AIFF" + comm + ssnd, order=">")
    yield Variant("two AIFF", form * 2, "several audio streams")
    long = chunk(b"COMM", struct.pack(">HIH", 1, 9999, 16) + rate, order=">")
    yield Variant("AIFF of more frames", chunk(b"FORM", b"AIFF" + long + ssnd, order=">"), CUT)
    little = chunk(b"COMM", struct.pack(">HIH", 1, 8000, 16) + rate + b"sowt\0\0", order=">")
    parts = little + chunk(b"SSND", bytes(8) + PCM, order=">")
    yield Variant("AIFC sowt", chunk(b"FORM", b"AIFC" + parts, order=">"), whole)
    for size in PLACEHOLDERS:
        au = b".snd" + struct.pack(">IIIII", 24, size, 3, 8000, 1) + big
        yield Variant(f"AU of {size:#x}", au, whole)
        au = b"dns." + struct.pack("<IIIII", 24, size, 3, 8000, 1) + PCM
        yield Variant(f"little AU of {size:#x}", au, whole)
    caf = encode("CAF", "PCM_16")
    at = caf.index(b"data") + 4
    for long_ in (b"\xff" * 8, bytes(8)):
        yield Variant(f"CAF of {long_.hex()}", caf[:at] + long_ + caf[at + 8 :], whole)


# ---- FLAC ----


def crc(content: bytes, polynomial: int, bits: int) -> int:
    remainder = 0
    for byte in content:
        remainder ^= byte << bits - 8
        for _ in range(8):
            remainder = remainder << 1 ^ (polynomial if remainder >> bits - 1 & 1 else 0)
            remainder &= (1 << bits) - 1
    return remainder


def flac(blocks: list[int], variable: bool, total: int | None = None) -> bytes:
    """Frames of 16 bits without compression, of these many samples each."""
    samples = (sound(8000) * 32767).round().astype(">i2")
    assert sum(blocks) == len(samples)
    smallest, largest = (min(blocks), max(blocks)) if variable else (blocks[0], blocks[0])
    length = len(samples) if total is None else total
    fields = 8000 << 44 | 15 << 36 | length
    info = struct.pack(">HH", smallest, largest) + bytes(6) + fields.to_bytes(8, "big") + bytes(16)
    payload, start = b"fLaC\x80\0\0\x22" + info, 0
    for index, block in enumerate(blocks):
        number = chr(start if variable else index).encode("utf-8", "surrogatepass")
        head = bytes((0xFF, 0xF8 + variable, 0x74, 0x08)) + number + struct.pack(">H", block - 1)
        head += bytes((crc(head, 0x07, 8),))
        frame = head + b"\x02" + samples[start : start + block].tobytes()
        payload += frame + crc(frame, 0x8005, 16).to_bytes(2, "big")
        start += block
    return payload


def declare(payload: bytes, samples: int) -> bytes:
    """The FLAC with another length in its header."""
    fields = int.from_bytes(payload[18:26], "big") >> 36 << 36
    return payload[:18] + (fields | samples).to_bytes(8, "big") + payload[26:]


def flacs() -> Iterator[Variant]:
    whole = sound(8000)
    fixed, last_alone = [1000] * 8, [1000] * 7 + [999, 1]
    variable = [192, 1000, 16, 4000, 1, 2000, 791]
    short = [3000, 3000, 2000]
    for name, payload in {
        "fixed": flac(fixed, variable=False),
        "fixed, a short end": flac(short, variable=False),
        "variable": flac(variable, variable=True),
        "variable, equal": flac(fixed, variable=True),
        "variable, a last sample": flac(last_alone, variable=True),
        "of libsndfile": encode("FLAC", "PCM_16"),
    }.items():
        yield Variant(f"FLAC {name}", payload, whole)
        yield Variant(f"FLAC {name}, no length", declare(payload, 0), whole)
        yield Variant(f"FLAC {name}, half the length", declare(payload, 4000), whole)
        yield Variant(f"FLAC {name}, twice the length", declare(payload, 16000), CUT)
        yield Variant(f"FLAC {name}, cut", payload[:-3], ANEW)
        yield Variant(f"FLAC {name}, cut, no length", declare(payload, 0)[:-3], ANEW)
        yield Variant(f"FLAC {name}, ID3", b"ID3\4\0\0\0\0\0\x05" + bytes(5) + payload, whole)
        yield Variant(f"FLAC {name}, ID3v1", payload + b"TAG" + bytes(125), whole)
        middle = len(payload) // 2
        turned = payload[:middle] + bytes((payload[middle] ^ 1,)) + payload[middle + 1 :]
        yield Variant(f"FLAC {name}, one bit turned", turned, ANEW)
        hole = payload[:middle] + payload[middle + 400 :]
        yield Variant(f"FLAC {name}, a hole", hole, ANEW)
        for size in (255, 4096):
            pages = paged(ogg_flac(payload), size)
            yield Variant(f"FLAC {name} in OGG by {size}", pages, whole)
        unknown = paged(ogg_flac(declare(payload, 0)), 1000)
        yield Variant(f"FLAC {name} in OGG, no length", unknown, whole)


# ---- OGG ----


def ogg_flac(payload: bytes) -> list[bytes]:
    """The two packets of a FLAC in OGG, as if all its frames were one."""
    return [b"\x7fFLAC\1\0\0\0" + payload[:42], payload[42:]]


def paged(packets: list[bytes], size: int, serial: int = 7) -> bytes:
    """An OGG with one packet in its first page, and the others in pages of `size` bytes."""
    bodies = [packets[0]]
    rest = b"".join(packets[1:])
    size -= size % 255
    bodies += [rest[at : at + size] for at in range(0, len(rest), size)]
    payload = b""
    for number, body in enumerate(bodies):
        sizes = [255] * (len(body) // 255) + ([len(body) % 255] if len(body) % 255 else [])
        flags = 2 * (number == 0) + 4 * (number == len(bodies) - 1) + (number > 1)
        head = struct.pack("<4sBBqIII", b"OggS", 0, flags, 0, serial, number, 0)
        payload += checked(head + bytes((len(sizes), *sizes)) + body)
    return payload


def checked(page: bytes) -> bytes:
    page = page[:22] + bytes(4) + page[26:]
    return page[:22] + ogg_checksum(page).to_bytes(4, "little") + page[26:]


def pages_of(payload: bytes) -> list[bytes]:
    pages, at = [], 0
    while at < len(payload):
        count = payload[at + 26]
        end = at + 27 + count + sum(payload[at + 27 : at + 27 + count])
        pages.append(payload[at:end])
        at = end
    return pages


def numbered(payload: bytes, serial: int) -> bytes:
    return b"".join(
        checked(page[:14] + struct.pack("<I", serial) + page[18:]) for page in pages_of(payload)
    )


def oggs() -> Iterator[Variant]:
    whole = sound(8000)
    twice = np.concatenate([whole, whole])
    for subtype in ("VORBIS", "OPUS"):
        payload = encode("OGG", subtype)
        pages = pages_of(payload)
        first, second = numbered(payload, 1), numbered(payload, 2)
        yield Variant(f"{subtype} chained", first + second, twice, 8e-2)
        yield Variant(f"{subtype} chained, one number", first + first, twice, 8e-2)
        stereo = numbered(encode("OGG", subtype, 8000, 2), 3)
        yield Variant(f"{subtype} chained, mono and stereo", first + stereo, twice, 8e-2)
        faster = numbered(encode("OGG", subtype, 16000), 4)
        yield Variant(f"{subtype} chained, two rates", first + faster, "changes its sample rate")
        together = pages[0] + pages_of(second)[0] + b"".join(pages[1:] + pages_of(second)[1:])
        yield Variant(f"{subtype} at a time", together, "several simultaneous streams; send one")
        woven = first[: len(first) // 2]
        woven = b"".join(pages_of(first)[:-1]) + second + pages_of(first)[-1]
        yield Variant(f"{subtype} woven", woven, "lacks a page")
        yield Variant(f"{subtype}, a page lost", b"".join(pages[:-2] + pages[-1:]), ANEW)
        turned = bytearray(payload)
        turned[-100] ^= 1
        yield Variant(f"{subtype}, one bit turned", bytes(turned), "damaged at byte")
        yield Variant(f"{subtype}, bytes behind", payload + b"behind", ANEW)
        yield Variant(f"{subtype}, cut", payload[:-1], ANEW)
        skeleton = checked(
            struct.pack("<4sBBqIIIBB", b"OggS", 0, 2, 0, 9, 0, 0, 1, 8) + b"fishead\0"
        )
        yield Variant(f"{subtype} and a skeleton", skeleton + payload, whole, 8e-2)
        yield Variant(f"{subtype} behind ID3", b"ID3\4\0\0\0\0\0\0" + payload, whole, 8e-2)
    flac_ = numbered(paged(ogg_flac(encode("FLAC", "PCM_16")), 1000), 5)
    mixed = numbered(encode("OGG", "VORBIS"), 1) + flac_
    yield Variant("Vorbis, then FLAC", mixed, twice, 8e-2)
    for magic in (b"Speex   1.2", b"\x80theora", b"\x01video", b"BBCD\0"):
        page = struct.pack("<4sBBqIIIBB", b"OggS", 0, 2, 0, 9, 0, 0, 1, len(magic)) + magic
        yield Variant(f"OGG of {magic!r}", checked(page), "send Vorbis, Opus or FLAC")


# ---- MP3 ----

DELAY = 576  # samples that LAME puts in front of the sound


def frames_of(payload: bytes) -> list[bytes]:
    """The frames of libsndfile's MP3 of 44.1 or 48 kHz, the first without sound."""
    rates = (32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320)
    frames, at = [], 0
    while at < len(payload):
        third = payload[at + 2]
        hertz = (44100, 48000)[third >> 2 & 3]
        size = 144_000 * rates[(third >> 4) - 1] // hertz + (third >> 1 & 1)
        frames.append(payload[at : at + size])
        at += size
    return frames


def mp3s() -> Iterator[Variant]:
    for mode in ("CONSTANT", "AVERAGE", "VARIABLE"):
        for rate, channels in ((44100, 1), (44100, 2), (48000, 2)):
            kind = f"MP3 {mode} {rate} Hz, {channels} channels"
            options = {"bitrate_mode": mode, "compression_level": 0.5}
            payload = encode("MP3", "MPEG_LAYER_III", rate, channels, **options)
            whole = sound(rate)
            yield Variant(kind, payload, whole, 5e-2)
            yield from mp3_variants(kind, payload, whole)


def mp3_variants(kind: str, payload: bytes, whole: NDArray[np.float64]) -> Iterator[Variant]:
    frames = frames_of(payload)
    bare = b"".join(frames[1:])
    id3 = b"ID3\3\0\0\0\0\1\x00" + bytes(128)
    ape = b"APETAGEX" + bytes(50)
    layout = struct.pack("<HHIIHH", 0x55, 1, 44100, 16000, 1, 0) + b"\x0c\0" + bytes(12)
    for name, content in {
        "no Xing": bare,
        "no Xing, ID3": id3 + bare,
        "no Xing, ID3 twice": id3 + id3 + bare,
        "no Xing, ID3v1": bare + b"TAG" + bytes(125),
        "no Xing, APE": bare + ape,
        "no Xing, zeros behind": bare + bytes(100),
        "no Xing, text in front": b"text \xff\xfb text" + bare,
        "no Xing, zeros in front": bytes(3000) + bare,
        "no Xing, tag between": b"".join(frames[1:9]) + id3 + b"".join(frames[9:]),
        "in WAV": riff(chunk(b"fmt ", layout), chunk(b"data", bare)),
        "in WAV from a pipe": riff(chunk(b"fmt ", layout), chunk(b"data", bare, 2**32 - 1)),
    }.items():
        yield Variant(f"{kind}, {name}", content, whole, 5e-2, DELAY, 3000)
    count = len(frames) - 1
    xing = 13 if payload[3] >> 6 == 3 else 21  # of the first frame's side information
    at = max(frames[0].find(b"Xing"), frames[0].find(b"Info"))
    assert at >= xing
    for declared in (1, count - 5, count, count + 1):
        content = payload[: at + 8] + struct.pack(">I", declared) + payload[at + 12 :]
        yield Variant(f"{kind}, {declared} of {count} frames", content, whole, 5e-2, longer=3000)
    for declared in (count + 2, 10 * count):
        content = payload[: at + 8] + struct.pack(">I", declared) + payload[at + 12 :]
        yield Variant(f"{kind}, {declared} of {count} frames", content, CUT)
    yield Variant(f"{kind}, cut between frames", b"".join(frames[:-5]), CUT)
    yield Variant(f"{kind}, cut in a frame", bare[:-20], CUT)
    hole = b"".join(frames[:9]) + frames[9][:50] + b"".join(frames[10:])
    yield Variant(f"{kind}, a hole", hole, "damaged|cut")
    yield Variant(f"{kind}, bytes between", b"".join(frames[:9]) + b"text" + bare, "damaged")
    other = encode("MP3", "MPEG_LAYER_III", 32000, 1)
    yield Variant(f"{kind}, then another rate", payload + other, "changes its sample rate")


def floods() -> Iterator[Variant]:
    """Many small parts, which take long to walk through."""
    many = 100_001
    for name, payload in {
        "WAV": riff(chunk(b"fmt ", LAYOUT) + chunk(b"abcd", b"") * many),
        "AIFF": chunk(b"FORM", b"AIFF" + chunk(b"abcd", b"") * many),
        "CAF": encode("CAF", "PCM_16")[:52] + (b"free" + bytes(8)) * many,
        "MP3": (b"\xff\xf3\x14\xc4" + bytes(20)) * many,
    }.items():
        yield Variant(f"{name} of many parts", payload, "more than 100,000 frames, pages or chunks")
    streams = numbered(encode("OGG", "VORBIS"), 1) * 101
    yield Variant("OGG of many streams", streams, "101 streams; the limit is 100")
    yield Variant("ID3 many times", b"ID3\3\0\0\0\0\0\0" * many, "send WAV, FLAC")
    for name, content in {
        "nothing": b"",
        "a FLAC's first bytes": b"fLaC",
        "an OGG's first bytes": b"OggS",
        "a CAF's first bytes": b"caff\0\1\0\0",
        "an AU's first bytes": b".snd",
        "a NIST's first bytes": b"NIST_1A\n",
        "an MP3's first bytes": b"\xff\xfb\x90\x00",
        "MP4": b"\0\0\0\x20ftypM4A ",
        "WebM": b"\x1aE\xdf\xa3" + bytes(20),
        "AAC": b"\xff\xf1\x50\x80" + bytes(20),
        "AMR": b"#!AMR\n",
        "MPEG layer II": b"\xff\xfd\x50\x00" + bytes(200),
    }.items():
        yield Variant(name, content, "send |save it again")


FAMILIES = {
    family.__name__: family
    for family in (
        written,
        wav_lengths,
        wav_chunks,
        wav_layouts,
        containers,
        flacs,
        oggs,
        mp3s,
        floods,
    )
}


def outcome(variant: Variant) -> str:
    """What is wrong with the outcome; nothing if all is right."""
    try:
        whole = audio_file.read(variant.payload, 600, centre=False, most=600)
    except CallerError as error:
        refused = isinstance(variant.expected, str) and has(str(error), variant.expected)
        return "" if refused else f"refused: {error}"
    if isinstance(variant.expected, str):
        return f"{len(whole.wave)} samples, but it is to be refused: {variant.expected}"
    extra = len(whole.wave) - len(variant.expected)
    if not whole.whole or not 0 <= extra <= variant.longer:
        return f"{len(whole.wave)} samples, not {len(variant.expected)}"
    found = whole.wave[variant.delay :][: len(variant.expected)]
    # Without the last 20 ms, which Opus encodes badly.
    off = np.abs(found - variant.expected[: len(found)])[: -whole.rate // 50].max()
    if off > variant.tolerance or len(found) < len(variant.expected) - 1200:
        return f"{len(found)} samples, off by up to {off:.4f}"
    return centred(variant.payload, whole)


def test_damage_behind_what_is_wanted_is_found() -> None:
    for form in ("FLAC", "OGG", "MP3", "WAV"):
        payload = encode(form, soundfile.default_subtype(form), 16000)
        damaged = payload[:-200] + payload[-100:]
        for centre in (False, True):
            with pytest.raises(Unreadable, match=r"damaged|cut"):
                audio_file.read(damaged, 0.1, centre, most=600)


def centred(payload: bytes, whole: audio_file.Excerpt) -> str:
    """The middle is the middle of the whole."""
    part = audio_file.read(payload, 0.25, centre=True, most=600)
    wanted = -(-whole.rate // 4)
    first = (len(whole.wave) - wanted) // 2
    if part.whole or not np.array_equal(part.wave, whole.wave[first : first + wanted]):
        return "its middle is another"
    return ""


def has(message: str, expected: str) -> bool:
    return any(part in message for part in expected.split("|"))


@pytest.mark.parametrize("family", FAMILIES)
def test_no_variant_is_decoded_in_part(family: str) -> None:
    variants = list(FAMILIES[family]())
    wrong = [f"{variant.name}: {problem}" for variant in variants if (problem := outcome(variant))]
    assert not wrong, f"{len(wrong)} of {len(variants)}:\n" + "\n".join(wrong)


TAKEN = (".wav", ".aif", ".aiff", ".flac", ".ogg", ".oga", ".opus", ".mp3", ".sph")


def test_files_from_many_programs_are_decoded_completely_or_refused(shared_data: Path) -> None:
    """Another decoder's report says how long each is, and what is damaged."""
    folder = shared_data / "media"
    if not folder.is_dir():
        pytest.skip("there is no folder media in the shared data")
    reports = json.loads((folder / "facts.json").read_text())
    decoded, wrong = 0, []
    for path in sorted((folder / "audio").iterdir()):
        report = reports.get(f"audio/{path.name}", {})
        damaged = bool(report.get("decode_errors")) or not report.get("decoded_seconds")
        try:
            found = audio_file.read(path.read_bytes(), 600, centre=False, most=600)
        except CallerError as error:
            if (path.suffix in TAKEN and not damaged) or not has(str(error), "send |no samples"):
                wrong.append(f"{path.name}: {error}")
            continue
        decoded += 1
        seconds = len(found.wave) / found.rate
        if damaged or abs(seconds - report["decoded_seconds"]) > 0.01:
            wrong.append(f"{path.name}: {seconds:.3f} s")
    assert not wrong
    assert decoded > 20
