#!/usr/bin/env python3
"""Reads a holdfast repository; written from docs/format.md alone, never from holdfast's source.

    read_snapshot.py REPOSITORY [SECRET] list
    read_snapshot.py REPOSITORY [SECRET] check
    read_snapshot.py REPOSITORY [SECRET] acts
    read_snapshot.py REPOSITORY [SECRET] restore SNAPSHOT TARGET [--source NAME]

SECRET is --password-file FILE or --key-file FILE (a key file or a recovery kit); none for a repository without
encryption. SNAPSHOT is an id, the beginning of one, or "latest". Exit code 13: something was damaged, even if a second
copy served. Numbers in brackets name sections of docs/format.md. Clear rather than fast: for tests and emergencies.
"""

import argparse
import bisect
import hashlib
import json
import os
import stat
import struct
import sys
from collections import namedtuple

import zstandard
from argon2.low_level import Type, hash_secret_raw
from blake3 import blake3
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

# [3] kinds of object
CONFIG, KEY_SLOT, PACK, INDEX, SESSION_START, SESSION_SAW, SNAPSHOT, TOMBSTONE, ACT = 1, 2, 3, 4, 5, 6, 7, 10, 12
# [6] kinds of blob
SEGMENT, HEAD, SLICE, TABLE, INDEX_BODY, SNAPSHOT_RECORD, SESSION_PART, TOMBSTONE_RECORD, SPARSE, ACT_ENTRY = 1, 2, 3, 4, 5, 6, 7, 9, 10, 12
TABLE_ORDINAL = 0xFFFFFFFF
MIB = 1 << 20
RAW_MAX = 64 * MIB
MASK64 = (1 << 64) - 1


class Damaged(Exception):
    """Bytes that are not what the format says."""


class Missing(Damaged):
    """Something that is needed is not there."""


FINDINGS = []


def finding(text):
    """Notes damage that did not stop the work."""
    FINDINGS.append(str(text))
    print(f"damaged: {text}", file=sys.stderr)


# ---------------------------------------------------------------- [3] envelope

Header = namedtuple("Header", "kind mandatory optional copy suite repository object_id raw")


def open_object(data, what, kind, repository=None, object_id=None, copy=None):
    """Header and body of an object whose envelope is whole."""
    def need(condition, reason):
        if not condition:
            raise Damaged(f"{what}: {reason}")

    need(len(data) >= 112 and data[:8] == b"HOLDFAST", "not an object")
    header, body, footer = data[:64], data[64:-48], data[-48:]
    need(footer[8:16] == b"tsafdloh", "no footer")
    need(struct.unpack("<Q", footer[:8])[0] == len(body) <= 256 * MIB, "wrong length")
    need(blake3(data[:-32]).digest() == footer[16:], "wrong checksum")
    number, version, mandatory, optional, found_copy, suite = struct.unpack("<HHIIHH", header[8:24])
    if version > 1 or mandatory:
        sys.exit(f"{what}: written by a newer program (version {version}, features {mandatory:#x})")
    need(version == 1 and header[56:] == bytes(8), "wrong header")
    need(number == kind, f"an object of kind {number} instead of {kind}")
    need(repository in (None, header[24:40]), "belongs to another repository")
    need(object_id in (None, header[40:56]), "another object's bytes")
    need(found_copy in ((copy,) if copy is not None else (0, 1)), "another copy")
    return Header(number, mandatory, optional, found_copy, suite, header[24:40], header[40:56], header), body


# ---------------------------------------------------------------- [4] records


class Record:
    """Reads the fields of a record one after the other."""

    def __init__(self, data, what):
        self.data, self.at, self.what = data, 0, what

    def take(self, count):
        if self.at + count > len(self.data):
            raise Damaged(f"{self.what}: a record is cut off")
        self.at += count
        return self.data[self.at - count:self.at]

    def u8(self):
        return self.take(1)[0]

    def uint(self):
        first = self.u8()
        if first < 251:
            return first
        width = {251: 2, 252: 4, 253: 8}.get(first)
        if width is None:
            raise Damaged(f"{self.what}: a number with marker {first}")
        return int.from_bytes(self.take(width), "little")

    def int(self):
        return unzigzag(self.uint())

    def bool(self):
        value = self.u8()
        if value > 1:
            raise Damaged(f"{self.what}: a truth value of {value}")
        return bool(value)

    def id(self):
        return self.take(16)

    def digest(self):
        return self.take(32)

    def bytes(self):
        return self.take(self.uint())

    def text(self):
        return self.bytes().decode("utf-8")

    def option(self, read):
        return read() if self.bool() else None

    def list(self, read):
        return [read() for _ in range(self.uint())]

    def end(self):
        if self.at != len(self.data):
            raise Damaged(f"{self.what}: bytes after the end of a record")


def unzigzag(value):
    return (value >> 1) ^ -(value & 1)


# ---------------------------------------------------------------- [5] compression


def decompress(unit, raw_length, what):
    if not unit or raw_length > RAW_MAX:
        raise Damaged(f"{what}: not a compressed unit")
    method, rest = unit[0], unit[1:]
    if method == 0:
        raw = rest
    elif method == 1:
        try:
            if zstandard.get_frame_parameters(rest).content_size != raw_length:
                raise Damaged(f"{what}: the frame states another length")
            raw = zstandard.ZstdDecompressor().decompress(rest, max_output_size=raw_length, allow_extra_data=False)
        except zstandard.ZstdError as error:
            raise Damaged(f"{what}: {error}") from error
    else:
        raise Damaged(f"{what}: unknown method {method}")
    if len(raw) != raw_length:
        raise Damaged(f"{what}: another length than stated")
    return raw


# ---------------------------------------------------------------- [6] keys and sealing


