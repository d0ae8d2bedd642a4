/* SPDX-License-Identifier: Apache-2.0
 *
 * uring.c - see uring.h.
 */
#define _GNU_SOURCE
#include "uring.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/io_uring.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#define ENTRIES 64u
/* Newer than some headers. */
#define OP_FUTEX_WAIT 51
#define FUTEX2_32 2
#define PROBED (OP_FUTEX_WAIT + 1)

struct uring {
	int fd;
	uint32_t *tail, *flags, *array, mask; /* submissions */
	uint32_t *head, *ended, ended_mask;   /* completions */
	struct io_uring_sqe *entries;
	struct io_uring_cqe *results;
	char *submitted, *completed;
	size_t submitted_size, completed_size, entries_size;
};

static bool has_futex_wait(int fd)
{
	union {
		struct io_uring_probe probe;
		char bytes[sizeof(struct io_uring_probe) +
			   PROBED * sizeof(struct io_uring_probe_op)];
	} u = { 0 };
	return !syscall(SYS_io_uring_register, fd, IORING_REGISTER_PROBE, &u, PROBED) &&
	       u.probe.last_op >= OP_FUTEX_WAIT &&
	       u.probe.ops[OP_FUTEX_WAIT].flags & IO_URING_OP_SUPPORTED;
}

static void *map(int fd, size_t size, uint64_t offset)
{
	void *at = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED, fd, (off_t)offset);
	if (at == MAP_FAILED)
		return NULL;
	madvise(at, size, MADV_DONTFORK);
	return at;
}

/* Maps both queues. False without memory. */
static bool map_queues(struct uring *r, const struct io_uring_params *p)
{
	r->submitted_size = p->sq_off.array + p->sq_entries * sizeof(uint32_t);
	r->completed_size = p->cq_off.cqes + p->cq_entries * sizeof(struct io_uring_cqe);
	r->entries_size = p->sq_entries * sizeof(struct io_uring_sqe);
	r->submitted = map(r->fd, r->submitted_size, IORING_OFF_SQ_RING);
	r->completed = map(r->fd, r->completed_size, IORING_OFF_CQ_RING);
	r->entries = map(r->fd, r->entries_size, IORING_OFF_SQES);
	if (!r->submitted || !r->completed || !r->entries)
		return false;
	r->tail = (uint32_t *)(r->submitted + p->sq_off.tail);
	r->flags = (uint32_t *)(r->submitted + p->sq_off.flags);
	r->array = (uint32_t *)(r->submitted + p->sq_off.array);
	r->mask = *(uint32_t *)(r->submitted + p->sq_off.ring_mask);
	r->head = (uint32_t *)(r->completed + p->cq_off.head);
	r->ended = (uint32_t *)(r->completed + p->cq_off.tail);
	r->ended_mask = *(uint32_t *)(r->completed + p->cq_off.ring_mask);
	r->results = (struct io_uring_cqe *)(r->completed + p->cq_off.cqes);
	return true;
}

struct uring *uring_make(void)
{
	struct io_uring_params p = { 0 };
	struct uring *r = calloc(1, sizeof(*r));
	if (!r)
		return NULL;
	r->fd = (int)syscall(SYS_io_uring_setup, ENTRIES, &p);
	if (r->fd < 0) {
		free(r);
		return NULL;
	}
	if (!has_futex_wait(r->fd) || !map_queues(r, &p)) {
		uring_close(r, true);
		return NULL;
	}
	return r;
}

int uring_fd(const struct uring *r)
{
	return r->fd;
}

static bool submit(struct uring *r, const struct io_uring_sqe *entry)
{
	const uint32_t tail = *r->tail;
	r->entries[tail & r->mask] = *entry;
	r->array[tail & r->mask] = tail & r->mask;
	store_release(r->tail, tail + 1); /* pairs with the kernel's load */
	if (syscall(SYS_io_uring_enter, r->fd, 1, 0, 0, NULL, 0) == 1)
		return true;
	store_release(r->tail, tail); /* pairs with the kernel's load */
	return false;
}

bool uring_wait(struct uring *r, uint32_t *word, uint32_t value, void *name)
{
	struct io_uring_sqe entry = { .opcode = OP_FUTEX_WAIT,
				      .fd = FUTEX2_32,
				      .addr = (uintptr_t)word,
				      .off = value,
				      .user_data = (uintptr_t)name };
	/* The mask of bits that a wake-up names: all. */
	memcpy((char *)&entry + offsetof(struct io_uring_sqe, addr3), &(uint64_t) { UINT32_MAX },
	       sizeof(uint64_t));
	return submit(r, &entry);
}

void uring_cancel(struct uring *r, void *name)
{
	submit(r, &(struct io_uring_sqe) {
			  .opcode = IORING_OP_ASYNC_CANCEL, .fd = -1, .addr = (uintptr_t)name });
}

void *uring_ended(struct uring *r)
{
	for (;;) {
		const uint32_t head = *r->head;
		if (head == load_acquire(r->ended)) { /* pairs with the kernel's store */
			if (!(load_relaxed(r->flags) & IORING_SQ_CQ_OVERFLOW))
				return NULL;
			syscall(SYS_io_uring_enter, r->fd, 0, 0, IORING_ENTER_GETEVENTS, NULL, 0);
			if (head == load_acquire(r->ended)) /* pairs with the kernel's store */
				return NULL;
		}
		void *name = (void *)(uintptr_t)r->results[head & r->ended_mask].user_data;
		store_release(r->head, head + 1); /* pairs with the kernel's load */
		if (name)
			return name;
	}
}

void uring_close(struct uring *r, bool closes)
{
	if (r->submitted)
		munmap(r->submitted, r->submitted_size);
	if (r->completed)
		munmap(r->completed, r->completed_size);
	if (r->entries)
		munmap(r->entries, r->entries_size);
	if (closes)
		close(r->fd);
	free(r);
}
