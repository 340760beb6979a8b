
/*
 * Copyright (C) asana-hook contributors
 */


#include "ngx_asana_rows.h"


/* columns of the statement that reads */

typedef enum {
    NGX_ASANA_ROW_KEY = 0,
    NGX_ASANA_ROW_ID,
    NGX_ASANA_ROW_PENDING,
    NGX_ASANA_ROW_CREATED,
    NGX_ASANA_ROW_VERIFIED,
    NGX_ASANA_ROW_ANSWERED,
    NGX_ASANA_ROW_FAILING,
    NGX_ASANA_ROW_CODE,
    NGX_ASANA_ROW_GID,
    NGX_ASANA_ROW_SEALED
} ngx_asana_row_column_e;


static void ngx_asana_rows_columns(ngx_asana_rows_t *rows,
    ngx_asana_sql_t *sql);
static ngx_int_t ngx_asana_rows_row(ngx_asana_rows_t *rows,
    ngx_asana_row_set_t *set, PGresult *res, int row);
static void ngx_asana_rows_delete(ngx_asana_rows_t *rows,
    ngx_asana_sql_t *sql, ngx_asana_row_set_t *set);
static ngx_uint_t ngx_asana_rows_insert(ngx_asana_rows_t *rows,
    ngx_asana_sql_t *sql, ngx_asana_row_set_t *set, ngx_uint_t n);
static ngx_int_t ngx_asana_rows_values(ngx_asana_rows_t *rows,
    ngx_asana_sql_t *sql, ngx_asana_row_set_t *set, ngx_asana_secret_t *s);
static ngx_uint_t ngx_asana_rows_update(ngx_asana_rows_t *rows,
    ngx_asana_sql_t *sql, ngx_asana_row_set_t *set, ngx_uint_t n);


ngx_int_t
ngx_asana_rows_init(ngx_asana_rows_t *rows, ngx_asana_backend_conf_t *conf,
    ngx_pool_t *pool, ngx_log_t *log)
{
    rows->conf = conf;
    rows->pool = pool;
    rows->log = log;
    rows->complained = 0;

    return ngx_array_init(&rows->sets, pool, 16, sizeof(ngx_asana_row_set_t));
}


void
ngx_asana_rows_wipe(ngx_asana_rows_t *rows)
{
    ngx_uint_t            i;
    ngx_asana_row_set_t  *set;

    set = rows->sets.elts;

    for (i = 0; i < rows->sets.nelts; i++) {
        ngx_asana_secrets_wipe(&set[i].secrets);
    }

    rows->sets.nelts = 0;
}


ngx_asana_row_set_t *
ngx_asana_rows_add(ngx_asana_rows_t *rows, ngx_str_t *key)
{
    ngx_asana_row_set_t  *set;

    set = ngx_asana_rows_find(rows, key);
    if (set) {
        return set;
    }

    set = ngx_array_push(&rows->sets);
    if (set == NULL) {
        return NULL;
    }

    ngx_memzero(set, sizeof(ngx_asana_row_set_t));
    ngx_asana_secrets_init(&set->secrets, NULL, 0);

    set->key.len = key->len;
    set->key.data = ngx_pstrdup(rows->pool, key);

    if (set->key.data == NULL) {
        rows->sets.nelts--;
        return NULL;
    }

    return set;
}


ngx_asana_row_set_t *
ngx_asana_rows_find(ngx_asana_rows_t *rows, ngx_str_t *key)
{
    ngx_uint_t            i;
    ngx_asana_row_set_t  *set;

    set = rows->sets.elts;

    for (i = 0; i < rows->sets.nelts; i++) {
        if (set[i].key.len == key->len
            && ngx_memcmp(set[i].key.data, key->data, key->len) == 0)
        {
            return &set[i];
        }
    }

    return NULL;
}


static void
ngx_asana_rows_columns(ngx_asana_rows_t *rows, ngx_asana_sql_t *sql)
{
    ngx_asana_sql_add(sql,
                      "SELECT encode(key,'hex'),encode(id,'hex'),pending::int,"
                      "created,verified,answered,failing,code,"
                      "encode(gid,'hex'),encode(sealed,'hex')"
                      " FROM asana_hook.secrets WHERE zone=");
    ngx_asana_sql_add_name(sql, &rows->conf->zone);
}


