
/*
 * Copyright (C) asana-hook contributors
 */


/*
 * Look-ups of a worker gather while its second thread waits for the database,
 * and share the next query.  One worker of this nginx at a time reads the
 * journal as well.
 */


#include "ngx_asana_postgres.h"
#include "ngx_asana_journal.h"
#include "ngx_asana_postgres_change.h"
#include "ngx_asana_postgres_look.h"
#include "ngx_asana_thread.h"
#include "ngx_asana_uri.h"

#include <ngx_event.h>
#include <pthread.h>


/* milliseconds between queries, and after what was refused: 20 a second */
#define NGX_ASANA_POSTGRES_PACE   50

/* secrets are counted for one part in so many of the time */
#define NGX_ASANA_POSTGRES_COUNT  100

/* keys of one query */
#define NGX_ASANA_POSTGRES_KEYS   256

/* milliseconds for a thread at the end, beyond its deadline */
#define NGX_ASANA_POSTGRES_HASTE  500

typedef struct {
    ngx_asana_backend_conf_t   *conf;
    ngx_asana_journal_t         journal;

    ngx_asana_pq_t             *writer;     /* of the store's thread */
    pthread_mutex_t             mutex;      /* for it */
    uint64_t                    position;   /* of its last commit, or 0 */
    ngx_msec_t                  changed;    /* that was tried last */

    ngx_asana_pq_t             *reader;
    ngx_asana_thread_t         *thread;
    ngx_asana_postgres_look_t   look;       /* the thread's while busy */
    ngx_uint_t                  busy;
    ngx_uint_t                  overdue;    /* 1: busy for too long */
    ngx_queue_t                 waiting;
    ngx_queue_t                 asked;      /* in this query */
    ngx_queue_t                 listings;
    ngx_queue_t                 listed;     /* in this query, or none */
    ngx_msec_t                  started;
    ngx_event_t                 pace;
    ngx_event_t                 poll;

    ngx_asana_stat_t            stat;
    ngx_uint_t                  count;      /* stat is to be asked for */
    ngx_msec_t                  counting;   /* not before */
} ngx_asana_postgres_t;


static void *ngx_asana_postgres_create(ngx_asana_backend_conf_t *conf,
    ngx_log_t *log);
static ngx_int_t ngx_asana_postgres_open(void *backend, ngx_log_t *log);
static void ngx_asana_postgres_close(void *backend);
static void ngx_asana_postgres_free(ngx_asana_postgres_t *pg);
static uint64_t ngx_asana_postgres_version(void *backend);
static ngx_int_t ngx_asana_postgres_find(void *backend,
    ngx_asana_lookup_t *lookup, ngx_log_t *log);
static void ngx_asana_postgres_cancel(void *backend, ngx_queue_t *q);
static void ngx_asana_postgres_change_handler(void *backend,
    ngx_queue_t *batch, ngx_log_t *log);
static ngx_int_t ngx_asana_postgres_adopt(void *backend, uint64_t *version,
    ngx_log_t *log);
static ngx_int_t ngx_asana_postgres_list(void *backend,
    ngx_asana_listing_t *listing, ngx_log_t *log);
static ngx_int_t ngx_asana_postgres_stat(void *backend,
    ngx_asana_stat_t *stat, ngx_log_t *log);
static ngx_int_t ngx_asana_postgres_walk(void *backend,
    ngx_asana_listing_t *listing, ngx_log_t *log);

static ngx_int_t ngx_asana_postgres_wait(ngx_asana_postgres_t *pg,
    ngx_queue_t *queue, ngx_queue_t *q);
