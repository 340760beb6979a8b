
/*
 * Copyright (C) asana-hook contributors
 */


/*
 * nginx's thread pools have no end, and a process with a second thread has
 * dearer system calls; its ngx_notify() has one slot, which is theirs.  So
 * this thread wakes the event loop by a pipe of its own:
 *
 *     main thread              state          thread
 *
 *     run() starts it          BUSY           does the job
 *                              DONE           writes to the pipe, waits
 *     done()                   IDLE
 *     perhaps run() again      BUSY           does the job
 *                              ENDED          after a second of IDLE
 *     joins it
 *     end()                    QUIT           ends
 *
 * The state is changed under the mutex.
 */


#include "ngx_asana_thread.h"

#include <ngx_event.h>
#include <poll.h>
#include <pthread.h>


/* seconds */
#define NGX_ASANA_THREAD_IDLE  1


typedef enum {
    NGX_ASANA_THREAD_IDLES = 0,
    NGX_ASANA_THREAD_BUSY,
    NGX_ASANA_THREAD_DONE,
    NGX_ASANA_THREAD_ENDED,
    NGX_ASANA_THREAD_QUIT
} ngx_asana_thread_state_e;


struct ngx_asana_thread_s {
    ngx_asana_thread_pt        job;
    ngx_asana_thread_pt        done;
    ngx_asana_thread_pt        leave;
    void                      *data;

    ngx_connection_t          *connection;   /* NULL: it is not started */
    int                        fds[2];
    pthread_t                  tid;
    pthread_mutex_t            mutex;
    pthread_cond_t             cond;
    ngx_asana_thread_state_e   state;
};


static ngx_int_t ngx_asana_thread_start(ngx_asana_thread_t *thread);
static void ngx_asana_thread_join(ngx_asana_thread_t *thread);
static void *ngx_asana_thread_cycle(void *data);
static ngx_asana_thread_state_e ngx_asana_thread_wait(
    ngx_asana_thread_t *thread);
static void ngx_asana_thread_wake(ngx_asana_thread_t *thread);
static void ngx_asana_thread_drain(ngx_asana_thread_t *thread);
static void ngx_asana_thread_handler(ngx_event_t *rev);


ngx_asana_thread_t *
ngx_asana_thread_create(ngx_asana_thread_pt job, ngx_asana_thread_pt done,
    ngx_asana_thread_pt leave, void *data, ngx_log_t *log)
{
    pthread_condattr_t   attr;
    ngx_asana_thread_t  *thread;

    /* not from a pool, for a stuck thread outlives them */

    thread = ngx_calloc(sizeof(ngx_asana_thread_t), log);
    if (thread == NULL) {
        return NULL;
    }

    thread->job = job;
    thread->done = done;
    thread->leave = leave;
    thread->data = data;

    (void) pthread_mutex_init(&thread->mutex, NULL);
    (void) pthread_condattr_init(&attr);
    (void) pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
    (void) pthread_cond_init(&thread->cond, &attr);
    (void) pthread_condattr_destroy(&attr);

    return thread;
}


ngx_int_t
ngx_asana_thread_end(ngx_asana_thread_t *thread, ngx_msec_t limit)
{
    struct pollfd  pfd;

    if (thread->connection) {

        pfd.fd = thread->fds[0];
        pfd.events = POLLIN;

        pthread_mutex_lock(&thread->mutex);

        while (thread->state == NGX_ASANA_THREAD_BUSY) {

            pthread_mutex_unlock(&thread->mutex);

            if (poll(&pfd, 1, (int) limit) == 0) {

                /* nobody reads its pipe any more, and SIGPIPE is blocked */

                ngx_close_connection(thread->connection);
                return NGX_DECLINED;
            }

            ngx_asana_thread_drain(thread);

            pthread_mutex_lock(&thread->mutex);
        }

        /* one that has ended by itself does not look any more */

        thread->state = NGX_ASANA_THREAD_QUIT;
        pthread_cond_signal(&thread->cond);

        pthread_mutex_unlock(&thread->mutex);

        ngx_asana_thread_join(thread);
    }

    (void) pthread_mutex_destroy(&thread->mutex);
    (void) pthread_cond_destroy(&thread->cond);

    ngx_free(thread);

    return NGX_OK;
}


ngx_int_t
ngx_asana_thread_run(ngx_asana_thread_t *thread)
{
    if (thread->connection) {

        pthread_mutex_lock(&thread->mutex);

        if (thread->state != NGX_ASANA_THREAD_ENDED) {
            thread->state = NGX_ASANA_THREAD_BUSY;
            pthread_cond_signal(&thread->cond);
            pthread_mutex_unlock(&thread->mutex);
            return NGX_OK;
        }

        pthread_mutex_unlock(&thread->mutex);

        ngx_asana_thread_join(thread);
    }

    return ngx_asana_thread_start(thread);
}


