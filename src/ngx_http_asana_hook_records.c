
/*
 * Copyright (C) asana-hook contributors
 */


/*
 * What one transaction of the store reads and writes.  All integers are
 * unsigned and big-endian:
 *
 *     secrets   key of the zone -> a record for each secret (dupsort):
 *
 *                   8  id, SHA-256(secret) cut
 *                   8  created, seconds of the epoch
 *                   8  last verified a delivery, 0 if never
 *                   1  state, 0
 *                   1  length of the secret
 *                   n  the secret
 *
 *     unproven  created (8), id (8), key -> nothing
 *               the secrets that never verified a delivery, by age
 */


#include "ngx_http_asana_hook.h"

#include <lmdb.h>


#define NGX_HTTP_ASANA_HOOK_RECORD      26
#define NGX_HTTP_ASANA_HOOK_UNPROVEN    16

/* the longest key of "unproven" */
#define NGX_HTTP_ASANA_HOOK_INDEX                                             \
    (NGX_HTTP_ASANA_HOOK_UNPROVEN + NGX_HTTP_ASANA_HOOK_MAX_KEY)

/* most pages that are kept free for making room */
#define NGX_HTTP_ASANA_HOOK_RESERVE     512

/* pages that an operation may take beside those of the two databases */
#define NGX_HTTP_ASANA_HOOK_PAGES       8

/* most secrets that a full store drops at once */
#define NGX_HTTP_ASANA_HOOK_DROPS       64


typedef struct {
    time_t                         created;
    time_t                         verified;
    u_char                        *id;
    u_char                        *secret;
    size_t                         len;
} ngx_http_asana_hook_record_t;


static int ngx_http_asana_hook_records_enroll(
    ngx_http_asana_hook_records_t *recs, ngx_http_asana_hook_op_t *op);
static int ngx_http_asana_hook_records_decide(MDB_cursor *cursor, MDB_val *key,
    ngx_http_asana_hook_op_t *op, u_char *oldest, ngx_uint_t *drop);
static int ngx_http_asana_hook_records_touch(
    ngx_http_asana_hook_records_t *recs, ngx_http_asana_hook_op_t *op);
static int ngx_http_asana_hook_records_full(
    ngx_http_asana_hook_records_t *recs, ngx_uint_t *drops);
static int ngx_http_asana_hook_records_free(
    ngx_http_asana_hook_records_t *recs, size_t *free, size_t *usable);
static int ngx_http_asana_hook_records_make_room(
    ngx_http_asana_hook_records_t *recs, ngx_http_asana_hook_op_t *op,
    ngx_uint_t drops, ngx_uint_t *dropped);
static int ngx_http_asana_hook_records_put(ngx_http_asana_hook_records_t *recs,
    MDB_val *key, ngx_http_asana_hook_record_t *rec);
static int ngx_http_asana_hook_records_remove(
    ngx_http_asana_hook_records_t *recs, MDB_cursor *cursor, MDB_val *key,
    u_char *id);
static int ngx_http_asana_hook_record_get(MDB_cursor *cursor, MDB_val *key,
    u_char *id, ngx_http_asana_hook_record_t *rec);
static int ngx_http_asana_hook_record_parse(MDB_val *val,
    ngx_http_asana_hook_record_t *rec);
static size_t ngx_http_asana_hook_unproven(u_char *buf, MDB_val *key,
    ngx_http_asana_hook_record_t *rec);
static u_char *ngx_http_asana_hook_put64(u_char *p, uint64_t n);
static uint64_t ngx_http_asana_hook_get64(u_char *p);


int
ngx_http_asana_hook_records_open(ngx_http_asana_hook_records_t *recs,
    unsigned int flags)
{
    int  err;

    err = mdb_dbi_open(recs->txn, "secrets", flags|MDB_DUPSORT,
                       &recs->secrets);
    if (err) {
        return err;
    }

    return mdb_dbi_open(recs->txn, "unproven", flags, &recs->unproven);
}


