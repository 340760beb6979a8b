
/*
 * Copyright (C) asana-hook contributors
 */


/*
 * The layout of the store.  All integers are unsigned and big-endian:
 *
 *     meta      "version" -> 4, the format
 *               "keys" -> 8, how many keys "secrets" has
 *
 *     secrets   key of the zone -> a record for each secret (dupsort):
 *
 *                   8  id, SHA-256(secret) cut
 *                   8  created, seconds of the epoch
 *                   8  last verified a delivery, 0 if never
 *                   1  state, 0 confirmed, 1 pending
 *                   1  length of the secret
 *                   n  the secret
 *
 *     unproven  created (8), id (8), key -> nothing
 *               the confirmed secrets that never verified a delivery, by age
 *     waiting   created (8), id (8), key -> nothing
 *               the pending secrets, by age
 *     pending   id (8), key -> created (8)
 *               the pending secrets, by id
 */


#include "ngx_http_asana_hook.h"

#include <lmdb.h>


#define NGX_HTTP_ASANA_HOOK_RECORD  26

/* how many of the latest secrets are looked through for one */
#define NGX_HTTP_ASANA_HOOK_RECENT  1024

/* 9999-12-31T23:59:59Z: no time is later */
#define NGX_HTTP_ASANA_HOOK_MAX_TIME  253402300799ULL

/* created and id before the key */
#define NGX_HTTP_ASANA_HOOK_BY_AGE  16

#define NGX_HTTP_ASANA_HOOK_INDEX                                             \
    (NGX_HTTP_ASANA_HOOK_BY_AGE + NGX_HTTP_ASANA_HOOK_MAX_KEY)


static int ngx_http_asana_hook_record_index(
    ngx_http_asana_hook_records_t *recs, MDB_val *key,
    ngx_http_asana_hook_record_t *rec, ngx_uint_t add);
static size_t ngx_http_asana_hook_record_encode(u_char *buf,
    ngx_http_asana_hook_record_t *rec);
static u_char *ngx_http_asana_hook_put64(u_char *p, uint64_t n);
static uint64_t ngx_http_asana_hook_get64(u_char *p);


static const char  ngx_http_asana_hook_keys[] = "keys";


int
ngx_http_asana_hook_records_open(ngx_http_asana_hook_records_t *recs,
    unsigned int flags)
{
    int         err;
    ngx_uint_t  i;

    struct {
        const char    *name;
        unsigned int   flags;
        MDB_dbi       *dbi;
    } dbs[] = {
        { "secrets", MDB_DUPSORT, &recs->secrets },
        { "unproven", 0, &recs->unproven },
        { "waiting", 0, &recs->waiting },
        { "pending", 0, &recs->pending }
    };

    for (i = 0; i < sizeof(dbs) / sizeof(dbs[0]); i++) {
        err = mdb_dbi_open(recs->txn, dbs[i].name, flags|dbs[i].flags,
                           dbs[i].dbi);
        if (err) {
            return err;
        }
    }

    return 0;
}


int
ngx_http_asana_hook_records_finish(ngx_http_asana_hook_records_t *recs)
{
    int       err;
    u_char    buf[8];
    MDB_val   key, val;
    uint64_t  n;

    if (recs->keys == 0) {
        return 0;
    }

    key.mv_size = sizeof(ngx_http_asana_hook_keys) - 1;
    key.mv_data = (char *) ngx_http_asana_hook_keys;

    err = mdb_get(recs->txn, recs->meta, &key, &val);

    if (err == 0 && val.mv_size == 8) {
        n = ngx_http_asana_hook_get64(val.mv_data);

    } else if (err == MDB_NOTFOUND) {
        n = 0;

    } else {
        return err ? err : MDB_CORRUPTED;
    }

    (void) ngx_http_asana_hook_put64(buf, n + recs->keys);

    val.mv_size = 8;
    val.mv_data = buf;

    recs->keys = 0;

    return mdb_put(recs->txn, recs->meta, &key, &val, 0);
}


int
ngx_http_asana_hook_records_stat(ngx_http_asana_hook_records_t *recs,
    ngx_http_asana_hook_stat_t *stat)
{
    int           err;
    MDB_val       key, val;
    MDB_stat      st;
    MDB_envinfo   info;

    err = mdb_stat(recs->txn, recs->secrets, &st);

    if (err == 0) {
        stat->secrets = st.ms_entries;
        err = mdb_stat(recs->txn, recs->pending, &st);
    }

    if (err == 0) {
        stat->pending = st.ms_entries;
        err = mdb_env_info(mdb_txn_env(recs->txn), &info);
    }

    if (err) {
        return err;
    }

    stat->size = (uint64_t) (info.me_last_pgno + 1) * st.ms_psize;
    stat->keys = 0;

    key.mv_size = sizeof(ngx_http_asana_hook_keys) - 1;
    key.mv_data = (char *) ngx_http_asana_hook_keys;

    err = mdb_get(recs->txn, recs->meta, &key, &val);

    if (err == 0 && val.mv_size == 8) {
        stat->keys = ngx_http_asana_hook_get64(val.mv_data);
    }

    return (err == MDB_NOTFOUND) ? 0 : err;
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
        s->pending = (u_char) rec.pending;
        ngx_memcpy(s->id, rec.id, NGX_HTTP_ASANA_HOOK_ID_LEN);
        ngx_memcpy(s->data, rec.secret, rec.len);
    }

    return (err == MDB_NOTFOUND) ? 0 : err;
}


