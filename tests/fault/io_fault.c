// Stands between a program and its files. Loaded with LD_PRELOAD it counts the calls that change files in one folder, and
// lets the calls that a test picks fail, fall short, or be the last thing the process does.
//
//   IO_FAULT_FOLDER    a path: files whose absolute path begins with it count
//   IO_FAULT_CONTROL   a file that holds a struct control; the test maps it too, and steers by it
//   IO_FAULT_JOURNAL   a file that every call is appended to, with what it wrote (optional)
//
// Calls are counted across all threads, in the order in which they are made: one lock is held from the count to the end
// of the call. Standard input and output of the C library go around it (it writes with calls of its own).
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#define PUBLIC __attribute__((visibility("default")))

enum kind { kind_write = 1, kind_sync = 2, kind_truncate = 4, kind_allocate = 8, kind_open = 16, kind_unlink = 32, kind_rename = 64 };

enum action {
    action_none = 0,
    action_fail = 1,         // the call does nothing and fails
    action_short = 2,        // a write writes half and says so; with an error set, the calls picked after the first one fail with it
    action_kill_before = 3,  // the process ends, by SIGKILL
    action_kill_half = 4,    // after half of the write
    action_kill_after = 5,
};

enum { name_size = 24, records_max = 8192, descriptors_max = 65536 };

struct record {
    uint32_t kind;
    uint32_t size;
    char name[name_size];  // of the file, without the folder
};

// io_fault.py knows this layout.
struct control {
    _Atomic uint64_t calls;  // of the kinds asked for
    _Atomic uint64_t hits;   // of them, those that an action was done to
    _Atomic uint64_t first;  // calls from this one on, counted from 1; 0: none
    _Atomic uint64_t last;   // up to this one
    _Atomic uint32_t action;
    _Atomic uint32_t error;
    _Atomic uint32_t kinds;
    _Atomic uint32_t is_loaded;
    struct record records[records_max];  // of the first calls
};

struct verdict {
    int is_counted;
    enum action action;
    int error;
};

static struct control* control;
static char folder[4096];
static int journal = -1;
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static char* names[descriptors_max];  // of the files in the folder, by descriptor

#define REAL(name) ((__typeof__(&name))real(#name))

static void* real(const char* name) {
    void* found = dlsym(RTLD_NEXT, name);
    if (!found) abort();
    return found;
}

