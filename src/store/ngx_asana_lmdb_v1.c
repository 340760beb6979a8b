
/*
 * Copyright (C) asana-hook contributors
 */


/*
 * The layout of the store, format 1, which is read, and converted by the first
 * change.  All integers are unsigned and big-endian:
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
 *     unproven, waiting, pending are indexes
 */


#include "ngx_asana_lmdb_v1.h"


#define NGX_ASANA_LMDB_V1_RECORD    26

/* 9999-12-31T23:59:59Z: ages are differences, which are not to overflow */
#define NGX_ASANA_LMDB_V1_MAX_TIME  253402300799ULL


static int ngx_asana_lmdb_v1_record(MDB_val *val,
    ngx_asana_secrets_t *secrets);
static int ngx_asana_lmdb_v1_key(ngx_asana_lmdb_records_t *recs,
    ngx_asana_lmdb_records_t *old, MDB_val *key, uint64_t *n);
static int ngx_asana_lmdb_v1_drop(ngx_asana_lmdb_records_t *recs);


int
ngx_asana_lmdb_v1_get(ngx_asana_lmdb_records_t *recs, MDB_val *key,
    ngx_asana_secrets_t *secrets)
{
    int          err;
    MDB_val      k, val;
    MDB_cursor  *cursor;

    if (!ngx_asana_lmdb_records_key_ok(key)) {
        return NGX_DECLINED;
    }

    err = mdb_cursor_open(recs->txn, recs->dbs.hooks, &cursor);
    if (err) {
        return err;
    }

    k = *key;

    err = mdb_cursor_get(cursor, &k, &val, MDB_SET);

    while (err == 0) {
        err = ngx_asana_lmdb_v1_record(&val, secrets);

        if (err == 0) {
            err = mdb_cursor_get(cursor, &k, &val, MDB_NEXT_DUP);
        }
    }

    mdb_cursor_close(cursor);

    if (err == MDB_NOTFOUND) {
        return secrets->n ? 0 : MDB_NOTFOUND;
    }

    ngx_asana_secrets_wipe(secrets);

    return err;
}


static int
ngx_asana_lmdb_v1_record(MDB_val *val, ngx_asana_secrets_t *secrets)
{
    u_char              *p;
    uint64_t             created, verified;
    ngx_asana_secret_t  *s;

    p = val->mv_data;

    if (val->mv_size < NGX_ASANA_LMDB_V1_RECORD + NGX_ASANA_MIN_SECRET
        || val->mv_size != (size_t) NGX_ASANA_LMDB_V1_RECORD + p[25]
        || p[24] > 1)
    {
        return NGX_DECLINED;
    }

    created = ngx_asana_lmdb_records_get64(p + 8);
    verified = ngx_asana_lmdb_records_get64(p + 16);

    if (created > NGX_ASANA_LMDB_V1_MAX_TIME
        || verified > NGX_ASANA_LMDB_V1_MAX_TIME
        || ngx_asana_secrets_by_id(secrets, p))
    {
        return NGX_DECLINED;
    }

    s = ngx_asana_secrets_push(secrets, p[25]);
    if (s == NULL) {
        return NGX_ENOMEM;
    }

    ngx_memcpy(s->id, p, NGX_ASANA_ID_LEN);
    ngx_memcpy(s->data, p + NGX_ASANA_LMDB_V1_RECORD, p[25]);

    s->created = ngx_asana_time(created);
    s->verified = ngx_asana_time(verified);
    s->stored = s->verified;
    s->pending = p[24];

    return 0;
}


int
ngx_asana_lmdb_v1_keys(ngx_asana_lmdb_records_t *recs, uint64_t *keys)
{
    int      err;
    MDB_val  key, val;

    key.mv_size = 4;
    key.mv_data = "keys";

    err = mdb_get(recs->txn, recs->dbs.meta, &key, &val);

    *keys = (err == 0 && val.mv_size == 8)
            ? ngx_asana_lmdb_records_get64(val.mv_data) : 0;

    return (err == MDB_NOTFOUND) ? 0 : err;
}


int
ngx_asana_lmdb_v1_convert(ngx_asana_lmdb_records_t *recs)
{
    int                       err;
    MDB_val                   key, val;
    uint64_t                  n;
    MDB_cursor               *cursor;
    ngx_asana_lmdb_records_t  old;

    old = *recs;

    err = ngx_asana_lmdb_format_open_all(recs, MDB_CREATE);

    if (err == 0) {
        err = ngx_asana_lmdb_format_set(recs);
    }

    if (err) {
        return err;
    }

    err = mdb_cursor_open(old.txn, old.dbs.hooks, &cursor);
    if (err) {
        return err;
    }

    n = 0;
    err = mdb_cursor_get(cursor, &key, &val, MDB_FIRST);

    while (err == 0) {

        if (ngx_asana_lmdb_records_key_ok(&key)) {
            err = ngx_asana_lmdb_v1_key(recs, &old, &key, &n);
        }

        if (err == 0) {
            err = mdb_cursor_get(cursor, &key, &val, MDB_NEXT_NODUP);
        }
    }

    mdb_cursor_close(cursor);

    return (err == MDB_NOTFOUND) ? ngx_asana_lmdb_v1_drop(recs) : err;
}


/* its secrets keep their order by age, and are all older than new ones */

static int
ngx_asana_lmdb_v1_key(ngx_asana_lmdb_records_t *recs,
    ngx_asana_lmdb_records_t *old, MDB_val *key, uint64_t *n)
{
    int                   err;
    time_t                seen;
    MDB_val               val;
    uint64_t              buf[512];
    ngx_uint_t            i;
    ngx_asana_secret_t   *s;
    ngx_asana_secrets_t   none, secrets;

    ngx_asana_secrets_init(&none, NULL, 0);
    ngx_asana_secrets_init(&secrets, (u_char *) buf, sizeof(buf));

    err = ngx_asana_lmdb_v1_get(old, key, &secrets);

    if (err == NGX_DECLINED) {

        /* what is not known stays so: this is no value either */

        val.mv_size = 1;
        val.mv_data = "";

        return mdb_put(recs->txn, recs->dbs.hooks, key, &val, 0);
    }

    s = ngx_asana_secrets_first(&secrets);

    for (i = 0; err == 0 && i < secrets.n; i++) {

        seen = s->verified ? s->verified : s->created;

        s->serial = ((uint64_t) ngx_min(seen, recs->now - 1) << 24)
                    + (++*n & 0xffffff);

        s = ngx_asana_secret_next(s);
    }

    if (err == 0) {
        err = ngx_asana_lmdb_records_put(recs, key, &none, &secrets);
    }

    ngx_asana_secrets_wipe(&secrets);

    return err;
}


/*
 * The old databases are left empty: while this goes on the main thread may
 * read them by handles that would go with them.
 */

static int
ngx_asana_lmdb_v1_drop(ngx_asana_lmdb_records_t *recs)
{
    int         err;
    MDB_dbi     dbi;
    MDB_val     key;
    ngx_uint_t  i;

    static const char  *names[] = {
        "secrets", "unproven", "waiting", "pending"
    };

    for (i = 0; i < sizeof(names) / sizeof(names[0]); i++) {

        err = mdb_dbi_open(recs->txn, names[i], 0, &dbi);

        if (err == 0) {
            err = mdb_drop(recs->txn, dbi, 0);
        }

        if (err && err != MDB_NOTFOUND) {
            return err;
        }
    }

    key.mv_size = 4;
    key.mv_data = "keys";

    err = mdb_del(recs->txn, recs->dbs.meta, &key, NULL);

    return (err == MDB_NOTFOUND) ? 0 : err;
}
