
/*
 * Copyright (C) asana-hook contributors
 */


/*
 * What an operation does within its transaction.  Policies are decided here,
 * where no other worker, generation or instance can come between the look at
 * a key and the change of it.
 */


#include "ngx_http_asana_hook.h"

#include <lmdb.h>

#include <openssl/crypto.h>


/* the secrets of a key, as a policy sees them */

typedef struct {
    ngx_uint_t                     confirmed;
    ngx_uint_t                     active;
    ngx_uint_t                     pending;
    time_t                         inactive_seen;
    time_t                         pending_seen;
    u_char                         inactive_id[NGX_HTTP_ASANA_HOOK_ID_LEN];
    u_char                         pending_id[NGX_HTTP_ASANA_HOOK_ID_LEN];

    /* of that very secret */
    unsigned                       is_held:1;
    unsigned                       is_pending:1;
    unsigned                       is_active:1;
} ngx_http_asana_hook_survey_t;


static int ngx_http_asana_hook_op_enroll(ngx_http_asana_hook_records_t *recs,
    MDB_cursor *cursor, MDB_val *key, ngx_http_asana_hook_op_t *op);
static int ngx_http_asana_hook_op_decide(ngx_http_asana_hook_records_t *recs,
    MDB_cursor *cursor, MDB_val *key, ngx_http_asana_hook_op_t *op,
    ngx_http_asana_hook_survey_t *sv);
static int ngx_http_asana_hook_op_drop_pending(
    ngx_http_asana_hook_records_t *recs, MDB_cursor *cursor, MDB_val *key,
    ngx_http_asana_hook_op_t *op, ngx_http_asana_hook_survey_t *sv);
static int ngx_http_asana_hook_op_put(ngx_http_asana_hook_records_t *recs,
    MDB_cursor *cursor, MDB_val *key, ngx_http_asana_hook_op_t *op);
static int ngx_http_asana_hook_op_confirm(ngx_http_asana_hook_records_t *recs,
    MDB_cursor *cursor, MDB_val *key, ngx_http_asana_hook_op_t *op,
    ngx_http_asana_hook_survey_t *sv);
static int ngx_http_asana_hook_op_activate(
    ngx_http_asana_hook_records_t *recs, MDB_cursor *cursor,
    ngx_http_asana_hook_op_t *op);
static int ngx_http_asana_hook_op_touch(ngx_http_asana_hook_records_t *recs,
    MDB_cursor *cursor, MDB_val *key, ngx_http_asana_hook_op_t *op);
static int ngx_http_asana_hook_op_remove(ngx_http_asana_hook_records_t *recs,
    MDB_cursor *cursor, MDB_val *key, ngx_http_asana_hook_op_t *op);
static int ngx_http_asana_hook_op_survey(MDB_cursor *cursor, MDB_val *key,
    ngx_http_asana_hook_op_t *op, ngx_http_asana_hook_survey_t *sv);
static void ngx_http_asana_hook_op_look(ngx_http_asana_hook_op_t *op,
    ngx_http_asana_hook_survey_t *sv, ngx_http_asana_hook_record_t *rec);
static int ngx_http_asana_hook_op_add(ngx_http_asana_hook_records_t *recs,
    MDB_cursor *cursor, MDB_val *key, ngx_http_asana_hook_op_t *op,
    ngx_uint_t pending);
static int ngx_http_asana_hook_op_drop_confirmed(
    ngx_http_asana_hook_records_t *recs, MDB_cursor *cursor, MDB_val *key);


int
ngx_http_asana_hook_op_apply(ngx_http_asana_hook_records_t *recs,
    ngx_http_asana_hook_op_t *op, ngx_uint_t *dropped)
{
    int          err, full;
    MDB_val      key;
    MDB_cursor  *cursor;
    ngx_uint_t   drops, first;

    first = (recs->taken == 0);

    full = ngx_http_asana_hook_op_full(recs, &drops);

    if (full && (full != MDB_MAP_FULL || !first)) {

        /* what does not fit in with others may do so on its own */

        return full;
    }

    err = mdb_cursor_open(recs->txn, recs->secrets, &cursor);
    if (err) {
        return err;
    }

    key.mv_size = op->key_len;
    key.mv_data = op->key;

    switch (op->type) {

    case NGX_HTTP_ASANA_HOOK_TOUCH:
        err = ngx_http_asana_hook_op_touch(recs, cursor, &key, op);
        break;

    case NGX_HTTP_ASANA_HOOK_REMOVE:
        err = ngx_http_asana_hook_op_remove(recs, cursor, &key, op);
        break;

    default: /* what adds a secret */

        if (full) {
            op->rc = NGX_OK;
            err = ngx_http_asana_hook_op_make_room(recs, cursor, op, drops,
                                                   dropped);

        } else if (op->type == NGX_HTTP_ASANA_HOOK_ACTIVATE) {
            err = ngx_http_asana_hook_op_activate(recs, cursor, op);

        } else if (op->type == NGX_HTTP_ASANA_HOOK_PUT) {
            err = ngx_http_asana_hook_op_put(recs, cursor, &key, op);

        } else {
            err = ngx_http_asana_hook_op_enroll(recs, cursor, &key, op);
        }
    }

    mdb_cursor_close(cursor);

    return err;
}


