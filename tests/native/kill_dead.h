/* SPDX-License-Identifier: Apache-2.0
 *
 * kill_dead.h - what the pool contains before the victim runs: mostly members that died in the
 * middle of an operation.
 */
#ifndef KILL_DEAD_H
#define KILL_DEAD_H

#include "kill_scene.h"

void voids(struct scene *s); /* four tombstones, between two messages and two later ones */
void without_barrier(struct scene *s);     /* as on a kernel without membarrier(2) */
void second_segment(struct scene *s);      /* empty memory for another pool */
void dead_holding(struct scene *s);        /* buffers that it owns, in its cache and outside */
void dead_reserved(struct scene *s);       /* four positions, two owner words written */
void dead_half_published(struct scene *s); /* four positions, the last two published; more behind */
void dead_half_published_single(struct scene *s); /* as the single producer, nothing behind */
void dead_full(struct scene *s);                  /* the same, and the ring full behind it */
void dead_claimed(struct scene *s);               /* four messages, two owner words written */
void dead_single_reserved(struct scene *s);       /* as the single producer */
void dead_single_claimed(struct scene *s);        /* two messages, as the single consumer */
void dead_thief(struct scene *s);                 /* a thief, with three buffers of b's cache */
void dead_making(struct scene *s);                /* creating an extent and a queue */
void dead_naming(struct scene *s); /* creating a queue of the name that the victim will use */
void dead_making_lanes(struct scene *s);
void dead_asleep(struct scene *s);        /* counted as asleep in every wait word */
void dead_full_pool(struct scene *s);     /* positions of the free ring, which they fill */
void dead_getting(struct scene *s);       /* four messages got */
void dead_getting_full(struct scene *s);  /* the same, and no room to put them back */
void dead_getting_twice(struct scene *s); /* the same, each was put back once before */
void dead_recoverer(struct scene *s);     /* while it put back what another dead member had got */
void returned(struct scene *s); /* four messages by a live consumer, abandoned to their queue */
void dead_chaining(struct scene *s);        /* with chains: whole, half made, half freed */
void dead_chain_recoverer(struct scene *s); /* the same, some of which a dead recoverer has freed */
void abandoned_chains(struct scene *s);     /* the same, heads abandoned without a slot */
void dead_chains_everywhere(struct scene *s); /* the same, and a dead member in every slot */
void dead_everywhere(struct scene *s);        /* a dead member in every slot */
void survivors_dry(struct scene *s);          /* nothing in their caches */
void with_barrier(struct scene *s);           /* membarrier(2) works again */
void dead_trimming(struct scene *s);          /* an extent half removed */
void grown(struct scene *s);                  /* no dead member: there is something to trim */
void trimmed(struct scene *s);
void dead_giving(struct scene *s);         /* at the head of the free ring */
void dead_giving_between(struct scene *s); /* further on in the free ring */
void stale_slots(struct scene *s); /* stale slots in the free ring, and no dead member any more */
void check_queue_gone(struct scene *s);

#endif
