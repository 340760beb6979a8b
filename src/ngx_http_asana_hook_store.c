
/*
 * Copyright (C) asana-hook contributors
 */


/*
 * The store is an LMDB environment that every worker opens for itself after
 * fork.  Look-ups renew one parked read; a change is one transaction, whose
 * content is the matter of ngx_http_asana_hook_ops.c.
 */


#include "ngx_http_asana_hook.h"

#include <lmdb.h>


#define NGX_HTTP_ASANA_HOOK_FORMAT  1


static int ngx_http_asana_hook_store_version(
    ngx_http_asana_hook_store_t *store, ngx_http_asana_hook_env_t *env,
    MDB_txn *txn, unsigned int flags, ngx_log_t *log);
static void ngx_http_asana_hook_store_reopen(
    ngx_http_asana_hook_store_t *store);
static ngx_int_t ngx_http_asana_hook_store_read(
    ngx_http_asana_hook_store_t *store, ngx_log_t *log);
static int ngx_http_asana_hook_store_begin(ngx_http_asana_hook_store_t *store,
    unsigned int flags, MDB_txn **txn);


ngx_http_asana_hook_store_t *
ngx_http_asana_hook_store_create(ngx_pool_t *pool, ngx_str_t *path,
    size_t max_size, ngx_thread_pool_t *thread_pool,
    ngx_http_asana_hook_commits_t *commits)
{
    ngx_http_asana_hook_store_t  *store;

    store = ngx_pcalloc(pool, sizeof(ngx_http_asana_hook_store_t));
    if (store == NULL) {
        return NULL;
    }

    store->path = *path;
    store->max_size = ngx_align(max_size, ngx_pagesize);
    store->commits = commits;

    store->group.data = store;
    store->group.run = ngx_http_asana_hook_store_run;
    store->group.settle = ngx_http_asana_hook_store_settle;

    ngx_http_asana_hook_group_init(&store->group, thread_pool);

    return store;
}


ngx_int_t
ngx_http_asana_hook_store_open(ngx_http_asana_hook_store_t *store,
    ngx_log_t *log)
{
    /* a file that may grow no more is an error of the write alone */

    (void) signal(SIGXFSZ, SIG_IGN);

    store->tried = ngx_time();

    if (ngx_http_asana_hook_env_open(store, &store->cur, 1, log) != NGX_OK) {
        return NGX_ERROR;
    }

    if (store->cur.opened || store->cur.readonly) {
        return NGX_OK;
    }

    /* a new store: nobody waits for this worker yet */

    if (ngx_http_asana_hook_env_databases(store, &store->cur, MDB_CREATE, log)
        != NGX_OK)
    {
        ngx_http_asana_hook_env_close(&store->cur);
        return NGX_ERROR;
    }

    return NGX_OK;
}


/* in the thread of the changes, once a second at most */

static void
ngx_http_asana_hook_store_reopen(ngx_http_asana_hook_store_t *store)
{
    if (store->tried == ngx_time()) {
        return;
    }

    store->tried = ngx_time();

    ngx_http_asana_hook_group_wake(&store->group);
}


void
ngx_http_asana_hook_store_close(ngx_http_asana_hook_store_t *store)
{
    ngx_http_asana_hook_store_unread(store);

    ngx_http_asana_hook_env_close(&store->old);
    ngx_http_asana_hook_env_close(&store->cur);
    ngx_http_asana_hook_env_close(&store->fresh);
}


void
ngx_http_asana_hook_store_unread(ngx_http_asana_hook_store_t *store)
{
    if (store->cursor) {
        mdb_cursor_close(store->cursor);
        store->cursor = NULL;
    }

    if (store->read) {
        mdb_txn_abort(store->read);
        store->read = NULL;
    }
}


