/* SPDX-License-Identifier: Apache-2.0
 *
 * steer_topic.h - the topic of a profile that has one: what threads of steer_world.h publish to it
 * and get from it, and what must be true of it.
 *
 *     checked           that
 *     at each get       the message is whole, its position is its own, a producer's messages come
 *                       in their order, those of one publish stand side by side; a subscriber that
 *                       blocks misses none, another one has got or counted each
 *     at each return    what a thread holds is as it was when the thread got it; a call that fails,
 *                       while nobody else was at it, had to
 *     at an allocation  nobody holds the buffer
 *     between steps     no subscriber that blocks is more than the topic's depth behind
 *     at idle           nobody sleeps who could publish or get
 *     at the end        every subscriber that lives gets the rest; the topic keeps what its last
 *                       positions say, and no subscriber is left
 */
#ifndef STEER_TOPIC_H
#define STEER_TOPIC_H

#include "steer_world.h"

void topic_make(void);
void topic_begin(void);
void topic_operate(uint32_t me, enum operation what, uint32_t n);
void topic_between(void);
/* Fails if a live thread holds the buffer, which is being allocated. */
void topic_check_unheld(uint32_t index);
/* True if what a thread waits for is there; word is the one that it sleeps on. */
bool topic_has_something(const struct actor *a, const uint32_t *word);
/* All threads that live get the rest, let all go and leave. */
void topic_end(void);
/* Returns how many buffers the topic keeps, after topic_end(). */
uint32_t topic_kept(void);

#endif