int
ngx_http_asana_hook_records_find(MDB_cursor *cursor,
    ngx_str_t *key, ngx_http_asana_hook_set_t *set)
{
    int                            err;
    MDB_val                        k, val;
    ngx_http_asana_hook_record_t   rec;
    ngx_http_asana_hook_secret_t  *s;

    k.mv_size = key->len;
    k.mv_data = key->data;

    for (err = mdb_cursor_get(cursor, &k, &val, MDB_SET);
         err == 0;
         err = mdb_cursor_get(cursor, &k, &val, MDB_NEXT_DUP))
    {
        err = ngx_http_asana_hook_record_parse(&val, &rec);
        if (err) {
            return err;
        }

        s = ngx_http_asana_hook_set_push(set, rec.len);
        if (s == NULL) {
            return NGX_ENOMEM;
        }

        s->created = rec.created;
        s->verified = rec.verified;
        s->stored = rec.verified;
        ngx_memcpy(s->id, rec.id, NGX_HTTP_ASANA_HOOK_ID_LEN);
        ngx_memcpy(s->data, rec.secret, rec.len);
    }

    return (err == MDB_NOTFOUND) ? 0 : err;
}


int
ngx_http_asana_hook_records_apply(ngx_http_asana_hook_records_t *recs,
    ngx_http_asana_hook_op_t *op, ngx_uint_t *dropped)
{
    int         err, first;
    ngx_uint_t  drops;

    first = (recs->taken == 0);

    err = ngx_http_asana_hook_records_full(recs, &drops);

    if (err && (err != MDB_MAP_FULL || !first)) {

        /* what does not fit in with others may do so on its own */

        return err;
    }

    if (op->type == NGX_HTTP_ASANA_HOOK_TOUCH) {
        return ngx_http_asana_hook_records_touch(recs, op);
    }

    if (err == MDB_MAP_FULL) {
        op->rc = NGX_OK;
        return ngx_http_asana_hook_records_make_room(recs, op, drops, dropped);
    }

    return ngx_http_asana_hook_records_enroll(recs, op);
}


static int
ngx_http_asana_hook_records_enroll(ngx_http_asana_hook_records_t *recs,
    ngx_http_asana_hook_op_t *op)
{
    int                           err;
    u_char                        oldest[NGX_HTTP_ASANA_HOOK_ID_LEN];
    MDB_val                       key;
    MDB_cursor                   *cursor;
    ngx_uint_t                    drop;
    ngx_http_asana_hook_record_t  rec;

    err = mdb_cursor_open(recs->txn, recs->secrets, &cursor);
    if (err) {
        return err;
    }

    key.mv_size = op->key_len;
    key.mv_data = op->key;

    err = ngx_http_asana_hook_records_decide(cursor, &key, op, oldest, &drop);

    if (err == 0 && op->rc == NGX_OK && drop) {
        err = ngx_http_asana_hook_records_remove(recs, cursor, &key,
                  op->policy == NGX_HTTP_ASANA_HOOK_FIRST ? NULL : oldest);
    }

    mdb_cursor_close(cursor);

    if (err == MDB_KEYEXIST) {
        op->rc = NGX_OK;
        return 0;
    }

    if (err || op->rc != NGX_OK) {
        return err;
    }

    rec.created = op->now;
    rec.verified = 0;
    rec.id = op->id;
    rec.secret = op->secret;
    rec.len = op->secret_len;

    return ngx_http_asana_hook_records_put(recs, &key, &rec);
}


/*
 * Sets op->rc; "drop" asks for the removal of what the new secret replaces,
 * "oldest" names it.  MDB_KEYEXIST if that very secret is held already.
 */

