/* SPDX-License-Identifier: Apache-2.0
 *
 * preload_errno.c - a library for LD_PRELOAD that makes one call of a program fail, once, as the
 * kernel could.
 *
 *     errno_arm(0, 0)      starts counting calls
 *     errno_arm(n, e)      makes the nth call from now on fail with errno e; it is not made
 *     errno_disarm()       stops, and returns how many calls there were
 *     errno_kind(n)        returns what the nth call was, "" if there was none
 *
 * It counts the system calls for which tests/errno_sweep.py lists errnos, in every thread, and the
 * allocations of the core. It does not count the interpreter's own allocations, whose failure is a
 * MemoryError in any Python program. A forked child counts by itself.
 */
#define _GNU_SOURCE
#include <dirent.h>
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <link.h>
#include <linux/futex.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdint.h>
#include <string.h>
#include <sys/inotify.h>
#include <sys/mman.h>
#include <sys/random.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

#define KINDS_MAX 100000

void *__libc_malloc(size_t size);
void *__libc_calloc(size_t n, size_t size);
void *__libc_realloc(void *old, size_t size);

static volatile bool armed;
static long at, calls;
static int error;
static const char *kinds[KINDS_MAX];
/* Where the code of the core and that of uvloop is mapped. uvloop's own calls are not counted: it
 * aborts when the kernel refuses a read of its own pipes. */
static uintptr_t core_from, core_to, loop_from, loop_to;

static int find_core(struct dl_phdr_info *info, size_t size, void *context)
{
	(void)size, (void)context;
	bool core = strstr(info->dlpi_name, "/_native."),
	     loop = strstr(info->dlpi_name, "/uvloop/");
	if (!core && !loop)
		return 0;
	for (int i = 0; i < info->dlpi_phnum; i++) {
		const ElfW(Phdr) *p = &info->dlpi_phdr[i];
		if (p->p_type == PT_LOAD && p->p_flags & PF_X) {
			*(core ? &core_from : &loop_from) = info->dlpi_addr + p->p_vaddr;
			*(core ? &core_to : &loop_to) = info->dlpi_addr + p->p_vaddr + p->p_memsz;
		}
	}
	return 0;
}

void errno_arm(long nth, int e)
{
	if (!core_to)
		dl_iterate_phdr(find_core, NULL);
	at = nth;
	error = e;
	__atomic_store_n(&calls, 0, __ATOMIC_SEQ_CST);
	armed = true;
}

long errno_disarm(void)
{
	armed = false;
	return __atomic_load_n(&calls, __ATOMIC_SEQ_CST);
}

const char *errno_kind(long nth)
{
	return nth > 0 && nth <= calls && nth < KINDS_MAX && kinds[nth] ? kinds[nth] : "";
}

/* True if this call is the one to fail. */
#define fails(kind) fails_for(kind, __builtin_return_address(0))
static bool fails_for(const char *kind, const void *caller)
{
	if (!armed || ((uintptr_t)caller >= loop_from && (uintptr_t)caller < loop_to))
		return false;
	long n = __atomic_add_fetch(&calls, 1, __ATOMIC_SEQ_CST);
	if (n < KINDS_MAX)
		kinds[n] = kind;
	if (n != at)
		return false;
	errno = error;
	return true;
}

static bool of_core(const void *caller)
{
	return (uintptr_t)caller >= core_from && (uintptr_t)caller < core_to;
}

/* The function that this library replaces. */
#define REAL(name) ((__typeof__(&name))real(#name))
static void *real(const char *name)
{
	return dlsym(RTLD_NEXT, name);
}

static mode_t mode_of(int flags, va_list list)
{
	return flags & (O_CREAT | O_TMPFILE) ? va_arg(list, mode_t) : 0;
}

#define OPEN(name)                                                                                 \
	int name(const char *path, int flags, ...)                                                 \
	{                                                                                          \
		va_list list;                                                                      \
		va_start(list, flags);                                                             \
		mode_t mode = mode_of(flags, list);                                                \
		va_end(list);                                                                      \
		if (fails(flags & O_CREAT ? "create" : "open"))                                    \
			return -1;                                                                 \
		return (int)syscall(SYS_openat, AT_FDCWD, path, flags | O_LARGEFILE, mode);        \
	}
