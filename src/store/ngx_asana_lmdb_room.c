
/*
 * Copyright (C) asana-hook contributors
 */


/*
 * What is dropped.  A store is full when the pages of its databases, without
 * the free ones between them, come to "max_size".  The map is larger than that
 * (see ngx_asana_lmdb.c), so that there are pages to make room with.
 */


#include "ngx_asana_lmdb_room.h"


/* most secrets that a full store drops at once */
#define NGX_ASANA_LMDB_DROPS    1024

/* damaged ones that are passed over on the way */
#define NGX_ASANA_LMDB_SKIPS    64

/* most secrets past "pending" that a handshake drops */
#define NGX_ASANA_LMDB_EXPIRED  2

/* seconds: Asana deletes a webhook that failed for 24 hours */
#define NGX_ASANA_LMDB_DEAD     (25 * 3600)


static int ngx_asana_lmdb_room_drop(ngx_asana_lmdb_env_t *e,
    ngx_asana_lmdb_records_t *recs, ngx_asana_lmdb_age_e age, time_t before,
    ngx_uint_t max, size_t need, ngx_uint_t *dropped);
static int ngx_asana_lmdb_room_entry(ngx_asana_lmdb_records_t *recs,
    ngx_asana_lmdb_age_e age, ngx_uint_t skip, u_char *id, MDB_val *key);
static int ngx_asana_lmdb_room_secret(ngx_asana_lmdb_records_t *recs,
    ngx_asana_lmdb_age_e age, u_char *id, MDB_val *key, time_t before,
    ngx_uint_t *dropped);


int
ngx_asana_lmdb_room_full(ngx_asana_lmdb_env_t *e,
    ngx_asana_lmdb_records_t *recs, size_t need)
{
    int     err;
    size_t  pages;

    err = ngx_asana_lmdb_records_pages(recs, &pages);

    return (err == 0 && pages + need > e->max_pages) ? MDB_MAP_FULL : err;
}


int
ngx_asana_lmdb_room_make(ngx_asana_lmdb_env_t *e,
    ngx_asana_lmdb_records_t *recs, size_t need, ngx_uint_t *dropped)
{
    int     err;
    time_t  inactive;

    *dropped = 0;
    inactive = e->conf->limits.inactive;

    err = ngx_asana_lmdb_room_drop(e, recs, NGX_ASANA_LMDB_PENDING,
                                   recs->now - e->conf->limits.pending,
                                   NGX_ASANA_LMDB_DROPS, need, dropped);
    if (err == 0) {
        err = ngx_asana_lmdb_room_drop(e, recs, NGX_ASANA_LMDB_UNPROVEN,
                                       recs->now - inactive,
                                       NGX_ASANA_LMDB_DROPS, need, dropped);
    }

    if (err == 0) {
        inactive = ngx_max(inactive, NGX_ASANA_LMDB_DEAD);

        err = ngx_asana_lmdb_room_drop(e, recs, NGX_ASANA_LMDB_PROVEN,
                                       recs->now - inactive,
                                       NGX_ASANA_LMDB_DROPS, need, dropped);
    }

    return err;
}


int
ngx_asana_lmdb_room_expire(ngx_asana_lmdb_env_t *e,
    ngx_asana_lmdb_records_t *recs)
{
    ngx_uint_t  n;

    n = 0;

    return ngx_asana_lmdb_room_drop(e, recs, NGX_ASANA_LMDB_PENDING,
                                    recs->now - e->conf->limits.pending,
                                    NGX_ASANA_LMDB_EXPIRED, 0, &n);
}


int
ngx_asana_lmdb_room_bound(ngx_asana_lmdb_env_t *e,
    ngx_asana_lmdb_records_t *recs)
{
    int         err;
    uint64_t    pending;
    ngx_uint_t  n;

    err = ngx_asana_lmdb_records_count(recs, NGX_ASANA_LMDB_PENDING, &pending);

    if (err || pending <= ngx_max(e->conf->max_size / 16384, 16)) {
        return err;
    }

    n = 0;

    return ngx_asana_lmdb_room_drop(e, recs, NGX_ASANA_LMDB_PENDING,
                                    recs->now, 1, 0, &n);
}


/*
 * The oldest ones up to "before", until there are "max", or there is room for
 * "need" pages; 0: room is not the matter
 */