static int
ngx_http_asana_hook_records_decide(MDB_cursor *cursor, MDB_val *key,
    ngx_http_asana_hook_op_t *op, u_char *oldest, ngx_uint_t *drop)
{
    int                           err;
    time_t                        min, seen;
    MDB_val                       k, val;
    ngx_uint_t                    i, n, active;
    ngx_http_asana_hook_record_t  rec;

    n = 0;
    min = 0;
    active = 0;
    k = *key;

    for (err = mdb_cursor_get(cursor, &k, &val, MDB_SET);
         err == 0;
         err = mdb_cursor_get(cursor, &k, &val, MDB_NEXT_DUP))
    {
        err = ngx_http_asana_hook_record_parse(&val, &rec);
        if (err) {
            return err;
        }

        if (rec.len == op->secret_len
            && ngx_memcmp(rec.secret, op->secret, rec.len) == 0)
        {
            return MDB_KEYEXIST;
        }

        n++;
        seen = ngx_max(rec.created, rec.verified);

        for (i = 0; i < op->nseen; i++) {
            if (ngx_memcmp(op->seen[i].id, rec.id, NGX_HTTP_ASANA_HOOK_ID_LEN)
                == 0)
            {
                seen = ngx_max(seen, op->seen[i].verified);
                break;
            }
        }

        if (op->now - seen < op->inactive) {
            active++;
            continue;
        }

        if (n - active == 1 || seen < min) {
            min = seen;
            ngx_memcpy(oldest, rec.id, NGX_HTTP_ASANA_HOOK_ID_LEN);
        }
    }

    if (err != MDB_NOTFOUND) {
        return err;
    }

    switch (op->policy) {

    case NGX_HTTP_ASANA_HOOK_FIRST:
        *drop = n;
        op->rc = active ? NGX_DECLINED : NGX_OK;
        break;

    case NGX_HTTP_ASANA_HOOK_OPEN:
        *drop = (n >= op->max_secrets);
        op->rc = (*drop && active == n) ? NGX_DECLINED : NGX_OK;
        break;

    default: /* NGX_HTTP_ASANA_HOOK_OFF */
        *drop = 0;
        op->rc = NGX_DECLINED;
    }

    return 0;
}


static int
ngx_http_asana_hook_records_touch(ngx_http_asana_hook_records_t *recs,
    ngx_http_asana_hook_op_t *op)
{
    int                           err;
    u_char                        secret[NGX_HTTP_ASANA_HOOK_MAX_SECRET];
    MDB_val                       key;
    MDB_cursor                   *cursor;
    ngx_http_asana_hook_record_t  rec;

    err = mdb_cursor_open(recs->txn, recs->secrets, &cursor);
    if (err) {
        return err;
    }

    key.mv_size = op->key_len;
    key.mv_data = op->key;

    err = ngx_http_asana_hook_record_get(cursor, &key, op->id, &rec);

    if (err == MDB_NOTFOUND || (err == 0 && rec.verified >= op->now)) {
        op->rc = NGX_DECLINED;
        mdb_cursor_close(cursor);
        return 0;
    }

    if (err == 0) {

        /* what lies in LMDB's page goes with the record */

        ngx_memcpy(secret, rec.secret, rec.len);
        rec.secret = secret;
        rec.id = op->id;

        err = ngx_http_asana_hook_records_remove(recs, cursor, &key, op->id);
    }

    mdb_cursor_close(cursor);

    if (err == 0) {
        rec.verified = op->now;
        err = ngx_http_asana_hook_records_put(recs, &key, &rec);
    }

    ngx_explicit_memzero(secret, NGX_HTTP_ASANA_HOOK_MAX_SECRET);

    op->rc = NGX_OK;

    return err;
}


/*
 * A transaction needs free pages itself, also one that deletes, and those
 * that it frees are of use only to the one after the next.  One that took
 * the last page would thus be the last of all: the store counts as full
 * while there is still room to make room.  "drops" is how many secrets a
 * transaction may drop then.
 */