static void ngx_asana_postgres_start(ngx_asana_postgres_t *pg);
static ngx_int_t ngx_asana_postgres_prepare(ngx_asana_postgres_t *pg);
static void ngx_asana_postgres_job(void *data);
static void ngx_asana_postgres_done(void *data);
static void ngx_asana_postgres_answer_page(ngx_asana_postgres_t *pg);
static void ngx_asana_postgres_fail(ngx_asana_postgres_t *pg);
static void ngx_asana_postgres_move(ngx_queue_t *to, ngx_queue_t *from);
static void ngx_asana_postgres_pace_handler(ngx_event_t *ev);
static void ngx_asana_postgres_poll_handler(ngx_event_t *ev);


ngx_asana_backend_t  ngx_asana_postgres = {
    "postgresql",
    0,
    ngx_asana_uri_check,
    ngx_asana_postgres_create,
    ngx_asana_postgres_open,
    ngx_asana_postgres_close,
    ngx_asana_postgres_version,
    ngx_asana_postgres_find,
    ngx_asana_postgres_cancel,
    ngx_asana_postgres_change_handler,
    ngx_asana_postgres_adopt,
    ngx_asana_postgres_list,
    ngx_asana_postgres_stat,
    ngx_asana_postgres_walk
};


static void *
ngx_asana_postgres_create(ngx_asana_backend_conf_t *conf, ngx_log_t *log)
{
    ngx_asana_postgres_t  *pg;

    pg = ngx_calloc(sizeof(ngx_asana_postgres_t), log);
    if (pg == NULL) {
        return NULL;
    }

    (void) pthread_mutex_init(&pg->mutex, NULL);

    pg->conf = conf;

    ngx_asana_journal_init(&pg->journal, conf);

    ngx_queue_init(&pg->waiting);
    ngx_queue_init(&pg->asked);
    ngx_queue_init(&pg->listings);
    ngx_queue_init(&pg->listed);

    pg->pace.data = pg;
    pg->pace.handler = ngx_asana_postgres_pace_handler;
    pg->pace.log = log;

    pg->poll.data = pg;
    pg->poll.handler = ngx_asana_postgres_poll_handler;
    pg->poll.log = log;
    pg->poll.cancelable = 1;

    pg->writer = ngx_asana_pq_create(conf, log);
    pg->reader = ngx_asana_pq_create(conf, log);
    pg->thread = ngx_asana_thread_create(ngx_asana_postgres_job,
                                         ngx_asana_postgres_done,
                                         NULL, pg, log);

    if (pg->writer == NULL || pg->reader == NULL || pg->thread == NULL) {
        ngx_asana_postgres_free(pg);
        return NULL;
    }

    return pg;
}


static ngx_int_t
ngx_asana_postgres_open(void *backend, ngx_log_t *log)
{
    ngx_asana_postgres_t *pg = backend;

    /* the event loop is not ready for a thread yet */

    ngx_add_timer(&pg->poll, 1);

    return NGX_OK;
}


static void
ngx_asana_postgres_close(void *backend)
{
    ngx_asana_postgres_t *pg = backend;

    ngx_msec_t           limit;
    ngx_asana_thread_t  *thread;

    if (pg->poll.timer_set) {
        ngx_del_timer(&pg->poll);
    }

    if (pg->pace.timer_set) {
        ngx_del_timer(&pg->pace);
    }

    thread = pg->thread;
    pg->thread = NULL;

    limit = NGX_ASANA_POSTGRES_HASTE + (ngx_terminate ? 0 : pg->conf->timeout);

    if (ngx_asana_thread_end(thread, limit) != NGX_OK) {
        ngx_log_error(NGX_LOG_WARN, ngx_cycle->log, 0,
                      "asana_hook: zone \"%V\": a look-up in PostgreSQL is "
                      "left behind", &pg->conf->zone);
        return;
    }

    if (pg->busy) {
        ngx_asana_postgres_look_wipe(&pg->look);
    }

    ngx_asana_postgres_free(pg);
}


static void
ngx_asana_postgres_free(ngx_asana_postgres_t *pg)
{
    if (pg->thread) {
        (void) ngx_asana_thread_end(pg->thread, 0);
    }

    ngx_asana_pq_destroy(pg->writer);
    ngx_asana_pq_destroy(pg->reader);

    (void) pthread_mutex_destroy(&pg->mutex);

    ngx_free(pg);
}


