
/*
 * Copyright (C) asana-hook contributors
 */


/*
 * The layout of the store, format 2, or 3 if the secrets are sealed.  All
 * integers are unsigned and big-endian:
 *
 *     meta             "version" -> 4, the format
 *                      and what ngx_asana_lmdb_usage.c counts
 *
 *     hooks            key of the zone -> all its secrets, as
 *                      ngx_asana_lmdb_value.c encodes them
 *
 *     pending_by_age   serial (8) -> id (8), key
 *     unproven_by_age  the same; confirmed, but never verified a delivery
 *     proven_by_age    the same; verified a delivery
 *
 *     secrets_by_id    id (8), key -> nothing
 *     secrets_by_gid   gid -> id (8), key; several of them (dupsort)
 *
 * A secret stands in one of the three orders.  Its serial is greater than all
 * that were given before, and at least the seconds of the epoch << 24, so that
 * what is added or moved comes to the end.  Such as a pending secret of
 * "a.example/7", seen in 2023:
 *
 *     meta             "version"                   -> 00000002
 *     hooks            "a.example/7"               -> 02 07c5cc6f45dc4ff0
 *                                                     006553f100000000 ...
 *     pending_by_age   006553f100000000            -> 07c5cc6f45dc4ff0
 *                                                     "a.example/7"
 *     secrets_by_id    07c5cc6f45dc4ff0
 *                      "a.example/7"               ->
 *
 * A store of an earlier version has no secrets_by_gid, and nothing to stand in
 * it: the first change makes it.
 */


#include "ngx_asana_lmdb_records.h"


static int ngx_asana_lmdb_records_write(ngx_asana_lmdb_records_t *recs,
    MDB_val *key, ngx_asana_secrets_t *old, ngx_asana_secrets_t *secrets);
static int ngx_asana_lmdb_records_replace(ngx_asana_lmdb_records_t *recs,
    MDB_val *key, ngx_str_t *old, MDB_val *val);
static int ngx_asana_lmdb_records_index(ngx_asana_lmdb_records_t *recs,
    MDB_val *key, ngx_asana_secret_t *s, ngx_uint_t add, ngx_uint_t by_id);
static int ngx_asana_lmdb_records_serial(ngx_asana_lmdb_records_t *recs,
    uint64_t *serial);
static ngx_asana_lmdb_age_e ngx_asana_lmdb_records_age(ngx_asana_secret_t *s);
static ngx_uint_t ngx_asana_lmdb_records_same_place(ngx_asana_secret_t *s,
    ngx_asana_secret_t *other);
static void ngx_asana_lmdb_records_put64(u_char *p, uint64_t n);


int
ngx_asana_lmdb_records_get(ngx_asana_lmdb_records_t *recs, MDB_val *key,
    ngx_asana_secrets_t *secrets)
{
    int        err;
    MDB_val    val;
    ngx_int_t  rc;

    if (!ngx_asana_lmdb_records_key_ok(key)) {
        return NGX_DECLINED;
    }

    err = mdb_get(recs->txn, recs->dbs.hooks, key, &val);
    if (err) {
        return err;
    }

    recs->value.place.key.len = key->mv_size;
    recs->value.place.key.data = key->mv_data;

    rc = ngx_asana_lmdb_value_decode(&recs->value, secrets, val.mv_data,
                                     val.mv_size);

    return (rc == NGX_ERROR) ? NGX_ENOMEM : (int) rc;
}


