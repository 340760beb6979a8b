
/*
 * Copyright (C) asana-hook contributors
 */


#include "ngx_asana_lmdb_read.h"
#include "ngx_asana_lmdb_error.h"
#include "ngx_asana_lmdb_v1.h"


static ngx_int_t ngx_asana_lmdb_read_begin(ngx_asana_lmdb_read_t *rd,
    uint32_t *format, ngx_log_t *log);
static int ngx_asana_lmdb_read_txn(ngx_asana_lmdb_read_t *rd);
static int ngx_asana_lmdb_read_databases(ngx_asana_lmdb_read_t *rd);
static int ngx_asana_lmdb_read_get(ngx_asana_lmdb_read_t *rd, uint32_t format,
    MDB_val *key, ngx_asana_secrets_t *secrets);


void
ngx_asana_lmdb_read_take(ngx_asana_lmdb_read_t *rd)
{
    rd->taken = 1;
    rd->recs.dbs = rd->e->dbs;
}


void
ngx_asana_lmdb_read_let_go(ngx_asana_lmdb_read_t *rd)
{
    if (rd->recs.txn) {
        mdb_txn_abort(rd->recs.txn);
    }

    rd->taken = 0;

    ngx_memzero(&rd->recs, sizeof(ngx_asana_lmdb_records_t));
}


uint64_t
ngx_asana_lmdb_read_version(ngx_asana_lmdb_read_t *rd)
{
    MDB_envinfo  info;

    if (!rd->taken || mdb_env_info(rd->e->env, &info) != 0) {
        return 0;
    }

    return rd->e->salt + info.me_last_txnid;
}


ngx_int_t
ngx_asana_lmdb_read_find(ngx_asana_lmdb_read_t *rd,
    ngx_asana_lookup_t *lookup, ngx_log_t *log)
{
    int       err;
    MDB_val   key;
    uint32_t  format;

    if (ngx_asana_lmdb_read_begin(rd, &format, log) != NGX_OK) {
        return NGX_ERROR;
    }

    /* of what was read: there may be a later one, but not for readers yet */

    lookup->version = rd->e->salt + mdb_txn_id(rd->recs.txn);

    key.mv_size = lookup->key.len;
    key.mv_data = lookup->key.data;

    err = ngx_asana_lmdb_read_get(rd, format, &key, lookup->secrets);

    mdb_txn_reset(rd->recs.txn);

    if (err == 0 || err == MDB_NOTFOUND) {
        return NGX_OK;
    }

    if (err == NGX_DECLINED) {
        ngx_asana_lmdb_error_damaged(&rd->e->errors, log, &key);
        return NGX_ERROR;
    }

    return ngx_asana_lmdb_error(&rd->e->errors, log, "cannot be read", err);
}


ngx_int_t
ngx_asana_lmdb_read_list(ngx_asana_lmdb_read_t *rd, ngx_str_t *after,
    ngx_asana_visit_pt visit, void *data, ngx_log_t *log)
{
    int                   err;
    MDB_val               key, val;
    uint32_t              format;
    uint64_t              buf[512];
    ngx_int_t             rc;
    ngx_str_t             name;
    MDB_cursor           *cursor;
    ngx_asana_secrets_t   secrets;

    if (ngx_asana_lmdb_read_begin(rd, &format, log) != NGX_OK) {
        return NGX_ERROR;
    }

    if (format == 0) {
        mdb_txn_reset(rd->recs.txn);
        return NGX_OK;
    }

    rc = NGX_OK;

    ngx_asana_secrets_init(&secrets, (u_char *) buf, sizeof(buf));

    err = mdb_cursor_open(rd->recs.txn, rd->recs.dbs.hooks, &cursor);

    if (err) {
        mdb_txn_reset(rd->recs.txn);
        return ngx_asana_lmdb_error(&rd->e->errors, log, "cannot be read",
                                    err);
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

        err = ngx_asana_lmdb_read_get(rd, format, &key, &secrets);

        if (err == 0) {
            name.len = key.mv_size;
            name.data = key.mv_data;

            rc = visit(data, &name, &secrets);

        } else if (err == NGX_DECLINED) {
            ngx_asana_lmdb_error_damaged(&rd->e->errors, log, &key);
            err = 0;
        }

        ngx_asana_secrets_wipe(&secrets);

        if (err == 0) {
            err = mdb_cursor_get(cursor, &key, &val, MDB_NEXT_NODUP);
        }
    }

    mdb_cursor_close(cursor);
    mdb_txn_reset(rd->recs.txn);

    if (err && err != MDB_NOTFOUND) {
        return ngx_asana_lmdb_error(&rd->e->errors, log, "cannot be read",
                                    err);
    }

    return NGX_OK;
}


