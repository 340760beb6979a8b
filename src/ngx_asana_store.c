
/*
 * Copyright (C) asana-hook contributors
 */


/*
 * A disk needs as long for one change as for many, and the event loop waits
 * for neither: while a batch is in the thread the next changes gather, and
 * share the following batch.  The batch belongs to the thread until it is done;
 * the main thread reads it at most.
 */


#include "ngx_asana_store.h"
#include "ngx_asana_thread.h"
#include "ngx_asana_walk.h"

#include <ngx_event.h>


/* tasks of one batch; a longer one would hold up its first for long */
#define NGX_ASANA_STORE_BATCH     256

/* tasks of a worker that wait */
#define NGX_ASANA_STORE_TASKS     1024

/* when so many wait, no note is added */
#define NGX_ASANA_STORE_NOTES     512

/* milliseconds; Asana does not wait longer than that for an answer */
#define NGX_ASANA_STORE_DEADLINE  10000

/* milliseconds for a stuck thread when there is no time left */
#define NGX_ASANA_STORE_HASTE     500


struct ngx_asana_store_s {
    ngx_asana_backend_t      *backend;
    ngx_asana_backend_conf_t   *conf;
    void                     *data;       /* of the backend */
    ngx_asana_thread_t       *thread;

    ngx_queue_t               waiting;
    ngx_queue_t               batch;
    ngx_queue_t               walks;      /* one at most, beside the batch */
    ngx_uint_t                ntasks;     /* in all of them */
    ngx_uint_t                busy;
    ngx_msec_t                started;    /* the batch */
    time_t                    prepared;
    time_t                    complained;
    ngx_event_t               timer;      /* for the first deadline */
    ngx_uint_t                haste;      /* the worker must go */
};


static ngx_int_t ngx_asana_store_start(ngx_asana_store_t *store);
static ngx_int_t ngx_asana_store_run(ngx_asana_store_t *store);
static void ngx_asana_store_job(void *data);
static void ngx_asana_store_walk(ngx_asana_store_t *store,
    ngx_asana_task_t *task);
static void ngx_asana_store_complete(void *data);
static void ngx_asana_store_take(ngx_queue_t *done, ngx_queue_t *tasks);
static void ngx_asana_store_leave(void *data);
static void ngx_asana_store_drop(ngx_asana_store_t *store,
    ngx_asana_task_t *task);
static void ngx_asana_store_answer(ngx_asana_task_t *task,
    ngx_asana_outcome_e outcome);
static void ngx_asana_store_deadline(ngx_event_t *ev);
static void ngx_asana_store_complain(ngx_asana_store_t *store,
    const char *what);
static ngx_asana_task_t *ngx_asana_store_first(ngx_asana_store_t *store);
static void ngx_asana_store_set_timer(ngx_asana_store_t *store);


ngx_asana_store_t *
ngx_asana_store_create(ngx_asana_backend_t *backend,
    ngx_asana_backend_conf_t *conf, ngx_log_t *log)
{
    ngx_asana_store_t  *store;

    /* not from a pool, for a stuck thread outlives them */

    store = ngx_calloc(sizeof(ngx_asana_store_t), log);
    if (store == NULL) {
        return NULL;
    }

    store->data = backend->create(conf, log);
    if (store->data == NULL) {
        goto failed;
    }

    store->thread = ngx_asana_thread_create(ngx_asana_store_job,
                                            ngx_asana_store_complete,
                                            ngx_asana_store_leave, store, log);
    if (store->thread == NULL) {
        backend->close(store->data);
        goto failed;
    }

    store->backend = backend;
    store->conf = conf;

    ngx_queue_init(&store->waiting);
    ngx_queue_init(&store->batch);
    ngx_queue_init(&store->walks);

    store->timer.data = store;
    store->timer.handler = ngx_asana_store_deadline;
    store->timer.log = log;

    return store;

failed:

    ngx_free(store);

    return NULL;
}


void
ngx_asana_store_open(ngx_asana_store_t *store)
{
    (void) store->backend->open(store->data, ngx_cycle->log);
}


