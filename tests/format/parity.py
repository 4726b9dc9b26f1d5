#!/usr/bin/env python3
"""Parity of packs, read with docs/format.md, section 27, alone; needs no key.

    parity.py REPOSITORY heal PACK OUT     the whole pack PACK (32 hex digits) from what there is of it
    parity.py REPOSITORY check             every parity object against its pack

Exit code 13: something is damaged. Clear rather than fast: for tests and emergencies.
"""

import os
import struct
import sys

from blake3 import blake3

CARD = struct.Struct("<8s16sQIIII16s")
BASIS = [int(b, 16) for b in "0001 ACCA 3C0E 163E C582 ED2E 914C 4012 6C98 10D8 6A72 B900 FDB8 FB34 FF38 991E".split()]


class Unhealable(Exception):
    """Too much is damaged, or it is no parity of this pack."""


# ---------------------------------------------------------------- the field

def element(word):
    result = 0
    for bit, basis in enumerate(BASIS):
        if word >> bit & 1:
            result ^= basis
    return result


def make_tables():
    exp, log, value = [0] * 131070, [0] * 65536, 1
    for power in range(65535):
        exp[power] = exp[power + 65535] = value
        log[value] = power
        value <<= 1
        if value >> 16:
            value ^= 0x1002D
    assert value == 1, "x generates all elements but zero"
    return exp, log


EXP, LOG = make_tables()
ELEMENT = [element(word) for word in range(65536)]
WORD = [0] * 65536
for _word, _element in enumerate(ELEMENT):
    WORD[_element] = _word


def times(a, b):
    return EXP[LOG[a] + LOG[b]] if a and b else 0


def inverse(matrix):
    """Gauss-Jordan."""
    size = len(matrix)
    rows = [row[:] + [int(i == k) for k in range(size)] for i, row in enumerate(matrix)]
    for column in range(size):
        pivot = next(i for i in range(column, size) if rows[i][column])
        rows[column], rows[pivot] = rows[pivot], rows[column]
        factor = EXP[65535 - LOG[rows[column][column]]]
        rows[column] = [times(factor, value) for value in rows[column]]
        for i in range(size):
            factor = rows[i][column]
            if i != column and factor:
                rows[i] = [value ^ times(factor, other) for value, other in zip(rows[i], rows[column])]
    return [row[size:] for row in rows]


def words(data):
    """The elements of a shard."""
    for block in range(0, len(data), 64):
        for t in range(32):
            yield ELEMENT[data[block + t] | data[block + 32 + t] << 8]


def to_bytes(elements):
    out = bytearray(2 * len(elements))
    for n, value in enumerate(elements):
        word, at = WORD[value], n // 32 * 64 + n % 32
        out[at], out[at + 32] = word & 255, word >> 8
    return bytes(out)


def powers(place, count):
    result, value = [], 1
    for _ in range(count):
        result.append(value)
        value = times(value, ELEMENT[place])
    return result