ngx_int_t
ngx_http_asana_hook_store_error(ngx_http_asana_hook_store_t *store,
    ngx_log_t *log, const char *what, int err)
{
    const char  *help, *text;

    if (!ngx_http_asana_hook_store_tells(store, what, err)) {
        return NGX_ERROR;
    }

    text = (err == NGX_HTTP_ASANA_HOOK_ELOCK)
           ? "\"lock.mdb\" was removed or replaced while in use"
           : mdb_strerror(err);

    switch (err) {

    case NGX_HTTP_ASANA_HOOK_ELOCK:
        help = "; reload nginx, each one that uses the store";
        break;

    case NGX_EACCES:
    case NGX_EPERM:
        help = "; chown the directory and its files to the user of the "
               "workers";
        break;

    case NGX_ENOENT:
        help = "; restore the directory, or reload nginx to make it anew";
        break;

    case NGX_ENOSPC:
    case EDQUOT:
        help = "; make room on the disk";
        break;

    case EFBIG:
        help = "; raise the limit of the size of files (RLIMIT_FSIZE) of nginx";
        break;

    case EIO:
        help = "; check the disk and its file system";
        break;

    case EROFS:
        help = "; mount the file system for writing";
        break;

    case MDB_MAP_FULL:
        help = "; raise \"max_size\" of the zone";
        break;

    case MDB_VERSION_MISMATCH:
    case MDB_INVALID:
    case MDB_CORRUPTED:
    case MDB_PAGE_NOTFOUND:
        help = "; it is left as it is, restore it from a backup";
        break;

    default:
        help = "";
    }

    ngx_log_error(NGX_LOG_CRIT, log, 0, "asana_hook: store \"%V\" %s: %s%s",
                  &store->path, what, text, help);

    return NGX_ERROR;
}


ngx_uint_t
ngx_http_asana_hook_store_tells(ngx_http_asana_hook_store_t *store,
    const char *what, int err)
{
    ngx_atomic_t        *told;
    ngx_atomic_uint_t    now, last;

    now = (ngx_atomic_uint_t) ngx_time();
    told = &store->commits->told[(ngx_uint_t) (ngx_abs(err)
                                               + 31 * ngx_strlen(what))
                                 % NGX_HTTP_ASANA_HOOK_TOLD];
    last = *told;

    return last != now && ngx_atomic_cmp_set(told, last, now);
}


/* databases are opened for reading; a new store has none, and gets them */

ngx_int_t
ngx_http_asana_hook_store_databases(ngx_http_asana_hook_store_t *store,
    ngx_http_asana_hook_env_t *env, MDB_txn *txn, unsigned int flags,
    ngx_log_t *log)
{
    int  err;

    err = ngx_http_asana_hook_store_version(store, env, txn, flags, log);

    if (err == 0) {
        env->records.txn = txn;
        err = ngx_http_asana_hook_records_open(&env->records, flags);
    }

    if (err == MDB_NOTFOUND && flags == 0) {
        return NGX_DECLINED;
    }

    if (err) {
        return (err == NGX_ERROR) ? NGX_ERROR
               : ngx_http_asana_hook_store_error(store, log, "cannot be used",
                                                 err);
    }

    return NGX_OK;
}


static int
ngx_http_asana_hook_store_version(ngx_http_asana_hook_store_t *store,
    ngx_http_asana_hook_env_t *env, MDB_txn *txn, unsigned int flags,
    ngx_log_t *log)
{
    int      err;
    u_char   buf[4], *p;
    MDB_val  key, val;
    uint32_t version;

    err = mdb_dbi_open(txn, "meta", flags, &env->records.meta);
    if (err) {
        return err;
    }

    key.mv_size = sizeof("version") - 1;
    key.mv_data = (char *) "version";

    err = mdb_get(txn, env->records.meta, &key, &val);

    if (err == MDB_NOTFOUND && flags) {

        ngx_memzero(buf, 3);
        buf[3] = NGX_HTTP_ASANA_HOOK_FORMAT;

        val.mv_size = 4;
        val.mv_data = buf;

        return mdb_put(txn, env->records.meta, &key, &val, 0);
    }

    if (err) {
        return err;
    }

    if (val.mv_size != 4) {
        return MDB_CORRUPTED;
    }

    p = val.mv_data;
    version = (uint32_t) p[0] << 24 | p[1] << 16 | p[2] << 8 | p[3];

    if (version > NGX_HTTP_ASANA_HOOK_FORMAT) {
        if (ngx_http_asana_hook_store_tells(store, "is newer", 0)) {
            ngx_log_error(NGX_LOG_CRIT, log, 0,
                          "asana_hook: store \"%V\" has the format %uD of a "
                          "newer version, this one knows %d; upgrade the "
                          "module", &store->path, version,
                          NGX_HTTP_ASANA_HOOK_FORMAT);
        }

        return NGX_ERROR;
    }

    return 0;
}


uint64_t
ngx_http_asana_hook_store_txnid(ngx_http_asana_hook_store_t *store)
{
    MDB_envinfo  info;

    if (store->cur.env == NULL || mdb_env_info(store->cur.env, &info) != 0) {
        return 0;
    }

    return store->cur.version + info.me_last_txnid;
}


