
/*
 * Copyright (C) asana-hook contributors
 */


#include "ngx_asana_lmdb_format.h"
#include "ngx_asana_lmdb_error.h"


#define NGX_ASANA_LMDB_VERSION  "version"


void
ngx_asana_lmdb_format_init(ngx_asana_lmdb_records_t *recs,
    ngx_asana_seal_t *seal, ngx_str_t *zone)
{
    ngx_memzero(recs, sizeof(ngx_asana_lmdb_records_t));

    recs->seal = seal;
    recs->value.place.zone = *zone;
}


int
ngx_asana_lmdb_format(ngx_asana_lmdb_records_t *recs,
    uint32_t *format)
{
    int       err;
    u_char   *p;
    MDB_val   key, val;
    MDB_stat  stat;

    *format = 0;

    if (recs->dbs.format == 0) {
        err = mdb_stat(recs->txn, NGX_ASANA_LMDB_MAIN, &stat);

        return (err == 0 && stat.ms_entries) ? NGX_AGAIN : err;
    }

    key.mv_size = sizeof(NGX_ASANA_LMDB_VERSION) - 1;
    key.mv_data = NGX_ASANA_LMDB_VERSION;

    err = mdb_get(recs->txn, recs->dbs.meta, &key, &val);

    if (err) {
        return (err == MDB_NOTFOUND) ? MDB_CORRUPTED : err;
    }

    if (val.mv_size != 4) {
        return MDB_CORRUPTED;
    }

    p = val.mv_data;
    *format = (uint32_t) p[0] << 24 | p[1] << 16 | p[2] << 8 | p[3];

    if (*format == 0 || *format > NGX_ASANA_LMDB_SEALED) {
        return *format ? MDB_VERSION_MISMATCH : MDB_CORRUPTED;
    }

    recs->value.seal = NULL;

    if (*format == NGX_ASANA_LMDB_SEALED) {

        if (recs->seal == NULL) {
            return NGX_ASANA_LMDB_NO_KEY;
        }

        recs->value.seal = recs->seal;
    }

    return (*format > 1 && recs->dbs.format == 1) ? NGX_AGAIN : 0;
}


int
ngx_asana_lmdb_format_open(ngx_asana_lmdb_records_t *recs,
    unsigned int flags)
{
    int       err;
    uint32_t  format;
    MDB_stat  stat;

    err = mdb_stat(recs->txn, NGX_ASANA_LMDB_MAIN, &stat);
    if (err) {
        return err;
    }

    if (stat.ms_entries == 0) {

        if (flags == 0) {
            return 0;
        }

        err = ngx_asana_lmdb_format_open_all(recs, flags);

        return err ? err : ngx_asana_lmdb_format_set(recs);
    }

    err = mdb_dbi_open(recs->txn, "meta", 0, &recs->dbs.meta);

    if (err) {

        /* perhaps somebody else's */

        return (err == MDB_NOTFOUND) ? MDB_INCOMPATIBLE : err;
    }

    recs->dbs.format = 1;

    err = ngx_asana_lmdb_format(recs, &format);

    if (err == NGX_AGAIN) {
        return ngx_asana_lmdb_format_open_all(recs, 0);
    }

    return err ? err : mdb_dbi_open(recs->txn, "secrets", MDB_DUPSORT,
                                    &recs->dbs.hooks);
}


int
ngx_asana_lmdb_format_open_all(ngx_asana_lmdb_records_t *recs,
    unsigned int flags)
{
    int                    err;
    ngx_uint_t             i;
    ngx_asana_lmdb_dbs_t   dbs;

    struct {
        const char        *name;
        MDB_dbi           *dbi;
    } names[] = {
        { "meta", &dbs.meta },
        { "hooks", &dbs.hooks },
        { "pending_by_age", &dbs.by_age[NGX_ASANA_LMDB_PENDING] },
        { "unproven_by_age", &dbs.by_age[NGX_ASANA_LMDB_UNPROVEN] },
        { "proven_by_age", &dbs.by_age[NGX_ASANA_LMDB_PROVEN] },
        { "secrets_by_id", &dbs.by_id }
    };

    for (i = 0; i < sizeof(names) / sizeof(names[0]); i++) {
        err = mdb_dbi_open(recs->txn, names[i].name, flags, names[i].dbi);
        if (err) {
            return err;
        }
    }

    err = ngx_asana_lmdb_gid_open(recs->txn, flags, &dbs.by_gid);
    if (err) {
        return err;
    }

    dbs.format = NGX_ASANA_LMDB_FORMAT;
    recs->dbs = dbs;

    return 0;
}


int
ngx_asana_lmdb_format_set(ngx_asana_lmdb_records_t *recs)
{
    u_char   buf[4];
    MDB_val  key, val;

    recs->value.seal = recs->seal;

    ngx_memzero(buf, 3);
    buf[3] = recs->seal ? NGX_ASANA_LMDB_SEALED : NGX_ASANA_LMDB_FORMAT;

    key.mv_size = sizeof(NGX_ASANA_LMDB_VERSION) - 1;
    key.mv_data = NGX_ASANA_LMDB_VERSION;

    val.mv_size = 4;
    val.mv_data = buf;

    recs->dirty = 1;

    return mdb_put(recs->txn, recs->dbs.meta, &key, &val, 0);
}