static uint64_t
ngx_asana_postgres_version(void *backend)
{
    ngx_asana_postgres_t *pg = backend;

    return ngx_asana_journal_version(&pg->journal);
}


static ngx_int_t
ngx_asana_postgres_find(void *backend, ngx_asana_lookup_t *lookup,
    ngx_log_t *log)
{
    ngx_asana_postgres_t *pg = backend;

    /* nothing waits for attempts to connect again, if nobody has succeeded */

    if (!ngx_asana_pq_heard(pg->reader,
                            ngx_asana_journal_heard(&pg->journal))
        && (ngx_asana_pq_down(pg->reader)
            || (pg->busy && ngx_asana_pq_failed(pg->reader))))
    {
        return NGX_ERROR;
    }

    return ngx_asana_postgres_wait(pg, &pg->waiting, &lookup->queue);
}


static ngx_int_t
ngx_asana_postgres_wait(ngx_asana_postgres_t *pg, ngx_queue_t *queue,
    ngx_queue_t *q)
{
    if (pg->overdue) {
        return NGX_ERROR;
    }

    ngx_queue_insert_tail(queue, q);

    if (!pg->busy && !pg->pace.timer_set) {
        ngx_asana_postgres_start(pg);

        if (!pg->busy && !pg->pace.timer_set) {

            /* there is no thread, and nobody else waits */

            ngx_queue_remove(q);
            return NGX_ERROR;
        }
    }

    return NGX_AGAIN;
}


static void
ngx_asana_postgres_cancel(void *backend, ngx_queue_t *q)
{
    ngx_queue_remove(q);
}


static void
ngx_asana_postgres_change_handler(void *backend, ngx_queue_t *batch,
    ngx_log_t *log)
{
    ngx_asana_postgres_t *pg = backend;

    ngx_msec_int_t  left;

    if (ngx_queue_empty(batch)) {
        return;
    }

    /* a flood of what is refused does not hold the lock all the time */

    left = pg->changed + NGX_ASANA_POSTGRES_PACE - ngx_asana_pq_now();

    if (pg->position == 0 && left > 0) {
        ngx_msleep(left);
    }

    pthread_mutex_lock(&pg->mutex);

    (void) ngx_asana_pq_heard(pg->writer,
                              ngx_asana_journal_heard(&pg->journal));

    pg->position = ngx_asana_postgres_change(pg->writer, pg->conf, batch, log);
    pg->changed = ngx_asana_pq_now();

    pthread_mutex_unlock(&pg->mutex);
}


static ngx_int_t
ngx_asana_postgres_adopt(void *backend, uint64_t *version, ngx_log_t *log)
{
    ngx_asana_postgres_t *pg = backend;

    ngx_asana_journal_committed(&pg->journal, pg->position);

    return NGX_OK;
}


static ngx_int_t
ngx_asana_postgres_list(void *backend, ngx_asana_listing_t *listing,
    ngx_log_t *log)
{
    ngx_asana_postgres_t *pg = backend;

    if (ngx_asana_pq_down(pg->reader)) {
        return NGX_ERROR;
    }

    return ngx_asana_postgres_wait(pg, &pg->listings, &listing->queue);
}


/* what is counted is as old as the last time that somebody asked */

static ngx_int_t
ngx_asana_postgres_stat(void *backend, ngx_asana_stat_t *stat, ngx_log_t *log)
{
    ngx_asana_postgres_t *pg = backend;

    pg->count = 1;

    *stat = pg->stat;
    stat->readable = ngx_asana_journal_alive(&pg->journal);
    stat->contact = ngx_current_msec
                    - ngx_asana_journal_contact(&pg->journal);
    stat->writable = stat->readable && !ngx_asana_pq_failed(pg->writer);

    return NGX_OK;
}


