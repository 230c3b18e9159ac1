#pragma once
#include <sqlite3.h>

#include <functional>
#include <string>

// A SQLite VFS that does what the default one does, except where a test says otherwise. Only one at a time.
class FaultVfs {
public:
    enum class Op { read, write, sync, truncate };
    // The result code that the call is to fail with, or SQLITE_OK to let it through. A sync that fails has done nothing.
    using Fault = std::function<int(Op, bool is_wal)>;

    FaultVfs() {
        active() = this;
        vfs_.iVersion = 2;
        vfs_.szOsFile = static_cast<int>(sizeof(File)) + base()->szOsFile;
        vfs_.mxPathname = base()->mxPathname;
        vfs_.zName = name();
        vfs_.xOpen = open;
        vfs_.xDelete = [](sqlite3_vfs*, const char* path, int sync) { return base()->xDelete(base(), path, sync); };
        vfs_.xAccess = [](sqlite3_vfs*, const char* path, int flags, int* out) {
            return base()->xAccess(base(), path, flags, out);
        };
        vfs_.xFullPathname = [](sqlite3_vfs*, const char* path, int size, char* out) {
            return base()->xFullPathname(base(), path, size, out);
        };
        vfs_.xRandomness = [](sqlite3_vfs*, int size, char* out) { return base()->xRandomness(base(), size, out); };
        vfs_.xSleep = [](sqlite3_vfs*, int micros) { return base()->xSleep(base(), micros); };
        vfs_.xCurrentTime = [](sqlite3_vfs*, double* out) { return base()->xCurrentTime(base(), out); };
        vfs_.xGetLastError = [](sqlite3_vfs*, int size, char* out) { return base()->xGetLastError(base(), size, out); };
        vfs_.xCurrentTimeInt64 = [](sqlite3_vfs*, sqlite3_int64* out) {
            return base()->xCurrentTimeInt64(base(), out);
        };
        sqlite3_vfs_register(&vfs_, 0);
    }
    ~FaultVfs() { sqlite3_vfs_unregister(&vfs_); }
    FaultVfs(const FaultVfs&) = delete;
    FaultVfs& operator=(const FaultVfs&) = delete;

    static const char* name() { return "kv-fault"; }

    Fault fault;

    // The next call of that kind fails with `code`, those after it do not.
    void fail_once(Op op, bool is_wal, int code) {
        fault = [this, op, is_wal, code](Op asked, bool asked_wal) {
            if (asked != op || asked_wal != is_wal) return SQLITE_OK;
            fault = {};
            return code;
        };
    }
    void fail_always(int code) {
        fault = [code](Op, bool) { return code; };
    }

private:
    struct File {
        sqlite3_file head;
        bool is_wal;
        sqlite3_file* real() { return reinterpret_cast<sqlite3_file*>(this + 1); }
    };

    static FaultVfs*& active() {
        static FaultVfs* vfs = nullptr;
        return vfs;
    }
    static sqlite3_vfs* base() { return sqlite3_vfs_find("unix"); }
    static sqlite3_file* real(sqlite3_file* file) { return reinterpret_cast<File*>(file)->real(); }
    static int check(Op op, sqlite3_file* file) {
        const Fault asked = active()->fault;  // a copy: it may replace itself
        return asked ? asked(op, reinterpret_cast<File*>(file)->is_wal) : SQLITE_OK;
    }

    static int open(sqlite3_vfs*, const char* path, sqlite3_file* file, int flags, int* out) {
        file->pMethods = nullptr;
        auto* ours = reinterpret_cast<File*>(file);
        ours->is_wal = (flags & SQLITE_OPEN_WAL) != 0;
        const int code = base()->xOpen(base(), path, ours->real(), flags, out);
        if (code == SQLITE_OK) file->pMethods = methods();
        return code;
    }

    static const sqlite3_io_methods* methods() {
        static const sqlite3_io_methods all = make_methods();
        return &all;
    }
    static sqlite3_io_methods make_methods() {
        sqlite3_io_methods m{};
        m.iVersion = 2;
        m.xClose = [](sqlite3_file* f) { return real(f)->pMethods->xClose(real(f)); };
        m.xRead = [](sqlite3_file* f, void* data, int size, sqlite3_int64 at) {
            if (const int code = check(Op::read, f)) return code;
            return real(f)->pMethods->xRead(real(f), data, size, at);
        };
        m.xWrite = [](sqlite3_file* f, const void* data, int size, sqlite3_int64 at) {
            if (const int code = check(Op::write, f)) return code;
            return real(f)->pMethods->xWrite(real(f), data, size, at);
        };
        m.xTruncate = [](sqlite3_file* f, sqlite3_int64 size) {
            if (const int code = check(Op::truncate, f)) return code;
            return real(f)->pMethods->xTruncate(real(f), size);
        };
        m.xSync = [](sqlite3_file* f, int flags) {
            if (const int code = check(Op::sync, f)) return code;
            return real(f)->pMethods->xSync(real(f), flags);
        };
        m.xFileSize = [](sqlite3_file* f, sqlite3_int64* out) { return real(f)->pMethods->xFileSize(real(f), out); };
        m.xLock = [](sqlite3_file* f, int level) { return real(f)->pMethods->xLock(real(f), level); };
        m.xUnlock = [](sqlite3_file* f, int level) { return real(f)->pMethods->xUnlock(real(f), level); };
        m.xCheckReservedLock = [](sqlite3_file* f, int* out) {
            return real(f)->pMethods->xCheckReservedLock(real(f), out);
        };
        m.xFileControl = [](sqlite3_file* f, int op, void* arg) {
            return real(f)->pMethods->xFileControl(real(f), op, arg);
        };
        m.xSectorSize = [](sqlite3_file* f) { return real(f)->pMethods->xSectorSize(real(f)); };
        m.xDeviceCharacteristics = [](sqlite3_file* f) { return real(f)->pMethods->xDeviceCharacteristics(real(f)); };
        m.xShmMap = [](sqlite3_file* f, int page, int size, int extend, void volatile** out) {
            return real(f)->pMethods->xShmMap(real(f), page, size, extend, out);
        };
        m.xShmLock = [](sqlite3_file* f, int offset, int n, int flags) {
            return real(f)->pMethods->xShmLock(real(f), offset, n, flags);
        };
        m.xShmBarrier = [](sqlite3_file* f) { real(f)->pMethods->xShmBarrier(real(f)); };
        m.xShmUnmap = [](sqlite3_file* f, int erase) { return real(f)->pMethods->xShmUnmap(real(f), erase); };
        return m;
    }

    sqlite3_vfs vfs_{};
};