void
ngx_asana_store_close(ngx_asana_store_t *store)
{
    ngx_queue_t       *q, all;
    ngx_msec_int_t     left;
    ngx_asana_task_t  *task;

    if (store->timer.timer_set) {
        ngx_del_timer(&store->timer);
    }

    left = (ngx_msec_int_t) (store->started + NGX_ASANA_STORE_DEADLINE
                             - ngx_current_msec);

    if (left < NGX_ASANA_STORE_HASTE || store->haste || ngx_terminate) {
        left = NGX_ASANA_STORE_HASTE;
    }

    if (ngx_asana_thread_end(store->thread, left) != NGX_OK) {
        ngx_log_error(NGX_LOG_WARN, ngx_cycle->log, 0,
                      "asana_hook: the store of the zone \"%V\" does not "
                      "answer, its last changes are left to it",
                      &store->conf->zone);
        return;
    }

    ngx_queue_init(&all);

    ngx_asana_store_take(&all, &store->batch);
    ngx_asana_store_take(&all, &store->walks);
    ngx_asana_store_take(&all, &store->waiting);

    while (!ngx_queue_empty(&all)) {
        q = ngx_queue_head(&all);
        ngx_queue_remove(q);

        task = ngx_queue_data(q, ngx_asana_task_t, queue);
        ngx_asana_task_free(task);
    }

    store->backend->close(store->data);

    ngx_free(store);
}


uint64_t
ngx_asana_store_version(ngx_asana_store_t *store)
{
    return store->backend->version(store->data);
}


ngx_int_t
ngx_asana_store_find(ngx_asana_store_t *store, ngx_asana_lookup_t *lookup)
{
    ngx_int_t  rc;

    rc = store->backend->find(store->data, lookup, ngx_cycle->log);

    if (rc == NGX_ERROR) {
        ngx_asana_store_prepare(store);
    }

    return rc;
}


void
ngx_asana_store_cancel(ngx_asana_store_t *store, ngx_queue_t *q)
{
    store->backend->cancel(store->data, q);
}


ngx_int_t
ngx_asana_store_list(ngx_asana_store_t *store, ngx_asana_listing_t *listing)
{
    ngx_int_t  rc;

    rc = store->backend->list(store->data, listing, ngx_cycle->log);

    if (rc == NGX_ERROR) {
        ngx_asana_store_prepare(store);
    }

    return rc;
}


ngx_int_t
ngx_asana_store_stat(ngx_asana_store_t *store, ngx_asana_stat_t *stat)
{
    ngx_int_t  rc;

    ngx_memzero(stat, sizeof(ngx_asana_stat_t));

    rc = store->backend->stat(store->data, stat, ngx_cycle->log);

    if (rc == NGX_ERROR) {
        ngx_asana_store_prepare(store);
    }

    return rc;
}


void
ngx_asana_store_prepare(ngx_asana_store_t *store)
{
    if (store->busy
        || store->prepared == ngx_time()
        || store->backend->version(store->data) != 0)
    {
        return;
    }

    store->prepared = ngx_time();

    (void) ngx_asana_store_run(store);
}


ngx_int_t
ngx_asana_store_post(ngx_asana_store_t *store, ngx_asana_task_t *task)
{
    task->outcome = NGX_ASANA_FAILED;
    task->owner = store->conf->data;

    if (store->ntasks++ >= NGX_ASANA_STORE_NOTES
        && task->change.type == NGX_ASANA_NOTE)
    {
        /* it comes again in a minute, and a handshake does not */

        goto failed;
    }

    if (store->ntasks > NGX_ASANA_STORE_TASKS) {

        ngx_asana_store_complain(store, "1024 changes wait already");
        goto failed;
    }

    task->deadline = ngx_current_msec + NGX_ASANA_STORE_DEADLINE;

    ngx_queue_insert_tail(&store->waiting, &task->queue);

    if (!store->busy && ngx_asana_store_start(store) != NGX_OK) {

        /* there is no thread, and nothing else is under way */

        ngx_queue_remove(&task->queue);
        goto failed;
    }

    if (!store->timer.timer_set) {
        ngx_asana_store_set_timer(store);
    }

    return NGX_AGAIN;

failed:

    task->handler = NULL;
    ngx_asana_store_drop(store, task);

    return NGX_ERROR;
}


