/* SPDX-License-Identifier: Apache-2.0
 *
 * forked.h - memory of which a forked child gets zeros, or nothing.
 *
 * The kernel does it, also for a fork(2) past the C library: MADV_WIPEONFORK, MADV_DONTFORK.
 *
 *     madvise(2)                          who does it
 *     of Linux: refuses unknown advice    the kernel
 *     of an emulator that accepts any     forked_child(), in the C library's fork handler: a child
 *     and may do nothing (qemu-user)      of a fork(2) past it would go on as its parent
 *
 * Who may call what at the same time: any thread anything. forked_before() keeps the others out
 * until forked_parent(), or in the child forked_child().
 */
#ifndef SHMPOOL_FORKED_H
#define SHMPOOL_FORKED_H

#include <stdbool.h>
#include <stddef.h>

/* True if the kernel does it. */
bool forked_by_kernel(void);

/* Maps zeroed memory that is zeroed again in a forked child. Returns NULL without memory. */
void *forked_zeros(size_t size);

/* Keeps a mapping from forked children. Returns 0, or -1 with errno; the mapping stays then. */
int forked_absent(void *at, size_t size);

/* Unmaps what one of the two has returned or was told. */
void forked_unmap(void *at, size_t size);

/* Around a fork through the C library. */
void forked_before(void);
void forked_parent(void);
void forked_child(void);

#endif
