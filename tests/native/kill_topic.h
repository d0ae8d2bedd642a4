/* SPDX-License-Identifier: Apache-2.0
 *
 * kill_topic.h - operations on topics that are killed, and what must be true of topics afterwards.
 */
#ifndef KILL_TOPIC_H
#define KILL_TOPIC_H

#include "kill_scene.h"

/* Called by the survivors: they make a topic of a few messages, and subscribe to it. */
void topic_filled(struct scene *s);  /* the ring is full; the survivor holds the newest message */
void topic_holding(struct scene *s); /* the same, and the survivor holds all messages */
void topic_slow(struct scene *s);    /* the same, and two that drop the newest have all to get */
void topic_slow_given_up(struct scene *s); /* and then one of these is given up */
void topic_recorded(struct scene *s);      /* the same; then one comes that blocks */
/* The same, and a process is dead that ... */
void topic_dead_publisher(struct scene *s);  /* had reserved four positions, and evicted one */
void topic_dead_subscriber(struct scene *s); /* held the two oldest, and blocked publishers */
void topic_dead_crowded(struct scene *s);    /* held all; every other place is taken */
void topic_dead_evicted(struct scene *s);    /* held two that have been evicted since */

void topic_dead_slow(struct scene *s); /* dropped the newest, with a backlog and a shelf */
void topic_slow_dead_publisher(struct scene *s); /* as topic_dead_publisher(), beside slow ones */

/* Set-up of the victim. */
void topic_keeping(struct scene *s);       /* the same, and drops the newest */
void topic_slow_victim(struct scene *s);   /* the same, and has a backlog and a shelf */
void topic_subscribed(struct scene *s);    /* to what is kept */
void topic_latest(struct scene *s);        /* the same, for the newest */
void topic_got(struct scene *s);           /* and holds two messages */
void topic_got_evicted(struct scene *s);   /* which have been evicted since */
void topic_lapped(struct scene *s);        /* and is more than a ring behind */
void topic_publisher(struct scene *s);     /* owns n buffers, to be published */
void topic_freed_by_dead(struct scene *s); /* the same; a dead member freed the first one */
void topic_blocked(struct scene *s);       /* the same, and a dead subscriber blocks it */

/* The operations. */
int topic_publish_own(struct scene *s);
int topic_publish_wait(struct scene *s);
int topic_get_some(struct scene *s);
int topic_let_go_held(struct scene *s); /* lets go of what it holds */
int topic_join(struct scene *s);
int topic_join_blocking(struct scene *s);
int topic_join_keeping(struct scene *s);
int topic_go_through(struct scene *s); /* gets all, and lets go of each */
int topic_leave(struct scene *s);
int topic_leave_holding(struct scene *s);

/* In which a companion is suspended. */
int topic_publish_beside(struct scene *s);
int topic_get_beside(struct scene *s);

/* Messages are where they should be; only the survivor holds some; and it goes on. */
void check_topic(struct scene *s);

/* Work of the survivors with the victim suspended or dead. */
void topic_work(struct scene *s);

/* The topic's ring, NULL without one. */
const struct alf_ring *topic_ring(struct scene *s);

/* How many buffers the topic keeps, 0 without one. */
uint32_t topic_keeps(struct scene *s);

#endif
