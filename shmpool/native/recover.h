/* SPDX-License-Identifier: Apache-2.0
 *
 * recover.h - recovers dead members while all others go on.
 *
 * Any number of members may recover the same dead members at the same time. There is no lock and no
 * lease. Every step is one compare-and-swap on a word whose expected value never comes back:
 * positions are never reused, and a tag names one member. So a recoverer may be suspended anywhere
 * for any time, and if it dies it is a dead member like any other.
 *
 * What a member leaves when it is killed                     repaired by
 *     it reserved positions and did not publish them         ranges_bury()
 *     buffers in its hands or its cache: OWNED(dead)         sweep()
 *     buffers on their way into such positions               sweep_unreserve(), sweep()
 *     buffers it claimed and did not mark                    sweep()
 *     it was emptying a member's cache                       recover_thieves()
 *     it was making an extent or a queue                     recover_makers()
 *     it was a queue's single producer or consumer           recover_roles()
 *     it was counted asleep                                  wait_reset()
 *     a message it was evicting from a topic                 ranges_bury(), sweep()
 *     messages its subscribers held, and these               sweep(), subscribers_vacate()
 *     its slot                                               member_take_slot()
 *
 * Positions that a live member may have reserved or claimed are left to it: if the op record of a
 * suspended member covers the same positions as a dead one's, those are postponed, and nothing else
 * is. A buffer for which its queue has no room is abandoned to the next recoverer, in the queue's
 * name, so that the dead member's slot is free for a consumer that makes room.
 *
 * Progress: no member waits for another one. What is postponed is counted,
 * and a later call does it.
 */
#ifndef SHMPOOL_RECOVER_H
#define SHMPOOL_RECOVER_H

#include "pool.h"
#include "shmpool.h"

/* Recovers all members that are dead now. m is the caller's member, in no operation. Returns 0 or
 * -ENOMEM. */
int recover(struct qmempool *p, struct member *m, struct shmpool_recovery *out);

/* recover() with at most so many passes. Another pass follows while something is postponed until a
 * live member ends its operation. */
int recover_passes(struct qmempool *p, struct member *m, struct shmpool_recovery *out, int passes);

/* The same. *unasked tells whether the kernel could not be asked about some member's process. A
 * dead member that a socket keeps is unknown too, but to all, and for longer. */
int recover_asking(struct qmempool *p, struct member *m, struct shmpool_recovery *out, int passes,
		   bool *unasked);

/* For a member that finds no buffer, finds no room behind an unpublished position, finds a single
 * role taken, or has slept for WAIT_SLICE_NS. Asks the kernel which members are dead and recovers
 * them, unless another member of the pool has asked recently. So a dead member is recovered within
 * about one slice while any member waits. After an inquiry that found something the whole pool
 * pauses for 10 ms. After inquiries in a row that found nothing it pauses for 20, 40, then 80 ms,
 * or 16 times the processor time of the inquiry if that is longer, for 1 s at most. May take long;
 * do not call it with an interpreter's lock held. Returns true if anything was recovered, so that
 * the caller should try again. */
bool recover_if_due(struct qmempool *p, struct member *m);

/* For a member that finds a single role of the queue taken. Recovers if a dead member has one.
 * Returns true then, so that the caller should try again: another one may have been first. Unlike
 * recover_if_due() at any time, since it asks about two members only. */
bool recover_role(struct qmempool *p, struct member *m, const struct alf_ring *r);

/* Attaches a process that holds the token when all slots are taken, in place of a dead member,
 * which it recovers first. Returns 0; -EUSERS if live members have all slots; -EAGAIN if there was
 * a dead member and others took its slot, or one is about to be free: try again; -ENOMEM. */
int recover_slot(struct qmempool *p, uint64_t token, struct member **out);

/* True if abandoned buffers wait for a recoverer. */
bool recover_abandoned(const struct segment *s);

#endif
