
/*
 * Copyright (C) asana-hook contributors
 */


/*
 * A key of LMDB has 511 bytes at most, too few for a gid, an id and a key of
 * the zone together.  So the gid is the key, and what has it stands in order
 * below it.
 */


#include "ngx_asana_lmdb_gid.h"


int
ngx_asana_lmdb_gid_open(MDB_txn *txn, unsigned int flags, MDB_dbi *dbi)
{
    int  err;

    err = mdb_dbi_open(txn, "secrets_by_gid", flags | MDB_DUPSORT, dbi);

    if (err) {
        *dbi = 0;
    }

    return (err == MDB_NOTFOUND) ? 0 : err;
}


int
ngx_asana_lmdb_gid_index(MDB_txn *txn, MDB_dbi dbi, MDB_val *key,
    ngx_asana_secret_t *s, ngx_asana_secret_t *other, ngx_uint_t add)
{
    int      err;
    u_char  *p, buf[NGX_ASANA_ID_LEN + NGX_ASANA_MAX_KEY];
    MDB_val  entry, gid;

    if (s->gid_len == 0
        || (other && ngx_asana_same(other->gid, other->gid_len,
                                    s->gid, s->gid_len)))
    {
        return 0;
    }

    gid.mv_size = s->gid_len;
    gid.mv_data = s->gid;

    p = ngx_cpymem(buf, s->id, NGX_ASANA_ID_LEN);
    p = ngx_cpymem(p, key->mv_data, key->mv_size);

    entry.mv_size = p - buf;
    entry.mv_data = buf;

    err = add ? mdb_put(txn, dbi, &gid, &entry, MDB_NODUPDATA)
              : mdb_del(txn, dbi, &gid, &entry);

    return (err == MDB_KEYEXIST || err == MDB_NOTFOUND) ? 0 : err;
}


int
ngx_asana_lmdb_gid_next(MDB_txn *txn, MDB_dbi dbi, u_char *gid, size_t len,
    MDB_val *entry)
{
    int          err;
    MDB_val      k, val;
    MDB_cursor  *cursor;

    err = mdb_cursor_open(txn, dbi, &cursor);
    if (err) {
        return err;
    }

    k.mv_size = len;
    k.mv_data = gid;
    val = *entry;

    err = mdb_cursor_get(cursor, &k, &val,
                         val.mv_size ? MDB_GET_BOTH_RANGE : MDB_SET);

    while (err == 0) {

        if (val.mv_size > NGX_ASANA_ID_LEN
            && val.mv_size <= NGX_ASANA_ID_LEN + NGX_ASANA_MAX_KEY
            && (val.mv_size != entry->mv_size
                || ngx_memcmp(val.mv_data, entry->mv_data, val.mv_size) != 0))
        {
            entry->mv_size = val.mv_size;
            ngx_memcpy(entry->mv_data, val.mv_data, val.mv_size);
            break;
        }

        err = mdb_cursor_get(cursor, &k, &val, MDB_NEXT_DUP);
    }

    mdb_cursor_close(cursor);

    return err;
}
