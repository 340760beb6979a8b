
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
#include "ngx_asana_lmdb_v1.h"
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
    pthread_mutex_t            mutex;

    /* of the main thread; what is not taken belongs to the thread */

    ngx_uint_t                 taken;
    ngx_asana_lmdb_records_t   recs;        /* recs.txn: the parked read */

    /* of the thread, until "adopt" */

    ngx_asana_lmdb_next_e      next;
    ngx_uint_t                 opened;
    time_t                     tried;       /* to write again */
    ngx_atomic_t               failing;     /* the last change failed */
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

static void ngx_asana_lmdb_take(ngx_asana_lmdb_t *lm);
static void ngx_asana_lmdb_let_go(ngx_asana_lmdb_t *lm);
static ngx_asana_lmdb_next_e ngx_asana_lmdb_run(ngx_asana_lmdb_t *lm,
    ngx_queue_t *batch, ngx_log_t *log);
static ngx_int_t ngx_asana_lmdb_read(ngx_asana_lmdb_t *lm, uint32_t *format,
    ngx_log_t *log);
static int ngx_asana_lmdb_begin(ngx_asana_lmdb_t *lm);
static int ngx_asana_lmdb_databases(ngx_asana_lmdb_t *lm);
static int ngx_asana_lmdb_get(ngx_asana_lmdb_t *lm, uint32_t format,
    MDB_val *key, ngx_asana_secrets_t *secrets);


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

    lm->e.conf = conf;
    lm->e.lock_fd = NGX_INVALID_FILE;
    lm->e.map_size = ngx_align(conf->max_size
                               + ngx_max(conf->max_size / 8,
                                         NGX_ASANA_LMDB_RESERVE),
                               ngx_pagesize);

    (void) pthread_mutex_init(&lm->mutex, NULL);

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

    ngx_asana_lmdb_take(lm);

    return NGX_OK;
}


static void
ngx_asana_lmdb_close(void *backend)
{
    ngx_asana_lmdb_t *lm = backend;

    ngx_asana_lmdb_let_go(lm);
    ngx_asana_lmdb_env_close(&lm->e);

    (void) pthread_mutex_destroy(&lm->mutex);

    ngx_free(lm);
}


static void
ngx_asana_lmdb_take(ngx_asana_lmdb_t *lm)
{
    lm->taken = 1;
    lm->recs.dbs = lm->e.dbs;
}


static void
ngx_asana_lmdb_let_go(ngx_asana_lmdb_t *lm)
{
    if (lm->recs.txn) {
        mdb_txn_abort(lm->recs.txn);
    }

    lm->taken = 0;

    ngx_memzero(&lm->recs, sizeof(ngx_asana_lmdb_records_t));
}


static uint64_t
ngx_asana_lmdb_version(void *backend)
{
    ngx_asana_lmdb_t *lm = backend;

    MDB_envinfo  info;

    if (!lm->taken || mdb_env_info(lm->e.env, &info) != 0) {
        return 0;
    }

    return lm->e.salt + info.me_last_txnid;
}


static ngx_int_t
ngx_asana_lmdb_find(void *backend, ngx_asana_lookup_t *lookup, ngx_log_t *log)
{
    ngx_asana_lmdb_t *lm = backend;

    int       err;
    MDB_val   key;
    uint32_t  format;

    if (ngx_asana_lmdb_read(lm, &format, log) != NGX_OK) {
        return NGX_ERROR;
    }

    /* of what was read: there may be a later one, but not for readers yet */

    lookup->version = lm->e.salt + mdb_txn_id(lm->recs.txn);

    key.mv_size = lookup->key.len;
    key.mv_data = lookup->key.data;

    err = ngx_asana_lmdb_get(lm, format, &key, lookup->secrets);

    mdb_txn_reset(lm->recs.txn);

    if (err == 0 || err == MDB_NOTFOUND) {
        return NGX_OK;
    }

    if (err == NGX_DECLINED) {
        ngx_asana_lmdb_env_damaged(&lm->e, log, &key);
        return NGX_ERROR;
    }

    return ngx_asana_lmdb_env_error(&lm->e, log, "cannot be read", err);
}


static void
ngx_asana_lmdb_change(void *backend, ngx_queue_t *batch, ngx_log_t *log)
{
    ngx_asana_lmdb_t *lm = backend;

    ngx_queue_t       *q;
    ngx_asana_task_t  *task;

    (void) pthread_mutex_lock(&lm->mutex);

    lm->next = ngx_asana_lmdb_run(lm, batch, log);

    (void) pthread_mutex_unlock(&lm->mutex);

    for (q = ngx_queue_head(batch);
         q != ngx_queue_sentinel(batch);
         q = ngx_queue_next(q))
    {
        task = ngx_queue_data(q, ngx_asana_task_t, queue);

        /* this thread alone sets it */

        if ((task->outcome == NGX_ASANA_FAILED) != lm->failing) {
            (void) ngx_atomic_fetch_add(&lm->failing, lm->failing ? -1 : 1);
        }
    }
}