def decode(rows, shards, length):
    """All shards from those that are there; both lists have None where something is missing."""
    first = 1 << max(len(rows) - 1, 0).bit_length()
    symbols = rows + [None] * (first - len(rows)) + shards
    unknown = [place for place, symbol in enumerate(symbols) if symbol is None]
    if not any(shard is None for shard in shards):
        return shards
    if len(unknown) > first:
        raise Unhealable("too few rows are whole")
    known = {place: list(words(symbol)) for place, symbol in enumerate(symbols) if symbol is not None}
    count = len(unknown)
    solve = inverse([[powers(place, count)[j] for place in unknown] for j in range(count)])
    weights = {place: powers(place, count) for place in known}
    found = {place: [] for place in unknown if place >= first}
    for at in range(length // 2):
        sums = [0] * count
        for place, symbol in known.items():
            value = symbol[at]
            if value:
                for j, weight in enumerate(weights[place]):
                    sums[j] ^= times(weight, value)
        for row, place in zip(solve, unknown):
            if place in found:
                result = 0
                for factor, value in zip(row, sums):
                    result ^= times(factor, value)
                found[place].append(result)
    return [shard if shard is not None else to_bytes(found[first + n]) for n, shard in enumerate(shards)]


# ---------------------------------------------------------------- objects

class Parity:
    def __init__(self, data, pack_id):
        self.rows, self.shape = {}, None
        for at in range(64, len(data), 64):
            row = self.row(data, at, pack_id)
            if row and (self.shape is None or self.shape == row[0]):
                self.shape, number, coded, piece = row
                self.rows[number] = (coded, piece)
        if self.shape is None:
            raise Unhealable("no row of its parity is whole")

    @staticmethod
    def row(data, at, pack_id):
        card = data[at:at + 64]
        if len(card) < 64 or card[:8] != b"HFPARITY":
            return None
        _, found, length, shard, rows, number, zero, checksum = CARD.unpack(card)
        if found != pack_id or zero or not length or not shard or shard % 64 or shard > 4 << 20 or number >= rows:
            return None
        pieces, shards = -(-rows // 2), -(-length // shard)
        piece = -(-(-(-16 * shards // pieces)) // 64) * 64
        body = data[at + 64:at + 64 + shard + piece]
        if len(body) != shard + piece or blake3(card[:48] + body).digest()[:16] != checksum:
            return None
        return (length, shard, rows, pieces, shards, piece), number, body[:shard], body[shard:]

    def list(self, which):
        return [self.rows[r][which] if r in self.rows else None for r in range(self.shape[2])]

    def sums(self):
        pieces, shards, piece = self.shape[3:]
        data = b"".join(decode(self.list(1), [None] * pieces, piece))
        return [data[16 * n:16 * n + 16] for n in range(shards)]

    def heal(self, pack):
        length, size, rows, _, count, _ = self.shape
        padded = pack[:length] + bytes(size * count - length) if len(pack) >= length else pack
        shards = [padded[n * size:(n + 1) * size] for n in range(count)]
        shards = [s if len(s) == size and blake3(s).digest()[:16] == sum else None for s, sum in zip(shards, self.sums())]
        if sum(shard is None for shard in shards) > len(self.rows):
            raise Unhealable("more shards are damaged than rows are whole")
        return b"".join(decode(self.list(0), shards, size))[:length]

    def check(self, pack):
        """All rows whole, and the first and last of them coded as the document says, from the sums and the pack."""
        length, size, rows, _, count, _ = self.shape
        if len(self.rows) != rows or length != len(pack):
            raise Unhealable("not all rows are whole, or they are of a pack of another length")
        padded = pack + bytes(size * count - length)
        shards = [padded[n * size:(n + 1) * size] for n in range(count)]
        if [blake3(shard).digest()[:16] for shard in shards] != self.sums():
            raise Unhealable("its sums are not those of the pack")
        # one block of every shard, made again with as many erasures as there are rows
        blocks = [row[:64] for row in self.list(0)]
        erased = [None if n < rows else shard[:64] for n, shard in enumerate(shards)]
        if decode(blocks, erased, 64) != [shard[:64] for shard in shards]:
            raise Unhealable("its rows are not those of the pack")


def read(repository, folder, pack_id):
    try:
        with open(os.path.join(repository, folder, pack_id[:2], pack_id), "rb") as file:
            return file.read()
    except FileNotFoundError:
        return b""


def packs_with_parity(repository):
    for folder, _, names in sorted(os.walk(os.path.join(repository, "parity"))):
        for name in sorted(names):
            if len(name) == 32 and os.path.basename(folder) == name[:2] and not set(name) - set("0123456789abcdef"):
                yield name


def main():
    repository, command = sys.argv[1:3]
    failed = False
    if command == "heal":
        pack_id, out = sys.argv[3:5]
        healed = Parity(read(repository, "parity", pack_id), bytes.fromhex(pack_id)).heal(read(repository, "packs", pack_id))
        with open(out, "wb") as file:
            file.write(healed)
        return
    count = 0
    for pack_id in packs_with_parity(repository):
        count += 1
        try:
            Parity(read(repository, "parity", pack_id), bytes.fromhex(pack_id)).check(read(repository, "packs", pack_id))
        except Unhealable as error:
            print(f"damaged: parity of {pack_id}: {error}", file=sys.stderr)
            failed = True
    print(f"{count} parity objects")
    sys.exit(13 if failed else 0)


if __name__ == "__main__":
    try:
        main()
    except Unhealable as error:
        sys.exit(f"it cannot be healed: {error}")
