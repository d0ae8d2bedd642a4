/* SPDX-License-Identifier: Apache-2.0
 *
 * steer_kernel.c - see steer_kernel.h.
 */
#include "steer_kernel.h"

#include <errno.h>

#include "local.h"
#include "process.h"
#include "steer.h"
#include "token.h"

static struct local_thread members;

struct qmempool local_pools[LOCAL_POOLS_MAX];
uint32_t *local_callers;
_Thread_local struct local_thread *local_thread = &members;

int local_attach(uint32_t number)
{
	(void)number;
	return -EUSERS; /* world_attach() takes a slot */
}

struct process process_self(void)
{
	uint32_t thread = steer_self() < 0 ? STEER_THREADS : (uint32_t)steer_self();
	return (struct process) { .pid = STEER_PID(thread), .start = 1, .pid_namespace = 1 };
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
