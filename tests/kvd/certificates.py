"""Certificates for tests, made by openssl: authorities, and what they vouch for."""

import os
import subprocess


def openssl(*arguments, **options):
    return subprocess.run(["openssl", *arguments], check=True, capture_output=True, text=True, timeout=60, **options)


class Authority:
    """Certificates in a folder, each with a key: path("server.crt"), path("server.key")."""

    def __init__(self, folder, name="ca"):
        self.folder, self.name = folder, name
        openssl("req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-subj", f"/CN={name}", "-days", "30",
                "-keyout", self.path(name + ".key"), "-out", self.file,
                "-addext", "basicConstraints=critical,CA:TRUE", "-addext", "keyUsage=critical,keyCertSign")

    def path(self, name):
        return os.path.join(self.folder, name)

    @property
    def file(self):
        return self.path(self.name + ".crt")

    def issue(self, name, *alternatives, usage="serverAuth", days=30, key="P-256", starts=None, ends=None):
        """A certificate called `name` with subject alternative names like "IP:127.0.0.1". `ends`: 20200101000000Z, in the past perhaps."""
        kind = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:" + key] if key.startswith("P-") else ["-newkey", "rsa:" + key]
        openssl("req", *kind, "-nodes", "-subj", f"/CN={name}", "-keyout", self.path(name + ".key"), "-out", self.path(name + ".csr"))
        os.chmod(self.path(name + ".key"), 0o600)
        extensions = f"extendedKeyUsage={usage}\nbasicConstraints=CA:FALSE\n" + (f"subjectAltName={','.join(alternatives)}\n" if alternatives else "")
        with open(self.path(name + ".ext"), "w", encoding="ascii") as file:
            file.write(extensions)
        common = ["-in", self.path(name + ".csr"), "-out", self.path(name + ".crt"), "-extfile", self.path(name + ".ext")]
        if ends is None:
            openssl("x509", "-req", "-CA", self.file, "-CAkey", self.path(self.name + ".key"), "-days", str(days), *common)
        else:
            database = self.path("database")
            open(database, "w", encoding="ascii").close()
            with open(self.path("ca.cnf"), "w", encoding="ascii") as file:
                file.write(f"[ca]\ndefault_ca=x\n[x]\ndatabase={database}\nnew_certs_dir={self.folder}\nrand_serial=yes\ndefault_md=sha256\n"
                           "policy=p\nunique_subject=no\n[p]\ncommonName=supplied\n")
            openssl("ca", "-batch", "-config", self.path("ca.cnf"), "-cert", self.file, "-keyfile", self.path(self.name + ".key"),
                    "-startdate", starts or "20200101000000Z", "-enddate", ends, "-notext", *common)
        return self.path(name + ".crt"), self.path(name + ".key")
