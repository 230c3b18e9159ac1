"""Finds text that should be nowhere, in whatever way it may have been written down."""

import base64
import hashlib
import html
import json
import struct
import urllib.parse


def base64_parts(data, encode=base64.b64encode):
    """What of the base64 of any text stays the same wherever in it `data` stands: one part for each way it may lie."""
    parts = []
    for before in range(3):
        text = encode(b"\0" * before + data)
        first = (before * 8 + 5) // 6  # characters that what stands before has a share in
        last = (before + len(data)) * 8 // 6  # those that what follows has none in
        parts.append(text[first:last])
    return parts


def escaped_bytes(data, form):
    """Bytes outside printable ASCII as an escape, as logs and literals have them."""
    return b"".join(bytes([byte]) if 0x20 <= byte < 0x7f else (form % byte).encode() for byte in data)


def json_forms(text):
    ascii_form, plain_form = json.dumps(text)[1:-1], json.dumps(text, ensure_ascii=False)[1:-1]
    upper = "".join(f"\\u{ord(c):04X}" if ord(c) > 126 and ord(c) < 0x10000 else json.dumps(c)[1:-1] for c in text)
    units = struct.unpack(f">{len(text.encode('utf-16-be')) // 2}H", text.encode("utf-16-be"))
    every = "".join(f"\\u{unit:04x}" for unit in units)
    every_upper = "".join(f"\\u{unit:04X}" for unit in units)
    slashes = ascii_form.replace("/", "\\/")
    twice = json.dumps(ascii_form)[1:-1]
    return [form.encode() for form in (ascii_form, plain_form, upper, every, every_upper, slashes, twice)]


def url_forms(data):
    every = "".join(f"%{byte:02X}" for byte in data)
    forms = [urllib.parse.quote(data), urllib.parse.quote(data, safe=""), urllib.parse.quote_plus(data), every, every.lower()]
    lower = "".join(chr(b) if chr(b).isalnum() and b < 128 or chr(b) in "-._~" else f"%{b:02x}" for b in data)
    return [form.encode() for form in (*forms, lower)]


def hex_forms(data):
    low = data.hex()
    return [form.encode() for form in (low, low.upper(), data.hex(" "), data.hex(":"), data.hex(" ").upper(), "".join(f"\\x{b:02x}" for b in data), "".join(f"\\x{b:02X}" for b in data))]


def text_forms(text):
    entities = "".join(f"&#{ord(c)};" for c in text)
    changed = [text.upper(), text.lower(), text[::-1], html.escape(text), html.escape(text).replace("&#x27;", "&#39;"), entities, text.replace("'", "''")]
    return [form.encode() for form in changed] + [text.encode("utf-16-le"), text.encode("utf-16-be")] + json_forms(text)


def encodings(data):
    """Every way of writing `data` that is looked for: name -> byte strings."""
    forms = {"raw": [data], "hex": hex_forms(data), "base64": base64_parts(data), "base64url": base64_parts(data, base64.urlsafe_b64encode), "url": url_forms(data),
             "reversed": [data[::-1]], "escaped": [escaped_bytes(data, "\\x%02x"), escaped_bytes(data, "\\x%02X"), escaped_bytes(data, "\\%03o")]}
    try:
        forms["text"] = text_forms(data.decode())
    except UnicodeDecodeError:
        pass
    return forms


def number_forms(number):
    """Of a whole number of 15 digits or more: as text and as machines hold it."""
    digits = str(number)
    forms = encodings(digits.encode())
    forms["float"] = [digits[:14].encode(), (digits[0] + "." + digits[1:14]).encode()]
    forms["machine"] = [struct.pack(order, number) for order in ("<q", ">q", "<d", ">d")]
    return forms


class Needles:
    """Secrets by name. find() tells which of them, in which form, stand in some bytes."""

    page = 1 << 14

    def __init__(self):
        self.forms = {}  # bytes -> name, form: each is looked for once
        self.clean = set()  # hashes of pages in which nothing was found: files are looked at again and again

    def add(self, name, data):
        assert len(data) >= 12, "a shorter one might be found by accident"
        self.add_forms(name, encodings(data))

    def add_number(self, name, number):
        self.add_forms(name, number_forms(number))

    def add_forms(self, name, forms):
        for form, several in forms.items():
            for one in several:
                if len(one) >= 8:
                    self.forms.setdefault(one, (name, form))
        self.clean.clear()

    def find(self, data):
        """(name, form, where) of everything found."""
        found = set()
        overlap = max(map(len, self.forms))
        for start in range(0, len(data), self.page):
            page = data[start:start + self.page + overlap]
            mark = hashlib.blake2b(page, digest_size=16).digest()
            if mark in self.clean:
                continue
            here = {(name, form, start + page.index(one)) for one, (name, form) in self.forms.items() if one in page}
            if not here:
                self.clean.add(mark)
            found |= here
        return sorted(found)