OPEN(open)
OPEN(open64)

#define OPENAT(name)                                                                               \
	int name(int directory, const char *path, int flags, ...)                                  \
	{                                                                                          \
		va_list list;                                                                      \
		va_start(list, flags);                                                             \
		mode_t mode = mode_of(flags, list);                                                \
		va_end(list);                                                                      \
		if (fails(flags & O_CREAT ? "create" : "open"))                                    \
			return -1;                                                                 \
		return (int)syscall(SYS_openat, directory, path, flags | O_LARGEFILE, mode);       \
	}
OPENAT(openat)
OPENAT(openat64)

int shm_open(const char *name, int flags, mode_t mode)
{
	return fails(flags & O_CREAT ? "create" : "open") ? -1 : REAL(shm_open)(name, flags, mode);
}

int shm_unlink(const char *name)
{
	return fails("unlink") ? -1 : REAL(shm_unlink)(name);
}

int memfd_create(const char *name, unsigned flags)
{
	return fails("create") ? -1 : (int)syscall(SYS_memfd_create, name, flags);
}

int fcntl64(int fd, int command, ...)
{
	va_list list;
	va_start(list, command);
	void *argument = va_arg(list, void *);
	va_end(list);
	const char *kind = command == F_OFD_SETLK     ? "setlk" :
			   command == F_OFD_GETLK     ? "getlk" :
			   command == F_DUPFD_CLOEXEC ? "dup" :
							NULL;
	return kind && fails(kind) ? -1 : (int)syscall(SYS_fcntl, fd, command, argument);
}

int fcntl(int fd, int command, ...)
{
	va_list list;
	va_start(list, command);
	void *argument = va_arg(list, void *);
	va_end(list);
	return fcntl64(fd, command, argument);
}

#define TRUNCATE(name)                                                                             \
	int name(int fd, off_t size)                                                               \
	{                                                                                          \
		return fails("ftruncate") ? -1 : (int)syscall(SYS_ftruncate, fd, size);            \
	}
TRUNCATE(ftruncate)
TRUNCATE(ftruncate64)

#define POSIX_FALLOCATE(name)                                                                      \
	int name(int fd, off_t from, off_t length)                                                 \
	{                                                                                          \
		int before = errno, failed = fails("reserve") ? errno : 0;                         \
		if (!failed && syscall(SYS_fallocate, fd, 0, from, length))                        \
			failed = errno;                                                            \
		errno = before;                                                                    \
		return failed;                                                                     \
	}
POSIX_FALLOCATE(posix_fallocate)
POSIX_FALLOCATE(posix_fallocate64)

#define FALLOCATE(name)                                                                            \
	int name(int fd, int mode, off_t from, off_t length)                                       \
	{                                                                                          \
		return fails("punch") ? -1 : (int)syscall(SYS_fallocate, fd, mode, from, length);  \
	}
FALLOCATE(fallocate)
FALLOCATE(fallocate64)

#define MMAP(name)                                                                                 \
	void *name(void *where, size_t size, int rights, int flags, int fd, off_t from)            \
	{                                                                                          \
		if ((fd >= 0 || of_core(__builtin_return_address(0))) &&                           \
		    fails(fd >= 0 ? "map" : "memory"))                                             \
			return MAP_FAILED;                                                         \
		return (void *)syscall(SYS_mmap, where, size, rights, flags, fd, from);            \
	}
MMAP(mmap)
MMAP(mmap64)

int madvise(void *where, size_t size, int advice)
{
	return of_core(__builtin_return_address(0)) && fails("madvise") ?
		       -1 :
		       (int)syscall(SYS_madvise, where, size, advice);
}

int fstat(int fd, struct stat *to)
{
	return fails("fstat") ? -1 : REAL(fstat)(fd, to);
}

