/* SPDX-License-Identifier: Apache-2.0
 *
 * steer_kernel.c - see steer_kernel.h.
 */
#include "steer_kernel.h"

#include <errno.h>

#include "opening.h"
#include "process.h"
#include "steer.h"
#include "token.h"

static struct opening_thread members;

struct qmempool opening_pools[OPENING_POOLS_MAX];
uint32_t *opening_callers;
void (*opening_subscriber_ends)(uint32_t number, uint32_t index);
_Thread_local struct opening_thread *opening_thread = &members;

int opening_attach(uint32_t number)
{
	(void)number;
	return -EUSERS; /* world_attach() takes a slot */
}

struct process process_self(void)
{
	uint32_t thread = steer_self() < 0 ? STEER_THREADS : (uint32_t)steer_self();
	return (struct process) { .pid = STEER_PID(thread), .start = 1, .pid_namespace = 1 };
}

void process_name(uint64_t name[2])
{
	name[0] = name[1] = 0;
}

bool process_suspended(struct process other)
{
	(void)other;
	return false;
}

enum token_state token_state(const struct segment *s, uint64_t number, uint64_t own)
{
	(void)s;
	(void)own;
	return number < STEER_TOKEN(STEER_THREADS) && steer_died((uint32_t)number - 1) ?
		       TOKEN_FREE :
		       TOKEN_HELD;
}

uint64_t steer_pins[STEER_THREADS];

int token_pin(const struct segment *s, uint64_t number, void **page)
{
	(void)s;
	store_seq_cst(&steer_pins[number - 1], 1);
	*page = &steer_pins[number - 1];
	return 0;
}

void token_let_go(void *page)
{
	store_seq_cst((uint64_t *)page, 0);
}

bool token_pinned(const struct segment *s, uint64_t own)
{
	(void)s;
	(void)own;
	for (uint32_t i = 0; i < STEER_THREADS; i++)
		if (load_seq_cst(&steer_pins[i]) && !steer_died(i))
			return true;
	return false;
}