static ngx_asana_lmdb_next_e
ngx_asana_lmdb_run(ngx_asana_lmdb_t *lm, ngx_queue_t *batch, ngx_log_t *log)
{
    int                    err;
    ngx_asana_lmdb_env_t  *e;

    e = &lm->e;

    if (!lm->taken) {

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

        if (!lm->taken || lm->tried == ngx_time()) {
            return NGX_ASANA_LMDB_REST;
        }

        lm->tried = ngx_time();
        err = ngx_asana_lmdb_env_writable(e);

        if (err == 0) {
            return NGX_ASANA_LMDB_REOPEN;
        }

        (void) ngx_asana_lmdb_env_error(e, log, "can only be read", err);
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
        ngx_asana_lmdb_take(lm);
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
        ngx_asana_lmdb_let_go(lm);
        return NGX_OK;

    case NGX_ASANA_LMDB_REOPEN:
        ngx_asana_lmdb_let_go(lm);
        return NGX_AGAIN;

    default: /* NGX_ASANA_LMDB_REST */
        return NGX_OK;
    }

    if (err == 0) {
        return NGX_AGAIN;
    }

    /* there may be no map any more */

    (void) ngx_asana_lmdb_env_error(&lm->e, log, "cannot be mapped", err);

    ngx_asana_lmdb_let_go(lm);

    return NGX_OK;
}


static ngx_int_t
ngx_asana_lmdb_list(void *backend, ngx_str_t *after, ngx_asana_visit_pt visit,
    void *data, ngx_log_t *log)
{
    ngx_asana_lmdb_t *lm = backend;

    int                   err;
    MDB_val               key, val;
    uint32_t              format;
    uint64_t              buf[512];
    ngx_int_t             rc;
    ngx_str_t             name;
    MDB_cursor           *cursor;
    ngx_asana_secrets_t   secrets;

    if (ngx_asana_lmdb_read(lm, &format, log) != NGX_OK) {
        return NGX_ERROR;
    }

    if (format == 0) {
        mdb_txn_reset(lm->recs.txn);
        return NGX_OK;
    }

    rc = NGX_OK;

    ngx_asana_secrets_init(&secrets, (u_char *) buf, sizeof(buf));

    err = mdb_cursor_open(lm->recs.txn, lm->recs.dbs.hooks, &cursor);

    if (err) {
        mdb_txn_reset(lm->recs.txn);
        return ngx_asana_lmdb_env_error(&lm->e, log, "cannot be read", err);
    }

    key.mv_size = after->len;
    key.mv_data = after->data;

    err = mdb_cursor_get(cursor, &key, &val, after->len ? MDB_SET_RANGE
                                                        : MDB_FIRST);

    if (err == 0
        && key.mv_size == after->len
        && ngx_memcmp(key.mv_data, after->data, after->len) == 0)
    {
        err = mdb_cursor_get(cursor, &key, &val, MDB_NEXT_NODUP);
    }

    while (err == 0 && rc == NGX_OK) {

        err = ngx_asana_lmdb_get(lm, format, &key, &secrets);

        if (err == 0) {
            name.len = key.mv_size;
            name.data = key.mv_data;

            rc = visit(data, &name, &secrets);

        } else if (err == NGX_DECLINED) {
            ngx_asana_lmdb_env_damaged(&lm->e, log, &key);
            err = 0;
        }

        ngx_asana_secrets_wipe(&secrets);

        if (err == 0) {
            err = mdb_cursor_get(cursor, &key, &val, MDB_NEXT_NODUP);
        }
    }

    mdb_cursor_close(cursor);
    mdb_txn_reset(lm->recs.txn);

    if (err && err != MDB_NOTFOUND) {
        return ngx_asana_lmdb_env_error(&lm->e, log, "cannot be read", err);
    }

    return rc;
}