static int
ngx_asana_lmdb_room_drop(ngx_asana_lmdb_env_t *e,
    ngx_asana_lmdb_records_t *recs, ngx_asana_lmdb_age_e age, time_t before,
    ngx_uint_t max, size_t need, ngx_uint_t *dropped)
{
    int         err;
    u_char      id[NGX_ASANA_ID_LEN], buf[NGX_ASANA_MAX_KEY];
    MDB_val     key;
    ngx_uint_t  skip, tries;

    skip = 0;
    key.mv_data = buf;

    for (tries = 0; *dropped < max; tries++) {

        if (need) {
            err = ngx_asana_lmdb_room_full(e, recs, need);

            if (err != MDB_MAP_FULL) {
                return err;
            }
        }

        if (skip > NGX_ASANA_LMDB_SKIPS || tries > 2 * NGX_ASANA_LMDB_DROPS) {
            break;
        }

        err = ngx_asana_lmdb_room_entry(recs, age, skip, id, &key);

        if (err == 0) {
            err = ngx_asana_lmdb_room_secret(recs, age, id, &key, before,
                                             dropped);
        }

        if (err == NGX_DECLINED) {
            skip++;
            continue;
        }

        if (err) {
            return (err == MDB_NOTFOUND || err == NGX_DONE) ? 0 : err;
        }
    }

    return 0;
}


/* copies what the first entry says, or the one behind those passed over */

static int
ngx_asana_lmdb_room_entry(ngx_asana_lmdb_records_t *recs,
    ngx_asana_lmdb_age_e age, ngx_uint_t skip, u_char *id, MDB_val *key)
{
    int          err;
    u_char      *p;
    MDB_val      k, val, name;
    MDB_cursor  *cursor;

    err = mdb_cursor_open(recs->txn, recs->dbs.by_age[age], &cursor);
    if (err) {
        return err;
    }

    err = mdb_cursor_get(cursor, &k, &val, MDB_FIRST);

    while (err == 0 && skip--) {
        err = mdb_cursor_get(cursor, &k, &val, MDB_NEXT);
    }

    if (err == 0) {
        err = (int) ngx_asana_lmdb_records_entry(&val, &p, &name);
    }

    if (err == 0) {
        ngx_memcpy(id, p, NGX_ASANA_ID_LEN);

        key->mv_size = name.mv_size;
        ngx_memcpy(key->mv_data, name.mv_data, name.mv_size);
    }

    mdb_cursor_close(cursor);

    return err;
}


/* NGX_DONE: it is too young; NGX_DECLINED: it is to be passed over */

static int
ngx_asana_lmdb_room_secret(ngx_asana_lmdb_records_t *recs,
    ngx_asana_lmdb_age_e age, u_char *id, MDB_val *key, time_t before,
    ngx_uint_t *dropped)
{
    int                   err;
    time_t                seen;
    uint64_t              buf[2][512];
    ngx_asana_secret_t   *s;
    ngx_asana_secrets_t   old, secrets;

    ngx_asana_secrets_init(&old, (u_char *) buf[0], sizeof(buf[0]));
    ngx_asana_secrets_init(&secrets, (u_char *) buf[1], sizeof(buf[1]));

    err = ngx_asana_lmdb_records_get(recs, key, &old);

    /* also what cannot be opened is dropped in its time */

    if (err == 0 || err == NGX_ABORT) {
        err = (ngx_asana_secrets_append(&secrets, &old) == NGX_OK)
              ? 0 : NGX_ENOMEM;
    }

    s = (err == 0) ? ngx_asana_secrets_by_id(&secrets, id) : NULL;

    if (s) {
        seen = ngx_asana_secret_seen(s);

        if (seen > recs->now) {

            /*
             * from a clock that went wrong: it counts as seen now, and will
             * be old in its time
             */

            s->created = ngx_min(s->created, recs->now);
            s->verified = ngx_min(s->verified, recs->now);
            s->serial = 0;
            recs->others = 1;

            err = ngx_asana_lmdb_records_put(recs, key, &old, &secrets);

        } else if (seen > before) {
            err = NGX_DONE;

        } else {
            ngx_asana_secrets_remove(&secrets, s);
            (*dropped)++;
            recs->others = 1;

            err = ngx_asana_lmdb_records_put(recs, key, &old, &secrets);
        }

    } else if (err == 0 || err == MDB_NOTFOUND) {
        err = NGX_DECLINED;
    }

    ngx_asana_secrets_wipe(&old);
    ngx_asana_secrets_wipe(&secrets);

    return err;
}
