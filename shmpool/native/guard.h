/* SPDX-License-Identifier: Apache-2.0
 *
 * guard.h - a page of a pool that is not there any more: zeros instead of death by SIGBUS.
 *
 * Anybody who may write to a segment can cut it off while others read it, between any check of its
 * size and the next load. A handler of SIGBUS, installed with a process's first segment, puts
 * private zeros in place of that whole mapping, and the thread that met the hole goes on: it reads
 * a damaged segment, which everything here is made for. The pool is gone from then on: its number
 * names nothing any more, every call is -EBADMSG (opening_missing), and sleepers leave. A SIGBUS
 * elsewhere is whoever's it was before.
 *
 * Guarded are open pools, from opening_open() to their end, and what a thread names to
 * guard_watch().
 * Who may call what at the same time: any thread anything.
 */
#ifndef SHMPOOL_GUARD_H
#define SHMPOOL_GUARD_H

#include "opening.h"

/* From now on this mapping too, in this thread, until guard_watched(), which gives the result, or
 * -EBADMSG if it comes from zeros. */
void guard_watch(char *base, uint64_t size);
int guard_watched(int result);

/* Whether all that was read of the pool since it was opened was there: the zeros have no magic. */
bool guard_intact(uint32_t number);

#endif