/* renews the transaction, or begins one */

static int
ngx_http_asana_hook_store_begin(ngx_http_asana_hook_store_t *store,
    unsigned int flags, MDB_txn **txn)
{
    int         err;
    ngx_uint_t  n;

    for (n = 0; /* void */ ; n++) {

        err = *txn ? mdb_txn_renew(*txn)
                   : mdb_txn_begin(store->cur.env, NULL, flags, txn);

        /*
         * another generation, with a larger "max_size", let the store grow;
         * the map is not to move while a thread writes to it
         */

        if (err != MDB_MAP_RESIZED || n || store->group.busy) {
            return err;
        }

        err = ngx_http_asana_hook_env_resize(&store->cur);
        if (err) {

            /* it is gone, and not to be looked into */

            ngx_http_asana_hook_store_close(store);
            *txn = NULL;

            return err;
        }
    }
}


/* renews the parked read, NGX_DECLINED if the store is still empty */

static ngx_int_t
ngx_http_asana_hook_store_read(ngx_http_asana_hook_store_t *store,
    ngx_log_t *log)
{
    int        err;
    MDB_txn   *txn;
    ngx_int_t  rc;

    if (store->cur.env == NULL) {
        ngx_http_asana_hook_store_reopen(store);
        return NGX_ERROR;
    }

    err = ngx_http_asana_hook_store_begin(store, MDB_RDONLY, &store->read);

    if (err) {
        return ngx_http_asana_hook_store_error(store, log, "cannot be read",
                                               err);
    }

    if (!store->cur.opened) {

        if (store->group.busy) {

            /*
             * they could not be made at the start, and a batch makes them;
             * what others wrote meanwhile cannot be read before that
             */

            rc = mdb_txn_id(store->read) ? NGX_ERROR : NGX_DECLINED;

            mdb_txn_reset(store->read);
            return rc;
        }

        rc = ngx_http_asana_hook_store_databases(store, &store->cur,
                                                 store->read, 0, log);

        if (rc != NGX_OK) {
            mdb_txn_reset(store->read);
            return rc;
        }

        /* the handles outlive a read only if it is committed */

        txn = store->read;
        store->read = NULL;

        err = mdb_txn_commit(txn);

        if (err == 0) {
            err = ngx_http_asana_hook_store_begin(store, MDB_RDONLY,
                                                  &store->read);
        }

        if (err) {
            return ngx_http_asana_hook_store_error(store, log,
                                                   "cannot be read", err);
        }

        store->cur.opened = 1;
    }

    err = store->cursor
          ? mdb_cursor_renew(store->read, store->cursor)
          : mdb_cursor_open(store->read, store->cur.records.secrets,
                            &store->cursor);

    if (err) {
        mdb_txn_reset(store->read);
        return ngx_http_asana_hook_store_error(store, log, "cannot be read",
                                               err);
    }

    return NGX_OK;
}


ngx_int_t
ngx_http_asana_hook_store_find(ngx_http_asana_hook_store_t *store,
    ngx_str_t *key, ngx_http_asana_hook_set_t *set, ngx_log_t *log)
{
    int        err;
    ngx_int_t  rc;

    rc = ngx_http_asana_hook_store_read(store, log);

    if (rc != NGX_OK) {
        return (rc == NGX_DECLINED) ? NGX_OK : NGX_ERROR;
    }

    set->txnid = store->cur.version + mdb_txn_id(store->read);

    err = ngx_http_asana_hook_records_find(store->cursor, key, set);

    mdb_txn_reset(store->read);

    if (store->cur.readonly
        && ngx_http_asana_hook_store_txnid(store) != set->txnid)
    {
        /* without a lock its pages may have been written meanwhile */

        ngx_http_asana_hook_set_wipe(set);
        return NGX_ERROR;
    }

    if (err) {
        ngx_http_asana_hook_set_wipe(set);
        return ngx_http_asana_hook_store_error(store, log, "cannot be read",
                                               err);
    }

    return NGX_OK;
}