static int
ngx_http_asana_hook_records_full(ngx_http_asana_hook_records_t *recs,
    ngx_uint_t *drops)
{
    int           err;
    size_t        cost, free, need, pages, usable, used;
    MDB_env      *env;
    MDB_stat      secrets, unproven;
    MDB_envinfo   info;

    *drops = 0;

    env = mdb_txn_env(recs->txn);

    err = mdb_env_info(env, &info);

    if (err == 0) {
        err = mdb_stat(recs->txn, recs->secrets, &secrets);
    }

    if (err == 0) {
        err = mdb_stat(recs->txn, recs->unproven, &unproven);
    }

    if (err) {
        return err;
    }

    pages = info.me_mapsize / secrets.ms_psize;
    used = info.me_last_pgno + 1;

    /* the path to a record, twice: a page may be split */

    cost = 2 * (secrets.ms_depth + unproven.ms_depth)
           + NGX_HTTP_ASANA_HOOK_PAGES;

    need = ngx_min(pages / 16, NGX_HTTP_ASANA_HOOK_RESERVE);
    need = recs->taken + ngx_max(need, 2 * cost);

    recs->taken += cost;

    free = pages - ngx_min(used, pages);

    if (free >= need) {
        return 0;
    }

    usable = free;

    err = ngx_http_asana_hook_records_free(recs, &free, &usable);

    if (err || free >= need) {
        return err;
    }

    *drops = (usable > 2 * cost) ? (usable - cost) / cost : 1;

    return MDB_MAP_FULL;
}


/*
 * Database 0 lists the free pages by the number of the transaction that freed
 * them; only a transaction that reads has a cursor for it.
 */