int
ngx_asana_lmdb_records_put(ngx_asana_lmdb_records_t *recs, MDB_val *key,
    ngx_asana_secrets_t *old, ngx_asana_secrets_t *secrets)
{
    int                  err;
    ngx_uint_t           i;
    ngx_asana_secret_t  *s, *other;

    err = 0;
    recs->dirty = 1;

    s = ngx_asana_secrets_first(old);

    for (i = 0; err == 0 && i < old->n; i++) {
        other = ngx_asana_secrets_by_id(secrets, s->id);

        if (!ngx_asana_lmdb_records_same_place(s, other)) {
            err = ngx_asana_lmdb_records_index(recs, key, s, 0, other == NULL);
        }

        if (err == 0) {
            err = ngx_asana_lmdb_gid_index(recs->txn, recs->dbs.by_gid, key,
                                           s, other, 0);
        }

        s = ngx_asana_secret_next(s);
    }

    s = ngx_asana_secrets_first(secrets);

    for (i = 0; err == 0 && i < secrets->n; i++) {

        if (s->serial == 0) {
            err = ngx_asana_lmdb_records_serial(recs, &s->serial);
        }

        other = ngx_asana_secrets_by_id(old, s->id);

        if (err == 0 && !ngx_asana_lmdb_records_same_place(s, other)) {
            err = ngx_asana_lmdb_records_index(recs, key, s, 1, other == NULL);
        }

        if (err == 0) {
            err = ngx_asana_lmdb_gid_index(recs->txn, recs->dbs.by_gid, key,
                                           s, other, 1);
        }

        s = ngx_asana_secret_next(s);
    }

    return err ? err : ngx_asana_lmdb_records_write(recs, key, old, secrets);
}


static int
ngx_asana_lmdb_records_write(ngx_asana_lmdb_records_t *recs, MDB_val *key,
    ngx_asana_secrets_t *old, ngx_asana_secrets_t *secrets)
{
    int         err;
    size_t      size;
    u_char     *buf;
    MDB_val     val;
    ngx_str_t   was;

    ngx_str_null(&was);

    /* most that is added is new, and was looked for already */

    err = (old->n || recs->value.seal)
          ? mdb_get(recs->txn, recs->dbs.hooks, key, &val) : MDB_NOTFOUND;

    if (err == 0) {
        was.len = val.mv_size;
        was.data = val.mv_data;

    } else if (err != MDB_NOTFOUND) {
        return err;
    }

    size = ngx_asana_lmdb_value_size(secrets);

    buf = ngx_alloc(size, ngx_cycle->log);
    if (buf == NULL) {
        return NGX_ENOMEM;
    }

    recs->value.place.key.len = key->mv_size;
    recs->value.place.key.data = key->mv_data;

    val.mv_data = buf;
    val.mv_size = ngx_asana_lmdb_value_encode(&recs->value, secrets, old, &was,
                                              buf);

    err = val.mv_size ? ngx_asana_lmdb_records_replace(recs, key, &was, &val)
                      : NGX_EINVAL;

    ngx_explicit_memzero(buf, size);
    ngx_free(buf);

    return err;
}


/* an empty value is none; the old one is void then */

static int
ngx_asana_lmdb_records_replace(ngx_asana_lmdb_records_t *recs, MDB_val *key,
    ngx_str_t *old, MDB_val *val)
{
    int                      err;
    ngx_asana_seal_usage_t   usage, was;

    if (recs->value.seal) {
        err = ngx_asana_lmdb_usage_get(recs->txn, recs->dbs.meta, recs->seal,
                                       &usage);

        if (err && err != MDB_NOTFOUND) {
            return err;
        }

        was = usage;

        ngx_asana_lmdb_value_count(&recs->value, old->data, old->len, &usage,
                                   -1);
        ngx_asana_lmdb_value_count(&recs->value, val->mv_data, val->mv_size,
                                   &usage, 1);

        if (ngx_memcmp(&usage, &was, sizeof(ngx_asana_seal_usage_t)) != 0) {
            err = ngx_asana_lmdb_usage_put(recs->txn, recs->dbs.meta, &usage);

            if (err) {
                return err;
            }
        }
    }

    if (val->mv_size > 1) {
        return mdb_put(recs->txn, recs->dbs.hooks, key, val, 0);
    }

    err = mdb_del(recs->txn, recs->dbs.hooks, key, NULL);

    return (err == MDB_NOTFOUND) ? 0 : err;
}


