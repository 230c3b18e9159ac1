"""A connection to PostgreSQL for tests, over libpq as kvd has it. It takes and gives what Python's sqlite3 does, so that one
test edits rows on either: `?` for parameters, an id as its 16 bytes whatever its column is, a truth as 0 or 1, a time in microseconds since 1970.
"""

import ctypes
import datetime
import re
import uuid

OK = 0                 # of a connection
COMMAND_OK, TUPLES_OK = 1, 2
IDLE = 0               # of a transaction
BOOL, BYTEA, UUID, TIME, FLOATS, INTEGERS = 16, 17, 2950, 1184, (700, 701), (20, 21, 23, 26)
BEGINNING = datetime.datetime(1970, 1, 1, tzinfo=datetime.timezone.utc)
MICROSECOND = datetime.timedelta(microseconds=1)


def load():
    pq = ctypes.CDLL("libpq.so.5")
    handle, text, number = ctypes.c_void_p, ctypes.c_char_p, ctypes.c_int
    for result, name, *arguments in (
            (handle, "PQconnectdb", text), (None, "PQfinish", handle), (number, "PQstatus", handle), (text, "PQerrorMessage", handle), (number, "PQtransactionStatus", handle),
            (number, "PQbackendPID", handle), (handle, "PQexec", handle, text), (handle, "PQprepare", handle, text, text, number, handle), (handle, "PQdescribePrepared", handle, text),
            (handle, "PQexecPrepared", handle, text, number, ctypes.POINTER(text), handle, handle, number),
            (number, "PQresultStatus", handle), (text, "PQresultErrorMessage", handle), (text, "PQresultErrorField", handle, number), (None, "PQclear", handle),
            (number, "PQnparams", handle), (ctypes.c_uint, "PQparamtype", handle, number),
            (number, "PQntuples", handle), (number, "PQnfields", handle), (text, "PQfname", handle, number), (ctypes.c_uint, "PQftype", handle, number), (number, "PQgetisnull", handle, number, number),
            (text, "PQgetvalue", handle, number, number), (text, "PQcmdTuples", handle)):
        function = getattr(pq, name)
        function.restype, function.argtypes = result, arguments
    return pq


PQ = load()


class Failure(Exception):
    """What the server, or libpq, said. `state` is the SQLSTATE, if there is one."""

    def __init__(self, text, state=""):
        super().__init__(text.strip())
        self.state = state


class Rows(list):
    """What a statement gave. `rowcount`: how many rows it changed or gave."""

    def __init__(self, rows, names, rowcount):
        super().__init__(rows)
        self.names = names
        self.rowcount = rowcount
        self.left = iter(self)

    def fetchone(self):
        return next(self.left, None)

    def fetchall(self):
        return list(self.left)


def spoken(value, kind):
    """A parameter as text of its type."""
    if value is None:
        return None
    if isinstance(value, (bytes, bytearray, memoryview)):
        value = bytes(value)
        return (value.hex() if kind == UUID else "\\x" + value.hex()).encode()
    if isinstance(value, bool):
        value = int(value)
    if isinstance(value, int) and kind == TIME:
        value = (BEGINNING + value * MICROSECOND).isoformat()
    return str(value).encode()


def heard(text, kind):
    if kind == BOOL:
        return int(text == b"t")
    if kind == BYTEA:
        return bytes.fromhex(text[2:].decode())
    if kind == UUID:
        return uuid.UUID(text.decode()).bytes
    if kind == TIME:
        return (datetime.datetime.fromisoformat(text.decode()) - BEGINNING) // MICROSECOND
    if kind in INTEGERS:
        return int(text)
    return float(text) if kind in FLOATS else text.decode()


class Database:
    """One connection. What is executed is committed by commit(), or at once if `autocommit`."""

    def __init__(self, url, autocommit=False):
        self.autocommit = autocommit
        self.connection = PQ.PQconnectdb(url.encode())
        if PQ.PQstatus(self.connection) != OK:
            text = PQ.PQerrorMessage(self.connection).decode()
            self.close()
            raise Failure(text)
        self.script("set client_min_messages = error; set client_encoding = 'UTF8'; set timezone = 'UTC'; set datestyle = 'ISO'")

    def __enter__(self):
        return self

    def __exit__(self, kind, *_):
        if kind is None and not self.autocommit:
            self.commit()
        self.close()

    def close(self):
        if self.connection:
            PQ.PQfinish(self.connection)
            self.connection = None

    @property
    def pid(self):
        """The id of the server's process."""
        return PQ.PQbackendPID(self.connection)

    def taken(self, result):
        if PQ.PQresultStatus(result) not in (COMMAND_OK, TUPLES_OK):
            state = PQ.PQresultErrorField(result, ord("C"))
            text = PQ.PQresultErrorMessage(result) or PQ.PQerrorMessage(self.connection)
            PQ.PQclear(result)
            raise Failure(text.decode(), state.decode() if state else "")
        return result

    def script(self, text):
        """Statements without parameters: the rows of the last one."""
        return self.rows_of(self.taken(PQ.PQexec(self.connection, text.encode())))

    def execute(self, text, parameters=()):
        if not self.autocommit and PQ.PQtransactionStatus(self.connection) == IDLE:
            self.script("begin")
        if not parameters:
            return self.script(text)
        numbers = iter(range(1, len(parameters) + 1))
        numbered = re.sub(r"\?", lambda _: f"${next(numbers)}", text)
        PQ.PQclear(self.taken(PQ.PQprepare(self.connection, b"", numbered.encode(), 0, None)))
        described = self.taken(PQ.PQdescribePrepared(self.connection, b""))
        kinds = [PQ.PQparamtype(described, number) for number in range(PQ.PQnparams(described))]
        PQ.PQclear(described)
        values = (ctypes.c_char_p * len(kinds))(*(spoken(value, kind) for value, kind in zip(parameters, kinds, strict=True)))
        return self.rows_of(self.taken(PQ.PQexecPrepared(self.connection, b"", len(kinds), values, None, None, 0)))

    def rows_of(self, result):
        width = PQ.PQnfields(result)
        kinds = [PQ.PQftype(result, column) for column in range(width)]
        names = [PQ.PQfname(result, column).decode() for column in range(width)]

        def cell(row, column):
            return None if PQ.PQgetisnull(result, row, column) else heard(PQ.PQgetvalue(result, row, column), kinds[column])

        rows = [tuple(cell(row, column) for column in range(width)) for row in range(PQ.PQntuples(result))]
        count = PQ.PQcmdTuples(result)
        PQ.PQclear(result)
        return Rows(rows, names, int(count) if count else -1)

    def commit(self):
        if PQ.PQtransactionStatus(self.connection) != IDLE:
            self.script("commit")

    def rollback(self):
        if PQ.PQtransactionStatus(self.connection) != IDLE:
            self.script("rollback")


def ask(url, text, parameters=()):
    """One statement on a connection of its own: its rows."""
    with Database(url, autocommit=True) as database:
        return database.execute(text, parameters)


def value(url, text, parameters=()):
    """The one value that a query gives."""
    return ask(url, text, parameters)[0][0]
