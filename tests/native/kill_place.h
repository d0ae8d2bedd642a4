/* SPDX-License-Identifier: Apache-2.0
 *
 * kill_place.h - a process that waits for an event loop is killed while it counts itself in a wait
 * word, and while it stops to: all that place.h writes into a segment. What the threads and rings
 * of helper.h and uring.h have ends with the process.
 */
#ifndef KILL_PLACE_H
#define KILL_PLACE_H

#include "kill_scene.h"

/* Prepare a place of the victim. */
void place_of_data(struct scene *s);
void place_of_room(struct scene *s);
void place_of_buffers(struct scene *s);
void place_of_messages(struct scene *s);       /* of a subscriber that blocks */
void place_of_messages_armed(struct scene *s); /* the same, counted */
void place_of_topic_room(struct scene *s);     /* of a publisher */
void place_armed(struct scene *s);             /* counted, and there are messages */
void place_beside_another(struct scene *s);    /* the same, and another sleeper is counted */

/* The operations that are killed. */
int place_arm(struct scene *s);
int place_inspect(struct scene *s);
int place_disarm(struct scene *s);
int place_pass(struct scene *s);

/* Nobody is counted asleep, so no change makes a system call, and no wake-up goes to the dead. */
void check_awake(struct scene *s);
void check_topic_awake(struct scene *s); /* nor at the topic, which is whole: check_topic() */

#endif
