
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
 *     find: not known                        change
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


/* bytes beyond "max_size", for what does not add secrets */
#define NGX_ASANA_LMDB_RESERVE  (1024 * 1024)


typedef enum {
    NGX_ASANA_LMDB_REST = 0,
    NGX_ASANA_LMDB_GROW,         /* the map */
    NGX_ASANA_LMDB_RESIZE,       /* the map, as another process did */
    NGX_ASANA_LMDB_LET_GO,
    NGX_ASANA_LMDB_REOPEN        /* let go, and change again */
} ngx_asana_lmdb_next_e;


typedef struct {
    ngx_asana_lmdb_env_t       e;
    ngx_asana_lmdb_read_t      read;        /* of the main thread */

    /* of the thread, until "adopt" */

    ngx_asana_lmdb_next_e      next;
    ngx_uint_t                 opened;
    time_t                     tried;       /* to write again */
} ngx_asana_lmdb_t;


static void *ngx_asana_lmdb_create(ngx_asana_backend_conf_t *conf,
    ngx_log_t *log);
static ngx_int_t ngx_asana_lmdb_open(void *backend, ngx_log_t *log);
static void ngx_asana_lmdb_close(void *backend);
static uint64_t ngx_asana_lmdb_version(void *backend);
static ngx_int_t ngx_asana_lmdb_find(void *backend,
    ngx_asana_lookup_t *lookup, ngx_log_t *log);
static void ngx_asana_lmdb_change(void *backend, ngx_queue_t *batch,
    ngx_log_t *log);
static ngx_int_t ngx_asana_lmdb_adopt(void *backend, ngx_log_t *log);
static ngx_int_t ngx_asana_lmdb_list(void *backend, ngx_str_t *after,
    ngx_asana_visit_pt visit, void *data, ngx_log_t *log);
static ngx_int_t ngx_asana_lmdb_get_stat(void *backend,
    ngx_asana_stat_t *stat, ngx_log_t *log);

static ngx_asana_lmdb_next_e ngx_asana_lmdb_run(ngx_asana_lmdb_t *lm,
    ngx_queue_t *batch, ngx_log_t *log);


ngx_asana_backend_t  ngx_asana_lmdb = {
    "lmdb",
    1,
    ngx_asana_lmdb_create,
    ngx_asana_lmdb_open,
    ngx_asana_lmdb_close,
    ngx_asana_lmdb_version,
    ngx_asana_lmdb_find,
    NULL,
    ngx_asana_lmdb_change,
    ngx_asana_lmdb_adopt,
    ngx_asana_lmdb_list,
    ngx_asana_lmdb_get_stat
};


static void *
ngx_asana_lmdb_create(ngx_asana_backend_conf_t *conf, ngx_log_t *log)
{
    ngx_asana_lmdb_t  *lm;

    lm = ngx_calloc(sizeof(ngx_asana_lmdb_t), log);
    if (lm == NULL) {
        return NULL;
    }

    lm->read.e = &lm->e;
    lm->e.errors.conf = conf;
    lm->e.conf = conf;
    lm->e.lock_fd = NGX_INVALID_FILE;
    lm->e.map_size = ngx_align(conf->max_size
                               + ngx_max(conf->max_size / 8,
                                         NGX_ASANA_LMDB_RESERVE),
                               ngx_pagesize);

    (void) pthread_mutex_init(&lm->e.mutex, NULL);

    return lm;
}


static ngx_int_t
ngx_asana_lmdb_open(void *backend, ngx_log_t *log)
{
    ngx_asana_lmdb_t *lm = backend;

    /* a limit of file sizes is an error, and no end of the worker */

    (void) signal(SIGXFSZ, SIG_IGN);

    if (ngx_asana_lmdb_env_open(&lm->e, log) != NGX_OK) {
        return NGX_ERROR;
    }

    ngx_asana_lmdb_read_take(&lm->read);

    return NGX_OK;
}


static void
ngx_asana_lmdb_close(void *backend)
{
    ngx_asana_lmdb_t *lm = backend;

    ngx_asana_lmdb_read_let_go(&lm->read);
    ngx_asana_lmdb_env_close(&lm->e);

    (void) pthread_mutex_destroy(&lm->e.mutex);

    ngx_free(lm);
}


static uint64_t
ngx_asana_lmdb_version(void *backend)
{
    ngx_asana_lmdb_t *lm = backend;

    return ngx_asana_lmdb_read_version(&lm->read);
}


