
/*
 * Copyright (C) asana-hook contributors
 */


/*
 * Changes of the store: a batch of operations is one transaction, carried out
 * in a thread.
 */


#include "ngx_http_asana_hook.h"

#include <lmdb.h>


static ngx_int_t ngx_http_asana_hook_store_in_place(
    ngx_http_asana_hook_store_t *store, ngx_log_t *log);
static int ngx_http_asana_hook_store_write(ngx_http_asana_hook_store_t *store,
    ngx_queue_t *batch, ngx_queue_t *only, ngx_log_t *log);
static int ngx_http_asana_hook_store_commit(
    ngx_http_asana_hook_store_t *store, MDB_txn *txn);
static int ngx_http_asana_hook_store_apply(ngx_http_asana_hook_store_t *store,
    MDB_txn *txn, ngx_queue_t *batch, ngx_queue_t *only, ngx_uint_t *dropped,
    ngx_log_t *log);


/*
 * A directory that was removed or replaced while it is in use would swallow
 * secrets: LMDB goes on writing to the file that has no name any more.
 */

static ngx_int_t
ngx_http_asana_hook_store_in_place(ngx_http_asana_hook_store_t *store,
    ngx_log_t *log)
{
    int              fd;
    u_char           name[NGX_MAX_PATH];
    ngx_file_info_t  fi, open;

    (void) ngx_snprintf(name, NGX_MAX_PATH, "%V/data.mdb%Z", &store->path);
    name[NGX_MAX_PATH - 1] = '\0';

    if (mdb_env_get_fd(store->env, &fd) != 0
        || ngx_fd_info(fd, &open) == NGX_FILE_ERROR)
    {
        return ngx_http_asana_hook_store_error(store, log, "cannot be read",
                                               ngx_errno);
    }

    if (ngx_file_info(name, &fi) == NGX_FILE_ERROR
        || ngx_file_uniq(&fi) != ngx_file_uniq(&open)
        || fi.st_dev != open.st_dev)
    {
        ngx_log_error(NGX_LOG_CRIT, log, 0,
                      "asana_hook: store \"%V\" was removed or replaced while "
                      "in use; put it back, or restart nginx to use what is "
                      "there now", &store->path);
        return NGX_ERROR;
    }

    return NGX_OK;
}


/* in a thread, except for what store_begin() and store_open() say */

void
ngx_http_asana_hook_store_run(void *data, ngx_queue_t *batch, ngx_log_t *log)
{
    ngx_http_asana_hook_store_t *store = data;

    int           err;
    ngx_queue_t  *q;

    store->err = 0;

    if (store->env == NULL
        || ngx_http_asana_hook_store_in_place(store, log) != NGX_OK)
    {
        return;
    }

    err = ngx_http_asana_hook_store_write(store, batch, NULL, log);

    if (err == 0) {
        return;
    }

    if (err == MDB_MAP_FULL) {

        /* one operation must not pay for another: each on its own */

        for (q = ngx_queue_head(batch);
             q != ngx_queue_sentinel(batch);
             q = ngx_queue_next(q))
        {
            err = ngx_http_asana_hook_store_write(store, batch, q, log);

            if (err && err != MDB_MAP_FULL) {
                break;
            }
        }
    }

    if (err == MDB_MAP_FULL || err == NGX_ERROR) {
        return;
    }

    store->err = err;

    if (err && err != MDB_MAP_RESIZED) {
        (void) ngx_http_asana_hook_store_error(store, log, "cannot be written",
                                               err);
    }
}


/* one transaction for the batch, or for one operation of it alone */

