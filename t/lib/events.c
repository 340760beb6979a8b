
/*
 * Copyright (C) asana-hook contributors
 */


/*
 * Drives src/ngx_asana_events.c without nginx:
 *
 *     events SIZE N          N events in a zone of SIZE bytes, prints them
 *     events SIZE N OTHER    and as they are in a new zone of OTHER bytes
 *     events SIZE N die      before the last one processes die while they
 *                            write, one after each piece that is written
 *
 * A line for each event, the newest one first.
 */


#include "ngx_asana_events.h"

#include <sys/wait.h>


static void driver_copy(void *dst, const void *src, size_t n);

#undef ngx_memcpy
#define ngx_memcpy  driver_copy

#include "../../src/ngx_asana_events.c"


static ngx_slab_pool_t   driver_pool;
static ngx_uint_t        driver_locked, driver_left;


static void
driver_die(void)
{
    if (driver_left && --driver_left == 0) {
        _exit(driver_locked ? 0 : 1);
    }
}


/* one byte after the other, and each may be the last */

static void
driver_copy(void *dst, const void *src, size_t n)
{
    size_t  i;

    for (i = 0; i < n; i++) {
        ((volatile u_char *) dst)[i] = ((const u_char *) src)[i];

        if (driver_locked) {
            driver_die();
        }
    }
}


void
ngx_shmtx_lock(ngx_shmtx_t *mtx)
{
    if (driver_locked++) {
        abort();
    }

    driver_die();
}


void
ngx_shmtx_unlock(ngx_shmtx_t *mtx)
{
    if (--driver_locked) {
        abort();
    }
}


void *
ngx_slab_calloc(ngx_slab_pool_t *pool, size_t size)
{
    return mmap(NULL, size, PROT_READ|PROT_WRITE, MAP_ANON|MAP_SHARED, -1, 0);
}


static ngx_asana_events_t *
driver_create(const char *size)
{
    driver_pool.end = (u_char *) &driver_pool + atol(size);

    return ngx_asana_events_create(&driver_pool);
}


/* all bytes of an event tell its number */

static void
driver_add(ngx_asana_events_t *events, ngx_uint_t n)
{
    char               text[1000];
    ngx_uint_t         i;
    ngx_asana_event_t  event;

    memset(&event, 0, sizeof(ngx_asana_event_t));
    memset(text, 'a' + n % 26, sizeof(text));

    event.time = n;
    event.word = n % 20;
    event.dry_run = n & 1;

    for (i = 0; i < NGX_ASANA_EVENT_TEXTS; i++) {
        event.text[i].data = (u_char *) text;
        event.text[i].len = 16 + i;
    }

    event.text[NGX_ASANA_EVENT_KEY].len = n % 450;

    ngx_asana_events_add(events, &event);
}


static void
driver_print(ngx_asana_events_t *events)
{
    u_char             *p;
    uint64_t            number;
    ngx_uint_t          i, whole;
    ngx_asana_event_t   event;

    number = 0;

    while (ngx_asana_events_next(events, &number, &event) == NGX_OK) {

        whole = (event.word == (ngx_uint_t) event.time % 20
                 && event.dry_run == ((ngx_uint_t) event.time & 1));

        for (i = 0; i < NGX_ASANA_EVENT_TEXTS; i++) {
            p = event.text[i].data;

            while (p < event.text[i].data + event.text[i].len) {
                whole &= (*p++ == 'a' + event.time % 26);
            }

            whole &= (i == NGX_ASANA_EVENT_KEY
                      || event.text[i].len == 16 + i);
        }

        printf("%d %d%s%s\n", (int) event.time,
               (int) event.text[NGX_ASANA_EVENT_KEY].len,
               event.cut ? " cut" : "", whole ? "" : " torn");
    }
}


int
main(int argc, char **argv)
{
    int                  status;
    ngx_uint_t           i, n, piece;
    ngx_asana_events_t  *events, *other;

    events = driver_create(argv[1]);
    n = atol(argv[2]);

    for (i = 1; i < n; i++) {
        driver_add(events, i);
    }

    /* a child must not print what is in the buffer again */

    for (piece = 1; argc > 3 && strcmp(argv[3], "die") == 0; piece++) {

        fflush(stdout);

        if (fork() == 0) {
            driver_left = piece;
            driver_add(events, 10349);
            _exit(2);
        }

        wait(&status);

        if (WEXITSTATUS(status) == 2) {
            break;
        }

        if (WEXITSTATUS(status) != 0) {
            abort();
        }

        printf("dead\n");
        driver_print(events);
    }

    driver_add(events, n);

    printf("all\n");
    driver_print(events);

    if (argc > 3 && strcmp(argv[3], "die") != 0) {
        other = driver_create(argv[3]);
        ngx_asana_events_copy(other, events);
        printf("copy\n");
        driver_print(other);
    }

    return 0;
}
