
/*
 * Copyright (C) asana-hook contributors
 */


#include "ngx_asana_lmdb_crypt.h"


static int ngx_asana_lmdb_crypt_key(ngx_asana_lmdb_records_t *recs,
    ngx_asana_lmdb_records_t *old, MDB_val *key);
static int ngx_asana_lmdb_crypt_recount(ngx_asana_lmdb_records_t *recs);
static int ngx_asana_lmdb_crypt_next(ngx_asana_lmdb_records_t *recs,
    MDB_val *key);
static int ngx_asana_lmdb_crypt_anew(ngx_asana_lmdb_records_t *recs,
    MDB_val *key);


/*
 * The database is emptied and written anew while the state before is read by a
 * transaction of its own: a page that is split keeps bytes of old values in its
 * gap, and would hold them in clear as long as it is used.
 */

int
ngx_asana_lmdb_crypt_convert(ngx_asana_lmdb_records_t *recs)
{
    int                       err;
    MDB_val                   key, val;
    MDB_cursor               *cursor;
    ngx_asana_lmdb_records_t  old;

    old = *recs;
    cursor = NULL;

    err = mdb_txn_begin(mdb_txn_env(recs->txn), NULL, MDB_RDONLY, &old.txn);
    if (err) {
        return err;
    }

    err = mdb_drop(recs->txn, recs->dbs.hooks, 0);

    if (err == 0) {
        err = ngx_asana_lmdb_format_set(recs);
    }

    if (err == 0) {
        err = mdb_cursor_open(old.txn, old.dbs.hooks, &cursor);
    }

    if (err) {
        mdb_txn_abort(old.txn);
        return err;
    }

    do {
        err = mdb_cursor_get(cursor, &key, &val, MDB_NEXT);

        if (err == 0 && ngx_asana_lmdb_records_key_ok(&key)) {
            err = ngx_asana_lmdb_crypt_key(recs, &old, &key);
        }

    } while (err == 0);

    mdb_cursor_close(cursor);
    mdb_txn_abort(old.txn);

    return (err == MDB_NOTFOUND) ? ngx_asana_lmdb_crypt_recount(recs) : err;
}


static int
ngx_asana_lmdb_crypt_key(ngx_asana_lmdb_records_t *recs,
    ngx_asana_lmdb_records_t *old, MDB_val *key)
{
    int                  err;
    MDB_val              val;
    uint64_t             buf[512];
    ngx_asana_secrets_t  none, secrets;

    ngx_asana_secrets_init(&none, NULL, 0);
    ngx_asana_secrets_init(&secrets, (u_char *) buf, sizeof(buf));

    err = ngx_asana_lmdb_records_get(old, key, &secrets);

    if (err == 0) {
        err = ngx_asana_lmdb_records_put(recs, key, &none, &secrets);

    } else if (err == NGX_DECLINED) {

        /* what is not known stays so: this is no value either */

        val.mv_size = 1;
        val.mv_data = "";

        err = mdb_put(recs->txn, recs->dbs.hooks, key, &val, 0);
    }

    ngx_asana_secrets_wipe(&secrets);

    return err;
}


int
ngx_asana_lmdb_crypt_count(ngx_asana_lmdb_records_t *recs)
{
    int                      err;
    ngx_asana_seal_usage_t   usage;

    err = ngx_asana_lmdb_usage_get(recs->txn, recs->dbs.meta, recs->seal,
                                   &usage);

    return (err == MDB_NOTFOUND) ? ngx_asana_lmdb_crypt_recount(recs) : err;
}


static int
ngx_asana_lmdb_crypt_recount(ngx_asana_lmdb_records_t *recs)
{
    int                      err;
    MDB_val                  key, val;
    MDB_cursor              *cursor;
    ngx_asana_seal_usage_t   usage;

    ngx_asana_seal_usage(recs->seal, &usage);

    err = mdb_cursor_open(recs->txn, recs->dbs.hooks, &cursor);
    if (err) {
        return err;
    }

    while ((err = mdb_cursor_get(cursor, &key, &val, MDB_NEXT)) == 0) {
        ngx_asana_lmdb_value_count(&recs->value, val.mv_data, val.mv_size,
                                   &usage, 1);
    }

    mdb_cursor_close(cursor);

    if (err != MDB_NOTFOUND) {
        return err;
    }

    recs->dirty = 1;

    return ngx_asana_lmdb_usage_put(recs->txn, recs->dbs.meta, &usage);
}


