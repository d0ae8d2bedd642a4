/* SPDX-License-Identifier: Apache-2.0
 *
 * role.h - the single-producer and single-consumer roles of a queue: words of struct alf_queue that
 * name a member.
 *
 *     word        meaning                      a crash then leaves
 *     0           no member has the role       nothing
 *     tag 32      that member has the role     the word, and perhaps an unfinished operation
 *
 *     from -> to      by                            in
 *     0 -> tag        a member's first put or get   role_take()
 *     tag -> 0        the member; a recoverer,      role_release()
 *                     once the operation of a
 *                     dead member is repaired
 *
 * Who may call what at the same time: any thread anything.
 *
 * Ordering
 *     [ROLE]  a role word: taken and released by compare-and-swap. The next holder sees the ring as
 *             the last one left it. A recoverer that reads the tag of a dead member, with acquire,
 *             after a position, knows that this member had the role when the position moved.
 */
#ifndef SHMPOOL_ROLE_H
#define SHMPOOL_ROLE_H

#include "owner.h"

/* Gives the role to the member with that tag. Returns 0, or -EBUSY if another member has it. */
static inline int role_take(uint32_t *role, uint32_t tag)
{
	uint32_t seen = 0;
	if (likely(load_relaxed(role) == tag) || cas_seq_cst(role, &seen, tag)) /* [ROLE] */
		return 0;
	return -EBUSY;
}

/* Releases the role if the member with that tag has it. */
static inline void role_release(uint32_t *role, uint32_t tag)
{
	if (load_relaxed(role) == tag)
		cas_seq_cst(role, &tag, 0); /* [ROLE] */
}

#endif