static ngx_int_t
ngx_asana_postgres_walk(void *backend, ngx_asana_listing_t *listing,
    ngx_log_t *log)
{
    ngx_asana_postgres_t *pg = backend;

    ngx_int_t  rc;

    pthread_mutex_lock(&pg->mutex);

    rc = ngx_asana_postgres_look_walk(pg->writer, pg->conf, listing, log);

    pthread_mutex_unlock(&pg->mutex);

    return rc;
}


/* asks for what waits, and for the journal if it is due */

static void
ngx_asana_postgres_start(ngx_asana_postgres_t *pg)
{
    ngx_uint_t      poll;
    ngx_msec_int_t  left;

    if (pg->busy || ngx_asana_pq_down(pg->reader)) {
        return;
    }

    poll = ngx_asana_journal_claim(&pg->journal);

    if (!poll) {

        if (ngx_queue_empty(&pg->waiting)
            && ngx_queue_empty(&pg->listings))
        {
            return;
        }

        left = pg->started + NGX_ASANA_POSTGRES_PACE - ngx_current_msec;

        if (pg->started && left > 0) {
            ngx_add_timer(&pg->pace, left);
            return;
        }
    }

    if (ngx_asana_postgres_look_init(&pg->look, pg->conf, ngx_cycle->log)
        != NGX_OK)
    {
        return;
    }

    pg->look.poll = poll;

    if (ngx_asana_postgres_prepare(pg) != NGX_OK
        || ngx_asana_thread_run(pg->thread) != NGX_OK)
    {
        ngx_asana_postgres_look_wipe(&pg->look);
        return;
    }

    pg->busy = 1;
    pg->started = ngx_current_msec;

    /* a worker that exits waits for timers, not for threads */

    ngx_add_timer(&pg->pace, pg->conf->timeout + NGX_ASANA_POSTGRES_HASTE);
}


static ngx_int_t
ngx_asana_postgres_prepare(ngx_asana_postgres_t *pg)
{
    ngx_uint_t            n;
    ngx_queue_t          *q;
    ngx_asana_lookup_t   *lookup;
    ngx_asana_listing_t  *listing;

    ngx_asana_journal_look(&pg->journal, &pg->look);

    pg->look.count = pg->count && pg->look.poll
                     && (ngx_msec_int_t) (ngx_current_msec - pg->counting) >= 0;

    if (!ngx_queue_empty(&pg->listings)) {
        q = ngx_queue_head(&pg->listings);
        listing = ngx_queue_data(q, ngx_asana_listing_t, queue);

        if (ngx_asana_postgres_look_list(&pg->look, listing) != NGX_OK) {
            return NGX_ERROR;
        }

        ngx_queue_remove(q);
        ngx_queue_insert_tail(&pg->listed, q);
    }

    for (n = 0;
         n < NGX_ASANA_POSTGRES_KEYS && !ngx_queue_empty(&pg->waiting);
         n++)
    {
        q = ngx_queue_head(&pg->waiting);
        lookup = ngx_queue_data(q, ngx_asana_lookup_t, queue);

        if (ngx_asana_rows_add(&pg->look.rows, &lookup->key) == NULL) {
            return NGX_ERROR;
        }

        ngx_queue_remove(q);
        ngx_queue_insert_tail(&pg->asked, q);
    }

    return NGX_OK;
}


static void
ngx_asana_postgres_job(void *data)
{
    ngx_asana_postgres_t *pg = data;

    ngx_asana_postgres_look(pg->reader, &pg->look);
}