static int
ngx_http_asana_hook_op_enroll(ngx_http_asana_hook_records_t *recs,
    MDB_cursor *cursor, MDB_val *key, ngx_http_asana_hook_op_t *op)
{
    int                           err;
    ngx_uint_t                    n, pending;
    ngx_http_asana_hook_survey_t  sv;

    n = 0;

    err = ngx_http_asana_hook_op_drop_oldest(recs, cursor, recs->waiting,
                                             op->now - op->pending,
                                             NGX_HTTP_ASANA_HOOK_EXPIRED, &n);
    if (err) {
        return err;
    }

    err = ngx_http_asana_hook_op_survey(cursor, key, op, &sv);
    if (err) {
        return err;
    }

    pending = (op->policy == NGX_HTTP_ASANA_HOOK_CONFIRM);

    if (sv.is_held
        && (!sv.is_pending || pending
            || op->policy == NGX_HTTP_ASANA_HOOK_OFF))
    {
        op->rc = NGX_OK;
        return 0;
    }

    err = ngx_http_asana_hook_op_decide(recs, cursor, key, op, &sv);

    if (err || op->rc != NGX_OK) {

        if (sv.is_held) {

            /* what is held is acknowledged, and stays as it is */

            op->rc = NGX_OK;
        }

        return err;
    }

    return ngx_http_asana_hook_op_add(recs, cursor, key, op, pending);
}


/* sets op->rc, and drops what the new secret replaces */

static int
ngx_http_asana_hook_op_decide(ngx_http_asana_hook_records_t *recs,
    MDB_cursor *cursor, MDB_val *key, ngx_http_asana_hook_op_t *op,
    ngx_http_asana_hook_survey_t *sv)
{
    ngx_uint_t  max;

    max = (op->policy == NGX_HTTP_ASANA_HOOK_FIRST) ? 1 : op->max_secrets;

    if (op->policy == NGX_HTTP_ASANA_HOOK_OFF || sv->active >= max) {
        op->rc = NGX_DECLINED;
        return 0;
    }

    op->rc = NGX_OK;

    switch (op->policy) {

    case NGX_HTTP_ASANA_HOOK_FIRST:
        return ngx_http_asana_hook_op_drop_confirmed(recs, cursor, key);

    case NGX_HTTP_ASANA_HOOK_OPEN:

        if (sv->confirmed < max) {
            return 0;
        }

        return ngx_http_asana_hook_op_drop(recs, cursor, key,
                                           sv->inactive_id);

    default: /* NGX_HTTP_ASANA_HOOK_CONFIRM */
        return ngx_http_asana_hook_op_drop_pending(recs, cursor, key, op, sv);
    }
}


/* what anybody may send pushes out nothing but its like */

static int
ngx_http_asana_hook_op_drop_pending(ngx_http_asana_hook_records_t *recs,
    MDB_cursor *cursor, MDB_val *key, ngx_http_asana_hook_op_t *op,
    ngx_http_asana_hook_survey_t *sv)
{
    int                         err;
    u_char                      id[NGX_HTTP_ASANA_HOOK_ID_LEN];
    u_char                      buf[NGX_HTTP_ASANA_HOOK_MAX_KEY];
    time_t                      created;
    MDB_val                     k;
    ngx_http_asana_hook_stat_t  stat;

    if (sv->pending && sv->pending + sv->confirmed >= op->max_secrets) {
        return ngx_http_asana_hook_op_drop(recs, cursor, key, sv->pending_id);
    }

    err = ngx_http_asana_hook_records_stat(recs, &stat);

    if (err || stat.pending < op->max_pending) {
        return err;
    }

    err = ngx_http_asana_hook_record_oldest(recs, recs->waiting, &k, buf, id,
                                            &created);

    return err ? err : ngx_http_asana_hook_op_drop(recs, cursor, &k, id);
}


static int
ngx_http_asana_hook_op_put(ngx_http_asana_hook_records_t *recs,
    MDB_cursor *cursor, MDB_val *key, ngx_http_asana_hook_op_t *op)
{
    int                           err;
    ngx_http_asana_hook_survey_t  sv;

    err = ngx_http_asana_hook_op_survey(cursor, key, op, &sv);
    if (err) {
        return err;
    }

    op->created = !sv.is_held;

    return ngx_http_asana_hook_op_confirm(recs, cursor, key, op, &sv);
}


