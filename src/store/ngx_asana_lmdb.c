
/*
 * Copyright (C) asana-hook contributors
 */


/*
 * The store is an LMDB environment that every worker opens for itself after
 * fork.  Look-ups in the main thread renew one parked read; changes run in the
 * store's thread, which also opens the environment anew when it is of no use
 * any more:
 *
 *     main thread                            thread
 *
 *     find, list, stat                       change
 *                                              LMDB panics
 *     adopt
 *       ends the parked read, lets go
 *     find: not known                        change, again
 *                                              closes, opens
 *     adopt
 *       takes it
 *     find, list, stat                       change
 *
 * Only the main thread moves the map, in adopt, while the thread has nothing
 * to do, or under the mutex, which the thread holds during a change.
 */


#include "ngx_asana_lmdb.h"
#include "ngx_asana_lmdb_error.h"
#include "ngx_asana_lmdb_read.h"
#include "ngx_asana_lmdb_write.h"


/*
 * So many bytes at least, beyond "max_size", are for what adds no secrets; when
 * readers hold pages for long, it gets more.
 */
#define NGX_ASANA_LMDB_RESERVE  (1024 * 1024)


static void *ngx_asana_lmdb_create(ngx_asana_backend_conf_t *conf,
    ngx_log_t *log);
static ngx_int_t ngx_asana_lmdb_open(void *backend, ngx_log_t *log);
static void ngx_asana_lmdb_close(void *backend);
static void ngx_asana_lmdb_change(void *backend, ngx_queue_t *batch,
    ngx_log_t *log);
static ngx_int_t ngx_asana_lmdb_adopt(void *backend, uint64_t *version,
    ngx_log_t *log);
static ngx_int_t ngx_asana_lmdb_walk(void *backend,
    ngx_asana_listing_t *listing, ngx_log_t *log);

static ngx_asana_lmdb_next_e ngx_asana_lmdb_run(ngx_asana_lmdb_env_t *e,
    ngx_queue_t *batch, ngx_log_t *log);


ngx_asana_backend_t  ngx_asana_lmdb = {
    "lmdb",
    1,
    NULL,
    ngx_asana_lmdb_create,
    ngx_asana_lmdb_open,
    ngx_asana_lmdb_close,
    ngx_asana_lmdb_read_version,
    ngx_asana_lmdb_read_find,
    NULL,
    ngx_asana_lmdb_change,
    ngx_asana_lmdb_adopt,
    ngx_asana_lmdb_read_list,
    ngx_asana_lmdb_read_stat,
    ngx_asana_lmdb_walk
};


static void *
ngx_asana_lmdb_create(ngx_asana_backend_conf_t *conf, ngx_log_t *log)
{
    ngx_asana_lmdb_env_t  *e;

    e = ngx_calloc(sizeof(ngx_asana_lmdb_env_t), log);
    if (e == NULL) {
        return NULL;
    }

    e->errors.conf = conf;
    e->conf = conf;
    e->lock_fd = NGX_INVALID_FILE;
    e->resealed.mv_data = e->buf;
    e->map_size = ngx_align(conf->max_size
                            + ngx_max(conf->max_size / 8,
                                      NGX_ASANA_LMDB_RESERVE),
                            ngx_pagesize);

    (void) pthread_mutex_init(&e->mutex, NULL);

    return e;
}


static ngx_int_t
ngx_asana_lmdb_open(void *backend, ngx_log_t *log)
{
    ngx_asana_lmdb_env_t *e = backend;

    /* a limit of file sizes is an error, and no end of the worker */

    (void) signal(SIGXFSZ, SIG_IGN);

    if (ngx_asana_lmdb_env_open(e, log) != NGX_OK) {
        return NGX_ERROR;
    }

    ngx_asana_lmdb_read_take(e);

    return NGX_OK;
}


static void
ngx_asana_lmdb_close(void *backend)
{
    ngx_asana_lmdb_env_t *e = backend;

    ngx_asana_lmdb_read_let_go(e);
    ngx_asana_lmdb_env_close(e);

    (void) pthread_mutex_destroy(&e->mutex);

    ngx_free(e);
}


static void
ngx_asana_lmdb_change(void *backend, ngx_queue_t *batch, ngx_log_t *log)
{
    ngx_asana_lmdb_env_t *e = backend;

    ngx_queue_t       *q;
    ngx_asana_task_t  *task;

    (void) pthread_mutex_lock(&e->mutex);

    e->next = ngx_asana_lmdb_run(e, batch, log);

    (void) pthread_mutex_unlock(&e->mutex);

    if (!ngx_queue_empty(batch)) {
        q = ngx_queue_last(batch);
        task = ngx_queue_data(q, ngx_asana_task_t, queue);

        e->failing = (task->outcome == NGX_ASANA_FAILED);
    }
}


