
/*
 * Copyright (C) asana-hook contributors
 */


#include "ngx_asana_lmdb_read.h"
#include "ngx_asana_lmdb_error.h"
#include "ngx_asana_lmdb_v1.h"


static ngx_int_t ngx_asana_lmdb_read_begin(ngx_asana_lmdb_env_t *e,
    uint32_t *format, ngx_log_t *log);
static ngx_int_t ngx_asana_lmdb_read_keys(ngx_asana_lmdb_env_t *e,
    ngx_asana_lmdb_records_t *recs, uint32_t format,
    ngx_asana_listing_t *listing, ngx_log_t *log);
static int ngx_asana_lmdb_read_visit(ngx_asana_lmdb_records_t *recs,
    uint32_t format, MDB_val *key, ngx_asana_listing_t *listing,
    ngx_int_t *rc);
static ngx_uint_t ngx_asana_lmdb_read_torn(ngx_asana_lmdb_env_t *e,
    ngx_asana_lmdb_records_t *recs);
static int ngx_asana_lmdb_read_txn(ngx_asana_lmdb_env_t *e);
static int ngx_asana_lmdb_read_get(ngx_asana_lmdb_records_t *recs,
    uint32_t format, MDB_val *key, ngx_asana_secrets_t *secrets);


void
ngx_asana_lmdb_read_take(ngx_asana_lmdb_env_t *e)
{
    e->taken = 1;
    e->read.dbs = e->dbs;
    e->read.seal = e->conf->seal;
    e->read.value.place.zone = e->conf->zone;
}


void
ngx_asana_lmdb_read_let_go(ngx_asana_lmdb_env_t *e)
{
    if (e->read.txn) {
        mdb_txn_abort(e->read.txn);
    }

    ngx_memzero(&e->read, sizeof(ngx_asana_lmdb_records_t));

    /* from here on the thread may close it */

    ngx_memory_barrier();

    e->taken = 0;
}


uint64_t
ngx_asana_lmdb_read_version(void *backend)
{
    ngx_asana_lmdb_env_t *e = backend;

    MDB_envinfo  info;

    if (!e->taken || mdb_env_info(e->env, &info) != 0) {
        return 0;
    }

    return e->salt + info.me_last_txnid;
}


ngx_int_t
ngx_asana_lmdb_read_find(void *backend, ngx_asana_lookup_t *lookup,
    ngx_log_t *log)
{
    ngx_asana_lmdb_env_t *e = backend;

    int       err;
    MDB_val   key;
    uint32_t  format;
    uint64_t  start;

    start = ngx_asana_counters_now();

    if (ngx_asana_lmdb_read_begin(e, &format, log) != NGX_OK) {
        return NGX_ERROR;
    }

    /* of what was read: there may be a later one, but not for readers yet */

    lookup->version = e->salt + mdb_txn_id(e->read.txn);

    key.mv_size = lookup->key.len;
    key.mv_data = lookup->key.data;

    err = ngx_asana_lmdb_read_get(&e->read, format, &key, lookup->secrets);

    if (ngx_asana_lmdb_read_torn(e, &e->read)) {
        err = NGX_AGAIN;
    }

    mdb_txn_reset(e->read.txn);

    if (err == 0 || err == MDB_NOTFOUND) {
        ngx_asana_counters_time(&e->conf->counters->queries, start);
        return NGX_OK;
    }

    if (err == NGX_AGAIN) {
        return NGX_ERROR;
    }

    if (err == NGX_DECLINED || err == NGX_ABORT) {
        ngx_asana_lmdb_env_damaged(e, &e->read, &key, err, log);
        ngx_asana_secrets_wipe(lookup->secrets);
        return NGX_ERROR;
    }

    return ngx_asana_lmdb_error(&e->errors, log, "cannot be read", err);
}


ngx_int_t
ngx_asana_lmdb_read_list(void *backend, ngx_asana_listing_t *listing,
    ngx_log_t *log)
{
    ngx_asana_lmdb_env_t *e = backend;

    uint32_t   format;
    ngx_int_t  rc;

    if (ngx_asana_lmdb_read_begin(e, &format, log) != NGX_OK) {
        return NGX_ERROR;
    }

    rc = ngx_asana_lmdb_read_keys(e, &e->read, format, listing, log);

    mdb_txn_reset(e->read.txn);

    return rc;
}


