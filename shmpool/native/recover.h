/* SPDX-License-Identifier: Apache-2.0
 *
 * recover.h - putting right what dead members left, while everybody else goes on.
 *
 * Any number of members may do it at the same time, for the same dead. There is no lock and no
 * lease:
 * every step is one compare-and-swap on a word whose expected value can never come back (positions
 * are never used again, tags name one life of a slot), so that a recoverer may be stopped anywhere
 * for any time, and if it dies is a dead member like any other.
 *
 * What a member leaves when it is killed                     who puts it right
 *     it reserved positions and did not publish them         ranges_bury()
 *     buffers in its hands or its cache: OWNED(dead)         sweep()
 *     buffers on their way into such positions               sweep_unreserve(), sweep()
 *     buffers it claimed and did not mark                    sweep()
 *     it was emptying somebody's cache                       recover_thieves()
 *     it was making an extent or a queue                     recover_makers()
 *     it was a queue's single producer or consumer           recover_roles()
 *     it was counted asleep                                  wait_reset()
 *     its slot                                               member_take_slot()
 *
 * What a live member may itself have reserved or claimed is left to it: an op record of a suspended
 * process that covers the same positions as a dead one's postpones those, and nothing else. A
 * buffer for which its queue has no room is abandoned to whoever recovers next, in the queue's
 * name, so that the slot of its dead holder is free for a consumer who makes room.
 *
 * Progress: nobody waits for anybody. What is postponed is counted, and done by a later call.
 */
#ifndef SHMPOOL_RECOVER_H
#define SHMPOOL_RECOVER_H

#include "qmempool.h"
#include "shmpool.h"

/* Puts right all that is found dead now. m is the caller's member, in no operation. 0, -ENOMEM. */
int recover(struct qmempool *p, struct member *m, struct shmpool_recovery *out);

/* For a member that finds no buffer, no room behind a position that is not published, or a single
 * side taken, or that has slept for a slice: asks the kernel who is dead, unless somebody in the
 * pool has asked just now. So a dead member is recovered within about a slice as long as anybody
 * waits. After an inquiry that changed nothing the whole pool rests twice as long as before, from
 * 10 up to 80 ms, and in any case 16 times the processor time that the inquiry took. Can take long:
 * not under a language's lock. True if anything was recovered, so that it is worth trying again. */
bool recover_stuck(struct qmempool *p, struct member *m);

/* Makes the caller, who holds the token and is no member yet, one where all slots are taken, in
 * place of a dead member. 0; -EUSERS if there is none that is finished with; -ENOMEM. */
int recover_slot(struct qmempool *p, uint64_t token, struct member **out);

/* Whether abandoned buffers wait for a recoverer. */
bool recover_abandoned(const struct segment *s);

#endif