void
ngx_asana_rows_select_page(ngx_asana_rows_t *rows, ngx_asana_sql_t *sql,
    ngx_str_t *after, ngx_uint_t limit)
{
    ngx_asana_rows_columns(rows, sql);

    ngx_asana_sql_add(sql, " AND key IN (SELECT DISTINCT key FROM"
                           " asana_hook.secrets WHERE zone=");
    ngx_asana_sql_add_name(sql, &rows->conf->zone);
    ngx_asana_sql_add(sql, " AND key>");
    ngx_asana_sql_add_bytes(sql, after->data, after->len);
    ngx_asana_sql_add(sql, " ORDER BY key LIMIT %ui)"
                           " ORDER BY key,created,id;", limit);
}


void
ngx_asana_rows_select(ngx_asana_rows_t *rows, ngx_asana_sql_t *sql,
    ngx_asana_change_t **changes, ngx_uint_t n)
{
    ngx_uint_t            i;
    ngx_asana_change_t   *change;
    ngx_asana_row_set_t  *set;

    ngx_asana_rows_columns(rows, sql);

    ngx_asana_sql_add(sql, " AND key=ANY(ARRAY[");

    set = rows->sets.elts;

    for (i = 0; i < rows->sets.nelts; i++) {
        ngx_asana_sql_add(sql, i ? "," : "");
        ngx_asana_sql_add_bytes(sql, set[i].key.data, set[i].key.len);
    }

    ngx_asana_sql_add(sql, "]::bytea[]");

    for (i = 0; i < n; i++) {
        change = changes[i];

        ngx_asana_sql_add(sql, "||ARRAY(SELECT key FROM asana_hook.secrets"
                               " WHERE zone=");
        ngx_asana_sql_add_name(sql, &rows->conf->zone);

        if (change->type == NGX_ASANA_CONFIRM) {
            ngx_asana_sql_add(sql, " AND id=");
            ngx_asana_sql_add_bytes(sql, change->id, NGX_ASANA_ID_LEN);

        } else {
            ngx_asana_sql_add(sql, " AND gid<>'' AND gid=");
            ngx_asana_sql_add_bytes(sql, change->gid, change->gid_len);
        }

        ngx_asana_sql_add(sql, ")");
    }

    ngx_asana_sql_add(sql, ") ORDER BY key,created,id;");
}


ngx_int_t
ngx_asana_rows_load(ngx_asana_rows_t *rows, PGresult *res)
{
    int                   row;
    u_char                buf[NGX_ASANA_MAX_KEY];
    ssize_t               n;
    ngx_str_t             key;
    ngx_asana_row_set_t  *set;

    for (row = 0; row < PQntuples(res); row++) {

        n = ngx_asana_sql_bytes(res, row, NGX_ASANA_ROW_KEY, buf, sizeof(buf));

        if (n == NGX_ERROR) {

            /* no request has such a key */

            continue;
        }

        key.len = n;
        key.data = buf;

        set = ngx_asana_rows_add(rows, &key);

        if (set == NULL || ngx_asana_rows_row(rows, set, res, row) != NGX_OK) {
            return NGX_ERROR;
        }
    }

    return NGX_OK;
}


/* what is not readable has its id, so that it can be revoked */