static ngx_int_t
ngx_asana_store_start(ngx_asana_store_t *store)
{
    ngx_uint_t         n;
    ngx_queue_t       *q;
    ngx_asana_task_t  *task;

    for (n = 0; n < NGX_ASANA_STORE_BATCH; n++) {

        if (ngx_queue_empty(&store->waiting)) {
            break;
        }

        q = ngx_queue_head(&store->waiting);
        task = ngx_queue_data(q, ngx_asana_task_t, queue);

        if (task->walk && !ngx_queue_empty(&store->walks)) {

            /* changes wait for one step at most */

            break;
        }

        ngx_queue_remove(q);
        ngx_queue_insert_tail(task->walk ? &store->walks : &store->batch, q);
    }

    return ngx_asana_store_run(store);
}


static ngx_int_t
ngx_asana_store_run(ngx_asana_store_t *store)
{
    if (ngx_asana_thread_run(store->thread) != NGX_OK) {
        return NGX_ERROR;
    }

    store->busy = 1;
    store->started = ngx_current_msec;

    return NGX_OK;
}


static void
ngx_asana_store_job(void *data)
{
    ngx_asana_store_t *store = data;

    ngx_queue_t  *q;

    store->backend->change(store->data, &store->batch, ngx_cycle->log);

    if (!ngx_queue_empty(&store->walks)) {
        q = ngx_queue_head(&store->walks);
        ngx_asana_store_walk(store, ngx_queue_data(q, ngx_asana_task_t,
                                                   queue));
    }
}


static void
ngx_asana_store_walk(ngx_asana_store_t *store, ngx_asana_task_t *task)
{
    ngx_int_t          rc;
    struct timespec    start, end;
    ngx_asana_walk_t  *walk;

    if (task->outcome != NGX_ASANA_FAILED) {

        /* it was done before the batch is repeated */

        return;
    }

    walk = task->walk;

    (void) clock_gettime(CLOCK_THREAD_CPUTIME_ID, &start);

    rc = store->backend->walk(store->data, &walk->listing, ngx_cycle->log);

    (void) clock_gettime(CLOCK_THREAD_CPUTIME_ID, &end);

    walk->usec = (uint64_t) (end.tv_sec - start.tv_sec) * 1000000
                 + end.tv_nsec / 1000 - start.tv_nsec / 1000;
    walk->end = (rc == NGX_OK);

    if (rc != NGX_ERROR) {
        task->outcome = NGX_ASANA_HELD;
    }
}


static void
ngx_asana_store_complete(void *data)
{
    ngx_asana_store_t *store = data;

    uint64_t           version;
    ngx_queue_t        done, *q;
    ngx_asana_task_t  *task;

    version = 0;

    if (store->backend->adopt(store->data, &version, ngx_cycle->log)
        == NGX_AGAIN)
    {
        (void) ngx_asana_store_run(store);
        return;
    }

    store->busy = 0;

    ngx_queue_init(&done);

    ngx_asana_store_take(&done, &store->batch);
    ngx_asana_store_take(&done, &store->walks);

    /* the disk goes on while this thread answers */

    if (!ngx_queue_empty(&store->waiting)) {
        (void) ngx_asana_store_start(store);
    }

    while (!ngx_queue_empty(&done)) {
        q = ngx_queue_head(&done);
        ngx_queue_remove(q);

        task = ngx_queue_data(q, ngx_asana_task_t, queue);
        ngx_asana_store_drop(store, task);
    }

    if (version) {
        store->conf->moved(store->conf->data, version);
    }

    ngx_asana_store_set_timer(store);
}


