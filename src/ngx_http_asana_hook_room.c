
/*
 * Copyright (C) asana-hook contributors
 */


/*
 * A full store, and what is dropped to make room in it.
 */


#include "ngx_http_asana_hook.h"

#include <lmdb.h>


/* most pages that are kept free for making room */
#define NGX_HTTP_ASANA_HOOK_RESERVE  512

/* pages that an operation may take beside those of the databases */
#define NGX_HTTP_ASANA_HOOK_PAGES    8

/* most secrets that a full store drops at once */
#define NGX_HTTP_ASANA_HOOK_DROPS    64


static int ngx_http_asana_hook_op_cost(ngx_http_asana_hook_records_t *recs,
    size_t *cost);
static int ngx_http_asana_hook_op_free_pages(
    ngx_http_asana_hook_records_t *recs, size_t *free, size_t *usable);


/*
 * A transaction needs free pages itself, also one that deletes, and those
 * that it frees are of use only to the one after the next.  One that took
 * the last page would thus be the last of all: the store counts as full
 * while there is still room to make room.  "drops" is how many secrets a
 * transaction may drop then.
 */

int
ngx_http_asana_hook_op_full(ngx_http_asana_hook_records_t *recs,
    ngx_uint_t *drops)
{
    int           err;
    size_t        cost, free, need, pages, usable, used;
    MDB_env      *env;
    MDB_stat      stat;
    MDB_envinfo   info;

    *drops = 0;

    env = mdb_txn_env(recs->txn);

    err = ngx_http_asana_hook_op_cost(recs, &cost);

    if (err == 0) {
        err = mdb_env_info(env, &info);
    }

    if (err == 0) {
        err = mdb_env_stat(env, &stat);
    }

    if (err) {
        return err;
    }

    pages = info.me_mapsize / stat.ms_psize;
    used = info.me_last_pgno + 1;

    need = ngx_min(pages / 16, NGX_HTTP_ASANA_HOOK_RESERVE);
    need = recs->taken + ngx_max(need, 2 * cost);

    recs->taken += cost;

    free = pages - ngx_min(used, pages);

    if (free >= need) {
        return 0;
    }

    usable = free;

    err = ngx_http_asana_hook_op_free_pages(recs, &free, &usable);

    if (err || free >= need) {
        return err;
    }

    *drops = (usable > 2 * cost) ? (usable - cost) / cost : 1;

    return MDB_MAP_FULL;
}


/* the pages that an operation may take */

static int
ngx_http_asana_hook_op_cost(ngx_http_asana_hook_records_t *recs, size_t *cost)
{
    int           err;
    size_t        depth[4];
    MDB_stat      stat;
    ngx_uint_t    i;
    unsigned int  dbi[4];

    dbi[0] = recs->secrets;
    dbi[1] = recs->unproven;
    dbi[2] = recs->waiting;
    dbi[3] = recs->pending;

    for (i = 0; i < 4; i++) {
        err = mdb_stat(recs->txn, dbi[i], &stat);
        if (err) {
            return err;
        }

        depth[i] = stat.ms_depth;
    }

    /* the path to a record, twice: a page may be split */

    *cost = 2 * (depth[0] + depth[1]) + NGX_HTTP_ASANA_HOOK_PAGES;

    if (depth[2]) {

        /* those that are past their time are dropped on the way */

        *cost += NGX_HTTP_ASANA_HOOK_EXPIRED
                 * (depth[0] + depth[2] + depth[3]);
    }

    return 0;
}


/*
 * Database 0 lists the free pages by the number of the transaction that freed
 * them; only a transaction that reads has a cursor for it.
 */

static int
ngx_http_asana_hook_op_free_pages(ngx_http_asana_hook_records_t *recs,
    size_t *free, size_t *usable)
{
    int          err;
    size_t       n;
    MDB_txn     *txn;
    MDB_val      key, val;
    MDB_cursor  *cursor;

    err = mdb_txn_begin(mdb_txn_env(recs->txn), NULL, MDB_RDONLY, &txn);
    if (err) {
        return err;
    }

    err = mdb_cursor_open(txn, 0, &cursor);
    if (err) {
        mdb_txn_abort(txn);
        return err;
    }

    while ((err = mdb_cursor_get(cursor, &key, &val, MDB_NEXT)) == 0) {
        n = *(size_t *) val.mv_data;

        *free += n;

        if (*(size_t *) key.mv_data < mdb_txn_id(txn)) {
            *usable += n;
        }
    }

    mdb_cursor_close(cursor);
    mdb_txn_abort(txn);

    return (err == MDB_NOTFOUND) ? 0 : err;
}


/*
 * Drops the oldest of those that are past "pending" or did not verify a
 * delivery while they were active, then what is only pending; MDB_MAP_FULL
 * if there are none.
 */

int
ngx_http_asana_hook_op_make_room(ngx_http_asana_hook_records_t *recs,
    MDB_cursor *cursor, ngx_http_asana_hook_op_t *op, ngx_uint_t drops,
    ngx_uint_t *dropped)
{
    int         err;
    ngx_uint_t  n;

    n = 0;
    drops = ngx_min(drops, NGX_HTTP_ASANA_HOOK_DROPS);

    err = ngx_http_asana_hook_op_drop_oldest(recs, cursor, recs->waiting,
                                             op->now - op->pending, drops, &n);
    if (err == 0) {
        err = ngx_http_asana_hook_op_drop_oldest(recs, cursor, recs->unproven,
                                                 op->now - op->inactive,
                                                 drops, &n);
    }

    if (err == 0 && n == 0) {
        err = ngx_http_asana_hook_op_drop_oldest(recs, cursor, recs->waiting,
                                                 op->now, drops, &n);
    }

    *dropped = n;

    return (err == 0 && n == 0) ? MDB_MAP_FULL : err;
}


int
ngx_http_asana_hook_op_drop_oldest(ngx_http_asana_hook_records_t *recs,
    MDB_cursor *cursor, MDB_dbi dbi, time_t before, ngx_uint_t max,
    ngx_uint_t *dropped)
{
    int      err;
    u_char   id[NGX_HTTP_ASANA_HOOK_ID_LEN];
    u_char   buf[NGX_HTTP_ASANA_HOOK_MAX_KEY];
    time_t   created;
    MDB_val  key;

    while (*dropped < max) {

        err = ngx_http_asana_hook_record_oldest(recs, dbi, &key, buf, id,
                                                &created);

        if (err == MDB_NOTFOUND || (err == 0 && created > before)) {
            break;
        }

        if (err == 0) {
            err = ngx_http_asana_hook_op_drop(recs, cursor, &key, id);
        }

        if (err) {
            return err;
        }

        (*dropped)++;
    }

    return 0;
}
