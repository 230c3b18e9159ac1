"""The search itself: a secret is found in every form, encoded here by other means than the search uses."""

import base64
import binascii
import html
import json
import struct
import subprocess
import sys
import unittest
import urllib.parse

from needles import Needles

TEXT = "Nadel/im 'Heu'<&>\"ö\\ß€ 𝄞 end"
BINARY = bytes(range(200, 232)) + b"\0\xff\x80"


class Search(unittest.TestCase):
    def found(self, hay, data=TEXT.encode()):
        needles = Needles()
        needles.add("it", data)
        return {form for _, form, _ in needles.find(hay)}

    def test_nothing_is_found_where_nothing_is(self):
        for hay in (b"", b"\0" * 1000, TEXT.encode()[:-1] + b"x", base64.b64encode(TEXT.encode()[1:] + b"other"), bytes(range(256)) * 4):
            self.assertEqual(self.found(hay), set())

    def test_as_it_is(self):
        self.assertIn("raw", self.found(b"x" + TEXT.encode() + b"y"))
        self.assertIn("raw", self.found(b"x" + BINARY + b"y", BINARY))

    def test_hex(self):
        for text in (TEXT.encode(), BINARY):
            around = binascii.hexlify(b"before" + text + b"after")
            for hay in (around, around.upper(), " ".join(f"{b:02x}" for b in text).encode(), ":".join(f"{b:02x}" for b in text).encode(), "".join(f"\\x{b:02X}" for b in text).encode()):
                self.assertIn("hex", self.found(hay, text))

    def test_base64_wherever_it_stands(self):
        for before in range(7):
            for after in range(4):
                for text in (TEXT.encode(), BINARY):
                    whole = b"\xa5" * before + text + b"\x5a" * after
                    self.assertIn("base64", self.found(b"!" + binascii.b2a_base64(whole), text), (before, after))
                    self.assertIn("base64url", self.found(binascii.b2a_base64(whole).translate(bytes.maketrans(b"+/", b"-_")), text), (before, after))

    def test_json(self):
        for hay in (json.dumps({"a": TEXT}), json.dumps({"a": TEXT}, ensure_ascii=False), json.dumps([json.dumps(TEXT)]), json.dumps(TEXT).replace("/", "\\/"),
                    "".join("\\u%04x" % unit for unit in struct.unpack("<%dH" % (len(TEXT.encode("utf-16-le")) // 2), TEXT.encode("utf-16-le")))):
            self.assertIn("text", self.found(hay.encode()), hay)

    def test_utf_16_case_html_sql(self):
        for hay in (("x" + TEXT).encode("utf-16"), TEXT.encode("utf-16-be"), TEXT.upper().encode(), TEXT.lower().encode(), html.escape(TEXT).encode(), TEXT.replace("'", "''").encode(),
                    "".join("&#%d;" % ord(c) for c in TEXT).encode()):
            self.assertIn("text", self.found(hay), hay)

    def test_url(self):
        for hay in (urllib.parse.urlencode({"q": TEXT}), urllib.parse.quote(TEXT), urllib.parse.quote(TEXT, safe=""), "".join("%%%02x" % b for b in TEXT.encode())):
            self.assertIn("url", self.found(hay.encode()), hay)

    def test_reversed_and_escaped(self):
        self.assertIn("reversed", self.found(bytes(reversed(BINARY)), BINARY))
        shell = subprocess.run([sys.executable, "-c", "import sys; sys.stdout.write(repr(sys.stdin.buffer.read()))"], input=b"\x01\xfe" * 8 + b"abc", stdout=subprocess.PIPE, check=True).stdout
        self.assertIn("escaped", self.found(shell, b"\x01\xfe" * 8 + b"abc"))
        self.assertIn("escaped", self.found(b"\\001\\376" * 8 + b"abc", b"\x01\xfe" * 8 + b"abc"))

    def test_numbers(self):
        needles = Needles()
        number = 918273645546372819
        needles.add_number("n", number)
        for hay in (f'{{"value":{number}}}', f"{float(number)!r}", f"{float(number):.16e}", f"{float(number):f}"):
            self.assertTrue(needles.find(hay.encode()), hay)
        for hay in (number.to_bytes(8, "little"), number.to_bytes(8, "big"), struct.pack("d", float(number)), base64.b64encode(b"v=%d;" % number)):
            self.assertTrue(needles.find(b"xyz" + hay), hay)
        self.assertEqual(needles.find(str(number + 10 ** 14).encode()), [])


if __name__ == "__main__":
    unittest.main()