static ngx_int_t
ngx_asana_rows_row(ngx_asana_rows_t *rows, ngx_asana_row_set_t *set,
    PGresult *res, int row)
{
    size_t                   len;
    u_char                   id[NGX_ASANA_ID_LEN], gid[NGX_ASANA_MAX_GID];
    u_char                   sealed[NGX_ASANA_SEAL_MAX];
    u_char                   secret[NGX_ASANA_MAX_SECRET];
    ssize_t                  n, gid_len;
    ngx_int_t                rc;
    ngx_asana_secret_t      *s;
    ngx_asana_seal_place_t   place;

    len = 0;
    set->rows++;

    ngx_memzero(id, sizeof(id));
    (void) ngx_asana_sql_bytes(res, row, NGX_ASANA_ROW_ID, id, sizeof(id));

    place.zone = rows->conf->zone;
    place.key = set->key;
    place.id = id;
    place.pending = ngx_asana_sql_number(res, row, NGX_ASANA_ROW_PENDING) != 0;

    gid_len = ngx_asana_sql_bytes(res, row, NGX_ASANA_ROW_GID, gid,
                                  sizeof(gid));
    n = ngx_asana_sql_bytes(res, row, NGX_ASANA_ROW_SEALED, sealed,
                            sizeof(sealed));

    rc = (n > 0 && gid_len >= 0)
         ? ngx_asana_seal_decrypt(rows->conf->seal, &place, sealed, n, secret,
                                  &len)
         : NGX_ERROR;

    if (rc != NGX_OK) {

        /* one of many tells enough */

        if (!rows->complained) {
            rows->complained = 1;
            ngx_asana_seal_complain(&place, rc, sealed + 1, rows->log);
        }

        set->rc = NGX_ERROR;
        gid_len = ngx_max(gid_len, 0);
        secret[0] = 0;
        len = 1;
    }

    s = ngx_asana_secrets_push(&set->secrets, len);

    if (s) {
        s->serial = NGX_ASANA_ROW_CLEAN;
        s->created = ngx_asana_sql_time(res, row, NGX_ASANA_ROW_CREATED);
        s->verified = ngx_asana_sql_time(res, row, NGX_ASANA_ROW_VERIFIED);
        s->answered = ngx_asana_sql_time(res, row, NGX_ASANA_ROW_ANSWERED);
        s->failing = ngx_asana_sql_time(res, row, NGX_ASANA_ROW_FAILING);
        s->code = ngx_asana_sql_number(res, row, NGX_ASANA_ROW_CODE);
        s->stored = s->verified;
        s->pending = place.pending;
        s->gid_len = (u_char) gid_len;

        ngx_memcpy(s->id, id, sizeof(id));
        ngx_memcpy(s->gid, gid, gid_len);
        ngx_memcpy(s->data, secret, len);
    }

    ngx_explicit_memzero(secret, len);

    return s ? NGX_OK : NGX_ERROR;
}


ngx_int_t
ngx_asana_rows_store(ngx_asana_rows_t *rows, ngx_asana_sql_t *sql)
{
    ngx_uint_t            i, inserts, updates;
    ngx_asana_sql_t       update;
    ngx_asana_row_set_t  *set;

    ngx_asana_sql_init(&update, rows->pool);

    set = rows->sets.elts;

    for (i = 0; i < rows->sets.nelts; i++) {
        if (set[i].changed) {
            ngx_asana_rows_delete(rows, sql, &set[i]);
        }
    }

    inserts = 0;
    updates = 0;

    for (i = 0; i < rows->sets.nelts; i++) {

        if (!set[i].changed) {
            continue;
        }

        inserts = ngx_asana_rows_insert(rows, sql, &set[i], inserts);

        if (inserts == (ngx_uint_t) NGX_ERROR) {
            return NGX_ERROR;
        }

        updates = ngx_asana_rows_update(rows, &update, &set[i], updates);
    }

    if (inserts) {
        ngx_asana_sql_add(sql,
                          " ON CONFLICT (zone,key,id) DO UPDATE SET"
                          " pending=EXCLUDED.pending,"
                          "created=EXCLUDED.created,"
                          "verified=EXCLUDED.verified,"
                          "answered=EXCLUDED.answered,"
                          "failing=EXCLUDED.failing,code=EXCLUDED.code,"
                          "gid=EXCLUDED.gid,sealed=EXCLUDED.sealed;");
    }

    if (updates) {
        if (update.end == NULL) {
            return NGX_ERROR;
        }

        ngx_asana_sql_add(sql, "UPDATE asana_hook.secrets s SET"
                               " verified=v.verified,answered=v.answered,"
                               "failing=v.failing,code=v.code FROM (VALUES");
        ngx_asana_sql_append(sql, &update);
        ngx_asana_sql_add(sql, ")v(key,id,verified,answered,failing,code)"
                               " WHERE s.key=v.key AND s.id=v.id"
                               " AND s.zone=");
        ngx_asana_sql_add_name(sql, &rows->conf->zone);
        ngx_asana_sql_add(sql, ";");
    }

    return NGX_OK;
}


/* what was read and is no more */