int stat(const char *path, struct stat *to)
{
	return fails("stat") ? -1 : REAL(stat)(path, to);
}

int fstat64(int fd, struct stat64 *to)
{
	return fails("fstat") ? -1 : REAL(fstat64)(fd, to);
}

int stat64(const char *path, struct stat64 *to)
{
	return fails("stat") ? -1 : REAL(stat64)(path, to);
}

int lstat64(const char *path, struct stat64 *to)
{
	return fails("stat") ? -1 : REAL(lstat64)(path, to);
}

int fstatat64(int directory, const char *path, struct stat64 *to, int flags)
{
	return fails("stat") ? -1 : REAL(fstatat64)(directory, path, to, flags);
}

int statvfs(const char *path, struct statvfs *to)
{
	return fails("statvfs") ? -1 : REAL(statvfs)(path, to);
}

int fstatvfs(int fd, struct statvfs *to)
{
	return fails("statvfs") ? -1 : REAL(fstatvfs)(fd, to);
}

int access(const char *path, int rights)
{
	return fails("access") ? -1 : REAL(access)(path, rights);
}

int faccessat(int directory, const char *path, int rights, int flags)
{
	return fails("access") ? -1 : REAL(faccessat)(directory, path, rights, flags);
}

int fchown(int fd, uid_t uid, gid_t gid)
{
	return fails("fchown") ? -1 : REAL(fchown)(fd, uid, gid);
}

int fchmod(int fd, mode_t mode)
{
	return fails("fchmod") ? -1 : REAL(fchmod)(fd, mode);
}

int chmod(const char *path, mode_t mode)
{
	return fails("fchmod") ? -1 : REAL(chmod)(path, mode);
}

int link(const char *from, const char *to)
{
	return fails("link") ? -1 : REAL(link)(from, to);
}

int linkat(int d1, const char *from, int d2, const char *to, int flags)
{
	return fails("link") ? -1 : REAL(linkat)(d1, from, d2, to, flags);
}

int rename(const char *from, const char *to)
{
	return fails("rename") ? -1 : REAL(rename)(from, to);
}

int renameat(int d1, const char *from, int d2, const char *to)
{
	return fails("rename") ? -1 : REAL(renameat)(d1, from, d2, to);
}

int unlink(const char *path)
{
	return fails("unlink") ? -1 : REAL(unlink)(path);
}

int unlinkat(int directory, const char *path, int flags)
{
	return fails("unlink") ? -1 : REAL(unlinkat)(directory, path, flags);
}

/* close(2) releases the descriptor even when it fails. */
int close(int fd)
{
	bool failed = fails("close");
	int e = errno, done = (int)syscall(SYS_close, fd);
	if (failed)
		errno = e;
	return failed ? -1 : done;
}

DIR *opendir(const char *path)
{
	return fails("open") ? NULL : REAL(opendir)(path);
}

#define READDIR(name, type)                                                                        \
	struct type *name(DIR *directory)                                                          \
	{                                                                                          \
		return fails("readdir") ? NULL : REAL(name)(directory);                            \
	}
READDIR(readdir, dirent)
READDIR(readdir64, dirent64)

ssize_t read(int fd, void *to, size_t size)
{
	return fails("read") ? -1 : syscall(SYS_read, fd, to, size);
}

ssize_t preadv(int fd, const struct iovec *to, int n, off_t from)
{
	return fails("read") ? -1 : REAL(preadv)(fd, to, n, from);
}

ssize_t preadv2(int fd, const struct iovec *to, int n, off_t from, int flags)
{
	return fails("read") ? -1 : REAL(preadv2)(fd, to, n, from, flags);
}

ssize_t getrandom(void *to, size_t size, unsigned flags)
{
	return fails("getrandom") ? -1 : syscall(SYS_getrandom, to, size, flags);
}

/* The C library has no function for two system calls of the core, which makes them this way. */
#define FUTEX_OPERATION 0x7f /* without FUTEX_PRIVATE_FLAG and other flags */
long syscall_in_front(long number, long a, long b, long c, long d, long e,
		      long f) __asm__("syscall");
