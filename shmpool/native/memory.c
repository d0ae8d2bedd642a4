/* SPDX-License-Identifier: Apache-2.0
 *
 * memory.c - see memory.h. The numbers are those of the kernel's interface: older C libraries lack
 * some of them.
 */
#define _GNU_SOURCE
#include "memory.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#define PAGE 4096u
#define POPULATE_READ 22  /* MADV_POPULATE_READ: Linux 5.14 */
#define POPULATE_WRITE 23 /* MADV_POPULATE_WRITE: the same */
#define COLLAPSE 25       /* MADV_COLLAPSE: Linux 6.1 */
#define ON_FAULT 1        /* MLOCK_ONFAULT: Linux 4.4 */
#define PREFERRED 1       /* MPOL_PREFERRED */
#define INTERLEAVE 3      /* MPOL_INTERLEAVE */
#define ALLOWED 4         /* MPOL_F_MEMS_ALLOWED */
#define COLLAPSE_TRIES 3  /* EAGAIN: another process has just taken one of the pages */

/* Does without madvise(2). A load, because others may be writing there. */
static void read_each(const char *from, uint64_t length)
{
	for (uint64_t at = 0; at < length; at += PAGE)
		(void)*(const volatile char *)(from + at);
}

/* Pages that were used before are mapped by a read: tmpfs does not track writes, so they can be
 * written too, and around a read the kernel maps 16 of them: 0.5 us a page, by a write 0.85. Pages
 * that are new must be zeroed, each by itself: by a write 1.07 us, by a read 1.65. A first touch
 * takes 1.1 to 1.2. */
int memory_populate(char *from, uint64_t length, bool fresh)
{
	if (madvise(from, length, fresh ? POPULATE_WRITE : POPULATE_READ) == 0)
		return 0;
	switch (errno) {
	case EINVAL: /* before Linux 5.14; or a seccomp filter refuses what it does not know */
	case EPERM:
	case ENOSYS:
		read_each(from, length);
		return 0;
	case EFAULT:
		return -EBADMSG;
	case EHWPOISON:
		return -EIO;
	}
	return -ENOMEM;
}

int memory_collapse(char *block)
{
	for (int tries = 0; tries < COLLAPSE_TRIES; tries++) {
		if (madvise(block, MEMORY_HUGE, COLLAPSE) == 0)
			return 0;
		if (errno != EAGAIN && errno != EBUSY)
			break;
	}
	return errno == EINVAL || errno == EPERM || errno == ENOSYS ? -EOPNOTSUPP : -EAGAIN;
}

int memory_huge_pages(void)
{
	const size_t size = 2 * MEMORY_HUGE; /* has a whole one, wherever it begins */
	int error = -ENOMEM, fd = memfd_create("shmpool", MFD_CLOEXEC);
	if (fd < 0)
		return -EMFILE;
	char *base = MAP_FAILED;
	if (ftruncate(fd, (off_t)size) == 0)
		base = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	if (base != MAP_FAILED) {
		/* The file's bytes from there on, at the whole huge page of the mapping. */
		char *block = base + -(uintptr_t)base % MEMORY_HUGE;
		if (mmap(block, MEMORY_HUGE, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_FIXED, fd,
			 0) != MAP_FAILED &&
		    fallocate(fd, 0, 0, PAGE) == 0)
			error = memory_collapse(block);
		munmap(base, size);
	}
	close(fd);
	return error;
}

int memory_lock(char *from, uint64_t length)
{
	return syscall(SYS_mlock2, from, length, ON_FAULT) ? -errno : 0;
}

int memory_node(char *from, uint64_t length, int64_t node)
{
	unsigned long nodes[1024 / (8 * sizeof(unsigned long))]; /* MAX_NUMNODES is 1024 or less */
	const unsigned long bits = 8 * sizeof(nodes), each = 8 * sizeof(*nodes);
	memset(nodes, 0, sizeof(nodes));
	if (node >= 0 && (uint64_t)node >= bits)
		return -EINVAL;
	if (node >= 0)
		nodes[(uint64_t)node / each] = 1ul << (uint64_t)node % each;
	else if (syscall(SYS_get_mempolicy, NULL, nodes, bits, NULL, ALLOWED))
		return -errno;
	/* The kernel takes one bit less than it is told. */
	return syscall(SYS_mbind, from, length, node < 0 ? INTERLEAVE : PREFERRED, nodes, bits + 1,
		       0) ?
		       -errno :
		       0;
}