static ngx_int_t
ngx_asana_thread_start(ngx_asana_thread_t *thread)
{
    int                err;
    sigset_t           all, old;
    ngx_connection_t  *c;

    if (pipe(thread->fds) == -1) {
        ngx_log_error(NGX_LOG_CRIT, ngx_cycle->log, ngx_errno,
                      "asana_hook: pipe() failed");
        return NGX_ERROR;
    }

    c = ngx_get_connection(thread->fds[0], ngx_cycle->log);

    if (c == NULL) {
        (void) ngx_close_file(thread->fds[0]);
        (void) ngx_close_file(thread->fds[1]);
        return NGX_ERROR;
    }

    c->data = thread;
    c->read->handler = ngx_asana_thread_handler;
    c->read->log = ngx_cycle->log;

    if (ngx_nonblocking(thread->fds[0]) == -1
        || ngx_handle_read_event(c->read, 0) != NGX_OK)
    {
        goto failed;
    }

    thread->state = NGX_ASANA_THREAD_BUSY;

    /* nginx's signals are for its main thread */

    (void) sigfillset(&all);
    (void) sigdelset(&all, SIGILL);
    (void) sigdelset(&all, SIGFPE);
    (void) sigdelset(&all, SIGSEGV);
    (void) sigdelset(&all, SIGBUS);

    (void) pthread_sigmask(SIG_BLOCK, &all, &old);
    err = pthread_create(&thread->tid, NULL, ngx_asana_thread_cycle, thread);
    (void) pthread_sigmask(SIG_SETMASK, &old, NULL);

    if (err) {
        ngx_log_error(NGX_LOG_CRIT, ngx_cycle->log, err,
                      "asana_hook: pthread_create() failed");
        goto failed;
    }

    thread->connection = c;

    return NGX_OK;

failed:

    ngx_close_connection(c);
    (void) ngx_close_file(thread->fds[1]);

    return NGX_ERROR;
}


static void
ngx_asana_thread_join(ngx_asana_thread_t *thread)
{
    (void) pthread_join(thread->tid, NULL);

    ngx_close_connection(thread->connection);
    (void) ngx_close_file(thread->fds[1]);

    thread->connection = NULL;
}


static void *
ngx_asana_thread_cycle(void *data)
{
    ngx_asana_thread_t *thread = data;

    do {
        thread->job(thread->data);

    } while (ngx_asana_thread_wait(thread) == NGX_ASANA_THREAD_BUSY);

    return NULL;
}


/* after a job: until there is another one, or an end */

static ngx_asana_thread_state_e
ngx_asana_thread_wait(ngx_asana_thread_t *thread)
{
    struct timespec           until;
    ngx_asana_thread_state_e  state;

    pthread_mutex_lock(&thread->mutex);

    thread->state = NGX_ASANA_THREAD_DONE;
    ngx_asana_thread_wake(thread);

    while (thread->state == NGX_ASANA_THREAD_DONE) {
        pthread_cond_wait(&thread->cond, &thread->mutex);
    }

    (void) clock_gettime(CLOCK_MONOTONIC, &until);
    until.tv_sec += NGX_ASANA_THREAD_IDLE;

    while (thread->state == NGX_ASANA_THREAD_IDLES) {

        if (pthread_cond_timedwait(&thread->cond, &thread->mutex, &until)
            == ETIMEDOUT
            && thread->state == NGX_ASANA_THREAD_IDLES)
        {
            thread->state = NGX_ASANA_THREAD_ENDED;
            ngx_asana_thread_wake(thread);
        }
    }

    state = thread->state;

    pthread_mutex_unlock(&thread->mutex);

    return state;
}


/* there are never more than two bytes in the pipe */

static void
ngx_asana_thread_wake(ngx_asana_thread_t *thread)
{
    while (write(thread->fds[1], "", 1) == -1 && ngx_errno == NGX_EINTR) {
        /* void */
    }
}


static void
ngx_asana_thread_drain(ngx_asana_thread_t *thread)
{
    u_char  buf[16];

    while (read(thread->fds[0], buf, sizeof(buf)) == -1
           && ngx_errno == NGX_EINTR)
    {
        /* void */
    }
}


static void
ngx_asana_thread_handler(ngx_event_t *rev)
{
    ngx_connection_t          *c;
    ngx_asana_thread_t        *thread;
    ngx_asana_thread_state_e   state;

    c = rev->data;
    thread = c->data;

    if (c->close) {

        /* worker_shutdown_timeout has passed */

        c->close = 0;
        c->error = 0;

        if (thread->leave) {
            thread->leave(thread->data);
        }

        return;
    }

    ngx_asana_thread_drain(thread);

    rev->ready = 0;

    pthread_mutex_lock(&thread->mutex);

    state = thread->state;

    if (state == NGX_ASANA_THREAD_DONE) {
        thread->state = NGX_ASANA_THREAD_IDLES;
        pthread_cond_signal(&thread->cond);
    }

    pthread_mutex_unlock(&thread->mutex);

    if (state == NGX_ASANA_THREAD_ENDED) {
        ngx_asana_thread_join(thread);
        return;
    }

    if (ngx_handle_read_event(rev, 0) != NGX_OK) {
        ngx_log_error(NGX_LOG_ALERT, rev->log, 0,
                      "asana_hook: the store's thread cannot be heard");
    }

    if (state == NGX_ASANA_THREAD_DONE) {
        thread->done(thread->data);
    }
}