long syscall_in_front(long number, long a, long b, long c, long d, long e, long f)
{
	static long (*behind)(long, ...);
	if (!behind)
		*(void **)&behind = real("syscall");
	if (of_core(__builtin_return_address(0))) {
		const char *kind = number == SYS_membarrier            ? "membarrier" :
				   number != SYS_futex                 ? NULL :
				   (b & FUTEX_OPERATION) == FUTEX_WAIT ? "sleep" :
									 "wake";
		if (kind && fails(kind))
			return -1;
	}
	return behind(number, a, b, c, d, e, f);
}

void *malloc(size_t size)
{
	return of_core(__builtin_return_address(0)) && fails("memory") ? NULL : __libc_malloc(size);
}

void *calloc(size_t n, size_t size)
{
	return of_core(__builtin_return_address(0)) && fails("memory") ? NULL :
									 __libc_calloc(n, size);
}

void *realloc(void *old, size_t size)
{
	return of_core(__builtin_return_address(0)) && fails("memory") ? NULL :
									 __libc_realloc(old, size);
}

int pthread_key_create(pthread_key_t *key, void (*end)(void *))
{
	return of_core(__builtin_return_address(0)) && fails("key") ?
		       errno :
		       REAL(pthread_key_create)(key, end);
}

int pthread_setspecific(pthread_key_t key, const void *value)
{
	return value && of_core(__builtin_return_address(0)) && fails("memory") ?
		       errno :
		       REAL(pthread_setspecific)(key, value);
}

/* What pthread_atfork() calls from outside the C library. */
int __register_atfork(void (*before)(void), void (*parent)(void), void (*child)(void), void *whose)
{
	return of_core(__builtin_return_address(0)) && fails("memory") ?
		       ENOMEM :
		       ((int (*)(void (*)(void), void (*)(void), void (*)(void), void *))real(
			       "__register_atfork"))(before, parent, child, whose);
}

int pthread_create(pthread_t *thread, const pthread_attr_t *how, void *(*run)(void *), void *with)
{
	return fails("thread") ? errno : REAL(pthread_create)(thread, how, run, with);
}

int socket(int domain, int type, int protocol)
{
	return fails("socket") ? -1 : REAL(socket)(domain, type, protocol);
}

int socketpair(int domain, int type, int protocol, int pair[2])
{
	return fails("socket") ? -1 : REAL(socketpair)(domain, type, protocol, pair);
}

int connect(int fd, const struct sockaddr *to, socklen_t size)
{
	return fails("connect") ? -1 : REAL(connect)(fd, to, size);
}

int bind(int fd, const struct sockaddr *at_this, socklen_t size)
{
	return fails("bind") ? -1 : REAL(bind)(fd, at_this, size);
}

int listen(int fd, int backlog)
{
	return fails("listen") ? -1 : REAL(listen)(fd, backlog);
}

int accept4(int fd, struct sockaddr *from, socklen_t *size, int flags)
{
	return fails("accept") ? -1 : REAL(accept4)(fd, from, size, flags);
}

int getsockopt(int fd, int level, int name, void *value, socklen_t *size)
{
	return fails("sockopt") ? -1 : REAL(getsockopt)(fd, level, name, value, size);
}

int setsockopt(int fd, int level, int name, const void *value, socklen_t size)
{
	return fails("sockopt") ? -1 : REAL(setsockopt)(fd, level, name, value, size);
}

ssize_t send(int fd, const void *from, size_t size, int flags)
{
	return fails("send") ? -1 : REAL(send)(fd, from, size, flags);
}

ssize_t recv(int fd, void *to, size_t size, int flags)
{
	return fails("recv") ? -1 : REAL(recv)(fd, to, size, flags);
}

int inotify_init1(int flags)
{
	return fails("inotify") ? -1 : REAL(inotify_init1)(flags);
}

int inotify_add_watch(int fd, const char *path, uint32_t what)
{
	return fails("watch") ? -1 : REAL(inotify_add_watch)(fd, path, what);
}