int
ngx_asana_lmdb_read_walk(ngx_asana_lmdb_env_t *e, ngx_asana_listing_t *listing,
    ngx_int_t *rc, ngx_log_t *log)
{
    int                       err;
    uint32_t                  format;
    ngx_asana_lmdb_records_t  recs;

    ngx_asana_lmdb_format_init(&recs, e->conf->seal, &e->conf->zone);

    recs.dbs = e->dbs;

    err = mdb_txn_begin(e->env, NULL, MDB_RDONLY, &recs.txn);
    if (err) {
        return err;
    }

    err = ngx_asana_lmdb_format(&recs, &format);

    if (err == 0) {
        *rc = ngx_asana_lmdb_read_keys(e, &recs, format, listing, log);
    }

    mdb_txn_abort(recs.txn);

    return err;
}


static ngx_int_t
ngx_asana_lmdb_read_keys(ngx_asana_lmdb_env_t *e,
    ngx_asana_lmdb_records_t *recs, uint32_t format,
    ngx_asana_listing_t *listing, ngx_log_t *log)
{
    int          err;
    MDB_val      key, val;
    ngx_int_t    rc;
    ngx_str_t   *after;
    MDB_cursor  *cursor;

    if (format == 0) {
        return NGX_OK;
    }

    rc = NGX_OK;
    after = &listing->after;

    err = mdb_cursor_open(recs->txn, recs->dbs.hooks, &cursor);

    if (err) {
        return ngx_asana_lmdb_error(&e->errors, log, "cannot be read", err);
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

        err = ngx_asana_lmdb_read_visit(recs, format, &key, listing, &rc);

        if (err == NGX_DECLINED || err == NGX_ABORT) {
            ngx_asana_lmdb_env_damaged(e, recs, &key, err, log);
            err = 0;
        }

        if (err == 0) {
            err = mdb_cursor_get(cursor, &key, &val, MDB_NEXT_NODUP);
        }
    }

    mdb_cursor_close(cursor);

    if (ngx_asana_lmdb_read_torn(e, recs)) {
        rc = NGX_ERROR;
    }

    if (err && err != MDB_NOTFOUND) {
        return ngx_asana_lmdb_error(&e->errors, log, "cannot be read", err);
    }

    return rc;
}


static int
ngx_asana_lmdb_read_visit(ngx_asana_lmdb_records_t *recs, uint32_t format,
    MDB_val *key, ngx_asana_listing_t *listing, ngx_int_t *rc)
{
    int                   err;
    uint64_t              buf[512];
    ngx_str_t             name;
    ngx_asana_secrets_t   secrets;

    ngx_asana_secrets_init(&secrets, (u_char *) buf, sizeof(buf));

    err = ngx_asana_lmdb_read_get(recs, format, key, &secrets);

    if (err == 0) {
        name.len = key->mv_size;
        name.data = key->mv_data;

        *rc = listing->visit(listing, &name, &secrets);
    }

    ngx_asana_secrets_wipe(&secrets);

    return err;
}


