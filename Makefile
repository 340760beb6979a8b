# make                  build/ngx_http_asana_hook_module.so, for the nginx that
#                       is installed (its headers: nginx-dev on Debian)
# make NGINX_SRC=dir    the same for an nginx source tree
# make static           build/static/nginx-asana-hook, the module inside
# make asan             build/asan/nginx-asana-hook, with sanitizers
# make test             all tests
# make test-asan        all tests with the sanitizers
# make matrix           all tests with other nginx, compilers, kinds of module
# make wrap             build/wrap/nginx-asana-hook, the same with each call of
#                       the module watched
# make test-wrap        all tests with it: calls that fail (t/alloc*.t), and
#                       the zone's lock
# make test-late        the same with a store that answers look-ups later
# make fuzz SECONDS=60  each target of fuzz/, and whole requests, for so long
# make valgrind         the tests that receive something, with valgrind
# make analyze          gcc -fanalyzer, clang-tidy, cppcheck
# make coverage         the lines and branches that the tests reach; what they
#                       do not must be in t/uncovered
# make lint             shellcheck, perlcritic, tools/arrows
# make bench            what deliveries and handshakes cost: docs/performance.md
# make bench-instructions   what a request needs, against bench/instructions.txt
# make test-long        all kinds of tests, an hour and more
# make deb              build/deb/libnginx-mod-http-asana-hook*.deb, two of
#                       them: the second one is for PostgreSQL
# make dist             build/NAME-VERSION.tar.gz of what is committed, the same
#                       bytes each time, and its checksum
# make install          into the modules directory of nginx, below DESTDIR
# make clean

