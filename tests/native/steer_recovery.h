/* SPDX-License-Identifier: Apache-2.0
 *
 * steer_recovery.h - what the scenarios of recovery share: the pool and its words. In most of them
 * A dies, C recovers, and D overtakes C or gets the messages.
 */
#ifndef STEER_RECOVERY_H
#define STEER_RECOVERY_H

#include "steer_script.h"

/* Rings of 4 slots, and no caches. */
#define POOL(...) .pool = { NULL, 16, 16, 0, 2, 4, 4, .threads = 5, ##__VA_ARGS__ }
#define FIRST 4 /* position in each queue */

#define PROD (&script_queue(0)->prod)
#define CONS (&script_queue(0)->cons)
#define SLOT(n) (script_slot(0, FIRST + (n)))
#define OP(thread) (&script_member(thread)->op)
#define IDENTITY(thread) (&script_member(thread)->identity)
#define OWNER(thread) (&script_buffer((thread), 0)->owner) /* of the first buffer that it owns */

/* Runs the recoverer until it has marked dead members up to the thread, which is not the last
 * one. */
static inline void mark_up_to(uint32_t recoverer, uint32_t thread)
{
	START(recoverer, RECOVER);
	UNTIL(recoverer, AFTER, LOADS, IDENTITY(A), 1);
	UNTIL(recoverer, AFTER, LOADS, IDENTITY(thread + 1), 1);
}

#endif