static int
ngx_asana_lmdb_records_index(ngx_asana_lmdb_records_t *recs, MDB_val *key,
    ngx_asana_secret_t *s, ngx_uint_t add, ngx_uint_t by_id)
{
    int                   err;
    u_char                serial[8];
    u_char                entry[NGX_ASANA_ID_LEN + NGX_ASANA_MAX_KEY];
    MDB_val               k, val;
    ngx_asana_lmdb_age_e  age;

    age = ngx_asana_lmdb_records_age(s);

    ngx_asana_lmdb_records_put64(serial, s->serial);

    k.mv_size = 8;
    k.mv_data = serial;

    ngx_memcpy(entry, s->id, NGX_ASANA_ID_LEN);
    ngx_memcpy(entry + NGX_ASANA_ID_LEN, key->mv_data, key->mv_size);

    val.mv_size = NGX_ASANA_ID_LEN + key->mv_size;
    val.mv_data = entry;

    err = add ? mdb_put(recs->txn, recs->dbs.by_age[age], &k, &val, 0)
              : mdb_del(recs->txn, recs->dbs.by_age[age], &k, NULL);

    if (by_id && (err == 0 || err == MDB_NOTFOUND)) {
        k.mv_size = 0;

        err = add ? mdb_put(recs->txn, recs->dbs.by_id, &val, &k, 0)
                  : mdb_del(recs->txn, recs->dbs.by_id, &val, NULL);
    }

    /* in a store that was repaired by hand it may be missing */

    return (err == MDB_NOTFOUND) ? 0 : err;
}


static int
ngx_asana_lmdb_records_serial(ngx_asana_lmdb_records_t *recs,
    uint64_t *serial)
{
    int          err;
    uint64_t     n;
    MDB_val      key, val;
    ngx_uint_t   i;
    MDB_cursor  *cursor;

    for (i = 0; recs->serial == 0 && i < NGX_ASANA_LMDB_AGES; i++) {

        err = mdb_cursor_open(recs->txn, recs->dbs.by_age[i], &cursor);
        if (err) {
            return err;
        }

        n = 0;
        err = mdb_cursor_get(cursor, &key, &val, MDB_LAST);

        if (err == 0 && key.mv_size == 8) {
            n = ngx_asana_lmdb_records_get64(key.mv_data);
        }

        mdb_cursor_close(cursor);

        if (err && err != MDB_NOTFOUND) {
            return err;
        }

        *serial = ngx_max(*serial, n);
    }

    recs->serial = ngx_max(ngx_max(recs->serial, *serial) + 1,
                           (uint64_t) recs->now << 24);
    *serial = recs->serial;

    return 0;
}


static ngx_asana_lmdb_age_e
ngx_asana_lmdb_records_age(ngx_asana_secret_t *s)
{
    if (s->pending) {
        return NGX_ASANA_LMDB_PENDING;
    }

    return s->verified ? NGX_ASANA_LMDB_PROVEN : NGX_ASANA_LMDB_UNPROVEN;
}


static ngx_uint_t
ngx_asana_lmdb_records_same_place(ngx_asana_secret_t *s,
    ngx_asana_secret_t *other)
{
    return other
           && other->serial == s->serial
           && ngx_asana_lmdb_records_age(other)
              == ngx_asana_lmdb_records_age(s);
}


ngx_int_t
ngx_asana_lmdb_records_entry(MDB_val *val, u_char **id, MDB_val *key)
{
    if (val->mv_size <= NGX_ASANA_ID_LEN) {
        return NGX_DECLINED;
    }

    *id = val->mv_data;

    key->mv_size = val->mv_size - NGX_ASANA_ID_LEN;
    key->mv_data = *id + NGX_ASANA_ID_LEN;

    return ngx_asana_lmdb_records_key_ok(key) ? NGX_OK : NGX_DECLINED;
}