class Keys:
    def __init__(self, root, repository, suite):
        self.repository, self.suite = repository, suite
        for purpose in ("data", "meta", "index", "siv", "mac", "chunk-id"):
            key = blake3(root, derive_key_context=f"holdfast v1 {purpose}").digest()
            setattr(self, purpose.replace("-", "_"), key)

    def open(self, purpose_key, object_id, ordinal, kind, raw_length, blob, what):
        """The raw bytes of a sealed blob."""
        if len(blob) < 32:
            raise Damaged(f"{what}: too short")
        context = struct.pack("<H", 1) + self.repository + object_id
        context += struct.pack("<IBIH", ordinal, kind, raw_length, self.suite)
        siv, rest = blob[:16], blob[16:]
        if self.suite == 1:
            place = object_id + struct.pack("<IB", ordinal, kind)
            key = blake3(place + siv, key=purpose_key).digest()
            try:
                unit = AESGCM(key).decrypt(bytes(12), rest, context)
            except InvalidTag:
                raise Damaged(f"{what}: its tag does not fit") from None
            same = blake3(context + unit, key=self.siv).digest()[:16] == siv
        else:
            unit = rest[:-16]
            same = blake3(context + unit, key=self.siv).digest() == siv + rest[-16:]
        if not same:
            raise Damaged(f"{what}: its hash does not fit")
        return decompress(unit, raw_length, what)

    def open_record(self, purpose_key, header, body, kind, ordinal, what):
        """An object that is one sealed record."""
        raw_length = struct.unpack("<I", body[:4])[0]
        return Record(self.open(purpose_key, header.object_id, ordinal, kind, raw_length, body[4:], what), what)


# ---------------------------------------------------------------- [8] key slots

ALPHABET = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"


def secret_from_groups(text):
    words = [w for w in text.split() if not (w.endswith(":") and w[:-1].isdigit() and len(w) <= 3)]
    letters = "".join(words).replace("-", "").upper().translate(str.maketrans("ILO", "110"))
    if len(letters) != 64 or any(c not in ALPHABET for c in letters):
        raise ValueError("not a key")
    secret = b""
    for group in range(8):
        bits = 0
        for letter in letters[8 * group:8 * group + 8]:
            bits = bits << 5 | ALPHABET.index(letter)
        data, check = (bits >> 8).to_bytes(4, "big"), bits & 255
        crc = group + 1
        for byte in data:
            crc ^= byte
            for _ in range(8):
                crc = (crc << 1 ^ (0x07 if crc & 0x80 else 0)) & 255
        if crc != check:
            raise ValueError(f"group {group + 1} of the key is mistyped")
        secret += data
    return secret


def secret_from_file(text):
    """(slot kind, secret) of a key file or recovery kit."""
    for kind, marker in ((1, "HOLDFAST KEY FILE"), (2, "HOLDFAST RECOVERY KEY")):
        begin = f"-----BEGIN {marker}-----"
        if begin in text:
            return kind, secret_from_groups(text.split(begin, 1)[1].split("-----END", 1)[0])
    return 2, secret_from_groups(text)


def root_key(slots, kind, secret, repository):
    """Tries a secret on all slots of its kind."""
    for name, header, body in slots:
        record_bytes, sealed = body[:-48], body[-48:]
        record = Record(record_bytes, name)
        slot_kind, _label, _created, _host = record.uint(), record.text(), record.int(), record.text()
        kdf = record.option(lambda r=record: (r.uint(), r.uint(), r.uint()))
        salt, commitment = record.take(32), record.take(32)
        record.end()
        if slot_kind != kind:
            continue
        if kind == 0:
            memory, passes, lanes = kdf
            if not (19456 <= memory <= 4194304 and 1 <= passes <= 64 and 1 <= lanes <= 16):
                finding(f"{name}: costs out of bounds")
                continue
            derived = hash_secret_raw(secret, salt, passes, memory, lanes, 64, Type.ID, 0x13)
        else:
            context = "holdfast v1 key-file slot" if kind == 1 else "holdfast v1 recovery slot"
            derived = blake3(secret + salt, derive_key_context=context).digest(length=64)
        if derived[32:] != commitment:
            continue
        aad = b"holdfast v1 key slot" + copy_zero(header.raw) + record_bytes
        try:
            return AESGCM(derived[:32]).decrypt(bytes(12), sealed, aad)
        except InvalidTag:
            finding(f"{name}: the secret is right, the slot is not")
    sys.exit("The secret opens no key slot.")


def copy_zero(header):
    return header[:20] + bytes(2) + header[22:]


# ---------------------------------------------------------------- records of packs and index [9] [10] [11]

Blob = namedtuple("Blob", "kind id start span generation sequence stored raw")
Pack = namedtuple("Pack", "id copy stored blobs offsets chunks")
Head = namedtuple("Head", "version generation parent parent_bytes plain_bytes literal_bytes spaces slices proof")


def read_table(record):
    """Blobs and chunks of a pack's table."""
    ids = record.list(record.id)
    blobs = []
    for _ in range(record.uint()):
        meta, number = record.uint(), record.uint()
        start = span = generation = sequence = 0
        if meta == 0:
            start = record.uint()
        elif meta == 1:
            generation = record.uint()
        elif meta == 2:
            generation, sequence = record.uint(), record.uint()
        elif meta == 3:
            start, span = record.uint(), record.uint()
        else:
            raise Damaged(f"{record.what}: unknown kind of blob {meta}")
        kind = SPARSE if meta == 3 else meta + 1
        stored, raw = record.uint(), record.uint()
        blobs.append(Blob(kind, ids[number], start, raw if meta == 0 else span, generation, sequence, stored, raw))
    chunks = record.list(lambda: (record.digest(), ids[record.uint()], record.uint(), record.uint()))
    return blobs, chunks


