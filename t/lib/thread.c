
/*
 * Copyright (C) asana-hook contributors
 */


/*
 * Drives src/ngx_asana_thread.c without nginx, thousands of times: what is
 * needed of the event loop stands here.  A second of idleness is made short by
 * pthread_cond_timedwait(), which the linker wraps.
 */


#define _GNU_SOURCE

#include "ngx_asana_thread.h"

#include <ngx_event.h>
#include <poll.h>
#include <pthread.h>
#include <stdio.h>


static ngx_uint_t  driver_jobs, driver_done, driver_nap, driver_connections;

/* nanoseconds, 0: as the thread has it */
static ngx_atomic_t  driver_idle;

static ngx_cycle_t        driver_cycle;
static ngx_log_t          driver_log;
static ngx_event_t        driver_event;
static ngx_connection_t   driver_connection;
volatile ngx_cycle_t     *ngx_cycle = &driver_cycle;


int __real_pthread_cond_timedwait(pthread_cond_t *cond,
    pthread_mutex_t *mutex, const struct timespec *until);
int __wrap_pthread_cond_timedwait(pthread_cond_t *cond,
    pthread_mutex_t *mutex, const struct timespec *until);


int
__wrap_pthread_cond_timedwait(pthread_cond_t *cond, pthread_mutex_t *mutex,
    const struct timespec *until)
{
    ngx_uint_t       idle;
    struct timespec  soon;

    idle = __atomic_load_n(&driver_idle, __ATOMIC_RELAXED);

    (void) clock_gettime(CLOCK_MONOTONIC, &soon);
    soon.tv_nsec += idle;

    if (soon.tv_nsec >= 1000000000) {
        soon.tv_nsec -= 1000000000;
        soon.tv_sec++;
    }

    return __real_pthread_cond_timedwait(cond, mutex,
                                         idle ? &soon : until);
}


void
ngx_log_error_core(ngx_uint_t level, ngx_log_t *log, ngx_err_t err,
    const char *fmt, ...)
{
    printf("logged: %s\n", fmt);
}


void *
ngx_calloc(size_t size, ngx_log_t *log)
{
    return calloc(1, size);
}


ngx_connection_t *
ngx_get_connection(ngx_socket_t s, ngx_log_t *log)
{
    memset(&driver_connection, 0, sizeof(driver_connection));
    memset(&driver_event, 0, sizeof(driver_event));

    driver_connection.fd = s;
    driver_connection.read = &driver_event;
    driver_event.data = &driver_connection;
    driver_connections++;

    return &driver_connection;
}


void
ngx_close_connection(ngx_connection_t *c)
{
    (void) close(c->fd);
    c->fd = -1;
    driver_connections--;
}


ngx_int_t
ngx_handle_read_event(ngx_event_t *rev, ngx_uint_t flags)
{
    return NGX_OK;
}


int
ngx_nonblocking(ngx_socket_t s)
{
    return fcntl(s, F_SETFL, O_NONBLOCK);
}


static void
driver_set_idle(ngx_uint_t idle)
{
    __atomic_store_n(&driver_idle, idle, __ATOMIC_RELAXED);
}


static void
driver_job(void *data)
{
    driver_jobs++;

    if (driver_nap) {
        (void) usleep(driver_nap);
    }
}


static void
driver_done_handler(void *data)
{
    driver_done++;
}


static void
driver_leave(void *data)
{
    driver_done += 1000000;
}


/* one turn of the event loop */

static void
driver_turn(int timeout)
{
    struct pollfd  pfd;

    pfd.fd = driver_connection.fd;
    pfd.events = POLLIN;

    if (driver_connections && poll(&pfd, 1, timeout) > 0) {
        driver_event.handler(&driver_event);
    }
}


static void
driver_run(ngx_asana_thread_t *thread)
{
    ngx_uint_t  want;

    want = driver_done + 1;

    if (ngx_asana_thread_run(thread) != NGX_OK) {
        printf("it does not run\n");
        return;
    }

    while (driver_done < want) {
        driver_turn(1000);
    }
}


static ngx_asana_thread_t *
driver_create(void)
{
    return ngx_asana_thread_create(driver_job, driver_done_handler,
                                   driver_leave, NULL, &driver_log);
}


/* a job finds the thread at work, idle, ending, ended or joined */

static void
driver_jobs_in_a_row(ngx_uint_t n)
{
    ngx_int_t            rc;
    ngx_uint_t           i;
    ngx_asana_thread_t  *thread;

    thread = driver_create();

    for (i = 0; i < n; i++) {
        driver_set_idle(1000 * (i % 50 + 1));
        driver_run(thread);

        if (i % 3 == 0) {
            (void) usleep(i % 70);
        }

        if (i % 7 == 0) {
            driver_turn(1);
        }
    }

    printf("jobs %lu, done %lu\n", driver_jobs, driver_done);

    rc = ngx_asana_thread_end(thread, 1000);
    printf("end of an idle one: %ld, connections %lu\n", (long) rc,
           driver_connections);
}


/* with a job under way, and with a thread that ends itself */

static void
driver_ends(ngx_uint_t n)
{
    ngx_uint_t           i;
    ngx_asana_thread_t  *thread;

    for (i = 0; i < n; i++) {
        driver_nap = i % 300;
        driver_set_idle(1000 * (i % 50 + 1));

        thread = driver_create();

        if (i % 2 == 0) {
            driver_run(thread);
        }

        (void) ngx_asana_thread_run(thread);

        if (ngx_asana_thread_end(thread, 1000) != NGX_OK) {
            printf("it is stuck\n");
        }
    }

    printf("ends with a job under way, connections %lu\n",
           driver_connections);
}


/* worker_shutdown_timeout */

static void
driver_told_to_leave(void)
{
    ngx_asana_thread_t  *thread;

    driver_set_idle(0);
    driver_nap = 0;
    driver_done = 0;

    thread = driver_create();
    driver_run(thread);

    driver_connection.close = 1;
    driver_event.handler(&driver_event);

    printf("told to leave: %lu\n", driver_done / 1000000);
    (void) ngx_asana_thread_end(thread, 1000);
}


/* a job that does not end is left behind */

static void
driver_stuck(void)
{
    ngx_int_t            rc;
    ngx_asana_thread_t  *thread;

    driver_nap = 2000000;

    thread = driver_create();
    (void) ngx_asana_thread_run(thread);

    rc = ngx_asana_thread_end(thread, 50);
    printf("end of a stuck one: %ld\n", (long) rc);
}


int
main(int argc, char **argv)
{
    ngx_uint_t  n;

    n = (argc > 1) ? (ngx_uint_t) atoi(argv[1]) : 1000;

    driver_cycle.log = &driver_log;

    driver_jobs_in_a_row(n);
    driver_ends(n / 10 + 1);
    driver_told_to_leave();
    driver_stuck();

    fflush(stdout);
    _exit(0);
}