int
ngx_asana_lmdb_records_next(ngx_asana_lmdb_records_t *recs,
    u_char *id, MDB_val *entry)
{
    int          err;
    u_char      *p;
    MDB_val      k, val, key;
    MDB_cursor  *cursor;

    err = mdb_cursor_open(recs->txn, recs->dbs.by_id, &cursor);
    if (err) {
        return err;
    }

    k = *entry;

    if (k.mv_size == 0) {
        k.mv_size = NGX_ASANA_ID_LEN;
        k.mv_data = id;
    }

    err = mdb_cursor_get(cursor, &k, &val, MDB_SET_RANGE);

    while (err == 0) {

        if (k.mv_size < NGX_ASANA_ID_LEN
            || ngx_memcmp(k.mv_data, id, NGX_ASANA_ID_LEN) != 0)
        {
            err = MDB_NOTFOUND;
            break;
        }

        if (ngx_asana_lmdb_records_entry(&k, &p, &key) == NGX_OK
            && (k.mv_size != entry->mv_size
                || ngx_memcmp(p, entry->mv_data, k.mv_size) != 0))
        {
            entry->mv_size = k.mv_size;
            ngx_memcpy(entry->mv_data, p, k.mv_size);
            break;
        }

        err = mdb_cursor_get(cursor, &k, &val, MDB_NEXT);
    }

    mdb_cursor_close(cursor);

    return err;
}


int
ngx_asana_lmdb_records_pages(ngx_asana_lmdb_records_t *recs, size_t *pages)
{
    int         err;
    MDB_stat    stat;
    ngx_uint_t  i, n;

    MDB_dbi  dbi[] = {
        NGX_ASANA_LMDB_FREE,
        NGX_ASANA_LMDB_MAIN,
        recs->dbs.meta,
        recs->dbs.hooks,
        recs->dbs.by_age[NGX_ASANA_LMDB_PENDING],
        recs->dbs.by_age[NGX_ASANA_LMDB_UNPROVEN],
        recs->dbs.by_age[NGX_ASANA_LMDB_PROVEN],
        recs->dbs.by_id,
        recs->dbs.by_gid
    };

    /* two pages say which transaction was the last */

    *pages = 2;

    n = sizeof(dbi) / sizeof(dbi[0]) - (recs->dbs.by_gid == 0);

    for (i = 0; i < n; i++) {
        err = mdb_stat(recs->txn, dbi[i], &stat);
        if (err) {
            return err;
        }

        *pages += stat.ms_branch_pages + stat.ms_leaf_pages
                  + stat.ms_overflow_pages;
    }

    return 0;
}


int
ngx_asana_lmdb_records_count(ngx_asana_lmdb_records_t *recs,
    ngx_asana_lmdb_age_e age, uint64_t *n)
{
    int       err;
    MDB_stat  stat;

    err = mdb_stat(recs->txn, recs->dbs.by_age[age], &stat);

    *n = (err == 0) ? stat.ms_entries : 0;

    return err;
}


ngx_uint_t
ngx_asana_lmdb_records_key_ok(MDB_val *key)
{
    size_t   i;
    u_char  *p;

    p = key->mv_data;

    for (i = 0; i < key->mv_size; i++) {
        if (p[i] < ' ' || p[i] == 0x7f) {
            return 0;
        }
    }

    return key->mv_size && key->mv_size <= NGX_ASANA_MAX_KEY;
}


static void
ngx_asana_lmdb_records_put64(u_char *p, uint64_t n)
{
    ngx_uint_t  i;

    for (i = 0; i < 8; i++) {
        p[i] = (u_char) (n >> (56 - 8 * i));
    }
}


uint64_t
ngx_asana_lmdb_records_get64(u_char *p)
{
    uint64_t    n;
    ngx_uint_t  i;

    n = 0;

    for (i = 0; i < 8; i++) {
        n = n << 8 | p[i];
    }

    return n;
}
