/* SPDX-License-Identifier: Apache-2.0
 *
 * copy.c - see copy.h: what the processor can do.
 */
#include "copy.h"

#ifdef COPY_STRINGS
#include <cpuid.h>

#define LEAF_FEATURES 7
#define ERMS (1u << 9) /* in EBX: enhanced REP MOVSB/STOSB (Intel SDM vol. 2, CPUID) */

bool copy_strings_fast;

__attribute__((constructor)) static void look(void)
{
	unsigned int a, b, c, d;
	copy_strings_fast = __get_cpuid_count(LEAF_FEATURES, 0, &a, &b, &c, &d) && b & ERMS;
}
#endif
