
/*
 * Copyright (C) asana-hook contributors
 */


/*
 * Changes of the store: a batch of operations is one transaction, carried out
 * in a thread.
 */


#include "ngx_http_asana_hook.h"

#include <lmdb.h>


static int ngx_http_asana_hook_store_changes(
    ngx_http_asana_hook_store_t *store, ngx_http_asana_hook_env_t *env,
    ngx_queue_t *batch, ngx_log_t *log);
static int ngx_http_asana_hook_store_write(ngx_http_asana_hook_store_t *store,
    ngx_http_asana_hook_env_t *env, ngx_queue_t *batch, ngx_queue_t *only,
    ngx_log_t *log);
static int ngx_http_asana_hook_store_commit(
    ngx_http_asana_hook_store_t *store, MDB_txn *txn);
static int ngx_http_asana_hook_store_apply(ngx_http_asana_hook_store_t *store,
    ngx_http_asana_hook_env_t *env, MDB_txn *txn, ngx_queue_t *batch,
    ngx_queue_t *only, ngx_uint_t *dropped, ngx_log_t *log);


/* in a thread, except for what store_begin() and store_reopen() say */

void
ngx_http_asana_hook_store_run(void *data, ngx_queue_t *batch, ngx_log_t *log)
{
    ngx_http_asana_hook_store_t *store = data;

    int                         err;
    MDB_txn                    *txn;
    ngx_uint_t                  only;
    ngx_http_asana_hook_env_t  *env;

    env = &store->cur;
    only = store->reopen;

    store->err = 0;
    store->made = 0;
    store->panic = 0;
    store->reopen = 0;

    ngx_http_asana_hook_env_close(&store->old);

    if (env->env == NULL || env->readonly) {

        env = &store->fresh;

        if (ngx_http_asana_hook_env_open(store, env, store->cur.env == NULL,
                                         log)
            != NGX_OK)
        {
            store->err = NGX_ERROR;
            return;
        }
    }

    if (env->readonly) {
        store->err = NGX_ERROR;
        return;
    }

    if (only
        || ngx_queue_empty(batch)
        || ngx_http_asana_hook_env_in_place(store, env, log) != NGX_OK)
    {
        return;
    }

    if (ngx_http_asana_hook_env_outgrown(env)) {
        store->err = MDB_MAP_RESIZED;
        return;
    }

    err = ngx_http_asana_hook_store_changes(store, env, batch, log);

    if (err == 0 || err == MDB_MAP_FULL || err == NGX_ERROR) {
        return;
    }

    store->err = err;

    if (err == MDB_MAP_RESIZED) {
        return;
    }

    (void) ngx_http_asana_hook_store_error(store, log, "cannot be written",
                                           err);

    /* after some failures LMDB refuses all use of an environment */

    if (mdb_txn_begin(env->env, NULL, MDB_RDONLY, &txn) == 0) {
        mdb_txn_abort(txn);

    } else {
        store->panic = 1;
    }
}


static int
ngx_http_asana_hook_store_changes(ngx_http_asana_hook_store_t *store,
    ngx_http_asana_hook_env_t *env, ngx_queue_t *batch, ngx_log_t *log)
{
    int           err;
    ngx_queue_t  *q;

    err = ngx_http_asana_hook_store_write(store, env, batch, NULL, log);

    if (err != MDB_MAP_FULL) {
        return err;
    }

    /* one operation must not pay for another: each on its own */

    for (q = ngx_queue_head(batch);
         q != ngx_queue_sentinel(batch);
         q = ngx_queue_next(q))
    {
        err = ngx_http_asana_hook_store_write(store, env, batch, q, log);

        if (err && err != MDB_MAP_FULL) {
            break;
        }
    }

    return err;
}


/* one transaction for the batch, or for one operation of it alone */

static int
ngx_http_asana_hook_store_write(ngx_http_asana_hook_store_t *store,
    ngx_http_asana_hook_env_t *env, ngx_queue_t *batch, ngx_queue_t *only,
    ngx_log_t *log)
{
    int                        err;
    MDB_txn                   *txn;
    ngx_uint_t                 dropped, total;
    ngx_http_asana_hook_op_t  *op;

    total = 0;

    do {
        txn = NULL;
        dropped = 0;

        err = mdb_txn_begin(env->env, NULL, 0, &txn);

        if (err == 0) {
            err = ngx_http_asana_hook_store_apply(store, env, txn, batch, only,
                                                  &dropped, log);
            if (err == 0) {
                err = ngx_http_asana_hook_store_commit(store, txn);

            } else {
                mdb_txn_abort(txn);
            }
        }

        if (err == 0) {
            env->opened |= (env == &store->fresh);
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
    ngx_http_asana_hook_env_t *env, MDB_txn *txn, ngx_queue_t *batch,
    ngx_queue_t *only, ngx_uint_t *dropped, ngx_log_t *log)
{
    int                        err;
    ngx_queue_t               *q;
    ngx_http_asana_hook_op_t  *op;

    env->records.txn = txn;
    env->records.keys = 0;
    env->records.taken = 0;

    if (!env->opened
        && ngx_http_asana_hook_store_databases(store, env, txn, MDB_CREATE,
                                               log)
           != NGX_OK)
    {
        return NGX_ERROR;
    }

    for (q = only ? only : ngx_queue_head(batch);
         q != ngx_queue_sentinel(batch);
         q = ngx_queue_next(q))
    {
        op = ngx_queue_data(q, ngx_http_asana_hook_op_t, queue);

        err = ngx_http_asana_hook_op_apply(&env->records, op, dropped);

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

    return ngx_http_asana_hook_records_finish(&env->records);
}


/* in the main thread, after a batch; NGX_AGAIN: it is to be run again */

ngx_int_t
ngx_http_asana_hook_store_settle(void *data)
{
    ngx_http_asana_hook_store_t *store = data;

    if (store->fresh.env) {
        ngx_http_asana_hook_store_unread(store);

        store->old = store->cur;
        store->cur = store->fresh;
        store->fresh.env = NULL;
    }

    if (store->made) {
        store->cur.opened = 1;
    }

    if (store->err == 0) {
        return NGX_OK;
    }

    if (store->err == MDB_MAP_RESIZED) {

        if (ngx_http_asana_hook_env_resize(&store->cur) == 0) {
            return NGX_AGAIN;
        }

        /* it is gone, and not to be looked into */
        store->panic = 1;
    }

    store->failed = ngx_time();

    if (!store->panic) {
        return NGX_OK;
    }

    /* set aside, for the thread to close it and to open another one */

    ngx_http_asana_hook_store_unread(store);
    ngx_http_asana_hook_env_close(&store->old);

    store->old = store->cur;
    store->cur.env = NULL;
    store->cur.opened = 0;
    store->reopen = 1;

    return NGX_AGAIN;
}
