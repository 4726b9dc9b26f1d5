#!/usr/bin/env python3
"""The known answers of src/format/seal/tests.rs, computed once more from docs/format.md, sections 4 and 5, with other libraries.

    vectors.py [TESTS.rs]

The libraries prove themselves first by published vectors: BLAKE3's own, and AES-256-GCM's of McGrew and Viega. Exit code 1: one differs.
"""

import os
import re
import struct
import sys

from blake3 import blake3
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

ROOT, REPOSITORY, OBJECT = bytes([0x42]) * 32, bytes([0x11]) * 16, bytes([3]) * 16
ORDINAL, KIND, RAW_LENGTH, TEXT = 7, 2, 100, b"holdfast"
found = []


def same(name, computed, expected):
    found.append(computed == expected)
    print(f"{name}: {'equal' if computed == expected else f'{computed} is not {expected}'}")


def published():
    friend = b"whats the Elvish word for friend"
    same("BLAKE3", blake3(b"").hexdigest(), "af1349b9f5f9a1a6a0404dea36dcc9499bcb25c9adc112b7cc9a93cae41f3262")
    same("BLAKE3 keyed", blake3(b"", key=friend).hexdigest(), "92b2b75604ed3c761f9d6f62392c8a9227ad0ea3f09573e783f1498a4ed60d26")
    context = "BLAKE3 2019-12-27 16:29:52 test vectors context"
    same("BLAKE3 derive_key", blake3(b"", derive_key_context=context).hexdigest(),
         "2cc39783c223154fea8dfb7c1b1660f2ac2dcbd1c1de8277b0b0dd39b7e50d7d")
    same("AES-256-GCM", AESGCM(bytes(32)).encrypt(bytes(12), bytes(16), b"").hex(),
         "cea7403d4d606b6e074ec5d3baf39d18d0d1c8a799996bf0265b98b5d48ab919")


def key(purpose, root=ROOT):
    return blake3(root, derive_key_context=f"holdfast v1 {purpose}").digest()


def blob(suite, root):
    context = struct.pack("<H16s16sIBIH", 1, REPOSITORY, OBJECT, ORDINAL, KIND, RAW_LENGTH, suite)
    whole = blake3(context + TEXT, key=key("siv", root)).digest()
    siv, rest = whole[:16], whole[16:]
    if suite == 0:
        return siv + TEXT + rest
    blob_key = blake3(OBJECT + struct.pack("<IB", ORDINAL, KIND) + siv, key=key("data", root)).digest()
    return siv + AESGCM(blob_key).encrypt(bytes(12), TEXT, context)


def main():
    default = os.path.join(os.path.dirname(__file__), "../../src/format/seal/tests.rs")
    with open(sys.argv[1] if len(sys.argv) > 1 else default, encoding="utf-8") as file:
        text = file.read()
    known = dict(re.findall(r'const (KNOWN_\w+): &str = "([0-9a-f]+)"', text))
    gear = tuple(int(n, 16) for n in re.search(r"KNOWN_GEAR: \(u64, u64\) = \(0x(\w+), 0x(\w+)\)", text).groups())
    published()
    public = blake3(REPOSITORY, derive_key_context="holdfast v1 public root").digest()
    same("chunk id", blake3(TEXT, key=key("chunk-id")).hexdigest(), known["KNOWN_CHUNK_ID"])
    same("blob of suite 1", blob(1, ROOT).hex(), known["KNOWN_BLOB"])
    same("blob of suite 0", blob(0, public).hex(), known["KNOWN_PUBLIC_BLOB"])
    same("mac", blake3(TEXT, key=key("mac")).hexdigest(), known["KNOWN_MAC"])
    same("sketch key", key("sketch").hex(), known["KNOWN_SKETCH_KEY"])
    table = struct.unpack("<256Q", blake3(b"gear", key=key("chunker")).digest(length=2048))
    same("gear table", (table[0], table[255]), gear)
    sys.exit(0 if all(found) and len(found) == 10 else 1)


main()