static ngx_asana_lmdb_next_e
ngx_asana_lmdb_run(ngx_asana_lmdb_env_t *e, ngx_queue_t *batch, ngx_log_t *log)
{
    int  err;

    if (!e->taken) {

        if (e->failed == ngx_time()) {
            return NGX_ASANA_LMDB_REST;
        }

        ngx_asana_lmdb_env_close(e);

        if (ngx_asana_lmdb_env_open(e, log) != NGX_OK) {
            return NGX_ASANA_LMDB_REST;
        }

        e->opened = 1;
    }

    if (ngx_queue_empty(batch) || e->given_up) {
        e->given_up = 0;
        return NGX_ASANA_LMDB_REST;
    }

    if (e->read_only) {

        if (!e->taken || e->tried == ngx_time()) {
            return NGX_ASANA_LMDB_REST;
        }

        e->tried = ngx_time();
        err = ngx_asana_lmdb_env_writable(e);

        if (err == 0) {
            return NGX_ASANA_LMDB_REOPEN;
        }

        (void) ngx_asana_lmdb_error(&e->errors, log, "can only be read", err);
        return NGX_ASANA_LMDB_REST;
    }

    if (ngx_asana_lmdb_env_in_place(e, log) != NGX_OK) {
        return NGX_ASANA_LMDB_REST;
    }

    switch (ngx_asana_lmdb_write(e, batch, log)) {

    case MDB_MAP_FULL:
        return NGX_ASANA_LMDB_GROW;

    case MDB_MAP_RESIZED:
        return NGX_ASANA_LMDB_RESIZE;

    case MDB_PANIC:
        e->opened = 0;
        e->given_up = 1;
        return NGX_ASANA_LMDB_REOPEN;

    default:
        return NGX_ASANA_LMDB_REST;
    }
}


/* in the thread, which has the map for itself as during a change */

static ngx_int_t
ngx_asana_lmdb_walk(void *backend, ngx_asana_listing_t *listing,
    ngx_log_t *log)
{
    ngx_asana_lmdb_env_t *e = backend;

    int        err;
    ngx_int_t  rc;

    /* it is to be let go, or was not opened */

    if (e->env == NULL || e->next == NGX_ASANA_LMDB_REOPEN) {
        return NGX_ERROR;
    }

    (void) pthread_mutex_lock(&e->mutex);

    err = ngx_asana_lmdb_read_walk(e, listing, &rc, log);

    (void) pthread_mutex_unlock(&e->mutex);

    if (err == 0) {
        return rc;
    }

    if (err == MDB_MAP_RESIZED && e->next == NGX_ASANA_LMDB_REST) {

        /* "adopt" follows, and it is repeated */

        e->next = NGX_ASANA_LMDB_RESIZE;
        return NGX_ERROR;
    }

    return (err == NGX_AGAIN)
           ? NGX_ERROR : ngx_asana_lmdb_error(&e->errors, log,
                                              "cannot be read", err);
}


static ngx_int_t
ngx_asana_lmdb_adopt(void *backend, uint64_t *version, ngx_log_t *log)
{
    ngx_asana_lmdb_env_t *e = backend;

    int                     err;
    ngx_asana_lmdb_next_e   next;

    next = e->next;
    e->next = NGX_ASANA_LMDB_REST;

    *version = e->version;
    e->version = 0;

    if (e->opened || e->taken) {

        /* a change may have converted it */

        e->opened = 0;
        ngx_asana_lmdb_read_take(e);
    }

    switch (next) {

    case NGX_ASANA_LMDB_GROW:
        e->map_size += ngx_align(ngx_max(e->map_size / 8,
                                         NGX_ASANA_LMDB_RESERVE),
                                 ngx_pagesize);
        err = mdb_env_set_mapsize(e->env, e->map_size);
        break;

    case NGX_ASANA_LMDB_RESIZE:
        err = mdb_env_set_mapsize(e->env, 0);
        break;

    case NGX_ASANA_LMDB_REOPEN:
        ngx_asana_lmdb_read_let_go(e);
        return NGX_AGAIN;

    default: /* NGX_ASANA_LMDB_REST */
        return NGX_OK;
    }

    if (err == 0) {
        return NGX_AGAIN;
    }

    /* there may be no map any more */

    (void) ngx_asana_lmdb_error(&e->errors, log, "cannot be mapped", err);

    ngx_asana_lmdb_read_let_go(e);

    return NGX_OK;
}
