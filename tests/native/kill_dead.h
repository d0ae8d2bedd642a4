/* SPDX-License-Identifier: Apache-2.0
 *
 * kill_dead.h - what stands before the victim runs: mostly members that died in the middle of
 * something.
 */
#ifndef KILL_DEAD_H
#define KILL_DEAD_H

#include "kill_scene.h"

void voids(struct scene *s);               /* four, between two messages and two later ones */
void without_barrier(struct scene *s);     /* as where membarrier(2) is not to be had */
void second_segment(struct scene *s);      /* empty memory for another pool */
void dead_holding(struct scene *s);        /* buffers in hand and in its cache */
void dead_reserved(struct scene *s);       /* four positions, two owner words written */
void dead_half_published(struct scene *s); /* four positions, the last two published; more behind */
void dead_half_published_single(struct scene *s); /* as the single producer, nothing behind */
void dead_full(struct scene *s);                  /* the same, and the ring full behind it */
void dead_claimed(struct scene *s);               /* four messages, two owner words written */
void dead_single_reserved(struct scene *s);       /* as the single producer */
void dead_single_claimed(struct scene *s);        /* two, as the single consumer */
void dead_thief(struct scene *s);                 /* three of b's cache */
void dead_making(struct scene *s);                /* an extent and a queue */
void dead_naming(struct scene *s);        /* a queue of the name that the victim is to make */
void dead_asleep(struct scene *s);        /* counted in every wait word */
void dead_full_pool(struct scene *s);     /* positions of the free ring, which is full for them */
void dead_getting(struct scene *s);       /* with four messages got */
void dead_getting_full(struct scene *s);  /* and no room to put them back */
void dead_getting_twice(struct scene *s); /* each once before already */
void dead_recoverer(struct scene *s);     /* while it put back what another had got */
void dead_everywhere(struct scene *s);    /* in every slot */
void survivors_dry(struct scene *s);      /* nothing in their caches */
void with_barrier(struct scene *s);       /* again */
void dead_trimming(struct scene *s);      /* with an extent half taken away */
void grown(struct scene *s);              /* nobody is dead: there is something to trim */
void trimmed(struct scene *s);
void dead_giving(struct scene *s);         /* at the head of the ring of free buffers */
void dead_giving_between(struct scene *s); /* further on in it */
void stale_slots(struct scene *s); /* in the ring of free buffers; nobody is dead any more */
void check_queue_gone(struct scene *s);

#endif
