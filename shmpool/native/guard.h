/* SPDX-License-Identifier: Apache-2.0
 *
 * guard.h - handles SIGBUS: when a pool's file is truncated, its mapping is replaced by zeros.
 *
 * Any process that may write to the file can truncate it while others read it, between a check of
 * its size and the next load. A SIGBUS handler, installed before the process reads its first
 * segment, maps private zeros over the whole mapping. The thread that faulted continues, and reads
 * a corrupted segment, which every function here can handle. From then on the pool's number is
 * invalid: every call returns -EBADMSG (opening_missing()), and sleepers return. A SIGBUS at any
 * other address goes to the handler that was installed before.
 *
 * Covered are open pools, from opening_open() to opening_closed(), and the mapping that the thread
 * has passed to guard_watch().
 *
 * Who may call what at the same time: any thread anything.
 */
#ifndef SHMPOOL_GUARD_H
#define SHMPOOL_GUARD_H

#include "opening.h"

/* guard_watch() covers one more mapping, for the calling thread, until guard_watched().
 * guard_watched() returns result, or -EBADMSG if the mapping has been replaced by zeros. */
void guard_watch(char *base, uint64_t size);
int guard_watched(int result);

/* True if the pool is open and has not been replaced by zeros. Tests the magic number, which is not
 * zero in a pool. */
bool guard_intact(uint32_t number);

#endif
