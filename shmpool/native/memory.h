/* SPDX-License-Identifier: Apache-2.0
 *
 * memory.h - what a process asks of the kernel for the pages of a mapping: to map them before they
 * are used, to make huge pages of them, to lock them, to take them from some NUMA nodes.
 *
 * None of these calls changes a byte that a program can read, so any member may use the pages at
 * the same time, and a process may be killed in any of them. A range must have its memory
 * (segment_reserve()): mapping a hole of a file would allocate it.
 *
 * Who may call what at the same time: any thread anything.
 */
#ifndef SHMPOOL_MEMORY_H
#define SHMPOOL_MEMORY_H

#include <stdbool.h>
#include <stdint.h>

/* Bytes of a huge page, on x86-64 and on aarch64 with pages of 4 KiB. */
#define MEMORY_HUGE (2ull << 20)

/* Maps all pages of length bytes at from, in this process: no access to them faults afterwards.
 * fresh: this process has just reserved them, and they are mapped for writing. Returns 0; -ENOMEM
 * if there is no memory for page tables; -EBADMSG if the file is shorter by now; -EIO if a page is
 * broken (EHWPOISON). */
int memory_populate(char *from, uint64_t length, bool fresh);

/* Makes one huge page of the MEMORY_HUGE bytes at block, which begin at a multiple of that in the
 * file and in memory. Part of the block must have memory; all of it has afterwards. Returns 0;
 * -EAGAIN if the machine has no such piece of free memory now; -EOPNOTSUPP if the kernel cannot. */
int memory_collapse(char *block);

/* Asks whether this machine makes a huge page of shared memory now: makes one of a file without a
 * name. Returns 0, -EAGAIN, -EOPNOTSUPP, -EMFILE, -ENOMEM. */
int memory_huge_pages(void);

/* Locks length bytes at from (mlock2(2)): pages that are mapped now or later stay in memory.
 * Returns 0, -EPERM, -ENOMEM, -EAGAIN, or -ENOSYS. */
int memory_lock(char *from, uint64_t length);

/* Takes the pages of a new file, length bytes mapped at from, from NUMA node number node as long as
 * it has free memory; with node -1 by turns from all nodes that this process may use. Holds for
 * each process that reserves them. Returns 0; -EINVAL if this process may not use such a node;
 * -EPERM, -ENOSYS, -ENOMEM. */
int memory_node(char *from, uint64_t length, int64_t node);

#endif