static int
ngx_http_asana_hook_op_confirm(ngx_http_asana_hook_records_t *recs,
    MDB_cursor *cursor, MDB_val *key, ngx_http_asana_hook_op_t *op,
    ngx_http_asana_hook_survey_t *sv)
{
    int  err;

    op->rc = NGX_OK;

    if (sv->is_held && !sv->is_pending) {

        if (sv->is_active) {
            return 0;
        }

    } else if (sv->confirmed >= op->max_secrets) {

        if (sv->active == sv->confirmed) {
            op->rc = NGX_DECLINED;
            return 0;
        }

        err = ngx_http_asana_hook_op_drop(recs, cursor, key, sv->inactive_id);
        if (err) {
            return err;
        }
    }

    return ngx_http_asana_hook_op_add(recs, cursor, key, op, 0);
}


/*
 * Only Asana and the receiver of the handshake know the secret: it is
 * confirmed under whatever key it came.
 */

static int
ngx_http_asana_hook_op_activate(ngx_http_asana_hook_records_t *recs,
    MDB_cursor *cursor, ngx_http_asana_hook_op_t *op)
{
    int                            err;
    u_char                         buf[NGX_HTTP_ASANA_HOOK_MAX_KEY];
    MDB_val                        key;
    ngx_int_t                      rc;
    ngx_http_asana_hook_survey_t   sv;

    rc = NGX_DECLINED;
    key.mv_size = 0;
    key.mv_data = buf;

    for ( ;; ) {

        err = ngx_http_asana_hook_records_waiting(recs, op->id, &key);

        if (err == 0) {
            err = ngx_http_asana_hook_op_survey(cursor, &key, op, &sv);
        }

        if (err) {
            break;
        }

        if (!sv.is_held) {
            continue;
        }

        err = ngx_http_asana_hook_op_confirm(recs, cursor, &key, op, &sv);
        if (err) {
            break;
        }

        if (rc != NGX_OK) {
            rc = (op->rc == NGX_OK) ? NGX_OK : NGX_ERROR;
        }
    }

    if (err == MDB_NOTFOUND && rc == NGX_DECLINED) {

        /* perhaps it was accepted at once, by another policy */

        err = ngx_http_asana_hook_records_recent(recs, op->id,
                                                 op->now - op->pending);
        if (err == 0) {
            rc = NGX_OK;
        }
    }

    op->rc = rc;

    return (err == MDB_NOTFOUND) ? 0 : err;
}


static int
ngx_http_asana_hook_op_touch(ngx_http_asana_hook_records_t *recs,
    MDB_cursor *cursor, MDB_val *key, ngx_http_asana_hook_op_t *op)
{
    int                           err;
    u_char                        secret[NGX_HTTP_ASANA_HOOK_MAX_SECRET];
    ngx_http_asana_hook_record_t  rec;

    err = ngx_http_asana_hook_record_get(cursor, key, op->id, &rec);

    if (err == MDB_NOTFOUND
        || (err == 0 && (rec.pending || rec.verified >= op->now)))
    {
        op->rc = NGX_DECLINED;
        return 0;
    }

    if (err) {
        return err;
    }

    /* what lies in LMDB's page goes with the record */

    ngx_memcpy(secret, rec.secret, rec.len);

    err = ngx_http_asana_hook_record_del(recs, cursor, key, &rec);

    if (err == 0) {
        rec.verified = op->now;
        rec.secret = secret;
        rec.id = op->id;

        err = ngx_http_asana_hook_record_put(recs, key, &rec);
    }

    ngx_explicit_memzero(secret, NGX_HTTP_ASANA_HOOK_MAX_SECRET);

    op->rc = NGX_OK;

    return err;
}


static int
ngx_http_asana_hook_op_remove(ngx_http_asana_hook_records_t *recs,
    MDB_cursor *cursor, MDB_val *key, ngx_http_asana_hook_op_t *op)
{
    int                           err;
    ngx_http_asana_hook_record_t  rec;

    op->rc = NGX_DECLINED;

    do {
        err = ngx_http_asana_hook_record_get(cursor, key,
                                             op->all ? NULL : op->id, &rec);

        if (err == 0) {

            /* one that is past "pending" is none, but goes as well */

            if (!rec.pending || op->now - rec.created < op->pending) {
                op->rc = NGX_OK;
            }

            err = ngx_http_asana_hook_record_del(recs, cursor, key, &rec);
        }

    } while (err == 0 && op->all);

    return (err == MDB_NOTFOUND) ? 0 : err;
}