ifneq ($(words $(CURDIR)),1)
$(error the path "$(CURDIR)" has a space, which make and nginx's configure \
	cannot handle: move the directory)
endif

CC ?= cc
NGINX_SRC ?= /usr/share/nginx/src
NGINX ?= nginx
DESTDIR ?=

# Debian has nginx there, and leaves it out of the PATH of users
export PATH := $(PATH):/usr/sbin

MODULE = ngx_http_asana_hook_module
POSTGRES = ngx_http_asana_hook_postgres_module
SO = build/$(MODULE).so
SOURCES = $(MODULE).c $(POSTGRES).c config $(wildcard src/*.[ch] src/*/*.[ch])

# nginx's handlers have parameters that not each of them needs
WARNINGS = -Wall -Wextra -Wno-unused-parameter -Werror
CFLAGS ?= -g -O2 -fstack-protector-strong -D_FORTIFY_SOURCE=2
# nginx itself does not pass all of UBSan; the module does
LENIENT = alignment,pointer-overflow,nonnull-attribute,shift
ASAN = -fsanitize=address,undefined -fno-sanitize=$(LENIENT)
SANITIZED = ASANA_HOOK_STATIC=1 \
	ASAN_OPTIONS=detect_leaks=1:detect_odr_violation=0 \
	LSAN_OPTIONS=suppressions=$(CURDIR)/tools/lsan.supp:print_suppressions=0 \
	UBSAN_OPTIONS=print_stacktrace=1

# of fuzzing, each target
SECONDS ?= 60
SEED ?= 1

# nginx-dev has the headers alone
ifeq ($(wildcard $(NGINX_SRC)/src/core/nginx.c),)
TREE = $(CURDIR)/build/nginx
else
TREE = $(NGINX_SRC)
endif

# options that matter for the module; --with-compat evens out the others.
# THREADS= makes an nginx without threads
THREADS ?= --with-threads
OPTIONS = --with-compat --with-debug $(THREADS) --with-http_ssl_module \
	--with-http_v2_module --with-http_realip_module \
	--with-http_auth_request_module --with-poll_module --with-select_module

.PHONY: all static asan test test-asan wrap test-wrap late test-late \
	fuzz matrix \
	valgrind analyze coverage lint bench bench-instructions test-long deb \
	dist install clean always

all: $(SO)

# A flavour F is configured and built in build/F/nginx with F_flags, F_ld and,
# for the module's files alone, F_own.  In those that are WRAPPED t/lib/wrap.c
# stands between the module and all it calls.

INSIDE = static asan $(WRAPPED)
WRAPPED = wrap coverage
FLAVOURS = module $(INSIDE)

module_flags = $(CFLAGS) -fPIC
static_flags = $(CFLAGS)
asan_flags = -g -O1 -fno-omit-frame-pointer $(ASAN) -DNGX_DEBUG_PALLOC=1
asan_ld = $(ASAN)
asan_own = -fsanitize=$(LENIENT)
wrap_flags = $(asan_flags)
wrap_ld = $(asan_ld)
wrap_own = $(asan_own)
coverage_flags = -g -O0
coverage_ld = --coverage
coverage_own = --coverage -fprofile-update=atomic

$(SO): build/module/made
	for so in $(MODULE) $(POSTGRES); do \
		rm -f build/$$so.so; \
		[ ! -f build/module/nginx/objs/$$so.so ] || \
		cp build/module/nginx/objs/$$so.so build/$$so.so || exit 1; \
	done

$(INSIDE:%=build/%/nginx-asana-hook): build/%/nginx-asana-hook: build/%/made
	cp build/$*/nginx/objs/$(if $(filter $*,$(WRAPPED)),wrapped,nginx) $@.new
	mv $@.new $@

$(FLAVOURS:%=build/%/made): build/%/made: build/%/configured $(SOURCES)
	$(MAKE) -s -j2 -C build/$*/nginx -f objs/Makefile \
		--eval='objs/addon/%: CFLAGS += $($*_own)' \
		$(if $(filter module,$*),modules,binary)
	$(if $(filter $*,$(WRAPPED)),tools/wrap build/$*/nginx $(CC) \
		$($*_flags) $($*_ld) $(WARNINGS))
	touch $@

# of CFLAGS= nginx's own make is to hear by its configure
$(FLAVOURS:%=build/%/made): MAKEOVERRIDES =

$(WRAPPED:%=build/%/made): t/lib/wrap.c tools/wrap tools/nginx-flags

$(FLAVOURS:%=build/%/configured): build/%/configured: build/%/for \
		config Makefile tools/configure src/http/page.html
	CC="$(CC)" ASANA_HOOK_POSTGRES=$(if $(filter $*,$(WRAPPED)),no,yes) \
		tools/configure build/$* \
		$(if $(filter module,$*),"$(NGINX_SRC)" dynamic,"$(TREE)" static) \
		"$($*_flags) $(WARNINGS)" "$($*_ld)" $(OPTIONS)
	touch $@

$(INSIDE:%=build/%/configured): | $(TREE)

# another nginx, also by an upgrade, compiler, options, or libpq where none was:
# configured anew
FOR = $(NGINX_SRC) $(CC) $(CFLAGS) $(THREADS) \
	$(wildcard /usr/include/postgresql/libpq-fe.h) \
	$(shell cat $(NGINX_SRC)/src/core/nginx.h $(NGINX_SRC)/conf_flags \
		2>/dev/null | cksum)

$(FLAVOURS:%=build/%/for): always
	@mkdir -p $(@D)
	@echo "$(FOR)" | cmp -s - $@ || echo "$(FOR)" >$@

$(CURDIR)/build/nginx:
	tools/nginx-source $@

static asan wrap: %: build/%/nginx-asana-hook

test: all
	t/run

test-asan: asan
	$(SANITIZED) TEST_NGINX_BINARY=$(CURDIR)/build/asan/nginx-asana-hook \
	t/run $(TESTS)

late: build/late/nginx-asana-hook

build/late/nginx-asana-hook: build/asan/made t/lib/late.c tools/late
	tools/late build/asan/nginx $@ $(CC) $(asan_flags) $(asan_ld) $(WARNINGS)

test-late: late
	$(SANITIZED) ASANA_HOOK_LATE=1 TEST_NGINX_BINARY=$(CURDIR)/build/late/nginx-asana-hook \
	t/run $(TESTS)

# each process adds: locks, worst hold in nanoseconds of time, of CPU time
test-wrap: wrap
	rm -f build/wrap/holds
	$(SANITIZED) TEST_NGINX_BINARY=$(CURDIR)/build/wrap/nginx-asana-hook \
	ASANA_WRAP_HOLDS=$(CURDIR)/build/wrap/holds t/run $(TESTS)
	@awk '{ n += $$1; if ($$2 > w) w = $$2; if ($$3 > c) c = $$3 } \
		END { print "the mutex: held " n " times, at worst for " w / 1000 \
		" us, " c / 1000 " us of CPU time" }' build/wrap/holds

fuzz: asan
	tools/install-packages clang
	tools/install-packages \
		libclang-rt-$$(clang -dumpversion | cut -d. -f1)-dev
	$(MAKE) -s -f fuzz/Makefile SECONDS=$(SECONDS) SEED=$(SEED)
	$(SANITIZED) TEST_NGINX_BINARY=$(CURDIR)/build/asan/nginx-asana-hook \
	fuzz/requests --seconds $(SECONDS) --seed $(SEED)

matrix:
	tools/matrix

valgrind: static
	tools/install-packages valgrind
	tools/valgrind $(CURDIR)/build/static/nginx-asana-hook build/valgrind \
		$(TESTS)

analyze: build/static/configured
	tools/install-packages clang-tidy cppcheck
	tools/analyze build/static/nginx

coverage: build/coverage/nginx-asana-hook
	tools/install-packages gcovr
	tools/coverage build/coverage $(TESTS)

lint:
	tools/install-packages git shellcheck libperl-critic-perl
	t/lint

bench: all
	bench/report

bench-instructions: all
	bench/instructions --check

test-long: test test-asan test-late test-wrap matrix fuzz bench-instructions

# of a copy, as the packager's tools write into the tree and beside it
deb:
	tools/install-packages build-essential debhelper libpq-dev
	rm -rf build/deb
	mkdir -p build/deb/source
	tar -cf - --exclude=./build --exclude=./.git . | tar -xf - -C build/deb/source
	cd build/deb/source && env -u MAKEFLAGS -u MAKELEVEL -u CFLAGS \
		dpkg-buildpackage -us -uc -b >../build.log 2>&1 || \
		{ tail -n 20 ../build.log; exit 1; }
	@ls build/deb/*.deb

VERSION = $(shell sed -n 's/^.*NGX_ASANA_VERSION *"\(.*\)"/\1/p' src/ngx_asana.h)
DIST = $(MODULE)-$(VERSION)

dist:
	mkdir -p build
	git archive --prefix=$(DIST)/ HEAD | gzip -9n >build/$(DIST).tar.gz
	cd build && sha256sum $(DIST).tar.gz >$(DIST).tar.gz.sha256

# what was built before: by itself make might build for another nginx here.
# Its variable NGINX would be sockets to inherit for nginx.
install:
	@[ -f $(SO) ] || { \
		echo "there is no $(SO) yet: make it first" >&2; exit 1; }
	@{ \
		for so in build/*.so; do \
			echo "load_module $(CURDIR)/$$so;"; \
		done; \
		[ "$$(id -u)" != 0 ] || echo "user root $$(id -gn);"; \
		echo "pid $(CURDIR)/build/load.pid; events { }"; \
	} >build/load.conf
	@env -u NGINX $(NGINX) -t -q -e stderr -c $(CURDIR)/build/load.conf || { \
		echo "\"$(NGINX)\" does not load $(SO): make it again, or name" \
			"the nginx that it is for by NGINX=" >&2; exit 1; }
	@rm -f build/load.conf build/load.pid
	install -d "$(DESTDIR)$$(tools/modules-path $(NGINX))"
	install -m 644 build/*.so \
		"$(DESTDIR)$$(tools/modules-path $(NGINX))"

clean:
	rm -rf build