static int
ngx_http_asana_hook_records_free(ngx_http_asana_hook_records_t *recs,
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
 * Drops the oldest secrets that did not verify a delivery while they were
 * active; MDB_MAP_FULL if there are none.
 */

static int
ngx_http_asana_hook_records_make_room(ngx_http_asana_hook_records_t *recs,
    ngx_http_asana_hook_op_t *op, ngx_uint_t drops, ngx_uint_t *dropped)
{
    int          err;
    u_char       buf[NGX_HTTP_ASANA_HOOK_INDEX];
    time_t       created;
    MDB_val      key, val;
    ngx_uint_t   n;
    MDB_cursor  *index, *cursor;

    err = mdb_cursor_open(recs->txn, recs->unproven, &index);
    if (err) {
        return err;
    }

    err = mdb_cursor_open(recs->txn, recs->secrets, &cursor);
    if (err) {
        mdb_cursor_close(index);
        return err;
    }

    drops = ngx_min(drops, NGX_HTTP_ASANA_HOOK_DROPS);

    for (n = 0; n < drops; n++) {

        err = mdb_cursor_get(index, &key, &val, MDB_FIRST);
        if (err) {
            break;
        }

        if (key.mv_size <= NGX_HTTP_ASANA_HOOK_UNPROVEN
            || key.mv_size > sizeof(buf))
        {
            err = MDB_CORRUPTED;
            break;
        }

        ngx_memcpy(buf, key.mv_data, key.mv_size);

        created = (time_t) ngx_http_asana_hook_get64(buf);

        if (op->now - created < op->inactive) {
            err = MDB_NOTFOUND;
            break;
        }

        key.mv_size -= NGX_HTTP_ASANA_HOOK_UNPROVEN;
        key.mv_data = buf + NGX_HTTP_ASANA_HOOK_UNPROVEN;

        err = ngx_http_asana_hook_records_remove(recs, cursor, &key, buf + 8);
        if (err) {
            break;
        }
    }

    mdb_cursor_close(cursor);
    mdb_cursor_close(index);

    *dropped = n;

    if (err == MDB_NOTFOUND) {
        return n ? 0 : MDB_MAP_FULL;
    }

    return err;
}


static int
ngx_http_asana_hook_records_put(ngx_http_asana_hook_records_t *recs,
    MDB_val *key, ngx_http_asana_hook_record_t *rec)
{
    int      err;
    u_char   buf[NGX_HTTP_ASANA_HOOK_RECORD + NGX_HTTP_ASANA_HOOK_MAX_SECRET];
    u_char   index[NGX_HTTP_ASANA_HOOK_INDEX];
    u_char  *p;
    MDB_val  k, val;

    p = ngx_cpymem(buf, rec->id, NGX_HTTP_ASANA_HOOK_ID_LEN);
    p = ngx_http_asana_hook_put64(p, rec->created);
    p = ngx_http_asana_hook_put64(p, rec->verified);
    *p++ = 0;
    *p++ = (u_char) rec->len;
    p = ngx_cpymem(p, rec->secret, rec->len);

    val.mv_size = p - buf;
    val.mv_data = buf;

    err = mdb_put(recs->txn, recs->secrets, key, &val, 0);

    ngx_explicit_memzero(buf, sizeof(buf));

    if (err || rec->verified) {
        return err;
    }

    k.mv_size = ngx_http_asana_hook_unproven(index, key, rec);
    k.mv_data = index;

    val.mv_size = 0;
    val.mv_data = index;

    return mdb_put(recs->txn, recs->unproven, &k, &val, 0);
}


/* removes one secret of the key, or all of them without an id */

static int
ngx_http_asana_hook_records_remove(ngx_http_asana_hook_records_t *recs,
    MDB_cursor *cursor, MDB_val *key, u_char *id)
{
    int                           err;
    u_char                        index[NGX_HTTP_ASANA_HOOK_INDEX];
    MDB_val                       k;
    ngx_http_asana_hook_record_t  rec;

    for ( ;; ) {

        err = ngx_http_asana_hook_record_get(cursor, key, id, &rec);

        if (err) {
            return (err == MDB_NOTFOUND && id == NULL) ? 0 : err;
        }

        k.mv_size = ngx_http_asana_hook_unproven(index, key, &rec);
        k.mv_data = index;

        err = mdb_cursor_del(cursor, 0);

        if (err == 0 && rec.verified == 0) {
            err = mdb_del(recs->txn, recs->unproven, &k, NULL);
        }

        if (err || id) {
            return err;
        }
    }
}


/* the record of the id, or the first one of the key */

static int
ngx_http_asana_hook_record_get(MDB_cursor *cursor, MDB_val *key, u_char *id,
    ngx_http_asana_hook_record_t *rec)
{
    int      err;
    MDB_val  k, val;

    k = *key;

    if (id) {
        val.mv_size = NGX_HTTP_ASANA_HOOK_ID_LEN;
        val.mv_data = id;

        err = mdb_cursor_get(cursor, &k, &val, MDB_GET_BOTH_RANGE);

    } else {
        err = mdb_cursor_get(cursor, &k, &val, MDB_SET_KEY);
    }

    if (err) {
        return err;
    }

    err = ngx_http_asana_hook_record_parse(&val, rec);
    if (err) {
        return err;
    }

    if (id && ngx_memcmp(rec->id, id, NGX_HTTP_ASANA_HOOK_ID_LEN) != 0) {
        return MDB_NOTFOUND;
    }

    return 0;
}


static int
ngx_http_asana_hook_record_parse(MDB_val *val,
    ngx_http_asana_hook_record_t *rec)
{
    u_char  *p;

    p = val->mv_data;

    if (val->mv_size <= NGX_HTTP_ASANA_HOOK_RECORD
        || val->mv_size != (size_t) NGX_HTTP_ASANA_HOOK_RECORD + p[25])
    {
        return MDB_CORRUPTED;
    }

    rec->id = p;
    rec->created = (time_t) ngx_http_asana_hook_get64(p + 8);
    rec->verified = (time_t) ngx_http_asana_hook_get64(p + 16);
    rec->len = p[25];
    rec->secret = p + NGX_HTTP_ASANA_HOOK_RECORD;

    return 0;
}


static size_t
ngx_http_asana_hook_unproven(u_char *buf, MDB_val *key,
    ngx_http_asana_hook_record_t *rec)
{
    u_char  *p;

    p = ngx_http_asana_hook_put64(buf, rec->created);
    p = ngx_cpymem(p, rec->id, NGX_HTTP_ASANA_HOOK_ID_LEN);
    p = ngx_cpymem(p, key->mv_data, key->mv_size);

    return p - buf;
}


static u_char *
ngx_http_asana_hook_put64(u_char *p, uint64_t n)
{
    ngx_int_t  shift;

    for (shift = 56; shift >= 0; shift -= 8) {
        *p++ = (u_char) (n >> shift);
    }

    return p;
}


static uint64_t
ngx_http_asana_hook_get64(u_char *p)
{
    uint64_t    n;
    ngx_uint_t  i;

    n = 0;

    for (i = 0; i < 8; i++) {
        n = n << 8 | *p++;
    }

    return n;
}