static ngx_int_t
ngx_asana_lmdb_find(void *backend, ngx_asana_lookup_t *lookup, ngx_log_t *log)
{
    ngx_asana_lmdb_t *lm = backend;

    return ngx_asana_lmdb_read_find(&lm->read, lookup, log);
}


static ngx_int_t
ngx_asana_lmdb_list(void *backend, ngx_str_t *after, ngx_asana_visit_pt visit,
    void *data, ngx_log_t *log)
{
    ngx_asana_lmdb_t *lm = backend;

    return ngx_asana_lmdb_read_list(&lm->read, after, visit, data, log);
}


static ngx_int_t
ngx_asana_lmdb_get_stat(void *backend, ngx_asana_stat_t *stat, ngx_log_t *log)
{
    ngx_asana_lmdb_t *lm = backend;

    return ngx_asana_lmdb_read_stat(&lm->read, stat, log);
}


static void
ngx_asana_lmdb_change(void *backend, ngx_queue_t *batch, ngx_log_t *log)
{
    ngx_asana_lmdb_t *lm = backend;

    ngx_queue_t       *q;
    ngx_asana_task_t  *task;

    (void) pthread_mutex_lock(&lm->e.mutex);

    lm->next = ngx_asana_lmdb_run(lm, batch, log);

    (void) pthread_mutex_unlock(&lm->e.mutex);

    if (!ngx_queue_empty(batch)) {
        q = ngx_queue_last(batch);
        task = ngx_queue_data(q, ngx_asana_task_t, queue);

        lm->e.failing = (task->outcome == NGX_ASANA_FAILED);
    }
}


static ngx_asana_lmdb_next_e
ngx_asana_lmdb_run(ngx_asana_lmdb_t *lm, ngx_queue_t *batch, ngx_log_t *log)
{
    int                    err;
    ngx_asana_lmdb_env_t  *e;

    e = &lm->e;

    if (!lm->read.taken) {

        if (e->failed == ngx_time()) {
            return NGX_ASANA_LMDB_REST;
        }

        ngx_asana_lmdb_env_close(e);

        if (ngx_asana_lmdb_env_open(e, log) != NGX_OK) {
            return NGX_ASANA_LMDB_REST;
        }

        lm->opened = 1;
    }

    if (ngx_queue_empty(batch)) {
        return NGX_ASANA_LMDB_REST;
    }

    if (e->read_only) {

        if (!lm->read.taken || lm->tried == ngx_time()) {
            return NGX_ASANA_LMDB_REST;
        }

        lm->tried = ngx_time();
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
        lm->opened = 0;
        return NGX_ASANA_LMDB_LET_GO;

    default:
        return NGX_ASANA_LMDB_REST;
    }
}


static ngx_int_t
ngx_asana_lmdb_adopt(void *backend, ngx_log_t *log)
{
    ngx_asana_lmdb_t *lm = backend;

    int                     err;
    size_t                  size;
    ngx_asana_lmdb_next_e   next;

    next = lm->next;
    lm->next = NGX_ASANA_LMDB_REST;

    if (lm->opened) {
        lm->opened = 0;
        ngx_asana_lmdb_read_take(&lm->read);
    }

    switch (next) {

    case NGX_ASANA_LMDB_GROW:
        size = lm->e.map_size + ngx_max(lm->e.map_size / 8,
                                        NGX_ASANA_LMDB_RESERVE);

        lm->e.map_size = ngx_align(size, ngx_pagesize);
        err = mdb_env_set_mapsize(lm->e.env, lm->e.map_size);
        break;

    case NGX_ASANA_LMDB_RESIZE:
        err = mdb_env_set_mapsize(lm->e.env, 0);
        break;

    case NGX_ASANA_LMDB_LET_GO:
        ngx_asana_lmdb_read_let_go(&lm->read);
        return NGX_OK;

    case NGX_ASANA_LMDB_REOPEN:
        ngx_asana_lmdb_read_let_go(&lm->read);
        return NGX_AGAIN;

    default: /* NGX_ASANA_LMDB_REST */
        return NGX_OK;
    }

    if (err == 0) {
        return NGX_AGAIN;
    }

    /* there may be no map any more */

    (void) ngx_asana_lmdb_error(&lm->e.errors, log, "cannot be mapped", err);

    ngx_asana_lmdb_read_let_go(&lm->read);

    return NGX_OK;
}