ngx_int_t
ngx_asana_lmdb_read_stat(void *backend, ngx_asana_stat_t *stat,
    ngx_log_t *log)
{
    ngx_asana_lmdb_env_t *e = backend;

    int           err;
    size_t        pages;
    uint32_t      format;
    uint64_t      n;
    MDB_stat      st;
    ngx_uint_t    i;
    MDB_envinfo   info;

    if (ngx_asana_lmdb_read_begin(e, &format, log) != NGX_OK) {
        return NGX_ERROR;
    }

    stat->readable = 1;
    stat->writable = !e->read_only && !e->failing;

    err = mdb_env_info(e->env, &info);

    if (err == 0) {
        err = mdb_env_stat(e->env, &st);
    }

    stat->used = (uint64_t) (info.me_last_pgno + 1) * st.ms_psize;

    if (err == 0 && format) {
        err = mdb_stat(e->read.txn, e->read.dbs.hooks, &st);
        stat->keys = st.ms_entries;
    }

    if (err == 0 && format == 1) {
        stat->secrets = st.ms_entries;
        err = ngx_asana_lmdb_v1_keys(&e->read, &stat->keys);
    }

    for (i = 0; err == 0 && format > 1 && i < NGX_ASANA_LMDB_AGES; i++) {
        err = ngx_asana_lmdb_records_count(&e->read, i, &n);

        stat->secrets += n;
        stat->pending += (i == NGX_ASANA_LMDB_PENDING) ? n : 0;
    }

    if (err == 0 && format > 1) {
        err = ngx_asana_lmdb_records_pages(&e->read, &pages);
        stat->used = (uint64_t) pages * st.ms_psize;
    }

    if (err == 0 && e->read.value.seal && format > 1) {
        err = ngx_asana_lmdb_usage_get(e->read.txn, e->read.dbs.meta,
                                       e->read.seal, &stat->usage);
        err = (err == MDB_NOTFOUND) ? 0 : err;
    }

    mdb_txn_reset(e->read.txn);

    return err ? ngx_asana_lmdb_error(&e->errors, log, "cannot be read",
                                      err)
               : NGX_OK;
}


/* in the main thread: renews the parked read, and says what it will find */

static ngx_int_t
ngx_asana_lmdb_read_begin(ngx_asana_lmdb_env_t *e, uint32_t *format,
    ngx_log_t *log)
{
    int  err;

    if (!e->taken) {
        return NGX_ERROR;
    }

    err = ngx_asana_lmdb_read_txn(e);
    if (err) {
        return ngx_asana_lmdb_error(&e->errors, log, "cannot be read",
                                    err);
    }

    err = ngx_asana_lmdb_format(&e->read, format);

    if (err == 0) {
        return NGX_OK;
    }

    mdb_txn_reset(e->read.txn);

    if (err == NGX_AGAIN) {

        /* somebody has converted it: it is to be opened anew */

        ngx_asana_lmdb_read_let_go(e);
        return NGX_ERROR;
    }

    return ngx_asana_lmdb_error(&e->errors, log, "cannot be used", err);
}


/*
 * Who reads without a lock file is not seen by others, who may have written to
 * the pages that were read.
 */

static ngx_uint_t
ngx_asana_lmdb_read_torn(ngx_asana_lmdb_env_t *e,
    ngx_asana_lmdb_records_t *recs)
{
    MDB_envinfo  info;

    return e->read_only
           && (mdb_env_info(e->env, &info) != 0
               || info.me_last_txnid != mdb_txn_id(recs->txn));
}


static int
ngx_asana_lmdb_read_txn(ngx_asana_lmdb_env_t *e)
{
    int         err;
    MDB_txn   **txn;

    txn = &e->read.txn;

    err = *txn ? mdb_txn_renew(*txn)
               : mdb_txn_begin(e->env, NULL, MDB_RDONLY, txn);

    /*
     * another process let the store grow; the map is not to move while the
     * thread uses it, which will find the same
     */

    if (err != MDB_MAP_RESIZED || pthread_mutex_trylock(&e->mutex) != 0) {
        return err;
    }

    err = mdb_env_set_mapsize(e->env, 0);

    (void) pthread_mutex_unlock(&e->mutex);

    if (err) {

        /* there may be no map any more */

        ngx_asana_lmdb_read_let_go(e);
        return err;
    }

    return *txn ? mdb_txn_renew(*txn)
                : mdb_txn_begin(e->env, NULL, MDB_RDONLY, txn);
}


static int
ngx_asana_lmdb_read_get(ngx_asana_lmdb_records_t *recs, uint32_t format,
    MDB_val *key, ngx_asana_secrets_t *secrets)
{
    switch (format) {

    case 0:
        return ngx_asana_lmdb_records_key_ok(key) ? MDB_NOTFOUND : NGX_DECLINED;

    case 1:
        return ngx_asana_lmdb_v1_get(recs, key, secrets);

    default:
        return ngx_asana_lmdb_records_get(recs, key, secrets);
    }
}