/*
 * Goes on behind the key where the last call of this process has ended, and
 * once around.  What was counted then is right, whatever was done to the store
 * by hand.
 */

int
ngx_asana_lmdb_crypt_reseal(ngx_asana_lmdb_env_t *e,
    ngx_asana_lmdb_records_t *recs, ngx_asana_task_t *task)
{
    int                      err;
    ngx_uint_t               around;
    ngx_asana_seal_usage_t   usage;

    task->outcome = NGX_ASANA_HELD;
    task->resealed = 0;
    task->left = 0;

    if (recs->value.seal == NULL) {
        return 0;
    }

    err = 0;
    around = 0;
    recs->value.reseal = NGX_ASANA_RESEAL_MAX;

    while (err == 0 && recs->value.reseal) {

        err = ngx_asana_lmdb_crypt_next(recs, &e->resealed);

        if (err == 0) {
            err = ngx_asana_lmdb_crypt_anew(recs, &e->resealed);

        } else if (err == MDB_NOTFOUND) {
            e->resealed.mv_size = 0;
            err = around++ ? MDB_NOTFOUND : 0;
        }
    }

    task->resealed = NGX_ASANA_RESEAL_MAX - recs->value.reseal;
    recs->value.reseal = 0;

    if (err == MDB_NOTFOUND) {
        err = ngx_asana_lmdb_crypt_recount(recs);
    }

    if (err == 0) {
        err = ngx_asana_lmdb_usage_get(recs->txn, recs->dbs.meta, recs->seal,
                                       &usage);
    }

    if (err == 0) {
        task->left = ngx_asana_seal_left(&usage);

        if (task->resealed) {
            task->outcome = NGX_ASANA_CHANGED;
        }
    }

    return err;
}


/* sets it to the next key with a secret that is to be sealed anew */

static int
ngx_asana_lmdb_crypt_next(ngx_asana_lmdb_records_t *recs, MDB_val *key)
{
    int          err;
    MDB_val      k, val;
    MDB_cursor  *cursor;

    err = mdb_cursor_open(recs->txn, recs->dbs.hooks, &cursor);
    if (err) {
        return err;
    }

    k = *key;

    err = mdb_cursor_get(cursor, &k, &val, k.mv_size ? MDB_SET_RANGE
                                                     : MDB_FIRST);

    if (err == 0
        && k.mv_size == key->mv_size
        && ngx_memcmp(k.mv_data, key->mv_data, k.mv_size) == 0)
    {
        err = mdb_cursor_get(cursor, &k, &val, MDB_NEXT);
    }

    while (err == 0
           && (!ngx_asana_lmdb_records_key_ok(&k)
               || !ngx_asana_lmdb_value_old(&recs->value, val.mv_data,
                                            val.mv_size)))
    {
        err = mdb_cursor_get(cursor, &k, &val, MDB_NEXT);
    }

    if (err == 0) {
        key->mv_size = k.mv_size;
        ngx_memcpy(key->mv_data, k.mv_data, k.mv_size);
    }

    mdb_cursor_close(cursor);

    return err;
}


/* what cannot be opened stays as it is */

static int
ngx_asana_lmdb_crypt_anew(ngx_asana_lmdb_records_t *recs, MDB_val *key)
{
    int                  err;
    uint64_t             buf[512];
    ngx_asana_secrets_t  secrets;

    ngx_asana_secrets_init(&secrets, (u_char *) buf, sizeof(buf));

    err = ngx_asana_lmdb_records_get(recs, key, &secrets);

    if (err == 0 || err == NGX_ABORT) {
        err = ngx_asana_lmdb_records_put(recs, key, &secrets, &secrets);
    }

    ngx_asana_secrets_wipe(&secrets);

    return (err == NGX_DECLINED) ? 0 : err;
}