__attribute__((constructor)) static void load(void) {
    const char* under = getenv("IO_FAULT_FOLDER");
    const char* steer = getenv("IO_FAULT_CONTROL");
    const char* record = getenv("IO_FAULT_JOURNAL");
    if (!under || !steer || strlen(under) >= sizeof folder) return;
    strcpy(folder, under);
    const int file = REAL(open)(steer, O_RDWR | O_CLOEXEC);
    if (file < 0) abort();
    void* mapped = mmap(NULL, sizeof *control, PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
    REAL(close)(file);
    if (mapped == MAP_FAILED) abort();
    if (record) journal = REAL(open)(record, O_WRONLY | O_APPEND | O_CREAT | O_CLOEXEC, 0600);
    control = mapped;
    atomic_store(&control->is_loaded, 1);
}

static const char* name_in_folder(const char* path) {
    const size_t size = strlen(folder);
    if (!control || !path || strncmp(path, folder, size) != 0) return NULL;
    return path[size] == '/' ? path + size + 1 : path + size;
}

static const char* name_of(int descriptor) {
    return control && descriptor >= 0 && descriptor < descriptors_max ? names[descriptor] : NULL;
}

static void remember(int descriptor, const char* path) {
    const char* name = name_in_folder(path);
    if (descriptor < 0 || descriptor >= descriptors_max) return;
    free(names[descriptor]);
    names[descriptor] = name ? strdup(name) : NULL;
}

static void note(uint64_t number, enum kind kind, const char* name, uint64_t size) {
    if (number > records_max) return;
    struct record* record = &control->records[number - 1];
    record->kind = kind;
    record->size = (uint32_t)size;
    strncpy(record->name, name, name_size - 1);
}

// Counts a call, with the lock held, and tells what is to be done to it.
static struct verdict judge(enum kind kind, const char* name, uint64_t size) {
    struct verdict verdict = {0, action_none, 0};
    if (!name || !(atomic_load(&control->kinds) & kind)) return verdict;
    verdict.is_counted = 1;
    const uint64_t number = atomic_fetch_add(&control->calls, 1) + 1;
    note(number, kind, name, size);
    const uint64_t first = atomic_load(&control->first);
    if (first == 0 || number < first || number > atomic_load(&control->last)) return verdict;
    atomic_fetch_add(&control->hits, 1);
    verdict.action = atomic_load(&control->action);
    verdict.error = (int)atomic_load(&control->error);
    if (verdict.action == action_short && verdict.error != 0 && number > first) verdict.action = action_fail;
    if (verdict.action == action_short && kind != kind_write) verdict.action = verdict.error != 0 ? action_fail : action_none;
    return verdict;
}

static void end_process(void) {
    kill(getpid(), SIGKILL);
    for (;;) pause();
}

// kind, offset, size, length of the name; then the name and the data.
static void keep(enum kind kind, const char* name, uint64_t offset, uint64_t size, const void* data) {
    if (journal < 0) return;
    const uint64_t head[4] = {kind, offset, size, strlen(name)};
    const size_t total = sizeof head + head[3] + (data ? size : 0);
    char* bytes = malloc(total);
    if (!bytes) abort();
    memcpy(bytes, head, sizeof head);
    memcpy(bytes + sizeof head, name, head[3]);
    if (data) memcpy(bytes + sizeof head + head[3], data, size);
    if (REAL(write)(journal, bytes, total) != (ssize_t)total) abort();
    free(bytes);
}

// ---- calls that write ----

struct write_call {
    int descriptor;
    const void* data;
    size_t size;
    off64_t offset;  // -1: where the file stands
};

static ssize_t do_write(const struct write_call* call, size_t size) {
    if (call->offset < 0) return REAL(write)(call->descriptor, call->data, size);
    return REAL(pwrite64)(call->descriptor, call->data, size, call->offset);
}

static ssize_t write_or_not(const struct write_call* call) {
    const char* name = name_of(call->descriptor);
    if (!name) return do_write(call, call->size);
    pthread_mutex_lock(&lock);
    const struct verdict verdict = judge(kind_write, name, call->size);
    const size_t half = (call->size + 1) / 2;
    ssize_t done = -1;
    int error = verdict.error;
    switch (verdict.action) {
        case action_fail: break;
        case action_kill_before: end_process(); break;
        case action_kill_half: do_write(call, half); end_process(); break;
        default: {
            const off64_t offset = call->offset >= 0 ? call->offset : lseek64(call->descriptor, 0, SEEK_CUR);
            done = do_write(call, verdict.action == action_short ? half : call->size);
            error = errno;
            if (done > 0) keep(kind_write, name, (uint64_t)offset, (uint64_t)done, call->data);
            if (verdict.action == action_kill_after) end_process();
        }
    }
    pthread_mutex_unlock(&lock);
    errno = error;
    return done;
}

PUBLIC ssize_t write(int descriptor, const void* data, size_t size) {
    return write_or_not(&(struct write_call){descriptor, data, size, -1});
}
PUBLIC ssize_t pwrite64(int descriptor, const void* data, size_t size, off64_t offset) {
    return write_or_not(&(struct write_call){descriptor, data, size, offset});
}
PUBLIC ssize_t pwrite(int descriptor, const void* data, size_t size, off_t offset) {
    return write_or_not(&(struct write_call){descriptor, data, size, offset});
}

// ---- calls that do one thing or nothing ----

// Begins a call; false: it fails with errno set. What is begun is ended by end_call.
static int begin_call(enum kind kind, const char* name, uint64_t size, struct verdict* verdict) {
    pthread_mutex_lock(&lock);
    *verdict = judge(kind, name, size);
    if (verdict->action == action_kill_before || verdict->action == action_kill_half) end_process();
    if (verdict->action != action_fail) return 1;
    pthread_mutex_unlock(&lock);
    errno = verdict->error;
    return 0;
}

static int end_call(const struct verdict* verdict, enum kind kind, const char* name, uint64_t size, int result) {
    const int error = errno;
    if (name && result == 0) keep(kind, name, 0, size, NULL);
    if (verdict->action == action_kill_after) end_process();
    pthread_mutex_unlock(&lock);
    errno = error;
    return result;
}

#define ONE_THING(kind, name, size, call)                                      \
    struct verdict verdict;                                                    \
    if (!name) return call;                                                    \
    if (!begin_call(kind, name, (uint64_t)(size), &verdict)) return -1;        \
    return end_call(&verdict, kind, name, (uint64_t)(size), call)

PUBLIC int fsync(int descriptor) {
    const char* name = name_of(descriptor);
    ONE_THING(kind_sync, name, 0, REAL(fsync)(descriptor));
}
PUBLIC int fdatasync(int descriptor) {
    const char* name = name_of(descriptor);
    ONE_THING(kind_sync, name, 0, REAL(fdatasync)(descriptor));
}
PUBLIC int ftruncate64(int descriptor, off64_t size) {
    const char* name = name_of(descriptor);
    ONE_THING(kind_truncate, name, size, REAL(ftruncate64)(descriptor, size));
}
PUBLIC int ftruncate(int descriptor, off_t size) { return ftruncate64(descriptor, size); }
PUBLIC int unlink(const char* path) {
    const char* name = name_in_folder(path);
    ONE_THING(kind_unlink, name, 0, REAL(unlink)(path));
}
PUBLIC int rename(const char* from, const char* to) {
    const char* name = name_in_folder(to);
    ONE_THING(kind_rename, name, 0, REAL(rename)(from, to));
}
PUBLIC int renameat2(int from_folder, const char* from, int to_folder, const char* to, unsigned flags) {
    const char* name = name_in_folder(to);
    ONE_THING(kind_rename, name, 0, REAL(renameat2)(from_folder, from, to_folder, to, flags));
}

// Tells its failure by what it returns.
PUBLIC int posix_fallocate(int descriptor, off_t offset, off_t size) {
    const char* name = name_of(descriptor);
    struct verdict verdict;
    if (!name) return REAL(posix_fallocate)(descriptor, offset, size);
    if (!begin_call(kind_allocate, name, (uint64_t)(offset + size), &verdict)) return errno;
    return end_call(&verdict, kind_allocate, name, (uint64_t)(offset + size), REAL(posix_fallocate)(descriptor, offset, size));
}
PUBLIC int posix_fallocate64(int descriptor, off64_t offset, off64_t size) { return posix_fallocate(descriptor, offset, size); }

// ---- which file a descriptor is of ----

static int open_or_not(const char* path, int flags, mode_t mode) {
    const char* name = name_in_folder(path);
    struct verdict verdict;
    if (!name) return REAL(open64)(path, flags, mode);
    if (!begin_call(kind_open, name, 0, &verdict)) return -1;
    const int descriptor = REAL(open64)(path, flags, mode);
    const int error = errno;
    remember(descriptor, path);
    errno = error;
    end_call(&verdict, kind_open, name, 0, descriptor < 0 ? -1 : 0);
    return descriptor;
}

static mode_t mode_of(int flags, va_list* arguments) {
    return (flags & (O_CREAT | __O_TMPFILE)) != 0 ? (mode_t)va_arg(*arguments, int) : 0;
}

PUBLIC int open64(const char* path, int flags, ...) {
    va_list arguments;
    va_start(arguments, flags);
    const mode_t mode = mode_of(flags, &arguments);
    va_end(arguments);
    return open_or_not(path, flags, mode);
}
PUBLIC int open(const char* path, int flags, ...) {
    va_list arguments;
    va_start(arguments, flags);
    const mode_t mode = mode_of(flags, &arguments);
    va_end(arguments);
    return open_or_not(path, flags, mode);
}

PUBLIC int close(int descriptor) {
    // Before, because from then on another thread may be given the number.
    if (name_of(descriptor)) {
        pthread_mutex_lock(&lock);
        remember(descriptor, NULL);
        pthread_mutex_unlock(&lock);
    }
    return REAL(close)(descriptor);
}