def read_sparse(raw, blob, what):
    """[9]: the pieces of a sparse segment as (offset, bytes)."""
    count, at = leb128(raw, 0)
    places, offset = [], blob.start
    for number in range(count):
        gap, at = leb128(raw, at)
        length, at = leb128(raw, at)
        if length == 0 or (number and gap == 0):
            raise Damaged(f"{what}: a piece is empty or touches another")
        offset += gap
        places.append((offset, length))
        offset += length
    if not places or offset > blob.start + blob.span or at + sum(p[1] for p in places) != len(raw):
        raise Damaged(f"{what}: its pieces do not add up")
    pieces = []
    for offset, length in places:
        pieces.append((offset, raw[at:at + length]))
        at += length
    return pieces


def pack_of(pack_id, copy, stored, blobs, chunks):
    offsets, at = [], 64
    for blob in blobs:
        offsets.append(at)
        at += blob.stored
    return Pack(pack_id, copy, stored, blobs, offsets, chunks)


def read_head(raw, what):
    r = Record(raw, what)
    version, generation = r.id(), r.uint()
    parent, parent_bytes = r.option(r.id), r.uint()
    _depth, _chain_bytes, _flat_runs = r.uint(), r.uint(), r.uint()
    plain_bytes, literal_bytes = r.uint(), r.uint()
    spaces = r.list(r.id)
    slices = r.list(lambda: (r.uint(), r.uint()))
    kind = r.uint()
    proof = (kind, r.digest(), r.list(r.digest) if kind == 0 else None)
    r.list(r.uint)
    r.list(lambda: (r.text(), r.bytes()))
    r.end()
    if sum(s[0] for s in slices) != plain_bytes or sum(s[1] for s in slices) != literal_bytes:
        raise Damaged(f"{what}: the slices do not add up")
    return Head(version, generation, parent, parent_bytes, plain_bytes, literal_bytes, spaces, slices, proof)


def leb128(data, at):
    value = shift = 0
    while True:
        if at >= len(data) or shift > 63:
            raise Damaged("a number is cut off or too long")
        value |= (data[at] & 0x7F) << shift
        at += 1
        if data[at - 1] < 0x80:
            if value > MASK64:
                raise Damaged("a number is too large")
            return value, at
        shift += 7


class Column:
    def __init__(self, data):
        self.data, self.at = data, 0

    def next(self):
        value, self.at = leb128(self.data, self.at)
        return value

    def done(self):
        return self.at == len(self.data)


OWN, PARENT = "own", "parent"


def read_slice(raw, head, dst, lit, plain_bytes, literal_bytes, what):
    """Runs (destination, length, space or PARENT, source) of a slice."""
    columns, at = [], 0
    for _ in range(5):
        raw_length, at = leb128(raw, at)
        stored, at = leb128(raw, at)
        if raw_length > 40960 or at + stored > len(raw):
            raise Damaged(f"{what}: a column is too long")
        columns.append(Column(decompress(raw[at:at + stored], raw_length, what)))
        at += stored
    if at != len(raw):
        raise Damaged(f"{what}: bytes after the last column")
    tokens, moves, literals, copies, foreigns = columns
    end, literal_end = dst + plain_bytes, lit + literal_bytes
    diagonal, cursors, runs = 0, {}, []
    while not tokens.done():
        token = tokens.next()
        if token == 0:
            length = literals.next()
            space, source = head.version, lit
            lit += length
        elif token == 1:
            diagonal = (diagonal + unzigzag(moves.next())) & MASK64
            space, source, length = PARENT, (dst + diagonal) & MASK64, copies.next()
            if head.parent is None or source + length > head.parent_bytes:
                raise Damaged(f"{what}: a copy leaves the parent")
        else:
            k = token - 2
            if k >= len(head.spaces):
                raise Damaged(f"{what}: a space that the head does not name")
            source = (cursors.get(k, 0) + unzigzag(moves.next())) & MASK64
            space, length = head.spaces[k], foreigns.next()
            cursors[k] = source + length
        if not 1 <= length <= 1 << 30:
            raise Damaged(f"{what}: a run of {length} bytes")
        runs.append((dst, length, space, source))
        dst += length
    if len(runs) > 4096 or (dst, lit) != (end, literal_end) or not all(c.done() for c in columns):
        raise Damaged(f"{what}: the runs do not add up")
    return runs


# ---------------------------------------------------------------- [15] snapshots


def read_snapshot(r):
    snapshot = {"id": r.id().hex(), "time": r.int(), "time_zone": r.text(), "started": r.int(), "finished": r.int()}
    snapshot["system"] = [r.text() for _ in range(5)]
    snapshot.update({"class": r.option(r.text), "tags": r.list(r.text), "imported": r.bool()})
    snapshot["suspect"] = r.option(r.text)
    snapshot["git"] = r.option(lambda: (r.text(), r.text(), r.bool()))
    snapshot.update({"project_root": r.option(r.text), "scope": r.list(r.text)})
    snapshot["sources"] = r.list(lambda: read_source(r))
    snapshot["heads"] = r.list(lambda: (r.id().hex(), r.digest().hex()))
    snapshot["stored_bytes"] = r.uint()
    snapshot["extensions"] = r.list(lambda: (r.text(), r.bytes()))
    r.end()
    return snapshot


def read_source(r):
    source = {"name": r.text(), "kind": ("files", "postgres", "sqlite", "command", "stdin")[r.uint()]}
    source.update({"location": r.text(), "failure": r.option(r.text), "streams": r.list(lambda: read_stream(r))})
    source.update({"reader": r.text(), "server": r.option(r.text), "tables": r.list(lambda: (r.text(), r.uint()))})
    source["files"] = r.option(lambda: [r.uint() for _ in range(10)])
    source["warnings"] = r.list(lambda: (r.text(), r.text(), r.text(), r.bool()))
    source.update({"live_bytes": r.option(r.uint), "duration_ms": r.uint()})
    return source