static int
ngx_http_asana_hook_store_write(ngx_http_asana_hook_store_t *store,
    ngx_queue_t *batch, ngx_queue_t *only, ngx_log_t *log)
{
    int                        err;
    MDB_txn                   *txn;
    ngx_uint_t                 dropped, total;
    ngx_http_asana_hook_op_t  *op;

    total = 0;

    do {
        txn = NULL;
        dropped = 0;

        err = mdb_txn_begin(store->env, NULL, 0, &txn);

        if (err == 0) {
            err = ngx_http_asana_hook_store_apply(store, txn, batch, only,
                                                  &dropped, log);
            if (err == 0) {
                err = ngx_http_asana_hook_store_commit(store, txn);

            } else {
                mdb_txn_abort(txn);
            }
        }

        if (err == 0) {
            store->made = 1;
            total += dropped;
        }

    } while (err == 0 && dropped);

    if (total) {
        ngx_log_error(NGX_LOG_WARN, log, 0,
                      "asana_hook: store \"%V\" is full, %ui secrets that "
                      "never verified a delivery were dropped",
                      &store->path, total);
    }

    if (err == 0) {
        return 0;
    }

    if (only) {
        op = ngx_queue_data(only, ngx_http_asana_hook_op_t, queue);
        op->rc = NGX_ERROR;

        if (err == MDB_MAP_FULL) {
            op->rc = NGX_BUSY;
            (void) ngx_http_asana_hook_store_error(store, log,
                                                   "takes no more", err);
        }

        return err;
    }

    for (only = ngx_queue_head(batch);
         only != ngx_queue_sentinel(batch);
         only = ngx_queue_next(only))
    {
        op = ngx_queue_data(only, ngx_http_asana_hook_op_t, queue);
        op->rc = NGX_ERROR;
    }

    return err;
}


static int
ngx_http_asana_hook_store_commit(ngx_http_asana_hook_store_t *store,
    MDB_txn *txn)
{
    int              err;
    uint64_t         usec;
    ngx_uint_t       i;
    struct timespec  start, end;

    (void) clock_gettime(CLOCK_MONOTONIC, &start);

    err = mdb_txn_commit(txn);

    if (err) {
        return err;
    }

    (void) clock_gettime(CLOCK_MONOTONIC, &end);

    usec = (uint64_t) (end.tv_sec - start.tv_sec) * 1000000
           + end.tv_nsec / 1000 - start.tv_nsec / 1000;

    for (i = 0; i < NGX_HTTP_ASANA_HOOK_BUCKETS; i++) {
        if (usec <= ngx_http_asana_hook_bounds[i]) {
            break;
        }
    }

    (void) ngx_atomic_fetch_add(&store->commits->usec, usec);
    (void) ngx_atomic_fetch_add(&store->commits->bucket[i], 1);

    return 0;
}


static int
ngx_http_asana_hook_store_apply(ngx_http_asana_hook_store_t *store,
    MDB_txn *txn, ngx_queue_t *batch, ngx_queue_t *only, ngx_uint_t *dropped,
    ngx_log_t *log)
{
    int                        err;
    ngx_queue_t               *q;
    ngx_http_asana_hook_op_t  *op;

    store->records.txn = txn;
    store->records.keys = 0;
    store->records.taken = 0;

    if (!store->opened
        && ngx_http_asana_hook_store_databases(store, txn, MDB_CREATE, log)
           != NGX_OK)
    {
        return NGX_ERROR;
    }

    for (q = only ? only : ngx_queue_head(batch);
         q != ngx_queue_sentinel(batch);
         q = ngx_queue_next(q))
    {
        op = ngx_queue_data(q, ngx_http_asana_hook_op_t, queue);

        err = ngx_http_asana_hook_op_apply(&store->records, op, dropped);

        if (err) {
            return err;
        }

        if (only) {
            break;
        }

        if (*dropped) {
            return MDB_MAP_FULL;
        }
    }

    return ngx_http_asana_hook_records_finish(&store->records);
}


/* in the main thread, after a batch; NGX_AGAIN: it is to be run again */

ngx_int_t
ngx_http_asana_hook_store_settle(void *data)
{
    ngx_http_asana_hook_store_t *store = data;

    if (store->made) {
        store->opened = 1;
    }

    switch (store->err) {

    case 0:
        return NGX_OK;

    case MDB_MAP_RESIZED:
        store->err = 0;
        return mdb_env_set_mapsize(store->env, 0) == 0 ? NGX_AGAIN : NGX_OK;

    default:

        /*
         * LMDB may refuse all use of an environment after a failed write;
         * another one reads at least
         */

        ngx_http_asana_hook_store_close(store);

        store->failed = ngx_time();
        store->tried = 0;

        (void) ngx_http_asana_hook_store_open(store, ngx_cycle->log);

        return NGX_OK;
    }
}
