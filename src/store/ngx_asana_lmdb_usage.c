
/*
 * Copyright (C) asana-hook contributors
 */


/*
 * In meta, of a store with sealed secrets; integers are big-endian:
 *
 *     "keys_used" -> for each encryption key that has encrypted a secret:
 *
 *                        4  id of the key
 *                        8  number of secrets
 */


#include "ngx_asana_lmdb_usage.h"


#define NGX_ASANA_LMDB_USAGE         "keys_used"
#define NGX_ASANA_LMDB_USAGE_RECORD  (NGX_ASANA_SEAL_ID_LEN + 8)


int
ngx_asana_lmdb_usage_get(MDB_txn *txn, MDB_dbi meta, ngx_asana_seal_t *seal,
    ngx_asana_seal_usage_t *usage)
{
    int         err;
    u_char     *p, *last;
    int64_t     n;
    MDB_val     key, val;
    ngx_uint_t  i;

    ngx_asana_seal_usage(seal, usage);

    key.mv_size = sizeof(NGX_ASANA_LMDB_USAGE) - 1;
    key.mv_data = NGX_ASANA_LMDB_USAGE;

    err = mdb_get(txn, meta, &key, &val);
    if (err) {
        return err;
    }

    p = val.mv_data;
    last = p + val.mv_size;

    for ( /* void */ ;
         last - p >= NGX_ASANA_LMDB_USAGE_RECORD;
         p += NGX_ASANA_LMDB_USAGE_RECORD)
    {
        n = 0;

        for (i = NGX_ASANA_SEAL_ID_LEN; i < NGX_ASANA_LMDB_USAGE_RECORD; i++) {
            n = n << 8 | p[i];
        }

        ngx_asana_seal_count(usage, p, n);
    }

    return 0;
}


int
ngx_asana_lmdb_usage_put(MDB_txn *txn, MDB_dbi meta,
    ngx_asana_seal_usage_t *usage)
{
    u_char      buf[NGX_ASANA_SEAL_USED * NGX_ASANA_LMDB_USAGE_RECORD], *p;
    MDB_val     key, val;
    ngx_int_t   shift;
    ngx_uint_t  i;

    p = buf;

    for (i = 0; i < usage->n; i++) {

        if (usage->keys[i].secrets == 0) {
            continue;
        }

        p = ngx_cpymem(p, usage->keys[i].id, NGX_ASANA_SEAL_ID_LEN);

        for (shift = 56; shift >= 0; shift -= 8) {
            *p++ = (u_char) (usage->keys[i].secrets >> shift);
        }
    }

    key.mv_size = sizeof(NGX_ASANA_LMDB_USAGE) - 1;
    key.mv_data = NGX_ASANA_LMDB_USAGE;

    val.mv_size = p - buf;
    val.mv_data = buf;

    return mdb_put(txn, meta, &key, &val, 0);
}