def read_stream(r):
    stream = {"role": ("content", "tree", "data", "globals", "identities")[r.uint()], "file_name": r.text(), "version": r.id()}
    stream.update({"plain_bytes": r.uint(), "blake3": r.digest(), "sha256": r.option(r.digest)})
    stream.update({"added_bytes": r.uint(), "volatile": r.list(lambda: (r.uint(), r.uint(), r.text()))})
    return stream


# ---------------------------------------------------------------- [13] stream hash

IV = (0x6A09E667, 0xBB67AE85, 0x3C6EF372, 0xA54FF53A, 0x510E527F, 0x9B05688C, 0x1F83D9AB, 0x5BE0CD19)
PERMUTATION = (2, 6, 3, 10, 7, 0, 4, 13, 1, 11, 12, 5, 9, 14, 15, 8)
CHUNK_START, CHUNK_END, PARENT_NODE, ROOT = 1, 2, 4, 8


def compress(value, block, counter, length, flags):
    """BLAKE3's compression function, first eight words of its output. `value` and `block` are lists of words."""
    def mix(a, b, c, d, x, y):
        for rotate_d, rotate_b, word in ((16, 12, x), (8, 7, y)):
            v[a] = (v[a] + v[b] + word) & 0xFFFFFFFF
            w = v[d] ^ v[a]
            v[d] = (w >> rotate_d | w << (32 - rotate_d)) & 0xFFFFFFFF
            v[c] = (v[c] + v[d]) & 0xFFFFFFFF
            w = v[b] ^ v[c]
            v[b] = (w >> rotate_b | w << (32 - rotate_b)) & 0xFFFFFFFF

    v = [*value, *IV[:4], counter & 0xFFFFFFFF, counter >> 32, length, flags]
    m = list(block)
    for step in range(7):
        mix(0, 4, 8, 12, m[0], m[1])
        mix(1, 5, 9, 13, m[2], m[3])
        mix(2, 6, 10, 14, m[4], m[5])
        mix(3, 7, 11, 15, m[6], m[7])
        mix(0, 5, 10, 15, m[8], m[9])
        mix(1, 6, 11, 12, m[10], m[11])
        mix(2, 7, 8, 13, m[12], m[13])
        mix(3, 4, 9, 14, m[14], m[15])
        if step < 6:
            m = [m[PERMUTATION[i]] for i in range(16)]
    return [v[i] ^ v[i + 8] for i in range(8)]


def words(data):
    return struct.unpack(f"<{len(data) // 4}I", data)


def largest_left(count):
    """The largest power of two that leaves at least one for the right."""
    return 1 << (count - 1).bit_length() - 1


def join(values, flags=0):
    """The value of the subtree over chaining values; `flags` is ROOT for the topmost."""
    if len(values) == 1:
        return values[0]
    split = largest_left(len(values))
    block = words(join(values[:split]) + join(values[split:]))
    return struct.pack("<8I", *compress(IV, block, 0, 64, PARENT_NODE | flags))


def subtree(data, first_chunk):
    """Chaining value of up to 1 MiB that begins with a given chunk number, never as root. Slow: pure Python."""
    values = []
    for number, at in enumerate(range(0, len(data), 1024)):
        chunk, value = data[at:at + 1024], IV
        blocks = [chunk[i:i + 64] for i in range(0, len(chunk), 64)]
        for index, block in enumerate(blocks):
            flags = (CHUNK_START if index == 0 else 0) | (CHUNK_END if index == len(blocks) - 1 else 0)
            value = compress(value, words(block.ljust(64, b"\0")), first_chunk + number, len(block), flags)
        values.append(struct.pack("<8I", *value))
    return join(values)


# ---------------------------------------------------------------- the repository