ngx_int_t
ngx_http_asana_hook_store_list(ngx_http_asana_hook_store_t *store,
    ngx_str_t *after, ngx_http_asana_hook_set_t *set,
    ngx_http_asana_hook_list_pt pt, void *data, ngx_log_t *log)
{
    int        err;
    ngx_int_t  rc;
    ngx_str_t  key;

    rc = ngx_http_asana_hook_store_read(store, log);

    if (rc != NGX_OK) {
        return (rc == NGX_DECLINED) ? NGX_OK : NGX_ERROR;
    }

    key = *after;

    for ( ;; ) {
        err = ngx_http_asana_hook_records_next(store->cursor, &key);

        if (err == 0 && key.len > NGX_HTTP_ASANA_HOOK_MAX_KEY) {

            if (ngx_http_asana_hook_store_tells(store, "key", (int) key.len)) {
                ngx_log_error(NGX_LOG_CRIT, log, 0,
                              "asana_hook: store \"%V\" has a key of %uz "
                              "bytes, which no request has; it is left out",
                              &store->path, key.len);
            }

            continue;
        }

        if (err == 0) {
            err = ngx_http_asana_hook_records_find(store->cursor, &key, set);
        }

        if (err) {
            break;
        }

        rc = pt(data, &key, set);

        ngx_http_asana_hook_set_wipe(set);

        if (rc != NGX_OK) {
            break;
        }
    }

    mdb_txn_reset(store->read);

    if (err && err != MDB_NOTFOUND) {
        ngx_http_asana_hook_set_wipe(set);
        return ngx_http_asana_hook_store_error(store, log, "cannot be read",
                                               err);
    }

    return rc;
}


ngx_int_t
ngx_http_asana_hook_store_stat(ngx_http_asana_hook_store_t *store,
    ngx_http_asana_hook_stat_t *stat, ngx_log_t *log)
{
    int                            err;
    ngx_int_t                      rc;
    ngx_http_asana_hook_records_t  recs;

    ngx_memzero(stat, sizeof(ngx_http_asana_hook_stat_t));

    rc = ngx_http_asana_hook_store_read(store, log);

    if (rc != NGX_OK) {
        return (rc == NGX_DECLINED) ? NGX_OK : NGX_ERROR;
    }

    /* a thread may use the other one */

    recs = store->cur.records;
    recs.txn = store->read;

    err = ngx_http_asana_hook_records_stat(&recs, stat);

    mdb_txn_reset(store->read);

    return err ? ngx_http_asana_hook_store_error(store, log, "cannot be read",
                                                 err)
               : NGX_OK;
}


ngx_http_asana_hook_op_t *
ngx_http_asana_hook_op_create(ngx_str_t *key, ngx_uint_t nseen,
    ngx_log_t *log)
{
    size_t                     size;
    ngx_http_asana_hook_op_t  *op;

    size = ngx_align(sizeof(ngx_http_asana_hook_op_t), NGX_ALIGNMENT)
           + nseen * sizeof(ngx_http_asana_hook_seen_t);

    op = ngx_calloc(size, log);
    if (op == NULL) {
        return NULL;
    }

    op->rc = NGX_ERROR;
    op->size = size;
    op->seen = (ngx_http_asana_hook_seen_t *)
                   ((u_char *) op + ngx_align(sizeof(ngx_http_asana_hook_op_t),
                                              NGX_ALIGNMENT));

    if (key->len) {
        op->key_len = key->len;
        ngx_memcpy(op->key, key->data, key->len);
    }

    return op;
}


void
ngx_http_asana_hook_op_free(ngx_http_asana_hook_op_t *op)
{
    ngx_explicit_memzero(op, op->size);
    ngx_free(op);
}


ngx_int_t
ngx_http_asana_hook_store_post(ngx_http_asana_hook_store_t *store,
    ngx_http_asana_hook_op_t *op)
{
    ngx_int_t  rc;

    if (store->failed == ngx_time()) {
        return NGX_OK;
    }

    /*
     * While a thread writes, the databases cannot be opened for look-ups:
     * a worker that knew its secrets from the zone alone has not done so yet
     */

    if (store->cur.env && !store->cur.opened && !store->group.busy) {

        rc = ngx_http_asana_hook_store_read(store, ngx_cycle->log);

        if (rc == NGX_ERROR) {
            return NGX_OK;
        }

        if (rc == NGX_OK) {
            mdb_txn_reset(store->read);
        }
    }

    rc = ngx_http_asana_hook_group_post(&store->group, op);

    if (rc != NGX_BUSY) {
        return rc;
    }

    if (ngx_http_asana_hook_store_tells(store, "is slow", 0)) {
        ngx_log_error(NGX_LOG_CRIT, ngx_cycle->log, 0,
                      "asana_hook: store \"%V\" is slow, 1024 changes wait; "
                      "see what makes its disk so", &store->path);
    }

    return NGX_OK;
}
