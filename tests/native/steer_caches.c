/* SPDX-License-Identifier: Apache-2.0
 *
 * steer_caches.c - scenarios of steer_script.h: local caches, growth, and who waits.
 */
#include "steer_script.h"

const struct scenario caches_scenarios[] = {
	{ 0 },
};
