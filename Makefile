# make demo           replays a capture through worker processes
# make check          format, lint, types and the quick tests: about 90 seconds on two idle cores
# make test           every test, except those of the benchmark that need the other libraries
# make test-quick     the tests without the marker slow
# make test-bench     the tests that need the other libraries
# make test-interpreters   the quick tests on the other versions of CPython that are installed here, CPython's
#                     own tests of its process pools where they have these, and the wheel for each
# make lint           format, lint and types alone          make fix      formats the sources
# make coverage       which branches of Python and C no test takes (build/coverage)
#
# make bench          the benchmark                         make bench-docs   writes its report into docs/
# make bench-native   the C core beside other rings and allocators
# make bench-instructions   instructions of each operation, compared with those that are kept
# make bench-arrays   bench-bridge  bench-chains  bench-daemon  bench-executor  bench-free-ring  bench-futex-page  bench-growth  bench-headers
#      bench-import   bench-lanes  bench-net  bench-objects  bench-recovery  bench-side-rings  bench-topics  bench-wakeups  bench-warm
#                     each one subject of docs/
#
# make sweep          kills a member at every instruction of every operation (about an hour on two cores), measures
#                     how long a dead reader holds a topic's writer up (a minute), and lets every call of every
#                     operation to the system fail with each errno (a minute)
# make pairs          two members in the middle of something at once, one or both killed
# make soak           120,000 random kills, 200 of an executor's workers in 5,000 tasks, 50,000 corrupted words,
#                     1,000 of workers on 20 million packets of a veth pair in 1,000 s (about two hours)
# make soak-bridge    200 random kills of bridges between network namespaces, and 400 with a server of NATS
# make steer          4 million runs of the C core steered from a seed
# make mutants        breaks steps; tests must fail         make relacy   20 million interleavings
# make fuzz           random frames for the daemon's reader, for a minute
#
# make docs           writes the pages that are made from the code
# make site           builds the site of docs/ (build/site)
# make share          man pages and completion files (build/share)
# make deb            a Debian package (build/deb)
# make aarch64        the wheel for aarch64 built and used under an emulator (a minute); ARGS="tests/test_queue.py" runs tests there
# make release        ARGS=1.2.3: version, changelog, build, checks, bill of materials, commit, tag; sends nothing
# make tools          what some tests want from Debian, as root; without it they are skipped and say so
# make clean          removes what was built and the virtual environments
# make help           prints this list
#
# Options go in ARGS: make demo ARGS="--workers 4 --burst 64 trace.pcapng"

PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
ARGS ?=
SOURCES := pyproject.toml setup.py shmpool/native/flags $(wildcard shmpool/hot/*.[ch] shmpool/net/*.[ch] shmpool/native/*.[ch] shmpool/native/*.py)
PIP := $(BIN)/python -m pip --disable-pip-version-check install --quiet

.PHONY: all help demo test test-quick test-bench test-interpreters coverage lint check bench bench-docs bench-instructions bench-native bench-recovery \
	bench-arrays bench-chains bench-objects bench-executor bench-topics bench-lanes bench-headers bench-free-ring bench-futex-page bench-side-rings bench-growth bench-warm bench-daemon bench-wakeups bench-net bench-bridge bench-import sweep pairs soak soak-bridge steer aarch64 mutants relacy fuzz docs site release share deb tools fix clean
all: $(VENV)/.demo

# One stamp for each set of extras, so that a demo does not have to install the linters.
$(VENV)/.demo: EXTRAS := demo
$(VENV)/.dev: EXTRAS := dev
$(VENV)/.bench: EXTRAS := bench
$(VENV)/.demo $(VENV)/.dev $(VENV)/.bench: $(SOURCES)
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(PIP) --editable '.[$(EXTRAS)]'
	@touch $@

help:
	@sed -n '/^#/!q; s/^# \{0,1\}//p' $(firstword $(MAKEFILE_LIST))

demo: $(VENV)/.demo
	$(BIN)/python -m clients.demo $(ARGS)

test: $(VENV)/.dev
	$(BIN)/python -m pytest -n auto --dist worksteal $(ARGS)

# Those without the marker slow, which is set by measured processor time (tests/processor_time.py).
test-quick: $(VENV)/.dev
	$(BIN)/python -m pytest -n auto --dist worksteal -m 'not slow and not contestants' $(ARGS)

# Each interpreter has a virtual environment of its own; one that is not installed is skipped.
INTERPRETERS := 3.12 3.13
test-interpreters:
	@for version in $(INTERPRETERS); do \
		python=$$(.ci/interpreter $$version) || { echo "make: CPython $$version is not installed; skipped"; continue; }; \
		$(MAKE) test-quick PYTHON=$$python VENV=.venv-$$version || exit 1; \
		$(MAKE) test PYTHON=$$python VENV=.venv-$$version ARGS="tests/test_executor.py -k cpythons" || exit 1; \
		$(MAKE) test PYTHON=$$python VENV=.venv-$$version ARGS="-n 0 tests/test_install.py -k wheel" || exit 1; \
	done

coverage: $(VENV)/.dev
	.ci/coverage $(abspath $(BIN)) $(ARGS)

# The tests that need the other libraries of the benchmark; `make test` leaves them out.
test-bench: $(VENV)/.dev $(VENV)/.bench
	$(BIN)/python -m pytest -n auto --dist worksteal -m contestants $(ARGS)

build/kill_points: $(wildcard tests/native/*.[ch] shmpool/native/*.[ch])
	@mkdir -p build
	gcc -std=gnu11 -g -O2 -pthread -Wl,-z,now -Ishmpool/native -o $@ \
		$(wildcard tests/native/kill_*.c shmpool/native/*.c)

# Every class has a warm ring: of eight slots, or of 64, which have room for all free buffers.
build/kill_points_warm_%: $(wildcard tests/native/*.[ch] shmpool/native/*.[ch])
	@mkdir -p build
	gcc -std=gnu11 -g -O2 -pthread -Wl,-z,now -Ishmpool/native -DGEOMETRY_WARM_SIZE=64 -DGEOMETRY_WARM_BYTES=64*$* \
		-o $@ $(wildcard tests/native/kill_*.c shmpool/native/*.c)

# Every class has three side rings.
build/kill_points_sides_3: $(wildcard tests/native/*.[ch] shmpool/native/*.[ch])
	@mkdir -p build
	gcc -std=gnu11 -g -O2 -pthread -Wl,-z,now -Ishmpool/native -DSCENE_FREE_RINGS=3 -DGEOMETRY_SIDE_BULKS=1 \
		-o $@ $(wildcard tests/native/kill_*.c shmpool/native/*.c)

build/held_up: tests/native/held_up.c tests/native/kill_trace.c $(wildcard tests/native/*.h shmpool/native/*.[ch])
	@mkdir -p build
	gcc -std=gnu11 -g -O2 -pthread -Wl,-z,now -Ishmpool/native -o $@ \
		tests/native/held_up.c tests/native/kill_trace.c $(wildcard shmpool/native/*.c)

build/steer_pool build/steer_script: $(wildcard tests/native/steer* shmpool/native/*.[ch]) tests/steer_build.py
	@mkdir -p build
	$(PYTHON) -m tests.steer_build $@

steer: build/steer_pool
	build/steer_pool --seeds 100000 $(ARGS)
	build/steer_pool --seeds 100000 --weak $(ARGS)

mutants: $(VENV)/.dev
	$(BIN)/python -m tests.mutants $(ARGS)

sweep: build/kill_points build/kill_points_warm_8 build/kill_points_warm_64 build/kill_points_sides_3 build/held_up $(VENV)/.dev
	$(BIN)/python -m tests.errno_sweep
	build/held_up
	build/kill_points --jobs $$(nproc) $(ARGS)
	build/kill_points --classes 2 --jobs $$(nproc) $(ARGS)
	build/kill_points_warm_8 --jobs $$(nproc) $(ARGS)
	build/kill_points_warm_64 --jobs $$(nproc) $(ARGS)
	build/kill_points_sides_3 --jobs $$(nproc) $(ARGS)

# Every instruction of the smallest operations against every one of each other; of all, 20 by 10.
SMALL := put-1-multi-multi put-1-single-single get-1-multi-multi get-1-single-single \
	alloc-cached-1 free-cached-1
pairs: build/kill_points
	for one in $(SMALL); do for other in put alloc free; do \
		build/kill_points --jobs 1 --operation $$one --pairs $$other --points 0 $(ARGS) || exit 1; done; done
	build/kill_points --jobs $$(nproc) --pairs '*' --most 20 --points 10 $(ARGS)

soak: $(VENV)/.dev
	$(BIN)/python -m tests.storm --kills 100000 --seed 7 $(ARGS)
	$(BIN)/python -m tests.storm --kills 20000 --seed 8 --nobody-recovers $(ARGS)
	$(BIN)/python -m tests.storm --topics --kills 20000 --seed 7 $(ARGS)
	$(BIN)/python -m tests.storm --topics --kills 5000 --seed 8 --nobody-recovers $(ARGS)
	$(BIN)/python -m tests.fuzz_segment --trials 50000 --seed 7
	$(BIN)/python -m tests.storm_namespaces --kills 1000 --seed 9
	$(BIN)/python -m pytest -n 0 tests/test_executor_deaths.py -k many_random_kills
	CHAIN_SECONDS=1000 $(BIN)/python -m pytest -n 0 tests/test_net_chain.py

# As root: network namespaces.
soak-bridge: $(VENV)/.dev
	$(BIN)/python -m tests.bridge_storm --seed 3 $(ARGS)
	$(BIN)/python -m tests.bridge_storm --kills 20 --downs 2 --lossy --seed 4
	$(BIN)/python -m tests.nats_storm --seed 5 $(ARGS)
	$(BIN)/python -m tests.nats_storm --kills 20 --downs 2 --lossy --seed 6
	NATS_KILLS=200 $(BIN)/python -m pytest -n 0 tests/test_bridge_nats.py -k everybody_is_killed

relacy: $(VENV)/.dev
	RELACY_INTERLEAVINGS=20000000 $(BIN)/python -m pytest -n auto --dist worksteal tests/test_relacy.py $(ARGS)

# A cross compiler, Debian's Python for that processor, qemu: all in build/aarch64, nothing is installed.
aarch64: $(VENV)/.dev
	.ci/aarch64 $(abspath $(BIN)) $(ARGS)

# make release ARGS=1.2.3: version, changelog, build, checks, bill of materials, commit, tag. Sends nothing.
release: $(VENV)/.dev
	$(BIN)/python .ci/release $(ARGS)

# Man pages and completion files in build/share, for packages of distributions.
share: $(VENV)/.dev
	rm -rf build/share && $(BIN)/python .ci/share build/share

# A package for Debian and its relatives, for the version of Python that $(PYTHON) has: build/deb/*.deb.
deb: $(VENV)/.dev
	rm -rf build/deb && mkdir -p build/deb
	$(BIN)/python -m build --wheel --outdir build/deb
	PATH=$(abspath $(BIN)):$$PATH $(BIN)/python -m auditwheel repair --wheel-dir build/deb/repaired build/deb/*.whl
	$(BIN)/python .ci/deb build/deb/repaired/*.whl build/deb

fuzz: $(VENV)/.dev
	$(PIP) atheris
	$(BIN)/python tests/fuzz_wire.py -max_total_time=60 -max_len=4096

docs: $(VENV)/.dev
	$(BIN)/python docs/generate.py
	$(BIN)/python docs/stubs.py
	$(BIN)/python docs/overview.py
	SHMPOOL_SCREENSHOT=docs/live-page.png $(BIN)/python -m pytest -q tests/test_browser.py

# build/site/index.html
site: $(VENV)/.dev
	NO_MKDOCS_2_WARNING=true $(BIN)/python -m mkdocs build --strict $(ARGS)

# Compilers, checkers and emulators; where there is no apt, or no network, the tests do without.
TOOLS := g++ clang llvm spin relacy-dev gcc-aarch64-linux-gnu libc6-dev-arm64-cross qemu-user-static \
	musl-tools prometheus valgrind chromium chromium-driver iproute2 libpcap0.8 runc \
	curl lintian iperf3 iputils-ping traceroute bind9-dnsutils tcpreplay nats-server nftables
# clang's sanitizers are a package of their own, of clang's version.
CLANG_RT = libclang-rt-$$(clang -dumpversion | cut -d. -f1)-dev
# CPython's own tests of concurrent.futures, for the version that Debian has.
CPYTHON_TESTS = libpython$$(/usr/bin/python3 -c 'import sys; print("%d.%d" % sys.version_info[:2])')-testsuite
APT_INSTALL := timeout 400 apt-get -qq install --yes --no-install-recommends
tools:
	@if [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null && ! dpkg -s $(TOOLS) $(CLANG_RT) $(CPYTHON_TESTS) >/dev/null 2>&1; then \
		(timeout 120 apt-get -qq update && $(APT_INSTALL) $(TOOLS) && $(APT_INSTALL) $(CLANG_RT) && $(APT_INSTALL) $(CPYTHON_TESTS)) >/dev/null 2>&1 \
		|| echo "make tools: not all of $(TOOLS) $(CLANG_RT) $(CPYTHON_TESTS) could be installed; some tests will be skipped"; fi

lint: $(VENV)/.dev
	$(BIN)/ruff format --check
	$(BIN)/ruff check
	$(BIN)/clang-format --dry-run --Werror $$(git ls-files '*.c' '*.h')
	$(BIN)/mypy shmpool clients

check: lint test-quick

bench: $(VENV)/.bench
	$(BIN)/python -m shmpool.bench $(ARGS)

bench-docs: $(VENV)/.bench
	$(BIN)/python -m shmpool.bench --report docs $(ARGS)

bench-instructions: $(VENV)/.dev
	$(BIN)/python -m clients.bench.instructions $(ARGS)

bench-recovery: $(VENV)/.demo
	$(BIN)/python -m clients.bench.recovery $(ARGS)

bench-arrays: $(VENV)/.demo
	$(BIN)/python -m clients.bench.arrays $(ARGS)

bench-chains: $(VENV)/.demo
	$(BIN)/python -m clients.bench.chains $(ARGS)

bench-headers: $(VENV)/.dev
	$(BIN)/python -W ignore -m clients.bench.headers $(ARGS)

bench-objects: $(VENV)/.bench
	$(BIN)/python -m clients.bench.objects $(ARGS)

bench-wakeups: $(VENV)/.dev
	$(BIN)/python -m clients.bench.wakeups $(ARGS)

bench-bridge: $(VENV)/.dev
	$(BIN)/python -m clients.bench.bridge $(ARGS)
	$(BIN)/python -m clients.bench.nats_bridge

bench-net: $(VENV)/.bench
	$(BIN)/python -m clients.bench.net $(ARGS)
	$(BIN)/python -m clients.bench.net_xdp

bench-import: $(VENV)/.demo
	$(BIN)/python -m clients.bench.imports $(ARGS)

bench-executor: $(VENV)/.bench
	$(BIN)/python -m clients.bench.executor $(ARGS)

bench-topics: $(VENV)/.bench
	$(BIN)/python -m clients.bench.topics $(ARGS)

bench-lanes: $(VENV)/.demo
	$(BIN)/python -m clients.bench.lanes $(ARGS)

bench-warm: $(VENV)/.demo
	$(BIN)/python -m clients.bench.warm $(ARGS)

# Needs 3 GiB in /dev/shm, for 16 million buffers; --most 0.1 measures smaller sizes.
bench-growth: $(VENV)/.dev
	$(BIN)/python -m clients.bench.growth $(ARGS)

bench-free-ring: $(VENV)/.demo
	$(BIN)/python -m clients.bench.free_ring $(ARGS)

bench-futex-page:
	$(MAKE) -C clients/bench/native futex_page
	clients/bench/native/build/gcc/futex_page

bench-side-rings:
	$(MAKE) -C clients/bench/native side_lines
	clients/bench/native/build/gcc/side_lines

bench-daemon: $(VENV)/.dev
	$(BIN)/python -m clients.bench.daemon $(ARGS)

bench-native: $(VENV)/.demo
	$(BIN)/python -m clients.bench.core $(ARGS)

fix: $(VENV)/.dev
	$(BIN)/ruff check --fix
	$(BIN)/ruff format
	$(BIN)/clang-format -i $$(git ls-files '*.c' '*.h')

clean:
	rm -rf $(VENV) $(INTERPRETERS:%=.venv-%) build dist *.egg-info shmpool/_native*.so shmpool/_native.c clients/bench/native/build
