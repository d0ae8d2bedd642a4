/* SPDX-License-Identifier: Apache-2.0
 *
 * check.h - what all C tests use: CHECK, a pool on a memfd, and threads.
 */
#ifndef CHECK_H
#define CHECK_H

#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#define CHECK(condition)                                                                           \
	((condition) ? (void)0 :                                                                   \
		       (fprintf(stderr, "%s:%d: %s\n", __FILE__, __LINE__, #condition), abort()))

#define EQUAL(expected, actual)                                                                    \
	do {                                                                                       \
		long long e_ = (long long)(expected), a_ = (long long)(actual);                    \
		if (e_ != a_) {                                                                    \
			fprintf(stderr, "%s:%d: %s is %lld, expected %lld\n", __FILE__, __LINE__,  \
				#actual, a_, e_);                                                  \
			abort();                                                                   \
		}                                                                                  \
	} while (0)

#endif