static ngx_int_t
ngx_asana_lmdb_get_stat(void *backend, ngx_asana_stat_t *stat, ngx_log_t *log)
{
    ngx_asana_lmdb_t *lm = backend;

    int           err;
    size_t        pages;
    uint32_t      format;
    uint64_t      n;
    MDB_stat      st;
    ngx_uint_t    i;
    MDB_envinfo   info;

    if (ngx_asana_lmdb_read(lm, &format, log) != NGX_OK) {
        return NGX_ERROR;
    }

    stat->readable = 1;
    stat->writable = !lm->e.read_only && !lm->failing;

    err = mdb_env_info(lm->e.env, &info);

    if (err == 0) {
        err = mdb_env_stat(lm->e.env, &st);
    }

    stat->used = (uint64_t) (info.me_last_pgno + 1) * st.ms_psize;

    if (err == 0 && format) {
        err = mdb_stat(lm->recs.txn, lm->recs.dbs.hooks, &st);
        stat->keys = st.ms_entries;
    }

    if (err == 0 && format == 1) {
        stat->secrets = st.ms_entries;
        err = ngx_asana_lmdb_v1_keys(&lm->recs, &stat->keys);
    }

    for (i = 0; err == 0 && format > 1 && i < NGX_ASANA_LMDB_AGES; i++) {
        err = ngx_asana_lmdb_records_count(&lm->recs, i, &n);

        stat->secrets += n;
        stat->pending += (i == NGX_ASANA_LMDB_PENDING) ? n : 0;
    }

    if (err == 0 && format > 1) {
        err = ngx_asana_lmdb_records_pages(&lm->recs, &pages);
        stat->used = (uint64_t) pages * st.ms_psize;
    }

    mdb_txn_reset(lm->recs.txn);

    return err ? ngx_asana_lmdb_env_error(&lm->e, log, "cannot be read", err)
               : NGX_OK;
}


/* in the main thread: renews the parked read, and says what it will find */

static ngx_int_t
ngx_asana_lmdb_read(ngx_asana_lmdb_t *lm, uint32_t *format, ngx_log_t *log)
{
    int  err;

    if (!lm->taken) {
        return NGX_ERROR;
    }

    err = ngx_asana_lmdb_begin(lm);
    if (err) {
        return ngx_asana_lmdb_env_error(&lm->e, log, "cannot be read", err);
    }

    err = ngx_asana_lmdb_records_format(&lm->recs, format);

    if (err == NGX_AGAIN) {

        /* another process has made or converted them, or the thread */

        err = ngx_asana_lmdb_databases(lm);

        if (err == 0) {
            err = ngx_asana_lmdb_records_format(&lm->recs, format);
        }
    }

    if (err == 0) {
        return NGX_OK;
    }

    if (lm->recs.txn) {
        mdb_txn_reset(lm->recs.txn);
    }

    /* NGX_AGAIN: not known, as long as the thread opens them itself */

    return (err == NGX_AGAIN) ? NGX_ERROR
                              : ngx_asana_lmdb_env_error(&lm->e, log,
                                                         "cannot be used",
                                                         err);
}


static int
ngx_asana_lmdb_begin(ngx_asana_lmdb_t *lm)
{
    int         err;
    MDB_txn   **txn;

    txn = &lm->recs.txn;

    err = *txn ? mdb_txn_renew(*txn)
               : mdb_txn_begin(lm->e.env, NULL, MDB_RDONLY, txn);

    /*
     * another process let the store grow; the map is not to move while the
     * thread uses it, which will find the same
     */

    if (err != MDB_MAP_RESIZED || pthread_mutex_trylock(&lm->mutex) != 0) {
        return err;
    }

    err = mdb_env_set_mapsize(lm->e.env, 0);

    (void) pthread_mutex_unlock(&lm->mutex);

    if (err) {

        /* there may be no map any more */

        ngx_asana_lmdb_let_go(lm);
        return err;
    }

    return *txn ? mdb_txn_renew(*txn)
                : mdb_txn_begin(lm->e.env, NULL, MDB_RDONLY, txn);
}


static int
ngx_asana_lmdb_databases(ngx_asana_lmdb_t *lm)
{
    int                    err;
    MDB_txn               *txn;
    ngx_asana_lmdb_env_t  *e;

    e = &lm->e;

    if (ngx_atomic_fetch_add(&e->made, 0) > lm->recs.dbs.format) {
        lm->recs.dbs = e->dbs;

    } else if (pthread_mutex_trylock(&lm->mutex) == 0) {

        err = ngx_asana_lmdb_records_open(&lm->recs, 0);

        if (err == 0) {

            /* the handles outlive a read only if it is committed */

            txn = lm->recs.txn;
            lm->recs.txn = NULL;

            err = mdb_txn_commit(txn);
        }

        if (err == 0) {
            e->dbs = lm->recs.dbs;
            e->made = e->dbs.format;
        }

        (void) pthread_mutex_unlock(&lm->mutex);

        if (err) {
            return err;
        }

    } else {
        return NGX_AGAIN;
    }

    /* a read knows the handles that were there when it began */

    if (lm->recs.txn) {
        mdb_txn_reset(lm->recs.txn);
    }

    return ngx_asana_lmdb_begin(lm);
}


static int
ngx_asana_lmdb_get(ngx_asana_lmdb_t *lm, uint32_t format, MDB_val *key,
    ngx_asana_secrets_t *secrets)
{
    switch (format) {

    case 0:
        return ngx_asana_lmdb_key_ok(key) ? MDB_NOTFOUND : NGX_DECLINED;

    case 1:
        return ngx_asana_lmdb_v1_get(&lm->recs, key, secrets);

    default:
        return ngx_asana_lmdb_records_get(&lm->recs, key, secrets);
    }
}