ngx_int_t
ngx_asana_lmdb_read_stat(ngx_asana_lmdb_read_t *rd, ngx_asana_stat_t *stat,
    ngx_log_t *log)
{
    int           err;
    size_t        pages;
    uint32_t      format;
    uint64_t      n;
    MDB_stat      st;
    ngx_uint_t    i;
    MDB_envinfo   info;

    if (ngx_asana_lmdb_read_begin(rd, &format, log) != NGX_OK) {
        return NGX_ERROR;
    }

    stat->readable = 1;
    stat->writable = !rd->e->read_only && !rd->e->failing;

    err = mdb_env_info(rd->e->env, &info);

    if (err == 0) {
        err = mdb_env_stat(rd->e->env, &st);
    }

    stat->used = (uint64_t) (info.me_last_pgno + 1) * st.ms_psize;

    if (err == 0 && format) {
        err = mdb_stat(rd->recs.txn, rd->recs.dbs.hooks, &st);
        stat->keys = st.ms_entries;
    }

    if (err == 0 && format == 1) {
        stat->secrets = st.ms_entries;
        err = ngx_asana_lmdb_v1_keys(&rd->recs, &stat->keys);
    }

    for (i = 0; err == 0 && format > 1 && i < NGX_ASANA_LMDB_AGES; i++) {
        err = ngx_asana_lmdb_records_count(&rd->recs, i, &n);

        stat->secrets += n;
        stat->pending += (i == NGX_ASANA_LMDB_PENDING) ? n : 0;
    }

    if (err == 0 && format > 1) {
        err = ngx_asana_lmdb_records_pages(&rd->recs, &pages);
        stat->used = (uint64_t) pages * st.ms_psize;
    }

    mdb_txn_reset(rd->recs.txn);

    return err ? ngx_asana_lmdb_error(&rd->e->errors, log, "cannot be read",
                                      err)
               : NGX_OK;
}


/* in the main thread: renews the parked read, and says what it will find */

static ngx_int_t
ngx_asana_lmdb_read_begin(ngx_asana_lmdb_read_t *rd, uint32_t *format,
    ngx_log_t *log)
{
    int  err;

    if (!rd->taken) {
        return NGX_ERROR;
    }

    err = ngx_asana_lmdb_read_txn(rd);
    if (err) {
        return ngx_asana_lmdb_error(&rd->e->errors, log, "cannot be read",
                                    err);
    }

    err = ngx_asana_lmdb_records_format(&rd->recs, format);

    if (err == NGX_AGAIN) {

        /* another process has made or converted them, or the thread */

        err = ngx_asana_lmdb_read_databases(rd);

        if (err == 0) {
            err = ngx_asana_lmdb_records_format(&rd->recs, format);
        }
    }

    if (err == 0) {
        return NGX_OK;
    }

    if (rd->recs.txn) {
        mdb_txn_reset(rd->recs.txn);
    }

    /* NGX_AGAIN: not known, as long as the thread opens them itself */

    return (err == NGX_AGAIN) ? NGX_ERROR
                              : ngx_asana_lmdb_error(&rd->e->errors, log,
                                                     "cannot be used", err);
}


static int
ngx_asana_lmdb_read_txn(ngx_asana_lmdb_read_t *rd)
{
    int         err;
    MDB_txn   **txn;

    txn = &rd->recs.txn;

    err = *txn ? mdb_txn_renew(*txn)
               : mdb_txn_begin(rd->e->env, NULL, MDB_RDONLY, txn);

    /*
     * another process let the store grow; the map is not to move while the
     * thread uses it, which will find the same
     */

    if (err != MDB_MAP_RESIZED || pthread_mutex_trylock(&rd->e->mutex) != 0) {
        return err;
    }

    err = mdb_env_set_mapsize(rd->e->env, 0);

    (void) pthread_mutex_unlock(&rd->e->mutex);

    if (err) {

        /* there may be no map any more */

        ngx_asana_lmdb_read_let_go(rd);
        return err;
    }

    return *txn ? mdb_txn_renew(*txn)
                : mdb_txn_begin(rd->e->env, NULL, MDB_RDONLY, txn);
}


static int
ngx_asana_lmdb_read_databases(ngx_asana_lmdb_read_t *rd)
{
    int                    err;
    MDB_txn               *txn;
    ngx_asana_lmdb_env_t  *e;

    e = rd->e;

    if (ngx_atomic_fetch_add(&e->made, 0) > rd->recs.dbs.format) {
        rd->recs.dbs = e->dbs;

    } else if (pthread_mutex_trylock(&rd->e->mutex) == 0) {

        err = ngx_asana_lmdb_records_open(&rd->recs, 0);

        if (err == 0) {

            /* the handles outlive a read only if it is committed */

            txn = rd->recs.txn;
            rd->recs.txn = NULL;

            err = mdb_txn_commit(txn);
        }

        if (err == 0) {
            e->dbs = rd->recs.dbs;
            e->made = e->dbs.format;
        }

        (void) pthread_mutex_unlock(&rd->e->mutex);

        if (err) {
            return err;
        }

    } else {
        return NGX_AGAIN;
    }

    /* a read knows the handles that were there when it began */

    if (rd->recs.txn) {
        mdb_txn_reset(rd->recs.txn);
    }

    return ngx_asana_lmdb_read_txn(rd);
}


static int
ngx_asana_lmdb_read_get(ngx_asana_lmdb_read_t *rd, uint32_t format,
    MDB_val *key, ngx_asana_secrets_t *secrets)
{
    switch (format) {

    case 0:
        return ngx_asana_lmdb_key_ok(key) ? MDB_NOTFOUND : NGX_DECLINED;

    case 1:
        return ngx_asana_lmdb_v1_get(&rd->recs, key, secrets);

    default:
        return ngx_asana_lmdb_records_get(&rd->recs, key, secrets);
    }
}