static int
ngx_http_asana_hook_op_survey(MDB_cursor *cursor, MDB_val *key,
    ngx_http_asana_hook_op_t *op, ngx_http_asana_hook_survey_t *sv)
{
    int                           err;
    MDB_val                       k, val;
    ngx_http_asana_hook_record_t  rec;

    ngx_memzero(sv, sizeof(ngx_http_asana_hook_survey_t));

    k = *key;

    for (err = mdb_cursor_get(cursor, &k, &val, MDB_SET);
         err == 0;
         err = mdb_cursor_get(cursor, &k, &val, MDB_NEXT_DUP))
    {
        err = ngx_http_asana_hook_record_parse(&val, &rec);
        if (err) {
            return err;
        }

        ngx_http_asana_hook_op_look(op, sv, &rec);
    }

    return (err == MDB_NOTFOUND) ? 0 : err;
}


static void
ngx_http_asana_hook_op_look(ngx_http_asana_hook_op_t *op,
    ngx_http_asana_hook_survey_t *sv, ngx_http_asana_hook_record_t *rec)
{
    time_t      seen;
    ngx_uint_t  active, held, i;

    held = (rec->len == op->secret_len
            && CRYPTO_memcmp(rec->secret, op->secret, rec->len) == 0);

    if (rec->pending) {

        if (op->now - rec->created >= op->pending) {
            return;
        }

        if (held) {
            sv->is_held = 1;
            sv->is_pending = 1;
            return;
        }

        if (sv->pending++ == 0 || rec->created < sv->pending_seen) {
            sv->pending_seen = rec->created;
            ngx_memcpy(sv->pending_id, rec->id, NGX_HTTP_ASANA_HOOK_ID_LEN);
        }

        return;
    }

    seen = ngx_max(rec->created, rec->verified);

    for (i = 0; i < op->nseen; i++) {
        if (ngx_memcmp(op->seen[i].id, rec->id, NGX_HTTP_ASANA_HOOK_ID_LEN)
            == 0)
        {
            seen = ngx_max(seen, op->seen[i].verified);
            break;
        }
    }

    active = (op->now - seen < op->inactive);

    if (held) {
        sv->is_held = 1;
        sv->is_active = active;
    }

    if (!active
        && (sv->confirmed == sv->active || seen < sv->inactive_seen))
    {
        sv->inactive_seen = seen;
        ngx_memcpy(sv->inactive_id, rec->id, NGX_HTTP_ASANA_HOOK_ID_LEN);
    }

    sv->confirmed++;
    sv->active += active;
}


/* adds the operation's secret in the place of a record that it has */

static int
ngx_http_asana_hook_op_add(ngx_http_asana_hook_records_t *recs,
    MDB_cursor *cursor, MDB_val *key, ngx_http_asana_hook_op_t *op,
    ngx_uint_t pending)
{
    int                           err;
    ngx_http_asana_hook_record_t  rec;

    err = ngx_http_asana_hook_record_get(cursor, key, op->id, &rec);

    if (err == 0) {
        err = ngx_http_asana_hook_record_del(recs, cursor, key, &rec);

    } else if (err == MDB_NOTFOUND) {
        rec.verified = 0;
        err = 0;
    }

    if (err) {
        return err;
    }

    rec.created = op->now;
    rec.id = op->id;
    rec.secret = op->secret;
    rec.len = op->secret_len;
    rec.pending = pending;

    return ngx_http_asana_hook_record_put(recs, key, &rec);
}


int
ngx_http_asana_hook_op_drop(ngx_http_asana_hook_records_t *recs,
    MDB_cursor *cursor, MDB_val *key, u_char *id)
{
    int                           err;
    ngx_http_asana_hook_record_t  rec;

    err = ngx_http_asana_hook_record_get(cursor, key, id, &rec);

    return err ? err : ngx_http_asana_hook_record_del(recs, cursor, key, &rec);
}


static int
ngx_http_asana_hook_op_drop_confirmed(ngx_http_asana_hook_records_t *recs,
    MDB_cursor *cursor, MDB_val *key)
{
    int                           err;
    MDB_val                       k, val;
    ngx_http_asana_hook_record_t  rec;

    k = *key;

    err = mdb_cursor_get(cursor, &k, &val, MDB_SET);

    while (err == 0) {
        err = ngx_http_asana_hook_record_parse(&val, &rec);
        if (err) {
            return err;
        }

        if (rec.pending) {
            err = mdb_cursor_get(cursor, &k, &val, MDB_NEXT_DUP);
            continue;
        }

        err = ngx_http_asana_hook_record_del(recs, cursor, key, &rec);

        if (err == 0) {
            err = mdb_cursor_get(cursor, &k, &val, MDB_SET);
        }
    }

    return (err == MDB_NOTFOUND) ? 0 : err;
}