int
ngx_http_asana_hook_records_next(MDB_cursor *cursor, ngx_str_t *key)
{
    int      err;
    MDB_val  k, val;

    k.mv_size = key->len;
    k.mv_data = key->data;

    err = mdb_cursor_get(cursor, &k, &val, key->len ? MDB_SET_RANGE
                                                    : MDB_FIRST);

    if (err == 0
        && k.mv_size == key->len
        && ngx_memcmp(k.mv_data, key->data, key->len) == 0)
    {
        err = mdb_cursor_get(cursor, &k, &val, MDB_NEXT_NODUP);
    }

    if (err == 0) {
        key->len = k.mv_size;
        key->data = k.mv_data;
    }

    return err;
}


int
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


int
ngx_http_asana_hook_record_parse(MDB_val *val,
    ngx_http_asana_hook_record_t *rec)
{
    u_char    *p;
    uint64_t   created, verified;

    p = val->mv_data;

    if (val->mv_size <= NGX_HTTP_ASANA_HOOK_RECORD
        || val->mv_size != (size_t) NGX_HTTP_ASANA_HOOK_RECORD + p[25]
        || p[24] > 1)
    {
        return MDB_CORRUPTED;
    }

    created = ngx_http_asana_hook_get64(p + 8);
    verified = ngx_http_asana_hook_get64(p + 16);

    /* ages are differences of times, which are not to overflow */

    if (created > NGX_HTTP_ASANA_HOOK_MAX_TIME
        || verified > NGX_HTTP_ASANA_HOOK_MAX_TIME)
    {
        return MDB_CORRUPTED;
    }

    rec->id = p;
    rec->created = (time_t) created;
    rec->verified = (time_t) verified;
    rec->pending = p[24];
    rec->len = p[25];
    rec->secret = p + NGX_HTTP_ASANA_HOOK_RECORD;

    return 0;
}


int
ngx_http_asana_hook_record_put(ngx_http_asana_hook_records_t *recs,
    MDB_val *key, ngx_http_asana_hook_record_t *rec)
{
    int      err;
    u_char   buf[NGX_HTTP_ASANA_HOOK_RECORD + NGX_HTTP_ASANA_HOOK_MAX_SECRET];
    MDB_val  val;

    err = mdb_get(recs->txn, recs->secrets, key, &val);

    if (err == MDB_NOTFOUND) {
        recs->keys++;

    } else if (err) {
        return err;
    }

    val.mv_size = ngx_http_asana_hook_record_encode(buf, rec);
    val.mv_data = buf;

    err = mdb_put(recs->txn, recs->secrets, key, &val, 0);

    ngx_explicit_memzero(buf, sizeof(buf));

    return err ? err : ngx_http_asana_hook_record_index(recs, key, rec, 1);
}


int
ngx_http_asana_hook_record_del(ngx_http_asana_hook_records_t *recs,
    MDB_cursor *cursor, MDB_val *key, ngx_http_asana_hook_record_t *rec)
{
    int      err;
    MDB_val  val;

    /* first what is read from the record, for it goes */

    err = ngx_http_asana_hook_record_index(recs, key, rec, 0);

    if (err == 0) {
        err = mdb_cursor_del(cursor, 0);
    }

    if (err) {
        return err;
    }

    err = mdb_get(recs->txn, recs->secrets, key, &val);

    if (err == MDB_NOTFOUND) {
        recs->keys--;
        return 0;
    }

    return err;
}


int
ngx_http_asana_hook_record_oldest(ngx_http_asana_hook_records_t *recs,
    MDB_dbi dbi, MDB_val *key, u_char *buf, u_char *id, time_t *created)
{
    int          err;
    u_char      *p;
    MDB_val      k, val;
    MDB_cursor  *cursor;

    err = mdb_cursor_open(recs->txn, dbi, &cursor);
    if (err) {
        return err;
    }

    err = mdb_cursor_get(cursor, &k, &val, MDB_FIRST);

    if (err == 0
        && (k.mv_size <= NGX_HTTP_ASANA_HOOK_BY_AGE
            || k.mv_size > NGX_HTTP_ASANA_HOOK_INDEX))
    {
        err = MDB_CORRUPTED;
    }

    if (err == 0) {
        p = k.mv_data;
        *created = (time_t) ngx_http_asana_hook_get64(p);
        ngx_memcpy(id, p + 8, NGX_HTTP_ASANA_HOOK_ID_LEN);

        key->mv_size = k.mv_size - NGX_HTTP_ASANA_HOOK_BY_AGE;
        key->mv_data = buf;
        ngx_memcpy(buf, p + NGX_HTTP_ASANA_HOOK_BY_AGE, key->mv_size);
    }

    mdb_cursor_close(cursor);

    return err;
}