static void
ngx_asana_store_take(ngx_queue_t *done, ngx_queue_t *tasks)
{
    if (!ngx_queue_empty(tasks)) {
        ngx_queue_add(done, tasks);
        ngx_queue_init(tasks);
    }
}


static void
ngx_asana_store_leave(void *data)
{
    ngx_asana_store_t *store = data;

    store->haste = 1;

    ngx_asana_store_set_timer(store);
}


static void
ngx_asana_store_drop(ngx_asana_store_t *store, ngx_asana_task_t *task)
{
    store->ntasks--;
    store->conf->done(task, task->outcome);

    ngx_asana_store_answer(task, task->outcome);
    ngx_asana_task_free(task);
}


static void
ngx_asana_store_answer(ngx_asana_task_t *task, ngx_asana_outcome_e outcome)
{
    ngx_asana_task_pt  handler;

    handler = task->handler;
    task->handler = NULL;

    if (handler) {
        handler(task, outcome);
    }
}


/*
 * A task that is in the thread stays there, with an outcome that nobody will
 * hear of; one that still waits is dropped.
 */

static void
ngx_asana_store_deadline(ngx_event_t *ev)
{
    ngx_asana_store_t *store = ev->data;

    ngx_queue_t       *q;
    ngx_asana_task_t  *task;

    for ( ;; ) {
        task = ngx_asana_store_first(store);

        if (task == NULL
            || (ngx_msec_int_t) (task->deadline - ngx_current_msec) > 0)
        {
            break;
        }

        ngx_asana_store_complain(store, "a change waited 10 s for it");
        ngx_asana_store_answer(task, NGX_ASANA_FAILED);
    }

    while (!ngx_queue_empty(&store->waiting)) {
        q = ngx_queue_head(&store->waiting);
        task = ngx_queue_data(q, ngx_asana_task_t, queue);

        if ((ngx_msec_int_t) (task->deadline - ngx_current_msec) > 0) {
            break;
        }

        ngx_queue_remove(q);
        ngx_asana_store_drop(store, task);
    }

    ngx_asana_store_set_timer(store);
}


/* the cause is the same for all of them: one line a second */

static void
ngx_asana_store_complain(ngx_asana_store_t *store, const char *what)
{
    if (store->complained == ngx_time()) {
        return;
    }

    store->complained = ngx_time();

    ngx_log_error(NGX_LOG_CRIT, ngx_cycle->log, 0,
                  "asana_hook: the store of the zone \"%V\" is too slow, %s, "
                  "answered 503; see what makes it slow", &store->conf->zone,
                  what);
}


/*
 * The first one that somebody waits for, or that has time left; they are in
 * the order of their deadlines.
 */

static ngx_asana_task_t *
ngx_asana_store_first(ngx_asana_store_t *store)
{
    ngx_uint_t         i;
    ngx_queue_t       *q, *queue[3];
    ngx_asana_task_t  *task;

    queue[0] = &store->batch;
    queue[1] = &store->walks;
    queue[2] = &store->waiting;

    for (i = 0; i < 3; i++) {

        for (q = ngx_queue_head(queue[i]);
             q != ngx_queue_sentinel(queue[i]);
             q = ngx_queue_next(q))
        {
            task = ngx_queue_data(q, ngx_asana_task_t, queue);

            if (task->handler
                || (ngx_msec_int_t) (task->deadline - ngx_current_msec) > 0)
            {
                return task;
            }
        }
    }

    return NULL;
}


/*
 * The timer also holds a worker that exits gracefully as long as anything is
 * to be changed: it waits for timers, not for threads.
 */

static void
ngx_asana_store_set_timer(ngx_asana_store_t *store)
{
    ngx_msec_int_t     left;
    ngx_asana_task_t  *task;

    task = store->haste ? NULL : ngx_asana_store_first(store);

    if (task == NULL) {
        if (store->timer.timer_set) {
            ngx_del_timer(&store->timer);
        }

        return;
    }

    left = (ngx_msec_int_t) (task->deadline - ngx_current_msec);

    ngx_add_timer(&store->timer, (ngx_msec_t) ngx_max(left, 1));
}
