# make                  build/ngx_http_asana_hook_module.so, for the nginx that
#                       is installed (its headers: nginx-dev on Debian)
# make NGINX_SRC=dir    the same for an nginx source tree
# make static           build/static/nginx-asana-hook, the module inside;
#                       THREADS= for one that waits for the disk
# make asan             build/asan/nginx-asana-hook, with sanitizers
# make test             all tests
# make test-asan        all tests with the sanitizers
# make matrix           all tests with other nginx, compilers, kinds of module
# make test-wrap        the same with each call of the module watched: calls
#                       that fail (t/alloc*.t), and the zone's lock
# make fuzz SECONDS=60  each target of fuzz/, and whole requests, for so long
# make valgrind         the tests that receive something, with valgrind
# make analyze          gcc -fanalyzer, clang-tidy, cppcheck
# make coverage         the lines and branches that the tests reach; what they
#                       do not must be in t/uncovered
# make lint             shellcheck and perlcritic
# make bench            what deliveries and handshakes cost: docs/performance.md
# make deb              build/deb/libnginx-mod-http-asana-hook_*.deb
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
PROVE ?= prove

MODULE = ngx_http_asana_hook_module
SO = build/$(MODULE).so
SOURCES = $(MODULE).c config $(wildcard src/*.[ch] src/*/*.[ch])

# nginx's handlers have parameters that not each of them needs
WARNINGS = -Wall -Wextra -Wno-unused-parameter -Werror
CFLAGS ?= -g -O2 -fstack-protector-strong -D_FORTIFY_SOURCE=2
# nginx itself does not pass all of UBSan; the module does
LENIENT = alignment,pointer-overflow,nonnull-attribute
ASAN = -fsanitize=address,undefined -fno-sanitize=$(LENIENT)
STRICT = --eval='objs/addon/%: CFLAGS += -fsanitize=$(LENIENT)'
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

# options that matter for the module; --with-compat evens out the others
THREADS ?= --with-threads
OPTIONS = --with-compat --with-debug $(THREADS) --with-http_ssl_module \
	--with-http_v2_module --with-http_realip_module \
	--with-http_auth_request_module

.PHONY: all static asan test test-asan wrap test-wrap fuzz matrix \
	valgrind analyze coverage lint bench deb install clean

all: $(SO)

# another nginx, compiler or options: configured anew
FOR = $(NGINX_SRC) $(CC) $(CFLAGS)
ifneq ($(FOR),$(shell cat build/module/.for 2>/dev/null))
$(shell rm -f build/module/.configured)
endif

$(SO): build/module/.configured $(SOURCES)
	$(MAKE) -s -C build/module/nginx -f objs/Makefile modules
	cp build/module/nginx/objs/$(MODULE).so $@.new
	mv $@.new $@

build/module/.configured: config Makefile tools/configure
	CC="$(CC)" tools/configure build/module "$(NGINX_SRC)" dynamic \
		"$(CFLAGS) -fPIC $(WARNINGS)" "" $(OPTIONS)
	echo "$(FOR)" >build/module/.for
	touch $@

static: build/static/.configured $(SOURCES)
	$(MAKE) -j2 -C build/static/nginx -f objs/Makefile binary
	cp build/static/nginx/objs/nginx build/static/nginx.new
	mv build/static/nginx.new build/static/nginx-asana-hook

build/static/.configured: config Makefile tools/configure | $(TREE)
	CC="$(CC)" tools/configure build/static "$(TREE)" static \
		"$(CFLAGS) $(WARNINGS)" "" $(OPTIONS)
	touch $@

asan: build/asan/.configured $(SOURCES)
	$(MAKE) -j2 -C build/asan/nginx $(STRICT) -f objs/Makefile binary
	cp build/asan/nginx/objs/nginx build/asan/nginx.new
	mv build/asan/nginx.new build/asan/nginx-asana-hook

build/asan/.configured: config Makefile tools/configure | $(TREE)
	CC="$(CC)" tools/configure build/asan "$(TREE)" static \
		"-g -O1 -fno-omit-frame-pointer $(ASAN) -DNGX_DEBUG_PALLOC=1 \
		$(WARNINGS)" "$(ASAN)" $(OPTIONS)
	touch $@

$(CURDIR)/build/nginx:
	tools/nginx-source $@

test: all
	t/run

test-asan: asan
	$(SANITIZED) TEST_NGINX_BINARY=$(CURDIR)/build/asan/nginx-asana-hook \
	t/run $(TESTS)

wrap: build/wrap/nginx-asana-hook

build/wrap/nginx-asana-hook: asan t/lib/wrap.c tools/wrap tools/nginx-flags
	tools/wrap build/asan/nginx build/wrap $(CC) -g -O1 \
		-fno-omit-frame-pointer $(ASAN) -DNGX_DEBUG_PALLOC=1 $(WARNINGS)

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

analyze: build/static/.configured
	tools/install-packages clang-tidy cppcheck
	tools/analyze build/static/nginx

coverage: static
	tools/install-packages gcovr
	tools/coverage build/static/nginx build/coverage $(CC) $(TESTS)

lint:
	tools/install-packages git shellcheck libperl-critic-perl
	t/lint

bench: all
	bench/report

# of a copy, as the packager's tools write into the tree and beside it
deb:
	tools/install-packages build-essential debhelper
	rm -rf build/deb
	mkdir -p build/deb/source
	tar -cf - --exclude=./build --exclude=./.git . | tar -xf - -C build/deb/source
	cd build/deb/source && env -u MAKEFLAGS -u MAKELEVEL -u CFLAGS \
		dpkg-buildpackage -us -uc -b >../build.log 2>&1 || \
		{ tail -n 20 ../build.log; exit 1; }
	@ls build/deb/*.deb

install: all
	install -d "$(DESTDIR)$$(tools/modules-path $(NGINX))"
	install -m 644 $(SO) "$(DESTDIR)$$(tools/modules-path $(NGINX))"

clean:
	rm -rf build