static void
ngx_asana_rows_delete(ngx_asana_rows_t *rows, ngx_asana_sql_t *sql,
    ngx_asana_row_set_t *set)
{
    ngx_uint_t           i;
    ngx_asana_secret_t  *s;

    if (set->rows == 0) {
        return;
    }

    ngx_asana_sql_add(sql, "DELETE FROM asana_hook.secrets WHERE zone=");
    ngx_asana_sql_add_name(sql, &rows->conf->zone);
    ngx_asana_sql_add(sql, " AND key=");
    ngx_asana_sql_add_bytes(sql, set->key.data, set->key.len);
    ngx_asana_sql_add(sql, " AND id<>ALL(ARRAY[");

    s = ngx_asana_secrets_first(&set->secrets);

    for (i = 0; i < set->secrets.n; i++) {
        ngx_asana_sql_add(sql, i ? "," : "");
        ngx_asana_sql_add_bytes(sql, s->id, NGX_ASANA_ID_LEN);
        s = ngx_asana_secret_next(s);
    }

    ngx_asana_sql_add(sql, "]::bytea[]);");
}


static ngx_uint_t
ngx_asana_rows_insert(ngx_asana_rows_t *rows, ngx_asana_sql_t *sql,
    ngx_asana_row_set_t *set, ngx_uint_t n)
{
    ngx_uint_t           i;
    ngx_asana_secret_t  *s;

    if (set->rc != NGX_OK) {

        /* only revoked; what stands for the unreadable is no secret */

        return n;
    }

    s = ngx_asana_secrets_first(&set->secrets);

    for (i = 0; i < set->secrets.n; i++) {

        if (s->serial == NGX_ASANA_ROW_NEW) {
            ngx_asana_sql_add(sql, n++ ? ","
                              : "INSERT INTO asana_hook.secrets (zone,key,id,"
                                "pending,created,verified,answered,failing,"
                                "code,gid,sealed) VALUES");

            if (ngx_asana_rows_values(rows, sql, set, s) != NGX_OK) {
                return NGX_ERROR;
            }
        }

        s = ngx_asana_secret_next(s);
    }

    return n;
}


static ngx_int_t
ngx_asana_rows_values(ngx_asana_rows_t *rows, ngx_asana_sql_t *sql,
    ngx_asana_row_set_t *set, ngx_asana_secret_t *s)
{
    size_t                   size;
    u_char                   sealed[NGX_ASANA_SEAL_MAX];
    ngx_asana_seal_place_t   place;

    place.zone = rows->conf->zone;
    place.key = set->key;
    place.id = s->id;
    place.pending = s->pending;

    size = ngx_asana_seal_encrypt(rows->conf->seal, &place, s->data, s->len,
                                  sealed);

    if (size == 0) {
        return NGX_ERROR;
    }

    ngx_asana_sql_add(sql, "(");
    ngx_asana_sql_add_name(sql, &rows->conf->zone);
    ngx_asana_sql_add(sql, ",");
    ngx_asana_sql_add_bytes(sql, set->key.data, set->key.len);
    ngx_asana_sql_add(sql, ",");
    ngx_asana_sql_add_bytes(sql, s->id, NGX_ASANA_ID_LEN);
    ngx_asana_sql_add(sql, ",%ui::int::bool,%T,%T,%T,%T,%ui,",
                      (ngx_uint_t) s->pending, s->created, s->verified,
                      s->answered, s->failing, (ngx_uint_t) s->code);
    ngx_asana_sql_add_bytes(sql, s->gid, s->gid_len);
    ngx_asana_sql_add(sql, ",");
    ngx_asana_sql_add_bytes(sql, sealed, size);
    ngx_asana_sql_add(sql, ")");

    return NGX_OK;
}


/* times are not sealed: a nonce less that might come twice */

static ngx_uint_t
ngx_asana_rows_update(ngx_asana_rows_t *rows, ngx_asana_sql_t *sql,
    ngx_asana_row_set_t *set, ngx_uint_t n)
{
    ngx_uint_t           i;
    ngx_asana_secret_t  *s;

    s = ngx_asana_secrets_first(&set->secrets);

    for (i = 0; i < set->secrets.n; i++) {

        if (s->serial == NGX_ASANA_ROW_TOUCHED) {
            ngx_asana_sql_add(sql, n++ ? ",(" : "(");
            ngx_asana_sql_add_bytes(sql, set->key.data, set->key.len);
            ngx_asana_sql_add(sql, ",");
            ngx_asana_sql_add_bytes(sql, s->id, NGX_ASANA_ID_LEN);
            ngx_asana_sql_add(sql, ",%T::bigint,%T::bigint,%T::bigint,%ui)",
                              s->verified, s->answered, s->failing,
                              (ngx_uint_t) s->code);
        }

        s = ngx_asana_secret_next(s);
    }

    return n;
}