int
ngx_http_asana_hook_records_waiting(ngx_http_asana_hook_records_t *recs,
    u_char *id, MDB_val *key)
{
    int          err;
    u_char       buf[NGX_HTTP_ASANA_HOOK_INDEX];
    MDB_val      k, val;
    MDB_cursor  *cursor;

    err = mdb_cursor_open(recs->txn, recs->pending, &cursor);
    if (err) {
        return err;
    }

    ngx_memcpy(buf, id, NGX_HTTP_ASANA_HOOK_ID_LEN);
    ngx_memcpy(buf + NGX_HTTP_ASANA_HOOK_ID_LEN, key->mv_data, key->mv_size);

    k.mv_size = NGX_HTTP_ASANA_HOOK_ID_LEN + key->mv_size;
    k.mv_data = buf;

    err = mdb_cursor_get(cursor, &k, &val, MDB_SET_RANGE);

    if (err == 0
        && k.mv_size == NGX_HTTP_ASANA_HOOK_ID_LEN + key->mv_size
        && ngx_memcmp(k.mv_data, buf, k.mv_size) == 0)
    {
        err = mdb_cursor_get(cursor, &k, &val, MDB_NEXT);
    }

    if (err == 0
        && (k.mv_size <= NGX_HTTP_ASANA_HOOK_ID_LEN
            || ngx_memcmp(k.mv_data, id, NGX_HTTP_ASANA_HOOK_ID_LEN) != 0))
    {
        err = MDB_NOTFOUND;
    }

    if (err == 0) {
        key->mv_size = ngx_min(k.mv_size - NGX_HTTP_ASANA_HOOK_ID_LEN,
                               NGX_HTTP_ASANA_HOOK_MAX_KEY);
        ngx_memcpy(key->mv_data,
                   (u_char *) k.mv_data + NGX_HTTP_ASANA_HOOK_ID_LEN,
                   key->mv_size);
    }

    mdb_cursor_close(cursor);

    return err;
}


int
ngx_http_asana_hook_records_recent(ngx_http_asana_hook_records_t *recs,
    u_char *id, time_t since)
{
    int          err;
    u_char      *p;
    MDB_val      k, val;
    ngx_uint_t   n;
    MDB_cursor  *cursor;

    err = mdb_cursor_open(recs->txn, recs->unproven, &cursor);
    if (err) {
        return err;
    }

    err = mdb_cursor_get(cursor, &k, &val, MDB_LAST);

    for (n = 0; err == 0; n++) {

        p = k.mv_data;

        if (n == NGX_HTTP_ASANA_HOOK_RECENT
            || k.mv_size <= NGX_HTTP_ASANA_HOOK_BY_AGE
            || (time_t) ngx_http_asana_hook_get64(p) < since)
        {
            err = MDB_NOTFOUND;
            break;
        }

        if (ngx_memcmp(p + 8, id, NGX_HTTP_ASANA_HOOK_ID_LEN) == 0) {
            break;
        }

        err = mdb_cursor_get(cursor, &k, &val, MDB_PREV);
    }

    mdb_cursor_close(cursor);

    return err;
}


/* keeps the indexes true to a record that is added or removed */

static int
ngx_http_asana_hook_record_index(ngx_http_asana_hook_records_t *recs,
    MDB_val *key, ngx_http_asana_hook_record_t *rec, ngx_uint_t add)
{
    int      err;
    u_char   buf[NGX_HTTP_ASANA_HOOK_INDEX], created[8];
    u_char  *p;
    MDB_dbi  dbi;
    MDB_val  k, val;

    if (rec->verified && !rec->pending) {
        return 0;
    }

    p = ngx_http_asana_hook_put64(buf, rec->created);
    p = ngx_cpymem(p, rec->id, NGX_HTTP_ASANA_HOOK_ID_LEN);
    p = ngx_cpymem(p, key->mv_data, key->mv_size);

    k.mv_size = p - buf;
    k.mv_data = buf;

    val.mv_size = 0;
    val.mv_data = buf;

    dbi = rec->pending ? recs->waiting : recs->unproven;

    err = add ? mdb_put(recs->txn, dbi, &k, &val, 0)
              : mdb_del(recs->txn, dbi, &k, NULL);

    if (err || !rec->pending) {
        return err;
    }

    k.mv_size -= 8;
    k.mv_data = buf + 8;

    (void) ngx_http_asana_hook_put64(created, rec->created);

    val.mv_size = 8;
    val.mv_data = created;

    return add ? mdb_put(recs->txn, recs->pending, &k, &val, 0)
               : mdb_del(recs->txn, recs->pending, &k, NULL);
}


static size_t
ngx_http_asana_hook_record_encode(u_char *buf,
    ngx_http_asana_hook_record_t *rec)
{
    u_char  *p;

    p = ngx_cpymem(buf, rec->id, NGX_HTTP_ASANA_HOOK_ID_LEN);
    p = ngx_http_asana_hook_put64(p, rec->created);
    p = ngx_http_asana_hook_put64(p, rec->verified);
    *p++ = (u_char) rec->pending;
    *p++ = (u_char) rec->len;
    p = ngx_cpymem(p, rec->secret, rec->len);

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