class Repository:
    def __init__(self, path, secret_kind, secret):
        self.path = path
        configs = [c for c in (self.try_config("config", 0), self.try_config("config.copy", 1)) if c]
        if not configs:
            sys.exit(f"There is no configuration that can be read in {path}.")
        header, body = max(configs, key=lambda c: c[0].suite)
        self.id, suite = header.repository, header.suite
        if suite == 0:
            root = blake3(self.id, derive_key_context="holdfast v1 public root").digest()
        elif secret is None:
            sys.exit("The repository is encrypted: give --password-file or --key-file.")
        else:
            root = root_key(self.slots(), secret_kind, secret, self.id)
        self.keys = Keys(root, self.id, suite)
        for header, body in configs:
            mac = blake3(b"holdfast v1 config" + copy_zero(header.raw) + body[32:], key=self.keys.mac).digest()
            if mac != body[:32]:
                sys.exit("The configuration is not authentic.")
        self.load_index()
        self.segment_cache, self.head_cache, self.flat_cache = {}, {}, {}

    def get(self, name):
        try:
            with open(os.path.join(self.path, name), "rb") as file:
                return file.read()
        except FileNotFoundError:
            raise Missing(f"{name}: missing") from None

    def names(self, folder):
        return sorted(os.listdir(os.path.join(self.path, folder)))

    def try_config(self, name, copy):
        try:
            header, body = open_object(self.get(name), name, CONFIG, copy=copy)
            record = Record(body[32:], name)
            suite, created, made_by = record.uint(), record.int(), record.text()
            chunker, target = [record.uint() for _ in range(4)], record.uint()
            record.list(lambda: (record.text(), record.bytes()))
            record.end()
            if suite != header.suite or suite > 1 or header.object_id != header.repository:
                raise Damaged(f"{name}: contradicts itself")
            self.facts = {"suite": suite, "created": created, "made_by": made_by, "chunker": chunker, "pack": target}
            return header, body
        except Damaged as error:
            finding(error)
            return None

    def slots(self):
        found = []
        for name in self.names("keys"):
            slot_id, copy = bytes.fromhex(name.removesuffix(".copy")), int(name.endswith(".copy"))
            try:
                header, body = open_object(self.get(f"keys/{name}"), f"keys/{name}", KEY_SLOT, self.id, slot_id, copy)
                found.append((f"keys/{name}", header, body))
            except Damaged as error:
                finding(error)
        return found

    def load_index(self):
        """[10]: packs, and where versions' records and literal spaces are."""
        bodies, superseded, self.packs = {}, set(), {}
        for name in self.names("index"):
            what, index_id = f"index/{name}", bytes.fromhex(name)
            try:
                header, body = open_object(self.get(what), what, INDEX, self.id, index_id)
                r = self.keys.open_record(self.keys.index, header, body, INDEX_BODY, 0, what)
                superseded.update(r.list(r.id))
                packs = r.list(lambda: pack_of(r.id(), r.u8(), r.uint(), *read_table(r)))
                r.end()
                bodies[index_id] = packs
            except Damaged as error:
                finding(error)
        for index_id, packs in bodies.items():
            if index_id not in superseded:
                self.packs.update((pack.id, pack) for pack in packs)
        self.heads, self.slices, self.spaces = {}, {}, {}
        for pack in self.packs.values():
            for ordinal, blob in enumerate(pack.blobs):
                place = (pack.copy, pack.id, ordinal)
                if blob.kind == HEAD:
                    self.heads.setdefault(blob.id, {}).setdefault(blob.generation, []).append(place)
                elif blob.kind == SLICE:
                    self.slices.setdefault((blob.id, blob.generation, blob.sequence), []).append(place)
                else:
                    self.spaces.setdefault(blob.id, []).append((blob.start, blob.start + blob.span, place))
        for parts in self.spaces.values():
            parts.sort()

    def blob(self, place):
        _, pack_id, ordinal = place
        pack = self.packs[pack_id]
        blob, name = pack.blobs[ordinal], pack_name(pack_id)
        what = f"{name} blob {ordinal}"
        try:
            with open(os.path.join(self.path, name), "rb") as file:
                file.seek(pack.offsets[ordinal])
                sealed = file.read(blob.stored)
        except FileNotFoundError:
            raise Missing(f"{name}: missing") from None
        key = self.keys.data if blob.kind in (SEGMENT, SPARSE) else self.keys.meta
        return self.keys.open(key, pack_id, ordinal, blob.kind, blob.raw, sealed, what)

    def pieces(self, place):
        """The literal bytes of a blob as (offset, bytes)."""
        _, pack_id, ordinal = place
        blob = self.packs[pack_id].blobs[ordinal]
        raw = self.blob(place)
        if blob.kind == SEGMENT:
            return [(blob.start, raw)]
        return read_sparse(raw, blob, f"{pack_name(pack_id)} blob {ordinal}")

    def first_good(self, places, what, decode=lambda raw: raw):
        """From copy 0 if it is good, else from the others."""
        failure = None
        for place in sorted(places):
            try:
                result = decode(self.blob(place))
                if failure:
                    finding(failure)
                return result
            except Damaged as error:
                failure = failure or error
        raise failure or Missing(f"{what}: missing")

    def head(self, version):
        if version not in self.head_cache:
            what = f"version {version.hex()}"
            generations = self.heads.get(version)
            if not generations:
                raise Missing(f"{what}: missing")
            whole = [number for number, places in generations.items() if {0, 1} <= {place[0] for place in places}]
            newest = max(whole or generations)
            head = self.first_good(generations[newest], what, lambda raw: read_head(raw, what))
            if (head.version, head.generation) != (version, newest):
                raise Damaged(f"{what}: another record")
            self.head_cache[version] = head
        return self.head_cache[version]

    def runs(self, head):
        """All runs of a record."""
        what, dst, lit, runs = f"version {head.version.hex()}", 0, 0, []
        for number, (plain_bytes, literal_bytes) in enumerate(head.slices):
            places = self.slices.get((head.version, head.generation, number), [])
            runs += self.first_good(
                places, f"{what} slice {number}",
                lambda raw: read_slice(raw, head, dst, lit, plain_bytes, literal_bytes, what))
            dst, lit = dst + plain_bytes, lit + literal_bytes
        return runs

    def flat(self, version):
        """[12]: runs over literal spaces only, composed from the bottom of the chain upwards."""
        chain, seen = [], set()
        while version is not None and version not in self.flat_cache:
            head = self.head(version)
            if version in seen or len(chain) >= 4096:
                raise Damaged(f"version {version.hex()}: its chain does not end")
            seen.add(version)
            chain.append(head)
            if head.parent is not None and self.head(head.parent).plain_bytes != head.parent_bytes:
                raise Damaged(f"version {version.hex()}: its parent has another length")
            version = head.parent
        flat = self.flat_cache.get(version, [])
        for head in reversed(chain):
            starts = [run[0] for run in flat]
            result = []
            for dst, length, space, source in self.runs(head):
                if space is not PARENT:
                    result.append((dst, length, space, source))
                    continue
                at, position, end = bisect.bisect_right(starts, source) - 1, source, source + length
                while position < end:
                    low_dst, low_length, low_space, low_source = flat[at]
                    take = min(low_dst + low_length, end) - position
                    result.append((dst, take, low_space, low_source + position - low_dst))
                    position, dst, at = position + take, dst + take, at + 1
            flat = self.flat_cache[head.version] = result
        return flat

    def literal(self, space, offset):
        """The bytes of a space around an offset: (first offset, bytes)."""
        failure = None
        for start, end, place in sorted(self.spaces.get(space, []), key=lambda part: part[2]):
            if not start <= offset < end:
                continue
            try:
                if place not in self.segment_cache:
                    if len(self.segment_cache) >= 64:
                        self.segment_cache.clear()
                    self.segment_cache[place] = self.pieces(place)
                pieces = self.segment_cache[place]
            except Damaged as error:
                failure = failure or error
                continue
            at = bisect.bisect_right([piece[0] for piece in pieces], offset) - 1
            if at >= 0 and offset < pieces[at][0] + len(pieces[at][1]):
                if failure:
                    finding(failure)
                return pieces[at]
        raise failure or Missing(f"byte {offset} of space {space.hex()}: missing")

    def read(self, version, first=0, end=None):
        """The bytes [first, end) of a version, in pieces."""
        head, flat = self.head(version), self.flat(version)
        end = head.plain_bytes if end is None else end
        if end > head.plain_bytes:
            raise Damaged(f"version {version.hex()}: too short")
        at = max(bisect.bisect_right([run[0] for run in flat], first) - 1, 0)
        while first < end:
            dst, length, space, source = flat[at]
            stop = min(dst + length, end)
            while first < stop:
                offset = source + first - dst
                start, data = self.literal(space, offset)
                piece = data[offset - start:offset - start + stop - first]
                yield piece
                first += len(piece)
            at += 1

    def check_proof(self, version, hashed):
        """[13]: the hash of the whole stream, and the values of its MiBs as far as they follow from each other."""
        kind, root, leaves = self.head(version).proof
        if kind != 0:
            return
        if hashed != root:
            raise Damaged(f"version {version.hex()}: another hash")
        count = -(-self.head(version).plain_bytes // MIB)
        joined = leaves[0] if count == 1 and leaves else join(leaves, ROOT) if leaves else root
        if len(leaves) != count or joined != root:
            raise Damaged(f"version {version.hex()}: the values of its MiBs do not give its hash")

    def snapshots(self):
        found = []
        for name in self.names("snapshots"):
            if self.is_forgotten(name):
                continue
            record = None
            for copy, part in ((0, "snapshot"), (1, "snapshot.copy")):
                what = f"snapshots/{name}/{part}"
                try:
                    header, body = open_object(self.get(what), what, SNAPSHOT, self.id, bytes.fromhex(name), copy)
                    r = self.keys.open_record(self.keys.meta, header, body, SNAPSHOT_RECORD, copy, what)
                    decoded = read_snapshot(r)
                    if decoded["id"] != name:
                        raise Damaged(f"{what}: another snapshot")
                    record = record or decoded
                except Damaged as error:
                    finding(error)
            if record:
                found.append(record)
        return sorted(found, key=lambda s: (s["time"], s["id"]))

    def is_forgotten(self, name):
        """[24] A tombstone that cannot be read hides nothing."""
        what = f"forgotten/{name}"
        if not os.path.exists(os.path.join(self.path, what)):
            return False
        try:
            header, body = open_object(self.get(what), what, TOMBSTONE, self.id, bytes.fromhex(name), 0)
            r = self.keys.open_record(self.keys.meta, header, body, TOMBSTONE_RECORD, 0, what)
            if r.id().hex() != name:
                raise Damaged(f"{what}: about another snapshot")
            r.digest(), r.int(), r.int(), [r.text() for _ in range(4)]
            r.end()
            return True
        except Damaged as error:
            finding(error)
            return False

    def check_objects(self):
        """Every byte of every object: envelope, tables, blobs, chunk ids, session parts."""
        count = 0
        for folder, part_kinds in (("snapshots", True), ("sessions", True), ("fenced", True), ("packs", False)):
            base = os.path.join(self.path, folder)
            for name in self.names(folder) if os.path.isdir(base) else []:
                for part in self.names(f"{folder}/{name}"):
                    what = f"{folder}/{name}/{part}"
                    count += 1
                    try:
                        if part_kinds:
                            self.check_session_part(what, bytes.fromhex(name), part)
                        else:
                            self.check_pack(what, bytes.fromhex(part))
                    except Damaged as error:
                        finding(error)
        count += sum(1 for _ in self.acts())
        for pack_id in self.packs:
            if not os.path.exists(os.path.join(self.path, pack_name(pack_id))):
                finding(f"{pack_name(pack_id)}: missing")
        return count

    def acts(self):
        """[26] The entries of all acts, by name."""
        base = os.path.join(self.path, "acts")
        for name in sorted(os.listdir(base)) if os.path.isdir(base) else []:
            act, _, number = name.partition(".")
            if len(act) != 32 or set(act) - set("0123456789abcdef") or len(number) != 4 or not number.isdecimal():
                continue
            what = f"acts/{name}"
            try:
                header, body = open_object(self.get(what), what, ACT, self.id, bytes.fromhex(act), 0)
                r = self.keys.open_record(self.keys.meta, header, body, ACT_ENTRY, int(number), what)
                if (r.id().hex(), r.uint()) != (act, int(number)):
                    raise Damaged(f"{what}: another entry")
                entry = {"act": act, "sequence": int(number), "kind": r.text(), "time": r.int(), "host": r.text(),
                         "user": r.text(), "process": r.uint(), "mark": r.text(), "finished": r.bool()}
                entry["body"] = json.loads(r.text())
                r.end()
                yield entry
            except Damaged as error:
                finding(error)

    def check_session_part(self, what, session, part):
        kinds = {"start": (SESSION_START, 0), "saw": (SESSION_SAW, 1)}
        if part not in kinds:
            return
        kind, ordinal = kinds[part]
        header, body = open_object(self.get(what), what, kind, self.id, session)
        r = self.keys.open_record(self.keys.meta, header, body, SESSION_PART, ordinal, what)
        if part == "start":
            if r.id() != session:
                raise Damaged(f"{what}: another session")
            r.text(), r.uint(), r.int(), r.list(r.text)
        else:
            r.list(r.id)
        r.end()

    def check_pack(self, what, pack_id):
        data = self.get(what)
        header, _ = open_object(data, what, PACK, self.id, pack_id)
        offset, stored, raw_length, zero = struct.unpack("<QIII", data[-68:-48])
        if zero or any(data[offset + stored:-68]) or padme(len(data)) != len(data):
            raise Damaged(f"{what}: wrong trailer or padding")
        sealed = data[offset:offset + stored]
        raw = self.keys.open(self.keys.index, pack_id, TABLE_ORDINAL, TABLE, raw_length, sealed, what)
        record = Record(raw, what)
        pack = pack_of(pack_id, header.copy, len(data), *read_table(record))
        record.end()
        if pack.offsets and pack.offsets[-1] + pack.blobs[-1].stored != offset:
            raise Damaged(f"{what}: gaps between blobs")
        if pack_id in self.packs and self.packs[pack_id] != pack:
            raise Damaged(f"{what}: the index says something else")
        known = pack_id in self.packs
        self.packs[pack_id] = pack
        segments = []
        for ordinal, blob in enumerate(pack.blobs):
            if blob.kind in (SEGMENT, SPARSE):
                segments += [(blob.id, at, part) for at, part in self.pieces((pack.copy, pack_id, ordinal))]
            else:
                self.blob((pack.copy, pack_id, ordinal))
        for chunk_id, space, start, length in pack.chunks:
            plain = b"".join(
                data[max(start - at, 0):start + length - at]
                for name, at, data in sorted(segments) if name == space and at < start + length and start < at + len(data))
            if len(plain) != length or blake3(plain, key=self.keys.chunk_id).digest() != chunk_id:
                raise Damaged(f"{what}: a chunk is not what its id says")
        if not known:
            del self.packs[pack_id]


def pack_name(pack_id):
    return f"packs/{pack_id.hex()[:2]}/{pack_id.hex()}"


def padme(length):
    if length < 2:
        return length
    exponent = length.bit_length() - 1
    bits = (exponent.bit_length() - 1 if exponent > 1 else 0) + 1
    step = 1 << max(exponent - bits, 0)
    return -(-length // step) * step


# ---------------------------------------------------------------- [14] files

Entry = namedtuple("Entry", "path kind mode uid gid mtime xattrs rest")


class TreeNode(Record):
    """Numbers of a tree node are LEB128."""

    def uint(self):
        start = self.at
        value, self.at = leb128(self.data, self.at)
        if self.at - start > 1 and self.data[self.at - 1] == 0:
            raise Damaged("a number that is longer than it needs to be")
        return value

    def text(self):
        length = self.uint()
        return None if length == 0 else self.take(length - 1).decode("utf-8")

    def time(self):
        zigzag, nanoseconds = self.uint(), self.uint()
        time = ((zigzag >> 1) ^ -(zigzag & 1)) * 10**9 + nanoseconds
        if nanoseconds >= 10**9 or not -2**63 <= time < 2**63:
            raise Damaged("a time that cannot be")
        return time


def read_tree(data):
    """The entries of a tree; paths are components from the top."""
    if data[:1] != b"\x01":
        raise Damaged("tree: unknown version")
    at, open_folders, last_names = 1, [], [b""]
    while last_names:
        length, at = leb128(data, at)
        if length == 0:
            last_names.pop()
            if open_folders:
                open_folders.pop()
            continue
        node = TreeNode(data[at:at + length], "tree")
        at += length
        kind, name = node.u8(), node.bytes()
        mode = struct.unpack("<H", node.take(2))[0]
        uid, gid, _user, _group = node.uint(), node.uint(), node.text(), node.text()
        xattrs = node.list(lambda: (node.bytes(), node.bytes()))
        mtime = node.time()
        rest = None
        if kind == 1:
            rest = read_file(node)
        elif kind in (3, 4):
            rest = node.bytes()
        elif kind in (7, 8):
            rest = (node.uint(), node.uint())
        elif kind not in (2, 5, 6):
            raise Damaged(f"tree: unknown kind of entry {kind}")
        node.end()
        if kind == 2 and name == b"":
            yield Entry([], kind, mode, uid, gid, mtime, xattrs, rest)
            continue
        if name in (b"", b".", b"..") or b"/" in name or b"\0" in name or name <= last_names[-1]:
            raise Damaged(f"tree: the name {name!r} may not stand here")
        last_names[-1] = name
        yield Entry([*open_folders, name], kind, mode, uid, gid, mtime, xattrs, rest)
        if kind == 2:
            open_folders.append(name)
            last_names.append(b"")
    if at != len(data):
        raise Damaged("tree: bytes after the end")


def read_file(node):
    """(size, hash, extents or None, torn)"""
    flags = node.u8()
    if flags > 3:
        raise Damaged("tree: unknown flags")
    size, digest = node.uint(), node.digest()
    extents, end = None, 0
    if flags & 1:
        extents = []
        for _ in range(node.uint()):
            start = end + node.uint()
            end = start + node.uint()
            extents.append((start, end - start))
    return size, digest, extents, bool(flags & 2)


def restore_files(repository, source, target):
    streams = {stream["role"]: stream for stream in source["streams"]}
    tree = b"".join(repository.read(streams["tree"]["version"]))
    repository.check_proof(streams["tree"]["version"], blake3(tree).digest())
    content = streams["content"]["version"]
    offset, root, folders = 0, blake3(), []
    for entry in read_tree(tree):
        path = os.path.join(os.fsencode(target), *entry.path)
        if entry.kind == 1:
            _size, digest, extents, _ = entry.rest
            length = entry.rest[0] if extents is None else sum(n for _, n in extents)
            root.update(struct.pack("<Q", length) + digest)
            write_file(repository, content, offset, length, entry, path)
            offset += length
        elif entry.kind == 2:
            if entry.path:
                os.mkdir(path, 0o700)
            folders.append((path, entry))
        elif entry.kind == 3:
            os.symlink(entry.rest, path)
        elif entry.kind == 4:
            os.link(os.path.join(os.fsencode(target), entry.rest.lstrip(b"/")), path, follow_symlinks=False)
        elif entry.kind == 5:
            os.mkfifo(path, 0o600)
        elif entry.kind == 6:
            print(f"not restored: socket {path!r}", file=sys.stderr)
            continue
        elif os.geteuid() == 0:
            node_type = stat.S_IFCHR if entry.kind == 7 else stat.S_IFBLK
            os.mknod(path, 0o600 | node_type, os.makedev(*entry.rest))
        else:
            print(f"not restored: device {path!r}", file=sys.stderr)
            continue
        if entry.kind not in (2, 4):
            set_metadata(path, entry)
    for path, entry in reversed(folders):
        set_metadata(path, entry)
    if offset != streams["content"]["plain_bytes"] or offset != repository.head(content).plain_bytes:
        raise Damaged(f"source {source['name']}: tree and contents do not fit together")
    proof = repository.head(content).proof
    if not proof[0] == 1 or not proof[1] == root.digest() == streams["content"]["blake3"]:
        raise Damaged(f"source {source['name']}: the hash over all files is another")


def write_file(repository, content, offset, length, entry, path):
    size, digest, extents, _torn = entry.rest
    hashed, pieces = blake3(), repository.read(content, offset, offset + length)
    places = [(0, size)] if extents is None else list(extents)
    with open(path, "xb") as file:
        position, left = (places[0] if places else (0, 0))
        at = 0
        for piece in pieces:
            hashed.update(piece)
            while piece:
                while left == 0:
                    at += 1
                    position, left = places[at]
                now = piece[:left]
                file.seek(position)
                file.write(now)
                position, left, piece = position + len(now), left - len(now), piece[len(now):]
        file.truncate(size)
    if hashed.digest() != digest:
        os.unlink(path)
        finding(f"{path!r}: its contents do not have the recorded hash")


def set_metadata(path, entry):
    if not os.path.lexists(path):
        return
    link = stat.S_ISLNK(os.lstat(path).st_mode)
    if os.geteuid() == 0:
        os.chown(path, entry.uid, entry.gid, follow_symlinks=False)
    if not link:
        os.chmod(path, entry.mode)
    for name, value in entry.xattrs:
        try:
            os.setxattr(path, name, value, follow_symlinks=False)
        except OSError as error:
            print(f"not restored: attribute {name!r} of {path!r}: {error}", file=sys.stderr)
    os.utime(path, ns=(entry.mtime, entry.mtime), follow_symlinks=False)


# ---------------------------------------------------------------- commands


def restore_stream(repository, stream, path):
    hashed, sha256, length = blake3(), hashlib.sha256(), 0
    try:
        with open(path, "xb") as file:
            for piece in repository.read(stream["version"]):
                hashed.update(piece)
                sha256.update(piece)
                length += len(piece)
                file.write(piece)
        repository.check_proof(stream["version"], hashed.digest())
        proved = (hashed.digest(), sha256.digest(), length)
        if proved != (stream["blake3"], stream["sha256"], stream["plain_bytes"]):
            raise Damaged(f"{path}: not what the snapshot says")
    except Damaged:
        os.unlink(path)  # nothing that is not what was saved stays under its name
        raise


def restore(repository, which, target, only):
    snapshots = repository.snapshots()
    chosen = snapshots[-1:] if which == "latest" else [s for s in snapshots if s["id"].startswith(which)]
    if len(chosen) != 1:
        sys.exit(f"{len(chosen)} snapshots are called {which}.")
    os.mkdir(target, 0o700)
    for source in chosen[0]["sources"]:
        if only not in (None, source["name"]) or source["failure"] is not None:
            continue
        try:
            if source["kind"] == "files":
                restore_files(repository, source, target)
                continue
            for stream in source["streams"]:
                restore_stream(repository, stream, os.path.join(target, stream["file_name"]))
        except Damaged as error:
            finding(error)
    print(chosen[0]["id"])


def check(repository):
    """Every object in full, and every stream of every snapshot against its proof."""
    objects = repository.check_objects()
    versions = {}
    for snapshot in repository.snapshots():
        for source in snapshot["sources"]:
            for stream in source["streams"]:
                versions[stream["version"]] = stream
    slow = True
    for version, stream in versions.items():
        try:
            data = b"".join(repository.read(version))
            repository.check_proof(version, blake3(data).digest())
            leaves = repository.head(version).proof[2]
            if slow and leaves and len(leaves) > 1:
                # One value of a MiB is enough to show that the document says right what they are.
                last = len(leaves) - 1
                if subtree(data[last * MIB:], last * 1024) != leaves[last]:
                    raise Damaged(f"version {version.hex()}: another value for its last MiB")
                slow = False
        except Damaged as error:
            finding(error)
    depth = max((chain_length(repository, version) for version in versions), default=0)
    print(f"{objects} objects, {len(versions)} versions, longest chain {depth}, {len(FINDINGS)} findings")


def chain_length(repository, version):
    length = 0
    try:
        while version is not None:
            length, version = length + 1, repository.head(version).parent
    except Damaged:
        pass
    return length


def list_snapshots(repository):
    for snapshot in repository.snapshots():
        print(json.dumps(snapshot, default=lambda value: value.hex()))


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("repository")
    parser.add_argument("--password-file")
    parser.add_argument("--key-file")
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("list")
    commands.add_parser("check")
    commands.add_parser("acts")
    restoring = commands.add_parser("restore")
    restoring.add_argument("snapshot")
    restoring.add_argument("target")
    restoring.add_argument("--source")
    given = parser.parse_args()
    kind, secret = 0, None
    if given.password_file:
        with open(given.password_file, "rb") as file:
            secret = file.read().split(b"\n", 1)[0]
    elif given.key_file:
        with open(given.key_file, encoding="utf-8") as file:
            kind, secret = secret_from_file(file.read())
    repository = Repository(given.repository, kind, secret)
    if given.command == "list":
        list_snapshots(repository)
    elif given.command == "check":
        check(repository)
    elif given.command == "acts":
        for entry in repository.acts():
            print(json.dumps(entry))
    else:
        restore(repository, given.snapshot, given.target, given.source)
    sys.exit(13 if FINDINGS else 0)


if __name__ == "__main__":
    main()