static void
ngx_asana_postgres_done(void *data)
{
    ngx_asana_postgres_t *pg = data;

    ngx_queue_t         *q;
    ngx_asana_lookup_t  *lookup;

    if (pg->pace.timer_set) {
        ngx_del_timer(&pg->pace);
    }

    if (pg->look.poll) {

        /* where there are many this takes long, or all of "timeout" */

        if (pg->look.count) {
            pg->counting = ngx_current_msec
                           + NGX_ASANA_POSTGRES_COUNT
                             * (ngx_current_msec - pg->started);
        }

        if (pg->look.rc == NGX_OK && pg->look.count) {
            pg->stat = pg->look.stat;
            pg->count = 0;
        }

        ngx_asana_journal_read(&pg->journal, &pg->look);
        ngx_add_timer(&pg->poll, ngx_asana_journal_due(&pg->journal));
    }

    while (!ngx_queue_empty(&pg->asked)) {
        q = ngx_queue_head(&pg->asked);
        ngx_queue_remove(q);

        lookup = ngx_queue_data(q, ngx_asana_lookup_t, queue);
        lookup->ahead = ngx_asana_journal_ahead(&pg->journal);

        ngx_asana_postgres_look_answer(&pg->look, lookup);
        lookup->complete(lookup);
    }

    ngx_asana_postgres_answer_page(pg);

    if (pg->look.rc != NGX_OK) {
        ngx_asana_postgres_fail(pg);
    }

    ngx_asana_postgres_look_wipe(&pg->look);
    pg->busy = 0;

    ngx_asana_postgres_pace_handler(&pg->pace);
}


static void
ngx_asana_postgres_answer_page(ngx_asana_postgres_t *pg)
{
    ngx_queue_t          *q;
    ngx_asana_listing_t  *listing;

    if (ngx_queue_empty(&pg->listed)) {
        return;
    }

    q = ngx_queue_head(&pg->listed);
    ngx_queue_remove(q);

    listing = ngx_queue_data(q, ngx_asana_listing_t, queue);
    listing->rc = ngx_asana_postgres_look_visit(&pg->look, listing);

    listing->complete(listing);
}


static void
ngx_asana_postgres_fail(ngx_asana_postgres_t *pg)
{
    ngx_queue_t           all, *q;
    ngx_asana_lookup_t   *lookup;
    ngx_asana_listing_t  *listing;

    ngx_asana_postgres_move(&pg->listed, &pg->listings);

    while (!ngx_queue_empty(&pg->listed)) {
        q = ngx_queue_head(&pg->listed);
        ngx_queue_remove(q);

        listing = ngx_queue_data(q, ngx_asana_listing_t, queue);
        listing->rc = NGX_ERROR;
        listing->complete(listing);
    }

    ngx_queue_init(&all);
    ngx_asana_postgres_move(&all, &pg->asked);
    ngx_asana_postgres_move(&all, &pg->waiting);

    while (!ngx_queue_empty(&all)) {
        q = ngx_queue_head(&all);
        ngx_queue_remove(q);

        lookup = ngx_queue_data(q, ngx_asana_lookup_t, queue);
        lookup->rc = NGX_ERROR;
        lookup->complete(lookup);
    }
}


static void
ngx_asana_postgres_move(ngx_queue_t *to, ngx_queue_t *from)
{
    if (!ngx_queue_empty(from)) {
        ngx_queue_add(to, from);
        ngx_queue_init(from);
    }
}


static void
ngx_asana_postgres_pace_handler(ngx_event_t *ev)
{
    ngx_asana_postgres_t *pg = ev->data;

    /* names are resolved without a limit of time */

    pg->overdue = pg->busy;

    ngx_asana_postgres_start(pg);

    if (!pg->pace.timer_set) {
        ngx_asana_postgres_fail(pg);
    }
}


static void
ngx_asana_postgres_poll_handler(ngx_event_t *ev)
{
    ngx_asana_postgres_t *pg = ev->data;

    ngx_asana_postgres_start(pg);

    if (!pg->busy) {
        ngx_asana_pq_idle(pg->reader);
    }

    if (pthread_mutex_trylock(&pg->mutex) == 0) {
        ngx_asana_pq_idle(pg->writer);
        pthread_mutex_unlock(&pg->mutex);
    }

    ngx_add_timer(ev, ngx_asana_journal_due(&pg->journal));
}
